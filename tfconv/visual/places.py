"""Where the positions of a feature map lie on the model's image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfconv._compat import all_layers, keras
from tfconv.analysis.cost import rule_for
from tfconv.analysis.receptive_field import Axis, Field
from tfconv.analysis.result import Row
from tfconv.ops.geometry import is_int
from tfconv.visual.calls import Call


@dataclasses.dataclass(frozen=True)
class Places:
    """The pixels at the middle of what a map's positions see: ``first + position * stride``.

    Attributes:
        sizes: Positions along each axis.
        first: The pixel of position (0, 0), as (y, x).
        stride: Pixels between neighbouring positions, as (y, x).
    """

    sizes: tuple[int, int]
    first: np.ndarray
    stride: np.ndarray

    @classmethod
    def of(cls, field: Field | None, sizes: Sequence[int], image: Sequence[int]) -> Places:
        """Those of a map with a receptive field.

        Where all positions see the same, or the field is not known, the positions are spread
        evenly over the image.
        """
        if field is None or any(not axis.step for axis in field.axes):
            stride = np.divide(image, sizes)
            return cls(tuple(sizes), (stride - 1) / 2, stride)
        stride = np.array([float(axis.stride) for axis in field.axes])
        return cls(tuple(sizes), np.array([_first(axis) for axis in field.axes]), stride)

    def pixels(self, positions: Any) -> np.ndarray:
        """The pixels of positions, both [..., 2]; fractions where the middle is between two."""
        return self.first + np.asarray(positions) * self.stride

    def nearest(self, pixels: Any) -> np.ndarray:
        """The positions whose pixels are nearest to others, both [..., 2]; of two, the later."""
        positions = np.floor((np.asarray(pixels) - self.first) / self.stride + 0.5)
        return np.clip(positions.astype(int), 0, np.array(self.sizes) - 1)


def _first(axis: Axis) -> float:
    """The middle of what output 0 sees, on average over the outputs that differ."""
    middles = [
        (bounds[0] + bounds[1]) / 2 - i * float(axis.stride)
        for i, bounds in enumerate(axis.bounds)
        if bounds
    ]
    return float(np.mean(middles))


def field_of(rows: Sequence[Row], call: Call) -> Field | None:
    """The receptive field of a layer's outputs, from the rows of its model's profile.

    None if it is not known, or not that of a map.
    """
    own = [row for row in rows if f"{row.name}/".startswith(f"{call.name}/")]
    if rule_for(call.layer) is not None:
        own = own[:1]  # of its first call
    field = own[-1].field if own else None
    return field if field is not None and len(field.axes) == 2 else None


def channels_first(model: Any) -> bool:
    """Whether a model's images have their channels first: as its first layer that says so."""
    formats = (getattr(layer, "data_format", None) for layer in all_layers(model))
    found = next(filter(None, formats), keras.backend.image_data_format())
    return found == "channels_first"


def as_positions(position: Any, sizes: Sequence[int], default: Any) -> np.ndarray:
    """One or several (y, x) as [P, 2].

    Raises:
        ValueError: If they are not those of pixels.
    """
    if position is None:
        return np.array(default, int)
    given = np.asarray(position)
    pairs = given[np.newaxis] if given.ndim == 1 else given
    whole = pairs.ndim == 2 and pairs.shape[1] == 2 and len(pairs) > 0
    whole = whole and all(map(is_int, pairs.ravel()))
    if not whole or (pairs < 0).any() or (pairs >= np.array(sizes)).any():
        raise ValueError(
            f"`position` must be (y, x) of a pixel, or several, in an image of {sizes[0]} x "
            f"{sizes[1]} pixels. Received: position={position!r}"
        )
    return pairs


def spread(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Three pixels on the diagonal of an image."""
    return [(sizes[0] * i // 4, sizes[1] * i // 4) for i in (1, 2, 3)]
