"""Profiles and comparisons as tables on the terminal."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from tfconv.analysis.receptive_field import Field

_COLUMNS = (
    "output",
    "weights",
    "multiply-\nadds",
    "FLOPs",
    "maps",
    "reuse",
    "rank",
    "sees",
    "stride",
    "offset",
    "per\nbyte",
)


def profile_table(profile: Any) -> Any:
    """A row for each layer, and the totals."""
    table = _table(profile.name, ["layer", "kind", *_COLUMNS])
    for row in profile.rows:
        shapes = " ".join(map(shape_text, row.output_shapes))
        known = _numbers(row, row.memory, row.kernel_rank, row.field)
        style = "yellow" if row.unknown else ""
        table.add_row(Text(row.name), Text(row.kind), Text(shapes), *known, style=style)
    table.add_section()
    total = _numbers(profile, profile.memory, None, profile.field)
    table.add_row("total", "", "", *total, style="bold")
    notes = [
        f"{profile.trainable:,} weights are trained, {profile.non_trainable:,} are not. "
        f"{profile.multiply_adds:,} multiply-adds, {profile.flops:,} FLOPs for one example.",
        f"Feature maps: {byte_text(profile.memory)} in all, at most "
        f"{byte_text(profile.peak_memory)} at once ({profile.peak_at}).",
    ]
    parts = [table, *(Text(note) for note in notes)]
    if profile.unknown:
        parts.append(Text("Not all is counted; the cost of these is not known:", style="yellow"))
        parts += [Text(f"  {each}", style="yellow") for each in profile.unknown]
    return Group(*parts)


def comparison_table(comparison: Any) -> Table:
    """A row for each variant; in brackets, the parts of the first."""
    table = _table("", ["variant", *_COLUMNS[:5], "peak", *_COLUMNS[5:]])
    first = comparison.profiles[0]
    for name, profile in zip(comparison.names, comparison.profiles):
        rows = profile.rows
        rank = rows[0].kernel_rank if len(rows) == 1 else None
        numbers = _numbers(profile, profile.memory, rank, profile.field)
        for at, attribute in ((0, "parameters"), (1, "multiply_adds")):
            base = getattr(first, attribute)
            if profile is not first and base:
                numbers[at] += f" ({getattr(profile, attribute) / base:.3g})"
        numbers.insert(4, byte_text(profile.peak_memory))
        shapes = " ".join(map(shape_text, rows[-1].output_shapes)) if rows else ""
        table.add_row(Text(name), Text(shapes), *numbers)
    return table


def _numbers(costs: Any, memory: int, rank: int | None, field: Field | None) -> list[str]:
    reuse = costs.weight_reuse
    return [
        count_text(costs.parameters),
        count_text(costs.multiply_adds),
        count_text(costs.flops),
        byte_text(memory),
        "" if reuse is None else count_text(reuse),
        "" if rank is None else str(rank),
        *field_texts(field),
        f"{costs.intensity:.3g}",
    ]


def field_texts(field: Field | None) -> list[str]:
    """Size, stride and offset of a receptive field."""
    if field is None:
        return ["?", "?", "?"]
    if not field.axes:
        return ["", "", ""]
    return [axes_text(field.size), axes_text(field.stride), axes_text(field.offset)]


def axes_text(numbers: Sequence[float]) -> str:
    """A number for each axis, or one for all."""
    texts = [f"{number:g}" for number in numbers]
    return texts[0] if len(set(texts)) == 1 else ",".join(texts)


def shape_text(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


def count_text(number: float) -> str:
    """A number with three digits or more and a unit."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 10 * size or (unit != "k" and number >= size):
            return f"{number / size:.4g} {unit}"
    return f"{number:,.4g}" if isinstance(number, float) else f"{number:,}"


def byte_text(number: int) -> str:
    """Bytes with a unit."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} B"


def _table(title: str, names: Sequence[str]) -> Table:
    table = Table(title=title or None, box=box.SIMPLE_HEAD, pad_edge=False, title_style="bold")
    for name in names:
        words = name in ("layer", "kind", "variant")
        table.add_column(
            name,
            justify="left" if words else "right",
            no_wrap=not words,
            overflow="fold" if words else "ellipsis",
        )
    return table


def as_text(shown: Any, width: int = 200) -> str:
    """What the terminal would show, without colours."""
    out = io.StringIO()
    Console(file=out, width=width).print(shown)
    return out.getvalue()
