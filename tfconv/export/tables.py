"""Tables that reports are printed as."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


def facts(rows: Iterable[tuple[str, str]]) -> Table:
    """Names and what there is to say about each."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def columns(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table whose first column is text and whose others are numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    return table


def counts(heading: str, numbers: Mapping[str, int]) -> Table:
    """How many there are of each."""
    return columns([heading, "count"], numbers.items())


def kilobytes(size: int) -> str:
    return f"{size / 1e3:,.1f} kB"


def tensor_text(dtype: str, shape: Sequence[int | None] | None) -> str:
    """Type and shape of a tensor, such as "float32 [?, 8, 8, 3]"."""
    if shape is None:
        return f"{dtype} of any shape"
    return f"{dtype} [{', '.join('?' if n is None else str(n) for n in shape)}]"


def as_text(renderable: Any) -> str:
    """What `print` shows of a table or several."""
    text = io.StringIO()
    Console(file=text, width=100).print(renderable)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())
