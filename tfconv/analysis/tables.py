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

_COLUMNS = {
    "weights": "weights",
    "products": "multiply-\nadds",
    "flops": "FLOPs",
    "maps": "maps",
    "peak": "peak",
    "reuse": "reuse",
    "rank": "rank",
    "sees": "sees",
    "stride": "stride",
    "offset": "offset",
    "intensity": "per\nbyte",
}
_NARROW = 140  # characters; narrower tables have the columns below only
_ESSENTIAL = ("weights", "products", "maps", "sees")


def profile_table(profile: Any, width: int = _NARROW) -> Any:
    """A row for each layer, and the totals, for so many characters a line."""
    columns = (
        [name for name in _COLUMNS if name != "peak"] if width >= _NARROW else list(_ESSENTIAL)
    )
    kinds = ["kind"] if width >= _NARROW else []
    table = _table(profile.name, ["layer", *kinds, "output"], columns)
    for row in profile.rows:
        shapes = " ".join(map(shape_text, row.output_shapes))
        words = [row.name, *([row.kind] if kinds else []), shapes]
        numbers = _numbers(row, row.kernel_rank)
        style = "yellow" if row.unknown else ""
        table.add_row(*map(Text, words), *(numbers[name] for name in columns), style=style)
    table.add_section()
    total, blank = _numbers(profile, None), [""] * (len(kinds) + 1)
    table.add_row("total", *blank, *(total[name] for name in columns), style="bold")
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


def comparison_table(comparison: Any, width: int = _NARROW) -> Table:
    """A row for each variant; in brackets, the ratio to the first."""
    columns = list(_COLUMNS) if width >= _NARROW else list(_ESSENTIAL)
    table = _table("", ["variant", "output"], columns)
    first = comparison.profiles[0]
    for name, profile in zip(comparison.names, comparison.profiles):
        rows = profile.rows
        numbers = _numbers(profile, rows[0].kernel_rank if len(rows) == 1 else None)
        numbers["peak"] = byte_text(profile.peak_memory)
        for column, attribute in (("weights", "parameters"), ("products", "multiply_adds")):
            base = getattr(first, attribute)
            if profile is not first and base:
                numbers[column] += f" ({getattr(profile, attribute) / base:.3g})"
        shapes = " ".join(map(shape_text, rows[-1].output_shapes)) if rows else ""
        table.add_row(Text(name), Text(shapes), *(numbers[column] for column in columns))
    return table


def _numbers(costs: Any, rank: int | None) -> dict[str, str]:
    """What stands in the columns for a row or a whole profile."""
    sees, stride, offset = field_texts(costs.field)
    return {
        "weights": count_text(costs.parameters),
        "products": count_text(costs.multiply_adds),
        "flops": count_text(costs.flops),
        "maps": byte_text(costs.memory),
        "reuse": "" if costs.weight_reuse is None else count_text(costs.weight_reuse),
        "rank": "" if rank is None else str(rank),
        "sees": sees,
        "stride": stride,
        "offset": offset,
        "intensity": f"{costs.intensity:.3g}",
    }


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
        if number >= 0.9995 * size:  # 999,500 bytes are written as 1 MB
            return f"{number / size:.3g} {unit}"
    return f"{number} B"


def _table(title: str, words: Sequence[str], columns: Sequence[str]) -> Table:
    table = Table(title=title or None, box=box.SIMPLE_HEAD, pad_edge=False, title_style="bold")
    for name in words:
        table.add_column(name, overflow="fold", justify="right" if name == "output" else "left")
    for name in columns:
        table.add_column(_COLUMNS[name], justify="right", no_wrap=True)
    return table


def as_text(shown: Any, width: int = 200) -> str:
    """What the terminal would show, without colours."""
    out = io.StringIO()
    Console(file=out, width=width).print(shown)
    return out.getvalue()
