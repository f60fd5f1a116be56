"""What `profile` gives: rows, totals, and their forms as table, CSV, JSON and pictures."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfconv.analysis.receptive_field import Field
from tfconv.export.files import write

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """What one call of a layer costs, for one example.

    Attributes:
        name: The layer's name, behind those of the layers that it is in.
        kind: Its class. For what a model computes between its layers: TensorFlow's operations.
        input_shapes, output_shapes: Without the batch.
        trainable, non_trainable: Weights; those of an earlier row are not counted again.
        multiply_adds: Products that go into sums: over taps, channels, positions or kernels.
        gating: Products of two computed values at one place: gates, channel weights, merges.
        elementwise: All other operations on values, one each.
        memory: Bytes of the feature maps that it makes: outputs, and maps inside the layer.
        bytes_moved: Bytes of inputs, outputs and weights, each once.
        weights: Trained numbers that products are made with: the kernel, without bias.
        weight_products: Products that such a number takes part in.
        kernel_rank: Largest rank that the matrix can have which makes an output pixel's channels
            from all that it sees; None without a kernel.
        field: Receptive field of the outputs; None where it is not known.
        unknown: Operations in it whose cost is not known, and not counted.
        repeated: Whether its weights are those of an earlier row.
    """

    name: str
    kind: str
    input_shapes: tuple[Shape, ...]
    output_shapes: tuple[Shape, ...]
    trainable: int
    non_trainable: int
    multiply_adds: int
    gating: int
    elementwise: int
    memory: int
    bytes_moved: int
    weights: int
    weight_products: int
    kernel_rank: int | None
    field: Field | None
    unknown: tuple[str, ...] = ()
    repeated: bool = False

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.trainable + self.non_trainable

    @property
    def flops(self) -> int:
        """Floating-point operations: two for each multiply-add, and all others."""
        return 2 * self.multiply_adds + self.gating + self.elementwise

    @property
    def weight_reuse(self) -> float | None:
        """How often a weight is used for an example; None without weights."""
        return self.weight_products / self.weights if self.weights else None

    @property
    def intensity(self) -> float:
        """Multiply-adds for each byte that is moved."""
        return self.multiply_adds / self.bytes_moved if self.bytes_moved else 0.0

    def as_dict(self) -> dict[str, Any]:
        """All numbers by name, ready for JSON."""
        field = self.field
        return {
            "name": self.name,
            "kind": self.kind,
            "input_shapes": [list(shape) for shape in self.input_shapes],
            "output_shapes": [list(shape) for shape in self.output_shapes],
            "parameters": self.parameters,
            "trainable": self.trainable,
            "non_trainable": self.non_trainable,
            "multiply_adds": self.multiply_adds,
            "gating": self.gating,
            "elementwise": self.elementwise,
            "flops": self.flops,
            "memory": self.memory,
            "bytes_moved": self.bytes_moved,
            "weight_reuse": self.weight_reuse,
            "kernel_rank": self.kernel_rank,
            "field_size": field and list(field.size),
            "field_stride": field and list(field.stride),
            "field_offset": field and list(field.offset),
            "intensity": self.intensity,
            "unknown": list(self.unknown),
        }


def _total(name: str) -> Any:
    def total(self) -> int:
        return sum(getattr(row, name) for row in self.rows)

    total.__doc__ = f"The sum of the rows' ``{name}``."
    return property(total)


@dataclasses.dataclass(frozen=True, repr=False)
class Profile:
    """What a model or layer costs for one example, row by row and in total.

    ``rich.print(profile)`` shows it as a table.

    Attributes:
        name: The model's name.
        input_shapes: Without the batch.
        rows: The layers, in the order in which they are called.
        peak_memory: Bytes of the feature maps that live at once, where they are most. A map lives
            from the layer that makes it to the last one that reads it.
        peak_at: The row where that is.
        field: Receptive field of the outputs; None where it is not known, or theirs differ.

    Example:
        >>> from tfconv.analysis import profile
        >>> found = profile(tfconv.DepthwiseConv2D(3, padding="same"), (8, 8, 2))
        >>> found.multiply_adds, found.flops, found.memory, found.peak_memory
        (1152, 2432, 512, 1024)
        >>> found.rows[0].field.size
        (3, 3)
    """

    name: str
    input_shapes: tuple[Shape, ...]
    rows: list[Row]
    peak_memory: int
    peak_at: str
    field: Field | None = None

    trainable = _total("trainable")
    non_trainable = _total("non_trainable")
    parameters = _total("parameters")
    multiply_adds = _total("multiply_adds")
    gating = _total("gating")
    elementwise = _total("elementwise")
    flops = _total("flops")
    memory = _total("memory")
    bytes_moved = _total("bytes_moved")
    weight_products = _total("weight_products")

    @property
    def weights(self) -> int:
        """The sum of the rows' ``weights``; shared ones count once."""
        return sum(row.weights for row in self.rows if not row.repeated)

    weight_reuse = Row.weight_reuse
    intensity = Row.intensity

    @property
    def unknown(self) -> list[str]:
        """Rows of which not all is counted, and the operations that are not."""
        return [f"{r.name} ({r.kind}): {', '.join(r.unknown)}" for r in self.rows if r.unknown]

    def as_dict(self) -> dict[str, Any]:
        """All numbers, ready for JSON."""
        totals = (
            "parameters trainable non_trainable multiply_adds gating elementwise flops memory "
            "bytes_moved weight_reuse intensity unknown"
        )
        return {
            "name": self.name,
            "input_shapes": [list(shape) for shape in self.input_shapes],
            "total": {
                **{name: getattr(self, name) for name in totals.split()},
                "peak_memory": self.peak_memory,
                "peak_at": self.peak_at,
            },
            "rows": [row.as_dict() for row in self.rows],
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """The profile as JSON; written to a file if a path is given."""
        return written(json.dumps(self.as_dict(), indent=2) + "\n", path)

    def to_csv(self, path: str | Path | None = None) -> str:
        """The rows as comma-separated values; written to a file if a path is given."""
        return written(as_csv([row.as_dict() for row in self.rows]), path)

    def plot(self, path: str | Path) -> None:
        """Draws the profile: bars for each layer, weights against products, receptive fields.

        Args:
            path: The picture's file; its suffix says the format, such as ".png" or ".svg".

        Raises:
            ImportError: If Matplotlib is not installed.
        """
        from tfconv.analysis.plots import draw_profile

        draw_profile(self, Path(path))

    def __repr__(self) -> str:
        return (
            f"<Profile of {self.name}: {self.parameters:,} weights, "
            f"{self.multiply_adds:,} multiply-adds>"
        )

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from tfconv.analysis.tables import profile_table

        yield profile_table(self, options.max_width)

    def __str__(self) -> str:
        from tfconv.analysis.tables import as_text

        return as_text(self)


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Rows of numbers as comma-separated values; shapes and the like as "8x8x3"."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if rows:
        writer.writerow(rows[0])
    writer.writerows([_cell(value) for value in row.values()] for row in rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        nested = value and isinstance(value[0], (list, str))
        return (";" if nested else "x").join(str(_cell(each)) for each in value)
    return "" if value is None else value


def written(text: str, path: str | Path | None) -> str:
    """The text, which stands in the file at ``path`` afterwards if there is one."""
    if path is not None:
        write(Path(path), lambda made: made.write_text(text, encoding="utf-8"))
    return text
