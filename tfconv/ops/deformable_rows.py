"""Samples of deformable operations, by stock operations: corners are gathered and weighted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv import _compat
from tfconv.ops.checks import of_sizes
from tfconv.ops.dispatch import invalid_argument
from tfconv.ops.geometry import Geometry, examples, output_sizes, spatial_sizes
from tfconv.ops.windows import product

# In TensorFlow Lite, what is gathered for so many elements is in the cache until it is used.
_MOST_ELEMENTS = 1 << 17
_MOST_PARTS = 16


def portable_rows(
    x: tf.Tensor,
    offset: tf.Tensor,
    mask: tf.Tensor | None,
    geometry: Geometry,
    names: tuple[str, str] = ("deformable", "mask"),
    then: Callable[[tf.Tensor], tf.Tensor] = tf.identity,
) -> tf.Tensor:
    """Stock ops: gathers the corners from x with two zeros on every side; [-1, taps, C].

    A position is clipped to [-2, size]: all its corners can then be read, and those outside
    read a zero, with no test of their own.

    Args:
        x, offset, mask: As of `deformable_sample`, channels last.
        geometry: Where the taps fall.
        names: In messages, of who calls and of its mask.
        then: What is made of the samples of some positions.
    """
    channels, taps, rank = x.shape[-1], geometry.taps, geometry.rank
    groups = offset.shape[-1] // (rank * taps)
    sizes = spatial_sizes(x)
    batch, *output = output_sizes(x, geometry)
    positions = product(output)
    message = "{}: {} must have the batch and the output positions of x. Received: shape"
    said = message.format(names[0], "offset")
    width = offset.shape[-1]
    offset = of_sizes(offset, [batch, *output, width], said, reshaped=True)
    if mask is not None:
        width = width // rank
        said = message.format(*names)
        mask = of_sizes(mask, [batch, *output, width], said, reshaped=True)

    def by_tap(t):  # [N, P, groups, taps] -> [N, P, taps, groups]
        if groups == 1:
            return tf.reshape(t, [batch, positions, taps, 1])
        return tf.transpose(t, [0, 1, 3, 2])

    moved = tf.reshape(offset, [batch, positions * groups * taps, rank])
    exported = _compat.tracing_for_export()
    if not exported:  # where nobody takes gradients
        moved = _undefined_at_once(moved)
    for_tflite = _compat.tracing_for_tflite()
    if for_tflite:  # where every second element is slow to cut out
        moved = tf.transpose(moved, [0, 2, 1])
    near, fractions, low, high = None, [], 0, 0
    pitches = [n + 4 for n in sizes]
    known = [n for n in pitches if isinstance(n, int)]
    if math.prod(known) * groups > tf.int32.max:
        raise invalid_argument(
            f"{names[0]}: without native ops, x may have fewer than 2^31 pixels times offset "
            f"groups. Received: x of shape {x.shape}, {groups} offset groups"
        )
    for axis, start in enumerate(_starts(geometry, sizes, output)):
        along = moved[:, axis] if for_tflite else moved[..., axis]
        along = tf.reshape(along, [batch, positions, groups, taps])
        position = by_tap(along) + tf.cast(start, x.dtype)[:, :, None]
        if for_tflite:  # where integers are slow to clip: that once, for NaN
            last = tf.cast(sizes[axis], x.dtype)
            position = tf.clip_by_value(position, tf.constant(-2, x.dtype), last)
            floor = tf.floor(position)
            fractions.append(position - floor)
            floor = tf.cast(floor, tf.int32)
        else:
            # Clipped as an integer, which any position makes without a test of its own: as a
            # fraction, NaN stays NaN, and infinity becomes one of a pixel that is zero.
            floor = tf.floor(position)
            if not exported:  # NaN could become the number of a pixel, which then got its gradient
                floor = tf.where(floor == floor, floor, tf.constant(-2, x.dtype))
            floor = tf.clip_by_value(tf.cast(floor, tf.int32), -2, sizes[axis])
            fraction = position - tf.cast(floor, x.dtype)
            zero, one = tf.zeros([], x.dtype), tf.ones([], x.dtype)
            fractions.append(tf.clip_by_value(fraction, zero, one))
        near = floor if near is None else near * pitches[axis] + floor
        low, high = low * pitches[axis] - 2, high * pitches[axis] + sizes[axis]
    if for_tflite:
        near = tf.clip_by_value(near, low, high)
    table = tf.pad(x, [[0, 0], *[[2, 2]] * rank, [0, 0]])
    table = tf.reshape(table, [-1, product(pitches) * groups, channels // groups])
    near = near * groups + tf.range(groups)
    weights = [(1 - fraction, fraction) for fraction in fractions]
    if mask is not None:
        modulation = by_tap(tf.reshape(mask, [batch, positions, groups, taps]))
        weights[0] = tuple(weight * modulation for weight in weights[0])
    corners = []
    for corner in itertools.product((0, 1), repeat=rank):
        shift, weight = 2 + corner[0], weights[0][corner[0]]
        for axis in range(1, rank):
            shift = shift * pitches[axis] + 2 + corner[axis]
            weight = weight * weights[axis][corner[axis]]
        corners.append((shift * groups, weight))

    def sampled(near, weights, count):
        total = None
        for (shift, _), weight in zip(corners, weights):
            places = tf.reshape(near + shift, [examples(x), count])
            value = tf.gather(table, places, batch_dims=1)
            term = value * tf.reshape(weight, [examples(x), count, 1])
            total = term if total is None else total + term
        return then(tf.reshape(total, [-1, taps, channels]))

    weights = [weight for _, weight in corners]
    parts = _parts([batch, positions, taps * channels])
    if parts == 1:
        return sampled(near, weights, count=positions * taps * groups)
    made: list[tf.Tensor] = []
    for some in np.array_split(np.arange(positions), parts):
        begin, size = [0, some[0], 0, 0], [batch, len(some), taps, groups]
        first, *shares = (tf.slice(t, begin, size) for t in (near, *weights))
        if made:
            first += _zero_after(made[-1])
        y = sampled(first, shares, count=len(some) * taps * groups)
        made.append(tf.reshape(y, [batch, len(some), *y.shape[1:]]))
    y = tf.concat(made, axis=1)
    return tf.reshape(y, [-1, *y.shape[2:]])


def _parts(sizes: Sequence[Any]) -> int:
    """How many parts of the positions are sampled one after another."""
    if not _compat.tracing_for_tflite() or not all(isinstance(n, int) for n in sizes):
        return 1
    return max(1, min(math.ceil(math.prod(sizes) / _MOST_ELEMENTS), _MOST_PARTS, sizes[1]))


def _zero_after(y: tf.Tensor) -> tf.Tensor:
    """The integer 0, which waits for y.

    TensorFlow Lite's interpreter runs all that its delegate does not take as soon as it can: the
    gathering of all parts, before the sums of the first.
    """
    first = tf.slice(y, [0] * y.shape.rank, [1] * y.shape.rank)
    return tf.argmax(tf.reshape(first, [1, 1]), axis=1, output_type=tf.int32)


@tf.custom_gradient
def _undefined_at_once(offset: tf.Tensor) -> Any:
    """Offsets [..., rank], whose gradients are NaN along all axes where one of them is NaN."""

    def gradient(upstream):
        undefined = tf.reduce_any(tf.math.is_nan(offset), axis=-1, keepdims=True)
        return tf.where(undefined, tf.constant(np.nan, offset.dtype), upstream)

    return tf.identity(offset), gradient


def _starts(geometry: Geometry, sizes: list[Any], output: list[Any]) -> list[tf.Tensor]:
    """For each axis where the taps fall before they are moved, [P, taps]."""
    starts, positions = [], product(output)
    taps = np.indices(geometry.kernel_size).reshape([geometry.rank, geometry.taps])
    for axis, (before, _) in enumerate(geometry.pad_amounts(sizes)):
        first = tf.range(output[axis]) * geometry.strides[axis] - before
        shape = [1] * geometry.rank
        shape[axis] = -1
        first = tf.reshape(tf.broadcast_to(tf.reshape(first, shape), output), [positions, 1])
        tap = taps[axis] * geometry.dilation_rate[axis]
        starts.append(first + tap[None].astype(np.int32))
    return starts
