"""Keras's masks, which say which positions count: in means, and in what positions see."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfconv.layers.base import global_mean
from tfconv.ops.dispatch import in_float32


def per_position(mask: Any, x: tf.Tensor, channel_axis: int = -1) -> tf.Tensor:
    """A mask of Keras as booleans that fit ``x``, with one channel.

    Args:
        mask: [N, *positions], or the first of these axes: then it holds for all of the others.
        x: [N, *positions, C] tensor, or its channels where ``channel_axis`` says.

    Raises:
        ValueError: If the mask cannot be that of such a tensor.
    """
    mask = tf.cast(mask, tf.bool)
    axes = x.shape.as_list()
    del axes[channel_axis]
    rank = mask.shape.rank
    if not 0 < rank <= len(axes) or not mask.shape.is_compatible_with(axes[:rank]):
        raise ValueError(
            "`mask` must have the shape [batch, *positions] of the inputs or of their first axes, "
            f"here {tf.TensorShape(axes)}. Received: mask of shape {mask.shape}"
        )
    for _ in axes[rank:]:
        mask = tf.expand_dims(mask, -1)
    return tf.expand_dims(mask, channel_axis)


def without_mask(x: tf.Tensor) -> tf.Tensor:
    """``x`` without Keras's mask, of which convolutions inside a layer would warn once more."""
    return tf.identity(x) if hasattr(x, "_keras_mask") else x


def divided(part: tf.Tensor, whole: tf.Tensor) -> tf.Tensor:
    """``part / whole``; where both are 0, 0. No zero is divided by, which 8-bit integers refuse."""
    return part / tf.where(whole > 0, whole, tf.ones_like(whole))


def mean_of_positions(x: tf.Tensor, channel_axis: int = -1, mask: Any = None) -> tf.Tensor:
    """The mean over the axes between batch and channels, if there are any.

    Only positions where a mask of Keras is true count; without any, the mean is 0.
    """
    rank = x.shape.rank
    axes = [axis for axis in range(1, rank) if axis != channel_axis % rank]
    if not axes:
        return x
    if mask is None:
        return global_mean(x, axes)
    counts = per_position(mask, x, channel_axis)

    def mean(x: tf.Tensor) -> tf.Tensor:
        kept = tf.where(counts, x, tf.zeros_like(x))
        share = tf.reduce_mean(tf.cast(counts, x.dtype), axes)
        return divided(tf.reduce_mean(kept, axes), share)

    return in_float32(mean, x)
