"""What came of the factorization of a model."""

from __future__ import annotations

import dataclasses
import math

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from tfconv.analysis.tables import as_text, count_text


@dataclasses.dataclass(frozen=True)
class FactorizedLayer:
    """What became of a convolution.

    Attributes:
        name: The layer's name, behind those of the models that it is in.
        rank: The rank of its factors; two for "tucker".
        error: ``|K - K'| / |K|``, where K is the kernel, K' the product of the factors, and
            ``|K|`` the root of the sum of squares.
        norm: ``|K|``.
        multiply_adds: Before and after, for one example.
        parameters: Weights before and after.
    """

    name: str
    rank: tuple[int, ...]
    error: float
    norm: float
    multiply_adds: tuple[int, int]
    parameters: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class FactorizeReport:
    """What `factorize` did to a model. ``rich.print(report)`` shows it as a table.

    Attributes:
        method: The form of the new layers.
        rows: The layers that were replaced.
        left: The other convolutions, by their names, and why they are as they were.
        multiply_adds: Of the whole model before and after, for one example.
        parameters: Weights of the whole model before and after.
    """

    method: str
    rows: list[FactorizedLayer]
    left: dict[str, str]
    multiply_adds: tuple[int, int]
    parameters: tuple[int, int]

    @property
    def error(self) -> float:
        """``|K - K'| / |K|`` over the kernels of all rows together."""
        if not self.rows:
            return 0.0
        lost = sum((row.error * row.norm) ** 2 for row in self.rows)
        return math.sqrt(lost / sum(row.norm**2 for row in self.rows))

    @property
    def speedup(self) -> float:
        """How many times fewer multiply-adds the new model has."""
        before, after = self.multiply_adds
        return before / after if before else 1.0

    def __str__(self) -> str:
        return as_text(self)

    def __rich__(self) -> Group:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("layer", overflow="fold")
        for name in ("rank", "error", "multiply-adds", "weights"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in self.rows:
            rank = ", ".join(map(str, row.rank))
            counts = [_change(counts) for counts in (row.multiply_adds, row.parameters)]
            table.add_row(Text(row.name), rank, f"{row.error:.2%}", *counts)
        table.add_section()
        counts = [_change(counts) for counts in (self.multiply_adds, self.parameters)]
        table.add_row("the model", "", f"{self.error:.2%}", *counts, style="bold")
        left = [Text(f"{name} is as it was: {why}") for name, why in self.left.items()]
        return Group(table, *left)


def _change(counts: tuple[int, int]) -> str:
    before, after = counts
    return f"{count_text(before)} -> {count_text(after)}"
