"""Transposed convolutions as convolutions: all outputs of a block of the stride's size at once."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfconv.ops.conv import conv
from tfconv.ops.geometry import Geometry, spatial_sizes
from tfconv.ops.windows import product

# For each spatial axis (before, kept): outputs cut off at first, and how many are kept of what the
# last pixel begins.
Crops = Sequence[tuple[int, int]]


def has_phases(geometry: Geometry) -> bool:
    """Whether `by_phases` serves: a converter computes kernels that are twice as large at most."""
    if max(geometry.strides) == 1 or geometry.taps == 1:
        return False
    sides = zip(geometry.kernel_size, geometry.strides, geometry.dilation_rate)
    return all((k - 1) * d + s <= 2 * (k + 1) for k, s, d in sides)


@dataclasses.dataclass(frozen=True)
class Blocks:
    """An axis whose outputs are taken in blocks, as many as the stride.

    A block is what a convolution makes at one pixel: the outputs in it are its filters.

    Attributes:
        taps: Which tap of the kernel a place of a block has at each pixel that blocks see:
            [pixels, stride], -1 for none.
        first: The first pixel that a block sees, counted from its own.
        more: How many more blocks than pixels there are.
        cut: Outputs of the first block that are left out.
    """

    taps: np.ndarray
    first: int
    more: int
    cut: int

    @classmethod
    def of_axis(cls, geometry: Geometry, axis: int, before: int, kept: int) -> Blocks:
        stride, dilation = geometry.strides[axis], geometry.dilation_rate[axis]
        reach = geometry.extent[axis] - 1

        def pixels(cut):
            return (before - cut - reach + stride - 1) // stride, (before - cut - 1) // stride + 1

        # Where blocks start is free: so that they see the fewest pixels.
        cut = min(range(stride), key=lambda cut: (pixels(cut)[1] - pixels(cut)[0], cut))
        first, last = pixels(cut)
        place, pixel = np.arange(stride), np.arange(first, last + 1)[:, None]
        tap, rest = np.divmod(place + before - cut - pixel * stride, dilation)
        inside = (rest == 0) & (tap >= 0) & (tap < geometry.kernel_size[axis])
        more = -(-(kept + cut) // stride) - 1
        return cls(np.where(inside, tap, -1), first, more, cut)

    def places(self) -> list[Blocks]:
        """Each place of the blocks by itself, with no pixels but those that it sees."""
        found = []
        for taps in self.taps.T:
            used = np.flatnonzero(taps >= 0)
            begin, end = (used[0], used[-1] + 1) if len(used) else (0, 1)
            first = self.first + int(begin)
            found.append(Blocks(taps[begin:end, None], first, self.more, self.cut))
        return found

    @property
    def pads(self) -> tuple[int, int]:
        """Zeros before and after the pixels; where negative, pixels that nobody sees."""
        return -self.first, self.more + self.first + len(self.taps) - 1


def by_phases(
    x: tf.Tensor, kernel: tf.Tensor, geometry: Geometry, crops: Crops, groups: int
) -> tf.Tensor:
    """Convolutions that make all outputs of a block of the stride's size, put side by side.

    Nothing is computed of zeros between pixels, and TensorFlow Lite has it in all numbers
    ("sub-pixel convolution": Shi et al., arXiv:1609.05158).
    """
    axes = [Blocks.of_axis(geometry, axis, *crop) for axis, crop in enumerate(crops)]
    if geometry.rank < 3:
        y = _side_by_side(_in_blocks(x, kernel, axes, groups), geometry.strides)
    else:
        # All places of the first axis with the same frames: where one has a frame alone, converters
        # leave it in floating point.
        each = (dataclasses.replace(axes[0], taps=own[:, None]) for own in axes[0].taps.T)
        frames = [_in_blocks(x, kernel, [own, *axes[1:]], groups) for own in each]
        depth, *sizes = spatial_sizes(frames[0])
        shape = [-1, 1, product([*sizes, frames[0].shape[-1]])]
        y = tf.concat([tf.reshape(frame, shape) for frame in frames], axis=1)
        y = tf.reshape(y, [-1, *sizes, frames[0].shape[-1]])
        y = _side_by_side(y, geometry.strides[1:])
        y = tf.reshape(y, [-1, depth * geometry.strides[0], *spatial_sizes(y), y.shape[-1]])
    sides = zip(axes, geometry.strides, crops)
    cuts = [(-a.cut, a.cut + kept - (a.more + 1) * s) for a, s, (_, kept) in sides]
    return padded_or_cropped(y, cuts)


_MOST_PLACES = 4  # with more, as many convolutions cost more than some zeros in one kernel


def _in_blocks(x: tf.Tensor, kernel: tf.Tensor, axes: Sequence[Blocks], groups: int) -> tf.Tensor:
    """All places of blocks: [N, *blocks, places * F].

    One convolution, if all places see the same number of pixels; else some would meet zeros.

    Args:
        x: [N, *spatial, C] tensor.
        kernel: [*kernel_size, F / groups, C] tensor.
        axes: The blocks of each axis.
        groups: Groups of channels, and of filters.
    """
    places = math.prod(axis.taps.shape[1] for axis in axes)
    even = all((axis.taps >= 0).all() for axis in axes)
    apart = len(axes) < 3 and not even and places <= _MOST_PLACES
    if places > 1 and (groups > 1 or apart):
        each = itertools.product(*(axis.places() for axis in axes))
        return tf.concat([_in_blocks(x, kernel, own, groups) for own in each], axis=-1)
    for number, axis in enumerate(axes):
        taps, count = axis.taps, kernel.shape[2 * number]
        if (taps < 0).any():  # which a zero behind the last tap stands for
            kernel = tf.pad(kernel, [[0, int(i == 2 * number)] for i in range(kernel.shape.rank)])
        kernel = tf.gather(kernel, np.where(taps < 0, count, taps), axis=2 * number)
    rank, (width, channels) = len(axes), kernel.shape[-2:]
    kernel = tf.reshape(kernel, [*kernel.shape[:-1], groups, channels // groups])
    taps, filters = range(0, 2 * rank, 2), range(1, 2 * rank, 2)
    # For one place, groups of filters; for one group, places of filters.
    kernel = tf.transpose(kernel, [*taps, 2 * rank + 2, *filters, 2 * rank + 1, 2 * rank])
    size = [len(axis.taps) for axis in axes]
    kernel = tf.reshape(kernel, [*size, channels // groups, groups * places * width])
    x = padded_or_cropped(x, [axis.pads for axis in axes])
    return conv(x, kernel, groups=groups, data_format="channels_last")


def _side_by_side(y: tf.Tensor, strides: Sequence[int]) -> tf.Tensor:
    """[N, *sizes, places * F] -> [N, *(size * stride), F], for one axis or two."""
    sizes = spatial_sizes(y)
    filters = y.shape[-1] // math.prod(strides)
    if len(strides) == 2 and strides[0] == strides[1]:
        return tf.nn.depth_to_space(y, strides[0])
    if len(strides) == 2 and strides[0] > 1:
        y = tf.reshape(y, [-1, sizes[1], strides[0], strides[1] * filters])
        y = tf.transpose(y, [0, 2, 1, 3])
    return tf.reshape(y, [-1, *(n * s for n, s in zip(sizes, strides)), filters])


def padded_or_cropped(x: tf.Tensor, amounts: Sequence[tuple[int, int]]) -> tf.Tensor:
    """Zeros put before and after each spatial axis, pixels cut off where they are negative."""
    if any(v > 0 for pair in amounts for v in pair):
        pads = [[max(before, 0), max(after, 0)] for before, after in amounts]
        x = tf.pad(x, [[0, 0], *pads, [0, 0]])
    if any(v < 0 for pair in amounts for v in pair):
        begin = [max(-before, 0) for before, _ in amounts]
        ends = [max(-after, 0) for _, after in amounts]
        sizes = [n - first - last for n, first, last in zip(spatial_sizes(x), begin, ends)]
        known = [n if isinstance(n, int) else None for n in sizes]
        batch, channels = x.shape[0], x.shape[-1]
        x = tf.slice(x, [0, *begin, 0], [-1, *sizes, -1])
        x.set_shape([batch, *known, channels])  # which a slice of unknown sizes loses
    return x
