"""Scopes that keep chatter off the terminal: of several threads, and without a terminal."""

import os
import sys
import threading
import warnings

import pytest

from tfconv.export import ExportError
from tfconv.export.quiet import quiet


def test_scopes_overlap(capfd):
    """The first one ends before the second; a third thread prints while both are open."""
    entered, first_ended = threading.Event(), threading.Event()
    before, filters = sys.stdout, list(warnings.filters)

    def second():
        with quiet("The second"):
            entered.set()
            assert first_ended.wait(10)
            print("swallowed")
            os.write(2, b"swallowed")

    thread = threading.Thread(target=second)
    with quiet("The first"):
        thread.start()
        assert entered.wait(10)
        print("swallowed")
        other = threading.Thread(target=print, args=["of another thread"])
        other.start()
        other.join()
    first_ended.set()
    thread.join()
    assert sys.stdout is before
    assert warnings.filters == filters
    print("after")
    os.write(2, b"heard")
    assert capfd.readouterr() == ("of another thread\nafter\n", "heard")


def test_scopes_within_scopes(capfd):
    with pytest.raises(ExportError, match="(?s)The inner failed: why.*said before"):
        with quiet("The outer"):
            with quiet("Another"):
                pass
            print("swallowed")
            os.write(2, b"said before")
            with quiet("The inner"):
                raise OSError("why")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("gone", ["descriptor", "stream"])
def test_closed_stderr(gone, capsys, monkeypatch):
    """Nothing is redirected, and whatever the descriptor leads to by now stays what it is."""
    if gone == "stream":
        monkeypatch.setattr(sys, "stderr", None)
    read, write = os.pipe()
    kept = os.dup(2)
    os.dup2(write, 2)
    try:
        if gone == "descriptor":
            os.close(2)
        with pytest.raises(ExportError, match="^Something failed: why$"):
            with quiet("Something") as terminal:
                assert not terminal.isatty()
                print("swallowed")
                if gone == "stream":
                    os.write(2, b"heard")
                    assert os.read(read, 5) == b"heard"
                raise OSError("why")
    finally:
        os.dup2(kept, 2)
        for descriptor in (kept, read, write):
            os.close(descriptor)
    assert capsys.readouterr().out == ""
