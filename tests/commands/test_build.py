"""`build`: what it says of the build, which something stands in for."""

import json
from pathlib import Path

import pytest
import tensorflow as tf

from tfconv import _build, cli
from tfconv.commands import build


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Takes the place of the build: does what a test says, and remembers its arguments."""
    config = _build.TensorFlowConfig(tf.__version__, (), (), tf.sysconfig.get_include())
    monkeypatch.setattr(_build, "tensorflow_config", lambda: config)
    monkeypatch.setattr(_build, "default_build_dir", lambda: tmp_path / "objects")
    library = tmp_path / _build.LIBRARY_NAME
    library.touch()
    calls = []

    def prepare(error=None, warnings="", verified=True):
        result = _build.BuildResult(library, {}, (), ("cc/a.cc", "cc/b.cc"), warnings, 3.0)

        def run(**arguments):
            calls.append(arguments)
            if error is not None:
                raise _build.BuildError(error)
            arguments["progress"](1, 1, "cc/a.cc")
            return result

        monkeypatch.setattr(_build, "build", run)
        if verified:
            monkeypatch.setattr(build, "_verify", lambda library: 0)
        return calls

    return prepare


def test_build_without_compiler(capsys, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert cli.main(["build"]) == 1
    assert "CXX=no-such-compiler" in capsys.readouterr().err


def test_build_that_does_not_compile(capsys, stand_in):
    calls = stand_in(error="cc/empty.cc failed:\n  no luck today")
    assert cli.main(["build", "--jobs", "1"]) == 1
    said = capsys.readouterr().err
    assert "could not be built" in said and "cc/empty.cc failed:\n  no luck today" in said
    assert calls[0]["jobs"] == 1


@pytest.mark.late
def test_build_reports_a_library_that_does_not_load(capsys, stand_in, tmp_path):
    """An empty file is no library of the package."""
    stand_in(verified=False)
    assert cli.main(["build"]) == 1
    printed = capsys.readouterr()
    assert "the library was built, but" in printed.err
    assert f"{tmp_path / _build.LIBRARY_NAME}\n  2 compiled, 3 s\n" in printed.out


def test_build_tells_of_warnings_and_forces(capsys, stand_in, tmp_path):
    calls = stand_in(warnings="a.cc:1:1: warning: hardly anything")
    old = tmp_path / "objects" / "old.o"
    old.parent.mkdir()
    old.touch()
    assert cli.main(["build"]) == 0
    printed = capsys.readouterr()
    assert "The compiler had warnings" in printed.out and old.exists()
    assert "hardly anything" not in printed.out + printed.err
    assert cli.main(["build", "--force", "--verbose"]) == 0
    assert "The compiler had warnings" not in capsys.readouterr().out
    assert not old.exists()
    assert [call["verbose"] for call in calls] == [False, True]


@pytest.mark.parametrize(
    "told, message",
    [
        ({"in_force": "native", "library": "lib.so", "isa": "avx2"}, None),
        ({"in_force": "native", "library": "other.so", "isa": "avx2"}, "another one is loaded"),
        ({"in_force": "portable", "reason": "bad luck"}, "bad luck"),
        (None, "loading it failed"),
    ],
)
def test_verify(capsys, monkeypatch, told, message):
    script = "raise SystemExit('no')" if told is None else f"print('@@' + {json.dumps(told)!r})"
    monkeypatch.setattr(build, "_VERIFY", script)
    assert build._verify(Path("lib.so")) == (0 if message is None else 1)
    printed = capsys.readouterr()
    assert (message or "avx2") in (printed.err if message else printed.out)


@pytest.mark.parametrize("switch", ["0", "1"])
def test_verify_tells_what_keeps_the_library_out_of_use(capsys, monkeypatch, switch):
    told = {"in_force": "native", "library": "lib.so", "isa": "base"}
    monkeypatch.setattr(build, "_VERIFY", f"print('@@' + {json.dumps(told)!r})")
    monkeypatch.setenv("TFCONV_NATIVE", switch)
    assert build._verify(Path("lib.so")) == 0
    assert ("TFCONV_NATIVE=0 keeps it out of use" in capsys.readouterr().out) == (switch == "0")
