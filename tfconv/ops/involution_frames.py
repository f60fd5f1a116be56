"""Involution of volumes as convolutions of images, for TensorFlow Lite: their channels are frames.

Kernels are linear in the features f that they are made from, so that
``y[p, c] = sum_r f[p, r] * z_r[p, c]`` with ``z_r[p, c] = sum_t span[r, g(c), t] * x[p + t, c]``,
and the bias as one more row of ``span``, whose feature is 1. All channels of a group have the same
kernels in this: they are examples. Frames are channels, so that a convolution of images takes all
taps at once, and some zeros beside them. That is a few operators instead of four for each tap, and
integers are rounded a few times rather than at each tap.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfconv.ops.conv import conv
from tfconv.ops.geometry import Geometry

_LEAST_TAPS = 48  # fewer are faster one by one
_MOST_FEATURES = 8
_MOST_FRAMES = 12  # of an output: with more, too many of the products are with zeros


def suits(x: tf.Tensor, span: tf.Tensor, geometry: Geometry) -> bool:
    """Whether `by_frames` takes these, and gains."""
    few = span.shape[0] <= _MOST_FEATURES and geometry.taps >= _LEAST_TAPS
    return few and geometry.rank == 3 and None not in x.shape[1:]


def by_frames(
    x: tf.Tensor, features: tf.Tensor, span: tf.Tensor, bias: tf.Tensor, geometry: Geometry
) -> tf.Tensor:
    """The involution of volumes of known sizes.

    Args:
        x: [N, D, H, W, C] tensor.
        features: [N, *output, R] tensor.
        span: [R, G * T] tensor.
        bias: [G * T] tensor.
        geometry: Where the taps fall.

    Returns:
        [N, *output, C] tensor.
    """
    *sizes, channels = x.shape.as_list()[1:]
    rows, groups = span.shape[0] + 1, bias.shape[-1] // geometry.taps
    count, *output = geometry.output_shape(sizes)
    positions, width = output[0] * output[1], channels // groups
    one = tf.eye(rows, dtype=x.dtype)
    features = tf.reshape(features, [-1, count, positions, rows - 1])
    features = tf.nn.conv2d(features, one[tf.newaxis, tf.newaxis, :-1], 1, "VALID") + one[-1]
    kernels = tf.concat([span, bias[tf.newaxis]], 0)
    kernels = tf.reshape(kernels, [rows, groups, *geometry.kernel_size])
    kernels = tf.transpose(kernels, [1, 3, 4, 2, 0])  # [G, kh, kw, kd, R + 1]
    x = tf.reshape(x, [-1, sizes[0], sizes[1] * sizes[2], channels])
    x = tf.transpose(x, [0, 3, 2, 1])
    parts = []
    for frames in np.array_split(np.arange(count), -(-count // _MOST_FRAMES)):
        taps, read = _taps(geometry, sizes[0], frames)
        of_groups = []
        for group in range(groups):
            images = x[:, group * width : (group + 1) * width, :, read]
            images = tf.reshape(images, [-1, *sizes[1:], images.shape[-1]])
            z = conv(
                images,
                _kernel(kernels[group], taps),
                strides=geometry.strides[1:],
                padding="same" if geometry.pads is None else geometry.pads[1:],
                dilation_rate=geometry.dilation_rate[1:],
                data_format="channels_last",
            )
            of_groups.append(tf.reshape(z, [-1, width, positions * rows, len(frames)]))
        z = tf.transpose(tf.concat(of_groups, 1), [0, 3, 2, 1])
        parts.append(tf.reshape(z, [-1, len(frames) * positions, rows, channels]))
    # Sums of products of integers are rounded once, those of rounded products would be twice.
    features = tf.reshape(features, [-1, count * positions, 1, rows])
    y = tf.matmul(features, tf.concat(parts, 1))
    return tf.reshape(y, [-1, count, *output, channels])


def _taps(geometry: Geometry, depth: int, frames: np.ndarray) -> tuple[np.ndarray, slice]:
    """The tap for each pair of frames [read, made], -1 for none; and which frames are read."""
    ((before, _), *_) = geometry.pad_amounts([depth, 1, 1])
    offset = np.arange(depth)[:, None] + before - frames * geometry.strides[0]
    tap, rest = np.divmod(offset, geometry.dilation_rate[0])
    taps = np.where((rest == 0) & (tap >= 0) & (tap < geometry.kernel_size[0]), tap, -1)
    used = np.flatnonzero((taps >= 0).any(1))
    read = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
    return taps[read], read


def _kernel(kernel: tf.Tensor, taps: np.ndarray) -> tf.Tensor:
    """[kh, kw, kd, R + 1] -> [kh, kw, read, (R + 1) * made]."""
    kernel = tf.pad(kernel, [[0, 0], [0, 0], [0, 1], [0, 0]])
    kernel = tf.gather(kernel, np.where(taps < 0, kernel.shape[2] - 1, taps), axis=2)
    kernel = tf.transpose(kernel, [0, 1, 2, 4, 3])
    return tf.reshape(kernel, [*kernel.shape[:3], -1])
