"""Shifted views of a padded tensor: the one formulation under the portable operations.

Slices, rather than `tf.image.extract_patches`: they exist in every rank, have gradients
everywhere and convert to TensorFlow Lite builtins.
"""

from __future__ import annotations

import itertools
from typing import Any

import tensorflow as tf

from tfconv.ops.geometry import Geometry, examples, spatial_sizes


class Windows:
    """The pixels under each tap of a kernel, for all output positions at once.

    Args:
        x: [N, *spatial, C] tensor; C must be known.
        geometry: Where the taps fall.
        split: Splits the channels into [split, C // split] once, before the taps are cut.

    Attributes:
        output: Spatial output sizes, ints where known.
    """

    def __init__(self, x: tf.Tensor, geometry: Geometry, split: int | None = None):
        self._geometry = geometry
        self._channels = x.shape[-1]
        self._split = split
        sizes = spatial_sizes(x)
        pads = geometry.pad_amounts(sizes)
        self.output = [geometry.output_size(size, axis) for axis, size in enumerate(sizes)]
        # A strided slice costs several times a contiguous one in TensorFlow Lite: bring the
        # pixels of each phase together first.
        stride = geometry.strides[0]
        self._phases = 1
        if geometry.rank == 2 and geometry.strides == (stride, stride) and stride > 1:
            self._phases = stride
            # No remainder of a negative number: converters to ONNX get those wrong.
            pads = tuple(
                (before, after + (stride - (size + before + after) % stride) % stride)
                for (before, after), size in zip(pads, sizes)
            )
        if any(not isinstance(v, int) or v for pair in pads for v in pair):
            x = tf.pad(x, [[0, 0], *[list(pair) for pair in pads], [0, 0]])
        if self._phases > 1:
            x = tf.nn.space_to_depth(x, stride)
        if split is not None:
            shape = tf.shape(x)
            known = x.shape.as_list()[1:-1]
            spatial = [shape[i + 1] if n is None else n for i, n in enumerate(known)]
            blocks = self._phases**2 * split
            x = tf.reshape(x, [-1, *spatial, blocks, self._channels // split])
        self._x = x

    def __iter__(self):
        geometry = self._geometry
        for tap in itertools.product(*(range(k) for k in geometry.kernel_size)):
            yield self._slice([t * d for t, d in zip(tap, geometry.dilation_rate)])

    def _slice(self, start: list[int]) -> tf.Tensor:
        # tf.slice where it serves: its gradient is a padding, several times faster than
        # the gradient of a strided slice.
        strides, begin, first = self._geometry.strides, start, 0
        shape = self._x.shape.as_list()
        batch, (width, *last) = shape[0], shape[len(start) + 1 :]
        if self._phases > 1:
            s = self._phases
            block = (start[0] % s) * s + start[1] % s
            strides, begin = (1,) * len(start), [t // s for t in start]
            width = self._channels if self._split is None else self._split
            first = block * width
        if max(strides) == 1:
            size = [batch or -1, *self.output, width, *last]  # known: XNNPACK takes no others
            return tf.slice(self._x, [0, *begin, first, *[0] * len(last)], size)
        index = [
            slice(t, t + (out - 1) * s + 1, s) for t, out, s in zip(begin, self.output, strides)
        ]
        return self._x[tuple([slice(None), *index])]


def columns(x: tf.Tensor, geometry: Geometry, groups: int = 1) -> tf.Tensor:
    """The pixels under all taps side by side, ready for a matrix product.

    Returns:
        [N, P, taps * C] for one group, otherwise [N, groups, P, taps * (C // groups)], where P
        counts the output positions.
    """
    windows = Windows(x, geometry)
    taps = list(windows)
    joined = taps[0] if len(taps) == 1 else tf.concat(taps, axis=-1)
    channels = x.shape[-1]
    positions = product(windows.output)
    if groups == 1:
        return tf.reshape(joined, [examples(x), positions, geometry.taps * channels])
    width = channels // groups
    joined = tf.reshape(joined, [examples(x), positions, geometry.taps, groups, width])
    joined = tf.transpose(joined, [0, 3, 1, 2, 4])
    return tf.reshape(joined, [examples(x), groups, positions, geometry.taps * width])


def product(sizes: list[Any]) -> Any:
    """Product of sizes that are ints or scalar tensors."""
    result: Any = 1
    for size in sizes:
        result = result * size
    return result
