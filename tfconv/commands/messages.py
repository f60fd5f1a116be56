"""What commands say when they fail, and what others are kept from saying."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from tfconv.commands.process import was_interrupted

_STYLE = re.compile(r"\x1b\[\d*m")  # of terminals, in Keras's messages


def fail(what: str, error: object, options: Mapping[str, str] | None = None) -> int:
    """Says what failed and why; returns the exit status.

    Args:
        what: What failed.
        error: Why.
        options: What the user calls the arguments of a function whose error it is.
    """
    if was_interrupted():  # the error is what somebody made of that
        raise KeyboardInterrupt
    text = _STYLE.sub("", str(error))
    print(f"tfconv: {what}\n{_in_words_of(options or {}, text)}", file=sys.stderr)
    return 1


def _in_words_of(options: Mapping[str, str], text: str) -> str:
    for argument, option in options.items():
        text = re.sub(rf"`{argument}`", f"`{option}`", text)
        text = re.sub(rf"\b{argument}=", f"{option}=", text)
    return text


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


def wide_console() -> Any:
    """A console for tables: as wide as the terminal; a file or a pipe gets them whole."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=200)


def progress_bar(file: TextIO | None = None, transient: bool = False) -> Any:
    """A progress bar with the count, the time and a description."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=Console(stderr=True) if file is None else Console(file=file),
        transient=transient,
    )
