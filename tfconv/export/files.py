"""Files and folders that appear under their names only when they are complete."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def checked_file(path: str | os.PathLike[str]) -> Path:
    """`path` as that of a file to write.

    Raises:
        ValueError: If it is a folder, or lies in one that does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"`path` must lie in a folder that exists. Received: path={path}")
    if path.is_dir():
        raise ValueError(f"`path` must be a file: there is a folder. Received: path={path}")
    return path


def why_no_file(path: str | os.PathLike[str]) -> str:
    """Why there is no file to read, and what is there instead."""
    path = Path(path)
    if path.is_dir():
        return "it is a folder"
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    others = sorted(each.name for each in path.parent.iterdir() if each.is_file())
    near = difflib.get_close_matches(path.name, others) or [
        name for name in others if Path(name).suffix == path.suffix
    ]
    there = f", but {', '.join(near[:5])}" if near else ""
    return f"there is no such file in {path.parent.resolve()}{there}"


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Scope that yields a path to write a file or folder to; it becomes `target` at its end.

    What was there before is replaced; after an exception it stays. The path has the name of
    `target`, for writers that go by a suffix.

    Raises:
        IsADirectoryError: If `target` is a folder and what was written is a file.
    """
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        made = scratch / target.name
        yield made
        if target.is_dir() and not made.is_dir():
            raise IsADirectoryError(f"{target} is a folder: no file takes its place.")
        if target.is_dir():  # a folder that holds files cannot be replaced in one step
            old = scratch / "old"
            os.replace(target, old)
            try:
                os.replace(made, target)
            except BaseException:
                os.replace(old, target)
                raise
        else:
            os.replace(made, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write(path: Path, writer: Callable[[Path], Any]) -> None:
    """Lets a function write a file that appears when it is complete.

    Raises:
        ValueError: If there cannot be such a file.
        OSError: If writing it fails.
    """
    path = checked_file(path)
    with writing(path), replacing(path) as made:
        writer(made)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Scope whose `OSError`s say that writing to a path has failed."""
    try:
        yield
    except OSError as error:
        why = f"Writing failed: {error.strerror or error}"
        raise OSError(error.errno or errno.EIO, why, os.fspath(path)) from error


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
