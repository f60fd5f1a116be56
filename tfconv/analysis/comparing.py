"""Variants of a layer or model side by side."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfconv.analysis.profiling import profile
from tfconv.analysis.result import Profile, as_csv, written


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Profiles of several layers or models for the same input.

    ``rich.print(comparison)`` shows a row for each.

    Attributes:
        names: What they are called.
        profiles: Their profiles; the first is what the others are compared with.

    Example:
        >>> from tfconv.analysis import compare
        >>> plain, groups = tfconv.Conv2D(8, 3), tfconv.Conv2D(8, 3, groups=4, name="groups")
        >>> compared = compare({"plain": plain, "groups": groups}, (6, 6, 4))
        >>> [row["products_of_first"] for row in compared.rows()]
        [1.0, 0.25]
        >>> compared["groups"]
        <Profile of groups: 80 weights, 1,152 multiply-adds>
    """

    names: list[str]
    profiles: list[Profile]

    def __getitem__(self, name: str) -> Profile:
        if name not in self.names:
            raise KeyError(name)
        return self.profiles[self.names.index(name)]

    def rows(self) -> list[dict[str, Any]]:
        """The totals of each, and their parts of the first's weights and multiply-adds."""
        first, rows = self.profiles[0], []
        for name, found in zip(self.names, self.profiles):
            total = dict(found.as_dict()["total"])
            for ratio, key in (("weights", "parameters"), ("products", "multiply_adds")):
                base = getattr(first, key)
                total[f"{ratio}_of_first"] = getattr(found, key) / base if base else None
            field = found.field
            total["field_size"] = field and list(field.size)
            rows.append({"name": name, **total})
        return rows

    def to_json(self, path: str | Path | None = None) -> str:
        """All profiles as JSON; written to a file if a path is given."""
        profiles = dict(zip(self.names, (found.as_dict() for found in self.profiles)))
        text = json.dumps({"compared": self.rows(), "profiles": profiles}, indent=2)
        return written(text + "\n", path)

    def to_csv(self, path: str | Path | None = None) -> str:
        """`rows` as comma-separated values; written to a file if a path is given."""
        return written(as_csv(self.rows()), path)

    def plot(self, path: str | Path) -> None:
        """Draws weights against multiply-adds, and bars of both and of the memory.

        Args:
            path: The picture's file; its suffix says the format, such as ".png" or ".svg".

        Raises:
            ImportError: If Matplotlib is not installed.
        """
        from tfconv.analysis.plots import draw_comparison

        draw_comparison(self, Path(path))

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from tfconv.analysis.tables import comparison_table

        yield comparison_table(self, options.max_width)

    def __str__(self) -> str:
        from tfconv.analysis.tables import as_text

        return as_text(self)


def compare(layers: Mapping[str, Any] | Sequence[Any], input_shape: Any = None) -> Comparison:
    """Profiles of several layers or models for the same input, side by side.

    Args:
        layers: Layers or models, in a dictionary by the names to show, or in a list.
        input_shape: As `profile` takes it.

    Returns:
        A `Comparison`.

    Raises:
        ValueError: If there are none, or one cannot be profiled.

    Example:
        >>> from tfconv.analysis import compare
        >>> compared = compare(
        ...     {
        ...         "convolution": tfconv.Conv2D(32, 5, padding="same", use_bias=False),
        ...         "separable": tfconv.SeparableConv2D(32, 5, padding="same", use_bias=False),
        ...     },
        ...     (64, 64, 3),
        ... )
        >>> [(found.parameters, found.multiply_adds) for found in compared.profiles]
        [(2400, 9830400), (171, 700416)]
    """
    if isinstance(layers, Mapping):
        names, given = [str(name) for name in layers], list(layers.values())
    elif isinstance(layers, Sequence):
        given = list(layers)
        found = [getattr(layer, "name", str(layer)) for layer in given]
        counts = [found[: i + 1].count(name) for i, name in enumerate(found)]
        names = [f"{name} ({n})" if n > 1 else name for name, n in zip(found, counts)]
    else:
        given = []
    if not given:
        raise ValueError(
            "`layers` must be a list of layers or models, or a dictionary by their names, at "
            f"least one. Received: layers={layers!r}"
        )
    return Comparison(names, [profile(layer, input_shape) for layer in given])
