"""Sizes that are not known when a function is traced: checked when it runs, everywhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfconv import _compat
from tfconv.ops.geometry import Geometry

_LONGEST_NAME = 160  # of an operation; the message itself has no limit


def checked(x: tf.Tensor, holds: tf.Tensor, message: str, received: tf.Tensor) -> tf.Tensor:
    """``x``, whose use raises InvalidArgumentError when the function runs unless ``holds``.

    XLA and what is exported leave assertions out. They do not leave out a slice: one that is larger
    than ``x`` fails, under a name made of the message; one of all of ``x`` copies nothing. In ONNX,
    such slices end where ``x`` ends, but reshaping it to other sizes fails there, too.

    Args:
        x: A tensor.
        holds: A boolean that depends on shapes only.
        message: What is wrong if it does not hold; ends where what was received follows.
        received: The sizes that were received.
    """
    static = x.shape
    exported = _compat.tracing_for_export()
    if not exported:  # where nobody would read the message
        with tf.control_dependencies([tf.debugging.Assert(holds, [message, received])]):
            x = tf.identity(x)
    more = tf.cast(tf.logical_not(holds), tf.int32)
    known, sizes = static.as_list(), tf.shape(x)
    unknown = [i for i, n in enumerate(known) if n is None] or [0]
    sizes = [sizes[i] + more if i in unknown else n for i, n in enumerate(known)]
    name = re.sub(r"[^A-Za-z0-9]+", "_", message).strip("_")[:_LONGEST_NAME]
    if exported:
        y = tf.reshape(x, sizes, name=name)
    else:
        y = tf.slice(x, [0] * len(sizes), sizes, name=name)
    y.set_shape(static)
    return y


def of_sizes(
    x: tf.Tensor, sizes: Sequence[Any], message: str, *, reshaped: bool = False
) -> tf.Tensor:
    """``x``, whose use raises as that of `checked` unless it has these sizes.

    Args:
        x: A tensor, whose known sizes were checked before.
        sizes: For each axis of ``x`` an int, a scalar where it is not known yet, or None for any.
        message: What is wrong if they are others.
        reshaped: Whether the caller goes on to reshape ``x`` from those sizes. Where one of them is
            unknown, that is check enough for what is exported.
    """
    known = x.shape.as_list()
    axes = [
        i
        for i, (n, size) in enumerate(zip(known, sizes))
        if size is not None and (n is None or not isinstance(size, int))
    ]
    if not axes or (reshaped and len(axes) == 1 and _compat.tracing_for_export()):
        return x
    static = x.shape.merge_with([n if isinstance(n, int) else None for n in sizes])
    received = tf.shape(x)
    agree = tf.gather(received, axes) == tf.stack([sizes[i] for i in axes])
    x = checked(x, tf.reduce_all(agree), message, received)
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
        f"{what}: `kernel_size` {geometry.kernel_size} with dilation_rate="
        f"{geometry.dilation_rate} and pads={geometry.pads or 'same'} needs an input of at least "
        f"{geometry.least_sizes} pixels. Received: spatial sizes"
    )
    return sufficient(x, geometry.least_sizes, message)
