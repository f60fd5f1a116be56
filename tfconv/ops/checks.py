"""Sizes that are not known when a function is traced: checked when it runs, everywhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfconv import _compat
from tfconv.ops.geometry import Geometry

_LONGEST_NAME = 120  # of an operation; the message itself has no limit


def checked(x: tf.Tensor, holds: tf.Tensor, message: str, received: tf.Tensor) -> tf.Tensor:
    """``x``, whose use raises InvalidArgumentError when the function runs unless ``holds``.

    XLA, TensorFlow Lite and ONNX leave assertions out. They do not leave out a reshaping: to sizes
    that ``x`` does not have, it fails, under a name made of the message.

    Args:
        x: A tensor, not of fully known shape.
        holds: A boolean that depends on shapes only.
        message: What is wrong if it does not hold; ends where what was received follows.
        received: The sizes that were received.
    """
    static = x.shape
    if not _compat.tracing_for_export():  # where nobody would read the message
        with tf.control_dependencies([tf.debugging.Assert(holds, [message, received])]):
            x = tf.identity(x)
    more = tf.cast(tf.logical_not(holds), tf.int32)
    sizes = tf.shape(x)
    sizes = [sizes[i] + more if n is None else n for i, n in enumerate(static.as_list())]
    return _reshaped(x, sizes, message, static)


def of_sizes(x: tf.Tensor, sizes: Sequence[Any], message: str) -> tf.Tensor:
    """``x``, whose use raises as that of `checked` unless it has these sizes.

    Args:
        x: A tensor.
        sizes: An int or, where it is not known yet, a scalar for each axis of ``x``.
        message: What is wrong if they are others.
    """
    pairs = zip(x.shape.as_list(), sizes)
    unknown = [size for n, size in pairs if n is None or not isinstance(size, int)]
    if not unknown:
        return x  # was checked when it was traced
    static = x.shape.merge_with([n if isinstance(n, int) else None for n in sizes])
    if len(unknown) == 1 and _compat.tracing_for_export():  # then the elements say it
        return _reshaped(x, list(sizes), message, static)
    received = tf.shape(x)
    x = checked(x, tf.reduce_all(received == tf.stack(sizes)), message, received)
    x.set_shape(static)
    return x


def sufficient(x: tf.Tensor, least: Sequence[int], message: str) -> tf.Tensor:
    """``x``, whose use raises as that of `checked` unless each spatial axis has ``least`` pixels.

    Args:
        x: [N, *spatial, C] tensor, whose known sizes were checked before.
        least: Pixels needed along each spatial axis.
        message: What is wrong if it has fewer.
    """
    if all(n is not None or m <= 1 for n, m in zip(x.shape.as_list()[1:-1], least)):
        return x
    sizes = tf.shape(x)[1:-1]
    return checked(x, tf.reduce_all(sizes >= least), message, sizes)


def fitting(x: tf.Tensor, geometry: Geometry, what: str) -> tf.Tensor:
    """``x``, whose use raises as that of `checked` unless the kernel fits into it."""
    message = (
        f"{what}: kernel_size={geometry.kernel_size}, dilation_rate={geometry.dilation_rate} and "
        f"pads={geometry.pads or 'same'} need an input of at least {geometry.least_sizes} pixels. "
        "Received: spatial sizes"
    )
    return sufficient(x, geometry.least_sizes, message)


def _reshaped(x: tf.Tensor, sizes: list[Any], message: str, static: tf.TensorShape) -> tf.Tensor:
    name = re.sub(r"[^A-Za-z0-9]+", "_", message).strip("_")[:_LONGEST_NAME]
    y = tf.reshape(x, sizes, name=name)
    y.set_shape(static)
    return y
