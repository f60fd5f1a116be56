"""Convolution with every padding, and strides together with dilation."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfconv.ops.channels import in_channels_last
from tfconv.ops.dispatch import in_float32, invalid_argument
from tfconv.ops.geometry import Geometry, Padding, spatial_sizes
from tfconv.ops.windows import columns


@tf.autograph.experimental.do_not_convert  # nothing to convert, and tracing stays fast
def conv(
    x: tf.Tensor,
    kernel: tf.Tensor,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "valid",
    dilation_rate: int | Sequence[int] = 1,
    groups: int = 1,
    data_format: str | None = None,
) -> tf.Tensor:
    """Convolution (as networks use the word: cross-correlation) of one to three spatial axes.

    ``y[n, p, f] = sum_{t, c} kernel[t, c, f] * x[n, p * strides - pad + t * dilation, c]`` over
    the channels c of f's group.

    Args:
        x: [N, *spatial, C] tensor.
        kernel: [*kernel_size, C / groups, filters] tensor.
        strides: Pixels between neighbouring outputs.
        padding: "valid", "same", "full", "causal" (one spatial axis), an int, or one
            (before, after) pair per spatial axis.
        dilation_rate: Pixels between neighbouring taps; may exceed 1 together with strides.
        groups: Groups of channels, and of filters, that see only each other.
        data_format: "channels_last" or "channels_first", which holds for ``x`` and the result;
            None takes Keras's setting.

    Returns:
        [N, *output spatial, filters] tensor of ``x``'s type.

    Raises:
        ValueError: If an argument is not what is described above.
        tf.errors.InvalidArgumentError: If the shapes do not fit each other.

    Example:
        >>> x, kernel = tf.ones([1, 4, 4, 2]), tf.ones([3, 3, 2, 5])
        >>> tfconv.ops.conv(x, kernel, padding="full").shape
        TensorShape([1, 6, 6, 5])
    """
    x = tf.convert_to_tensor(x)
    kernel = tf.convert_to_tensor(kernel, dtype=x.dtype)
    if x.shape.rank not in (3, 4, 5) or kernel.shape.rank != x.shape.rank:
        raise invalid_argument(
            "conv needs x of rank 3 to 5 and a kernel of the same rank. "
            f"Received: x of shape {x.shape}, kernel of shape {kernel.shape}"
        )
    rank = x.shape.rank - 2
    size = kernel.shape.as_list()[:rank]
    geometry = Geometry.of(size, strides, padding, dilation_rate, rank)

    def channels_last(x):
        channels, width, filters = x.shape[-1], *kernel.shape[-2:]
        if channels is None or channels != width * groups or filters % groups:
            raise invalid_argument(
                f"conv: kernel of shape {kernel.shape} does not fit x of shape {x.shape} in "
                f"{groups} groups"
            )
        output = geometry.output_shape(x.shape.as_list()[1:-1])
        if groups == 1 and (max(geometry.strides) == 1 or max(geometry.dilation_rate) == 1):
            y = _stock(x, kernel, geometry)
        else:
            y = in_float32(lambda x, k: _by_columns(x, k, geometry, groups), x, kernel)
        y.set_shape([x.shape[0], *output, filters])
        return y

    return in_channels_last(channels_last, data_format, x)


def _stock(x: tf.Tensor, kernel: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """TensorFlow's own convolution, after padding what it cannot pad itself."""
    padding = "SAME" if geometry.pads is None else "VALID"
    if any(v for pair in geometry.pads or () for v in pair):
        x = tf.pad(x, [[0, 0], *[list(pair) for pair in geometry.pads], [0, 0]])
    return tf.nn.convolution(
        x, kernel, strides=geometry.strides, padding=padding, dilations=geometry.dilation_rate
    )


def _by_columns(x: tf.Tensor, kernel: tf.Tensor, geometry: Geometry, groups: int) -> tf.Tensor:
    """A matrix product over gathered columns, for what TensorFlow's convolution refuses.

    Strides together with dilation in any rank; groups, whose gradients TensorFlow lacks on CPU
    in part of its versions and ranks.
    """
    taps, (width, filters) = geometry.taps, kernel.shape[-2:]
    output = [geometry.output_size(n, axis) for axis, n in enumerate(spatial_sizes(x))]
    pixels = columns(x, geometry, groups)
    if groups == 1:
        y = tf.matmul(pixels, tf.reshape(kernel, [taps * width, filters]))
    else:
        weights = tf.reshape(kernel, [taps * width, groups, filters // groups])
        y = tf.matmul(pixels, tf.transpose(weights, [1, 0, 2]))
        y = tf.transpose(y, [0, 2, 1, 3])
    return tf.reshape(y, [-1, *output, filters])
