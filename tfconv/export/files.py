"""Files and folders that appear under their names only when they are complete."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Scope that yields a path to write a file or folder to; it becomes `target` at its end.

    What was there before is replaced; after an exception it stays. The path has the name of
    `target`, for writers that go by a suffix.
    """
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        made = scratch / target.name
        yield made
        if target.is_dir():  # a folder that holds files cannot be replaced in one step
            os.replace(target, scratch / "old")
        os.replace(made, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
