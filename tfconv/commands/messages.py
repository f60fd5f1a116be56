"""What commands say when they fail, and what others are kept from saying."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from rich.console import Console


def fail(what: str, error: object) -> int:
    """Says what failed and why; returns the exit status."""
    print(f"tfconv: {what}\n{error}", file=sys.stderr)
    return 1


def quiet_tensorflow() -> None:
    """No warnings from TensorFlow's Python; tfconv's own still come."""
    import logging

    import tensorflow as tf

    tf.get_logger().setLevel(logging.ERROR)


@contextlib.contextmanager
def only_ours() -> Iterator[TextIO]:
    """Scope in which nothing that others print is seen; gives a stream to the terminal.

    TensorFlow's C++ parts write to the file descriptor, past `sys.stderr`.
    """
    sys.stderr.flush()
    with os.fdopen(os.dup(2), "w") as terminal, open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            with contextlib.redirect_stdout(nowhere):
                yield terminal
        finally:
            sys.stderr.flush()
            os.dup2(terminal.fileno(), 2)


def progress_bar(file: TextIO | None = None, transient: bool = False) -> Any:
    """A progress bar with the count, the time and a description."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=Console(stderr=True) if file is None else Console(file=file),
        transient=transient,
    )
