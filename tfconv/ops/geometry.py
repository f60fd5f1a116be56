"""Where the taps of a kernel fall: sizes, strides, paddings and dilations of any rank.

Computed and checked once, here; layers, functions and native calls all read it.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Sequence
from typing import Any, Union

import numpy as np
import tensorflow as tf

Padding = Union[str, int, Sequence[Sequence[int]], Sequence[int]]
_NAMES = ("valid", "same", "full", "causal")


def is_int(value: Any) -> bool:
    """Whether ``value`` is an integer of any kind, but no boolean."""
    if isinstance(value, (bool, np.bool_)):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def _ints(values: Any, count: int, minimum: int) -> tuple[int, ...] | None:
    """``count`` ints of at least ``minimum`` as a tuple; None if ``values`` are something else."""
    values = values.tolist() if isinstance(values, np.ndarray) else values
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        return None
    if len(values) != count or not all(is_int(v) and v >= minimum for v in values):
        return None
    return tuple(int(v) for v in values)


def per_axis(value: Any, rank: int, name: str, minimum: int = 1) -> tuple[int, ...]:
    """``value`` as one int per spatial axis.

    Raises:
        ValueError: If it is neither an int nor ``rank`` ints, or one is below ``minimum``.
    """
    values = _ints((value,) * rank if is_int(value) else value, rank, minimum)
    if values is None:
        raise ValueError(
            f"`{name}` must be an int or {rank} ints (one per spatial axis), "
            f"each at least {minimum}. Received: {name}={value!r}"
        )
    return values


def standardized_padding(padding: Padding, rank: int) -> str | int | tuple[tuple[int, int], ...]:
    """Checks a padding and gives it in one form: a lower-case name, an int or pairs of ints.

    Raises:
        ValueError: If it is none of "valid", "same", "full", "causal" (rank 1), a non-negative
            int, or one (before, after) pair per spatial axis.
    """
    if isinstance(padding, str) and padding.lower() in _NAMES:
        if padding.lower() == "causal" and rank != 1:
            raise ValueError(
                '`padding` may be "causal" with one spatial axis only. '
                f"Received: padding={padding!r} with {rank} spatial axes"
            )
        return padding.lower()
    if is_int(padding) and padding >= 0:
        return int(padding)
    pairs: Any = padding.tolist() if isinstance(padding, np.ndarray) else padding
    if isinstance(pairs, Sequence) and len(pairs) == rank:
        pairs = tuple(_ints(pair, 2, minimum=0) for pair in pairs)
        if None not in pairs:
            return pairs
    raise ValueError(
        '`padding` must be "valid", "same", "full", "causal" (one spatial axis), a non-negative '
        f"int, or {rank} pairs (before, after) of non-negative ints, one per spatial axis. "
        f"Received: padding={padding!r}"
    )


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The geometry of a sliding window over ``rank`` spatial axes.

    Attributes:
        kernel_size: Taps per spatial axis.
        strides: Pixels between neighbouring outputs, per spatial axis.
        dilation_rate: Pixels between neighbouring taps, per spatial axis.
        pads: (before, after) zeros per spatial axis; None for "same", whose amounts depend
            on the input's size.
    """

    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    dilation_rate: tuple[int, ...]
    pads: tuple[tuple[int, int], ...] | None

    @classmethod
    def of(
        cls,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        dilation_rate: int | Sequence[int] = 1,
        rank: int = 2,
    ) -> Geometry:
        """Checks the arguments of a convolution-like layer or function.

        Raises:
            ValueError: Names the argument that is wrong and what it got.
        """
        kernel = per_axis(kernel_size, rank, "kernel_size")
        stride = per_axis(strides, rank, "strides")
        dilation = per_axis(dilation_rate, rank, "dilation_rate")
        padding = standardized_padding(padding, rank)
        reach = tuple((k - 1) * d for k, d in zip(kernel, dilation))
        pads: tuple[tuple[int, int], ...] | None
        if padding == "same":
            pads = None
        elif padding == "valid":
            pads = ((0, 0),) * rank
        elif padding == "full":
            pads = tuple((r, r) for r in reach)
        elif padding == "causal":
            pads = ((reach[0], 0),)
        elif isinstance(padding, int):
            pads = ((padding, padding),) * rank
        else:
            pads = padding  # type: ignore[assignment]
        return cls(kernel, stride, dilation, pads)

    @classmethod
    def of_op(cls, op: Any, kernel_size: Sequence[int] | None = None) -> Geometry:
        """The geometry in a native op's attributes; those without kernel_size need it given."""
        strides = op.get_attr("strides")
        pads = list(op.get_attr("explicit_paddings")) or [0, 0] * len(strides)  # if "VALID"
        same = op.get_attr("padding") in ("SAME", b"SAME")
        return cls(
            tuple(op.get_attr("kernel_size") if kernel_size is None else kernel_size),
            tuple(strides),
            tuple(op.get_attr("dilations")),
            None if same else tuple(zip(pads[::2], pads[1::2])),
        )

    @property
    def rank(self) -> int:
        return len(self.kernel_size)

    @property
    def taps(self) -> int:
        return math.prod(self.kernel_size)

    @property
    def extent(self) -> tuple[int, ...]:
        """Pixels from a window's first tap to its last, both included, per spatial axis."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel_size, self.dilation_rate))

    @property
    def least_sizes(self) -> tuple[int, ...]:
        """Pixels that the input needs along each spatial axis for one output."""
        if self.pads is None:
            return (1,) * self.rank
        return tuple(extent - sum(pads) for extent, pads in zip(self.extent, self.pads))

    def along(self, axes: slice) -> Geometry:
        """The geometry of some of the axes."""
        parts = (self.kernel_size, self.strides, self.dilation_rate)
        return Geometry(*(part[axes] for part in parts), self.pads and self.pads[axes])

    def output_size(self, size: Any, axis: int) -> Any:
        """Outputs along ``axis`` for ``size`` pixels; either may be an int, None or a tensor."""
        if size is None:
            return None
        stride = self.strides[axis]
        if self.pads is None:
            return (size + stride - 1) // stride
        return (size + sum(self.pads[axis]) - self.extent[axis]) // stride + 1

    def output_shape(self, spatial: Sequence[int | None]) -> tuple[int | None, ...]:
        """Spatial output shape for a spatial input shape, either of which may hold None.

        Raises:
            ValueError: If the padded input is smaller than the kernel's extent.
        """
        sizes = tuple(self.output_size(size, axis) for axis, size in enumerate(spatial))
        for axis, (size, out) in enumerate(zip(spatial, sizes)):
            if out is not None and self.pads is not None and out < 1:
                raise ValueError(
                    "One of the dimensions in the output is <= 0 because the `kernel_size` spans "
                    f"{self.extent[axis]} pixels along spatial axis {axis}, more than the padded "
                    f"input has. Received: size {size} with padding {self.pads[axis]}, "
                    f"kernel_size={self.kernel_size}, dilation_rate={self.dilation_rate}"
                )
        return sizes

    def pad_amounts(self, spatial: Sequence[Any]) -> tuple[tuple[Any, Any], ...]:
        """(before, after) zeros per spatial axis; tensors where the sizes are tensors."""
        if self.pads is not None:
            return self.pads
        amounts = []
        for size, stride, extent in zip(spatial, self.strides, self.extent):
            if stride == 1:
                total = extent - 1
            elif isinstance(size, int):
                total = max((-(-size // stride) - 1) * stride + extent - size, 0)
            else:
                total = tf.maximum(((size + stride - 1) // stride - 1) * stride + extent - size, 0)
            amounts.append((total // 2, total - total // 2))
        return tuple(amounts)

    def attributes(self) -> dict[str, Any]:
        """The geometry as the native ops' attributes."""
        return {"kernel_size": list(self.kernel_size), **self.op_attributes()}

    def op_attributes(self) -> dict[str, Any]:
        """Those of the native ops that take the kernel's size from the kernel."""
        return {
            "strides": list(self.strides),
            "dilations": list(self.dilation_rate),
            "padding": "SAME" if self.pads is None else "EXPLICIT",
            "explicit_paddings": [v for pair in self.pads or () for v in pair],
        }


def known_sizes(x: tf.Tensor, axes: slice) -> list[Any]:
    """Sizes of some axes of a tensor: ints where known, else scalars."""
    static = x.shape.as_list()[axes]
    dynamic = None if None not in static else tf.shape(x)[axes]
    return [dynamic[i] if size is None else size for i, size in enumerate(static)]


def examples(x: tf.Tensor) -> int:
    """The batch of ``x`` for `tf.reshape`, which cannot tell it where there are no pixels.

    -1 where it is not known.
    """
    return -1 if x.shape[0] is None else x.shape[0]


def spatial_sizes(x: tf.Tensor) -> list[Any]:
    """Sizes of the spatial axes of a channels-last tensor: ints where known, else scalars."""
    return known_sizes(x, slice(1, -1))


def output_sizes(x: tf.Tensor, geometry: Geometry) -> list[Any]:
    """The batch and the output positions along each axis: ints where known, else scalars."""
    batch, *sizes = known_sizes(x, slice(0, -1))
    return [batch, *(geometry.output_size(n, axis) for axis, n in enumerate(sizes))]
