"""Convolution with a kernel of its own for every example of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfconv.ops.channels import in_channels_last
from tfconv.ops.dispatch import in_float32, invalid_argument
from tfconv.ops.geometry import Geometry, Padding, spatial_sizes
from tfconv.ops.windows import Windows, columns, product


@tf.autograph.experimental.do_not_convert  # nothing to convert, and tracing stays fast
def per_example_conv(
    x: tf.Tensor,
    kernels: tf.Tensor,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "same",
    dilation_rate: int | Sequence[int] = 1,
    data_format: str | None = None,
) -> tf.Tensor:
    """Convolves example n of a batch with kernel n, in one to three spatial axes.

    ``y[n, p, f] = sum_{t, c} kernels[n, t, c, f] * x[n, p * strides - pad + t * dilation, c]``
    over the channels c of f's group. The batch may have any size, unknown ones included.

    Args:
        x: [N, *spatial, C] tensor.
        kernels: [N, *kernel_size, C / groups, filters] tensor; the shapes say how many groups
            there are.
        strides: Pixels between neighbouring outputs.
        padding: "valid", "same", "full", "causal" (one spatial axis), an int, or one
            (before, after) pair per spatial axis.
        dilation_rate: Pixels between neighbouring taps.
        data_format: "channels_last" or "channels_first", which holds for ``x`` and the result;
            None takes Keras's setting.

    Returns:
        [N, *output spatial, filters] tensor of ``x``'s type.

    Raises:
        ValueError: If an argument is not what is described above.
        tf.errors.InvalidArgumentError: If the shapes do not fit each other.

    Source: Yang et al., CondConv, arXiv:1904.04971, section 3.

    Example:
        >>> x = tf.ones([2, 4, 4, 3])
        >>> kernels = tf.reshape([1.0, 2.0], [2, 1, 1, 1, 1]) * tf.ones([2, 1, 1, 3, 5])
        >>> tfconv.ops.per_example_conv(x, kernels)[:, 0, 0, 0].numpy()
        array([3., 6.], dtype=float32)
    """
    x = tf.convert_to_tensor(x)
    kernels = tf.convert_to_tensor(kernels, dtype=x.dtype)
    if x.shape.rank not in (3, 4, 5) or kernels.shape.rank != x.shape.rank + 1:
        raise invalid_argument(
            "per_example_conv needs x of rank 3 to 5 and kernels of one rank more. "
            f"Received: x of shape {x.shape}, kernels of shape {kernels.shape}"
        )
    rank = x.shape.rank - 2
    geometry = Geometry.of(
        kernels.shape.as_list()[1 : rank + 1], strides, padding, dilation_rate, rank
    )

    def channels_last(x):
        channels, width, filters = x.shape[-1], *kernels.shape[-2:]
        fits = channels is not None and width and channels % width == 0
        if not (
            fits
            and filters % (channels // width) == 0
            and kernels.shape[:1].is_compatible_with(x.shape[:1])
        ):
            raise invalid_argument(
                f"per_example_conv: kernels of shape {kernels.shape} do not fit x of shape "
                f"{x.shape}: as many kernels as examples, and channels and filters in equal groups"
            )
        output = geometry.output_shape(x.shape.as_list()[1:-1])
        form = _depthwise if width == 1 and channels > 1 else _by_columns
        y = in_float32(lambda x, k: form(x, k, geometry), x, kernels)
        y.set_shape([x.shape[0], *output, filters])
        return y

    return in_channels_last(channels_last, data_format, x)


def _by_columns(x: tf.Tensor, kernels: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """One matrix product per example over gathered columns."""
    taps, (width, filters) = geometry.taps, kernels.shape[-2:]
    groups = x.shape[-1] // width
    output = [geometry.output_size(n, axis) for axis, n in enumerate(spatial_sizes(x))]
    pixels = columns(x, geometry, groups)
    if groups == 1:
        y = tf.matmul(pixels, tf.reshape(kernels, [-1, taps * width, filters]))
    else:
        weights = tf.reshape(kernels, [-1, taps * width, groups, filters // groups])
        y = tf.matmul(pixels, tf.transpose(weights, [0, 2, 1, 3]))
        y = tf.transpose(y, [0, 2, 1, 3])
    return tf.reshape(y, [-1, *output, filters])


def _depthwise(x: tf.Tensor, kernels: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """One multiply-add a tap: with one channel a group there is nothing to sum over."""
    channels, filters = x.shape[-1], kernels.shape[-1]
    output = [geometry.output_size(n, axis) for axis, n in enumerate(spatial_sizes(x))]
    positions = product(output)
    weights = tf.reshape(kernels, [-1, geometry.taps, 1, channels, filters // channels])
    total = None
    for tap, pixel in enumerate(Windows(x, geometry)):
        pixel = tf.reshape(pixel, [-1, positions, channels, 1])
        term = pixel * weights[:, tap]
        total = term if total is None else total + term
    return tf.reshape(total, [-1, *output, filters])
