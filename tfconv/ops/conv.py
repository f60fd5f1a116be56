"""Convolution with every padding, and strides together with dilation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from tfconv import _compat
from tfconv.ops.channels import in_channels_last
from tfconv.ops.checks import fitting
from tfconv.ops.dispatch import in_float32, invalid_argument, with_an_example
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
        form = _form(geometry, width, groups)

        def convolved(x):
            return accumulated_in_float32(lambda x, k: form(x, k, geometry, groups), x, kernel)

        y = with_an_example(convolved, fitting(x, geometry, "conv"))
        y.set_shape([x.shape[0], *output, filters])
        return y

    return in_channels_last(channels_last, data_format, x)


_Form = Callable[[tf.Tensor, tf.Tensor, Geometry, int], tf.Tensor]


def _form(geometry: Geometry, width: int, groups: int) -> _Form:
    """The fastest formulation that has gradients on every device and converts everywhere.

    TensorFlow's convolution refuses strides together with dilation; on CPU, what it has for
    groups lacks gradients in part of its versions, data types and ranks.
    """
    strided, dilated = max(geometry.strides) > 1, max(geometry.dilation_rate) > 1
    exported = _compat.tracing_for_export()
    if width == 1 and groups > 1:
        return _depthwise
    if strided and dilated or (exported and dilated and geometry.rank == 3):
        return _by_columns
    if groups == 1 or (exported and geometry.rank < 3):  # nobody trains what is exported
        return _stock
    return _by_groups if groups <= MOST_GROUPS_APART else _by_columns


TENSORFLOW_FORMATS = {1: "NWC", 2: "NHWC", 3: "NDHWC"}
MOST_GROUPS_APART = 32  # with more, one batched product is faster than that many convolutions


def accumulated_in_float32(function: Callable[..., tf.Tensor], *tensors: tf.Tensor) -> tf.Tensor:
    """GPUs sum half-precision products in float32 by themselves; CPUs do not."""
    if tf.config.list_logical_devices("GPU"):
        return function(*tensors)
    return in_float32(function, *tensors)


def _padded(x: tf.Tensor, geometry: Geometry) -> tuple[tf.Tensor, str]:
    """``x`` with its explicit paddings, and the padding that is left to TensorFlow."""
    if any(v for pair in geometry.pads or () for v in pair):
        x = tf.pad(x, [[0, 0], *[list(pair) for pair in geometry.pads], [0, 0]])
    return x, "SAME" if geometry.pads is None else "VALID"


def _stock(x: tf.Tensor, kernel: tf.Tensor, geometry: Geometry, groups: int = 1) -> tf.Tensor:
    """TensorFlow's own convolution, which infers the groups from the shapes."""
    (x, padding), strides = _padded(x, geometry), geometry.strides
    if _corrupts_memory(x, geometry):
        x, strides = tf.nn.avg_pool2d(x, 1, strides, "VALID"), 1  # faster than a strided slice
    return tf.nn.convolution(
        x,
        kernel,
        strides=strides,
        padding=padding,
        data_format=TENSORFLOW_FORMATS[geometry.rank],  # Conv3D's gradient reads it
        dilations=geometry.dilation_rate,
    )


def _corrupts_memory(x: tf.Tensor, geometry: Geometry) -> bool:
    """Whether the gradient of the convolution may end the process.

    In TensorFlow 2.21 with oneDNN, that of a strided 1x1 convolution of images of fewer than 16
    channels writes where it must not. Up to some more channels, leaving pixels out first costs
    nothing; with many, it would.
    """
    strided = geometry.rank == 2 and geometry.taps == 1 and max(geometry.strides) > 1
    return strided and x.shape[-1] < 64 and not _compat.tracing_for_export()


def _by_groups(x: tf.Tensor, kernel: tf.Tensor, geometry: Geometry, groups: int) -> tf.Tensor:
    """A convolution for each group."""
    parts = zip(tf.split(x, groups, axis=-1), tf.split(kernel, groups, axis=-1))
    return tf.concat([_stock(part, weights, geometry) for part, weights in parts], axis=-1)


def _depthwise(x: tf.Tensor, kernel: tf.Tensor, geometry: Geometry, groups: int) -> tf.Tensor:
    """`depthwise` with the kernel's channels and filters in one axis."""
    shape = [*geometry.kernel_size, groups, kernel.shape[-1] // groups]
    return depthwise(x, tf.reshape(kernel, shape), geometry)


def depthwise(x: tf.Tensor, weights: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """TensorFlow's depthwise convolution of images, for every rank.

    It has one stride for both axes, and none beside a dilation: otherwise all outputs are
    computed, which still is many times faster than a product for each tap. A signal is an image
    of one row. Of a volume, the frames are images, and one convolution a tap of its first axis
    is summed.

    Args:
        x: [N, *spatial, C] tensor; C may be unknown but of volumes.
        weights: [*kernel_size, C, multiplier] tensor.
        geometry: Where the taps fall.
    """
    strides, dilations = geometry.strides[-2:], geometry.dilation_rate[-2:]
    plain = len(set(strides)) == 1 and (max(strides) == 1 or max(dilations) == 1)
    output = [geometry.output_size(n, axis) for axis, n in enumerate(spatial_sizes(x))]
    if geometry.pads is None and not (plain and geometry.rank < 3):
        pads = geometry.pad_amounts(spatial_sizes(x))
        x = tf.pad(x, [[0, 0], *[list(pair) for pair in pads], [0, 0]])
        padding = "VALID"
    else:
        x, padding = _padded(x, geometry)
    if not x.shape[0] and not _compat.tracing_for_export():
        # For no examples, TensorFlow leaves the gradient of the weights uninitialised.
        weights = tf.where(tf.shape(x)[0] > 0, weights, tf.zeros_like(weights))
    if geometry.rank == 1:
        x, weights = tf.expand_dims(x, 1), tf.expand_dims(weights, 0)
        strides, dilations = strides * 2, (1, *dilations)

    def of_images(x: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        stride = strides[0] if plain else 1
        y = tf.nn.depthwise_conv2d(x, weights, [1, stride, stride, 1], padding, dilations=dilations)
        return y if plain else y[:, :: strides[0], :: strides[1]]

    if geometry.rank == 1:
        return tf.squeeze(of_images(x, weights), 1)
    if geometry.rank == 2:
        return of_images(x, weights)
    (_, *sizes), (channels, multiplier) = spatial_sizes(x), weights.shape[-2:]
    stride, dilation = geometry.strides[0], geometry.dilation_rate[0]
    total = None
    for tap in range(geometry.kernel_size[0]):
        first = tap * dilation
        frames = x[:, first : first + (output[0] - 1) * stride + 1 : stride]
        y = of_images(tf.reshape(frames, [-1, *sizes, channels]), weights[tap])
        total = y if total is None else total + y
    return tf.reshape(total, [-1, *output, channels * multiplier])


def _by_columns(x: tf.Tensor, kernel: tf.Tensor, geometry: Geometry, groups: int) -> tf.Tensor:
    """A matrix product over gathered columns."""
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
