"""Receptive fields: which pixels of a model's input a value depends on.

Along each spatial axis, output p sees the pixels from a first to a last one. For convolutions both
move by the stride from one output to the next; behind layers that make maps larger they move every
few outputs only. `Axis` holds one period of them, so that the bounds are exact in every case.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Optional

from tfconv.ops.geometry import Geometry

Bounds = Optional[tuple[int, int]]  # None where an output sees nothing


@dataclasses.dataclass(frozen=True)
class Axis:
    """What the outputs along one spatial axis see.

    Output ``i + n * len(bounds)`` sees the pixels from ``bounds[i][0] + n * step`` to
    ``bounds[i][1] + n * step``, both included.
    """

    bounds: tuple[Bounds, ...] = ((0, 0),)
    step: int = 1

    def at(self, position: int) -> Bounds:
        """The first and the last pixel that an output sees."""
        period, index = divmod(position, len(self.bounds))
        found = self.bounds[index]
        return found and (found[0] + period * self.step, found[1] + period * self.step)

    @property
    def size(self) -> int:
        """Pixels of the smallest window that holds what each output sees, moved by the stride."""
        ends = (last - place for place, (_, last) in self._windows())
        return max(ends, default=self.offset - 1) - self.offset + 1

    @property
    def stride(self) -> Fraction:
        """Pixels between neighbouring outputs; 0 where all see the same."""
        return Fraction(self.step, len(self.bounds))

    @property
    def offset(self) -> int:
        """The first pixel of the window of the first output."""
        return min((first - place for place, (first, _) in self._windows()), default=0)

    def _windows(self) -> list[tuple[int, tuple[int, int]]]:
        """For each output that sees something, how far the window has moved, and its bounds."""
        places = (math.floor(i * self.stride) for i in range(len(self.bounds)))
        return [(place, bounds) for place, bounds in zip(places, self.bounds) if bounds]

    def through(
        self, read: Callable[[int], Iterable[int]], outputs: int = 1, inputs: int = 1
    ) -> Axis:
        """What outputs see that read the positions ``read(p)`` of this map.

        Args:
            read: Positions by output, with ``read(p + outputs) = read(p) + inputs``.
            outputs, inputs: See above.
        """
        if not self.step:
            return self
        times = len(self.bounds) // math.gcd(len(self.bounds), inputs)
        bounds = tuple(hull(map(self.at, read(p))) for p in range(outputs * times))
        return Axis(bounds, self.step * inputs * times // len(self.bounds))

    def whole(self, size: int) -> Axis:
        """What something sees that sees all ``size`` positions."""
        return Axis((hull(map(self.at, range(size))),), 0)


def hull(bounds: Iterable[Bounds]) -> Bounds:
    """The smallest interval around some."""
    found = [each for each in bounds if each]
    return (min(f for f, _ in found), max(l for _, l in found)) if found else None  # noqa: E741


@dataclasses.dataclass(frozen=True)
class Field:
    """The receptive field of a map's values, for each spatial axis.

    Output p sees, of the model's input, pixels from ``p * stride + offset`` to
    ``p * stride + offset + size - 1``; those before 0 and behind the last are padding. Where the
    stride is a fraction, behind layers that make maps larger, ``p * stride`` is rounded down.
    Behind such layers some outputs see less: the axes' ``at(p)`` is exact for each.

    Attributes:
        axes: The axes; each has ``size``, ``stride`` and ``offset``.

    Example:
        >>> from tensorflow import keras
        >>> from tfconv.analysis import profile
        >>> model = keras.Sequential([tfconv.Conv2D(4, 3, 2), tfconv.Conv2D(4, 3)])
        >>> field = profile(model, (32, 32, 3)).rows[-1].field
        >>> field.size, field.stride, field.offset
        ((7, 7), (2, 2), (0, 0))
    """

    axes: tuple[Axis, ...]

    @classmethod
    def of_pixels(cls, rank: int) -> Field:
        """That of the input itself."""
        return cls((Axis(),) * rank)

    @property
    def size(self) -> tuple[int, ...]:
        return tuple(axis.size for axis in self.axes)

    @property
    def stride(self) -> tuple[int | float, ...]:
        strides = (axis.stride for axis in self.axes)
        return tuple(int(s) if s.denominator == 1 else float(s) for s in strides)

    @property
    def offset(self) -> tuple[int, ...]:
        return tuple(axis.offset for axis in self.axes)

    @property
    def everything(self) -> bool:
        """Whether all values see the same."""
        return all(not axis.step for axis in self.axes)

    def slid(self, geometry: Geometry, sizes: Sequence[int]) -> Field | None:
        """Behind a window that slides over a map of the given sizes."""
        reads = [
            (lambda p, k=k, s=s, b=b, d=d: (p * s - b + t * d for t in range(k)))
            for k, s, (b, _), d in zip(
                geometry.kernel_size,
                geometry.strides,
                geometry.pad_amounts(sizes),
                geometry.dilation_rate,
            )
        ]
        return self.through(reads, inputs=geometry.strides)

    def transposed(self, geometry: Geometry, before: Sequence[int]) -> Field | None:
        """Behind a transposed convolution that cuts off ``before`` outputs of each axis.

        Output i takes pixel p and tap t with ``p * stride + t * dilation = i + before``.
        """
        reads = [
            (
                lambda i, k=k, s=s, b=b, d=d: [
                    (i + b - t * d) // s for t in range(k) if (i + b - t * d) % s == 0
                ]
            )
            for k, s, b, d in zip(
                geometry.kernel_size, geometry.strides, before, geometry.dilation_rate
            )
        ]
        return self.through(reads, outputs=geometry.strides)

    def enlarged(self, factors: Sequence[int], interpolated: bool) -> Field | None:
        """Behind an upsampling that repeats pixels, or interpolates between their centres."""

        def read(p: int, factor: int) -> list[int]:
            if not interpolated:
                return [p // factor]
            left = (2 * p + 1 - factor) // (2 * factor)
            exact = (2 * p + 1 - factor) % (2 * factor) == 0
            return [left] if exact else [left, left + 1]

        reads = [lambda p, factor=factor: read(p, factor) for factor in factors]
        return self.through(reads, outputs=factors)

    def shifted(self, before: Sequence[int]) -> Field | None:
        """Behind as many added pixels (or, below zero, cut ones) at the start of each axis."""
        return self.through([lambda p, b=b: [p - b] for b in before])

    def through(
        self,
        reads: Sequence[Callable[[int], Iterable[int]]],
        outputs: Sequence[int] | None = None,
        inputs: Sequence[int] | None = None,
    ) -> Field | None:
        """`Axis.through` of all axes; None if they are not these."""
        if len(reads) != len(self.axes):
            return self if self.everything else None
        ones = (1,) * len(reads)
        parts = zip(self.axes, reads, outputs or ones, inputs or ones)
        return Field(tuple(axis.through(*arguments) for axis, *arguments in parts))

    def whole(self, sizes: Sequence[int]) -> Field | None:
        """That of something that sees all positions of a map of the given sizes."""
        if len(sizes) != len(self.axes):
            return self if self.everything else None
        return Field(tuple(axis.whole(size) for axis, size in zip(self.axes, sizes)))


def united(fields: Sequence[Field], sizes: Sequence[Sequence[int]]) -> Field | None:
    """That of a value which sees what the same position sees in several maps.

    Args:
        fields: Those of the maps.
        sizes: The maps' spatial sizes. Maps of one position are seen from everywhere.

    Returns:
        None if the maps do not move over the input alike.
    """
    if not fields or len({len(field.axes) for field in fields}) > 1:
        return None
    axes = []
    for axis in range(len(fields[0].axes)):
        parts = [field.axes[axis] for field in fields]
        lengths = [size[axis] if axis < len(size) else 1 for size in sizes]
        if any(not part.step or n == 1 < max(lengths) for n, part in zip(lengths, parts)):
            parts = [part.whole(n) for part, n in zip(parts, lengths)]
        if len({part.stride for part in parts}) > 1:
            return None
        period = math.lcm(*(len(part.bounds) for part in parts))
        bounds = tuple(hull(part.at(p) for part in parts) for p in range(period))
        axes.append(Axis(bounds, int(parts[0].stride * period)))
    return Field(tuple(axes))
