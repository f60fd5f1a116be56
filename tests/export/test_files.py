"""Files that appear under their names when they are complete: what stands there before stays."""

import errno
import os
import re
from pathlib import Path

import pytest

from tfconv._compat import keras
from tfconv.export import files, to_onnx, to_tflite


@pytest.fixture
def folder(tmp_path):
    """A folder that nothing may happen to."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")
    yield tmp_path / "folder"
    assert (tmp_path / "folder" / "mine").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("convert", [to_tflite, to_onnx])
def test_folders_are_no_files(folder, convert):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="`path` must be a file.*Received: path="):
        convert(model, folder)


def test_why_there_is_no_file(folder):
    """A folder, a folder that is missing, a name that is like another, or a suffix."""
    for path, why in [
        (folder, "it is a folder"),
        (folder / "a" / "b.h5", "there is no folder .*a$"),
        (folder / "mien", "there is no such file in .*folder, but mine$"),
        (folder / "b.h5", "there is no such file in .*folder$"),
    ]:
        assert re.search(why, files.why_no_file(path))


def test_no_file_replaces_a_folder(folder):
    with pytest.raises(IsADirectoryError), files.replacing(folder) as made:
        made.write_text("new")


def test_the_old_folder_comes_back(folder, monkeypatch):
    """The new one cannot be moved to its place."""
    right = os.replace

    def replace(source, target):
        if target == folder and source.name == folder.name:
            raise PermissionError
        right(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(PermissionError), files.replacing(folder) as made:
        made.mkdir()


@pytest.mark.parametrize("convert", [to_tflite, to_onnx])
def test_writes_that_fail(tmp_path, monkeypatch, convert):
    """It is the writing that is said to have failed, not the conversion."""
    if convert is to_onnx:
        pytest.importorskip("tf2onnx")

    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(OSError, match=r"Writing failed: No space left on device: '.*/net'"):
        convert(model, tmp_path / "net")
    assert not list(tmp_path.iterdir())
