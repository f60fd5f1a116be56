"""Involution as matrix products, for TensorFlow's servers: several outputs of a row at a time.

The outputs ``j`` of a block read pixels ``j * stride + tap``: their kernels are rows of a matrix
with a band, which times the pixels under the block gives the block. That takes two to three times
as many products as a multiply-add for each tap, in far fewer passes over memory: half the time. A
pixel that is not finite spoils all outputs of its blocks.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfconv.ops.geometry import Geometry

_BLOCK = 8  # outputs
_LEAST_TAPS = 20  # fewer are faster one by one


def suits(x: tf.Tensor, geometry: Geometry) -> bool:
    """Whether `by_blocks` takes these, and gains."""
    return (
        geometry.rank <= 2
        and geometry.dilation_rate[-1] == 1
        and geometry.taps >= _LEAST_TAPS
        and None not in x.shape[1:]
    )


def by_blocks(x: tf.Tensor, kernel: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """The involution of tensors that fit each other.

    Args:
        x: [N, *spatial, C] tensor of one or two spatial axes, of known sizes.
        kernel: [N, *output, G * T] tensor.
        geometry: Where the taps fall.
    """
    *_, channels = x.shape
    groups = kernel.shape[-1] // geometry.taps
    width = channels // groups
    sizes, pads = x.shape[1:-1].as_list(), geometry.pad_amounts(x.shape[1:-1].as_list())
    outputs = [geometry.output_size(n, axis) for axis, n in enumerate(sizes)]
    (rows, columns), (kh, kw) = ((1, *v)[-2:] for v in (outputs, geometry.kernel_size))
    stride, block = geometry.strides[-1], min(_BLOCK, outputs[-1])
    blocks = -(-columns // block)
    reach = block * stride + kw  # pixels of a block in a row, and as many more as a row moves by
    length = kh * reach - stride

    x = tf.pad(x, [[0, 0], *map(list, pads), [0, 0]])
    x = tf.reshape(x, [-1, *((1, *x.shape[1:-1])[-2:]), channels])
    starts = np.arange(blocks)[:, None] * block * stride + np.arange(reach)
    x = tf.pad(x, [[0, 0], [0, 0], [0, max(0, starts.max() + 1 - x.shape[2])], [0, 0]])
    x = tf.gather(x, starts.reshape(-1), axis=2)
    height = x.shape[1]
    x = tf.reshape(x, [-1, height, blocks * reach, groups, width])
    x = tf.reshape(tf.transpose(x, [0, 3, 1, 2, 4]), [-1, height, blocks, reach * width])
    x = tf.transpose(x, [0, 2, 1, 3])  # [N * G, blocks, rows, pixels]
    step, dilation = ((1, *v)[-2] for v in (geometry.strides, geometry.dilation_rate))
    under = np.arange(rows)[:, None] * step + np.arange(kh) * dilation
    x = tf.reshape(tf.gather(x, under.reshape(-1), axis=2), [-1, kh * reach, width])

    k = tf.reshape(kernel, [-1, rows, columns, kernel.shape[-1]])
    k = tf.pad(k, [[0, 0], [0, 0], [0, blocks * block - columns], [0, 0]])
    k = tf.reshape(k, [-1, rows, blocks * block, groups, kh * kw])
    k = tf.reshape(tf.transpose(k, [0, 3, 1, 2, 4]), [-1, rows, blocks, block * kh * kw])
    k = tf.reshape(tf.transpose(k, [0, 2, 1, 3]), [-1, block * kh, kw])
    # Rows that are written one after another and read as shorter ones move to the right.
    k = tf.reshape(tf.pad(k, [[0, 0], [0, 0], [0, reach - kw]]), [-1, block * kh * reach])
    k = tf.reshape(k[:, : block * length], [-1, block, length])

    y = tf.matmul(k, x[:, :length])
    y = tf.transpose(tf.reshape(y, [-1, blocks, rows, block * width]), [0, 2, 1, 3])
    y = tf.transpose(tf.reshape(y, [-1, groups, rows, blocks * block, width]), [0, 2, 3, 1, 4])
    y = tf.reshape(y, [-1, rows, blocks * block, channels])[:, :, :columns]
    return tf.reshape(y, [-1, *outputs, channels])
