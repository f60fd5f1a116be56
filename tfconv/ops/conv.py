"""Convolution with every padding, and strides together with dilation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv import _compat
from tfconv.ops.channels import in_channels_last
from tfconv.ops.checks import fitting
from tfconv.ops.dispatch import dispatch, in_float32, invalid_argument, with_an_example
from tfconv.ops.geometry import Geometry, Padding, examples, spatial_sizes
from tfconv.ops.windows import columns, product


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
        known = None not in (channels, width, filters)
        if not known or groups < 1 or channels != width * groups or filters % groups:
            raise invalid_argument(
                f"conv: kernel of shape {kernel.shape} does not fit x of shape {x.shape} in "
                f"{groups} groups"
            )
        output = geometry.output_shape(x.shape.as_list()[1:-1])

        def form(x, kernel):
            x, among = _without_common_steps(x, geometry)
            # For no pixels, TensorFlow's convolutions in oneDNN give a tensor of x's shape.
            empty = 0 in x.shape.as_list()[1:-1]
            chosen = _by_columns if empty else _form(among, width, filters, groups)
            return chosen(x, kernel, among, groups)

        def convolved(x):
            def portable():
                return accumulated_in_float32(form, x, kernel)

            if not _has_native_form(width, groups):
                return portable()
            return dispatch(lambda module: _natively(module, x, kernel, geometry), portable, x)

        y = with_an_example(convolved, fitting(x, geometry, "conv"))
        y.set_shape([x.shape[0], *output, filters])
        return y

    return in_channels_last(channels_last, data_format, x)


_Form = Callable[[tf.Tensor, tf.Tensor, Geometry, int], tf.Tensor]


def _form(geometry: Geometry, width: int, filters: int, groups: int) -> _Form:
    """The fastest formulation that has gradients on every device and converts everywhere.

    TensorFlow's convolution refuses strides together with dilation; on CPU, what it has for
    groups lacks gradients in part of its versions, data types and ranks.
    """
    strided, dilated = max(geometry.strides) > 1, max(geometry.dilation_rate) > 1
    exported = _compat.tracing_for_export()
    if width == 1 and groups > 1:
        return _depthwise
    if _compat.tracing_for_tflite():
        return _of_frames if geometry.rank == 3 else _of_images
    if _in_pairs(width, filters, groups):
        return _by_partners
    if strided and dilated or (exported and dilated and geometry.rank == 3):
        return _by_columns
    if groups == 1 or (exported and geometry.rank < 3):  # nobody trains what is exported
        return _stock
    return _by_groups if groups <= MOST_GROUPS_APART else _by_columns


def _in_pairs(width: int, filters: int, groups: int) -> bool:
    """Whether groups are two channels and two filters.

    Of the portable forms, two depthwise convolutions are the fastest. Exports have one grouped
    convolution.
    """
    pairs = width == 2 and groups > 1 and filters == 2 * groups
    return pairs and not _compat.tracing_for_export()


def _has_native_form(width: int, groups: int) -> bool:
    """Whether the native op serves: on CPU, what TensorFlow has for groups is slow.

    What is exported would need the library for a stock operation, even with native ops kept.
    """
    on_cpu = not tf.config.list_logical_devices("GPU")
    return groups > 1 and width > 1 and on_cpu and not _compat.tracing_for_export()


def _natively(module: Any, x: tf.Tensor, kernel: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """The native op for kernels of their own, of one example: the batch is a spatial axis.

    Of volumes, which have as many axes as the op takes, the kernel is repeated.
    """
    if geometry.rank == 3:
        kernels = tf.tile(kernel[tf.newaxis], [tf.shape(x)[0], 1, 1, 1, 1, 1])
        return module.tfconv_per_example_conv(x=x, filter=kernels, **geometry.op_attributes())
    pads = geometry.pads and ((0, 0), *geometry.pads)
    over_examples = Geometry(
        (1, *geometry.kernel_size), (1, *geometry.strides), (1, *geometry.dilation_rate), pads
    )
    y = module.tfconv_per_example_conv(
        x=tf.expand_dims(x, 0),
        filter=tf.reshape(kernel, [1, 1, *kernel.shape]),
        **over_examples.op_attributes(),
    )
    return tf.squeeze(y, 0)


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
        x, strides = _thinned(x, strides), 1
    return tf.nn.convolution(
        x,
        kernel,
        strides=strides,
        padding=padding,
        data_format=TENSORFLOW_FORMATS[geometry.rank],  # Conv3D's gradient reads it
        dilations=geometry.dilation_rate,
    )


def _of_images(x: tf.Tensor, kernel: tf.Tensor, geometry: Geometry, groups: int = 1) -> tf.Tensor:
    """What TensorFlow Lite has for images, with strides, dilations and groups at once.

    TensorFlow would dilate by bringing pixels together first. A signal is an image of one row.
    """
    strides, dilations, pads = geometry.strides, geometry.dilation_rate, geometry.pads
    if pads is not None and max(strides) == 1:
        same = tuple(((e - 1) // 2, e // 2) for e in geometry.extent)
        pads = None if pads == same else pads  # without an operator of its own
    if geometry.rank == 1:
        x, kernel = tf.expand_dims(x, 1), tf.expand_dims(kernel, 0)
        strides, dilations, pads = (1, *strides), (1, *dilations), pads and ((0, 0), *pads)
    if any(v for pair in pads or () for v in pair):
        x = tf.pad(x, [[0, 0], *map(list, pads), [0, 0]])
    y = tf.nn.conv2d(x, kernel, strides, "VALID" if pads else "SAME", dilations=dilations)
    return tf.squeeze(y, 1) if geometry.rank == 1 else y


def _of_frames(x: tf.Tensor, kernel: tf.Tensor, geometry: Geometry, groups: int = 1) -> tf.Tensor:
    """`_of_images` of the frames of a volume, those under the taps of its first axis side by side.

    TensorFlow Lite's convolution of volumes has one slow kernel, and none for integers.
    """
    depth, *sizes = spatial_sizes(x)
    count, within = geometry.output_size(depth, 0), geometry.along(slice(1, None))
    pads = geometry.pad_amounts([depth, *sizes])[0]
    shape = [-1, *sizes, x.shape[-1]]
    frames = [tf.reshape(each, shape) for each in frames_under_taps(x, geometry, count, pads)]
    if groups == 1:
        joined = tf.concat(frames, axis=-1) if len(frames) > 1 else frames[0]
        taps, *size, width, filters = kernel.shape
        kernel = tf.reshape(tf.transpose(kernel, [1, 2, 0, 3, 4]), [*size, taps * width, filters])
        y = _of_images(joined, kernel, within)
    else:
        kernels = tf.unstack(kernel)
        y = sum(_of_images(each, own, within, groups) for each, own in zip(frames, kernels))
    return tf.reshape(y, [-1, count, *spatial_sizes(y), kernel.shape[-1]])


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
    x, geometry = _without_common_steps(x, geometry)
    if geometry.rank == 3 and _along_first_axis(geometry):
        return _of_rows(x, weights, geometry)
    strides, dilations = geometry.strides[-2:], geometry.dilation_rate[-2:]
    plain = len(set(strides)) == 1 and (max(strides) == 1 or max(dilations) == 1)
    output = [geometry.output_size(n, axis) for axis, n in enumerate(spatial_sizes(x))]
    pads = geometry.pads
    padding = "SAME" if pads is None and plain else "VALID"
    if pads is None:
        pads = geometry.pad_amounts(spatial_sizes(x))
        if plain:  # TensorFlow pads images itself
            pads = (*pads[:-2], *((0, 0),) * 2) if geometry.rank == 3 else ((0, 0),) * 2
    known = all(isinstance(v, int) for pair in pads for v in pair)  # or channels are not, either
    if not known or any(v for pair in pads for v in pair):
        x = tf.pad(x, [[0, 0], *[list(pair) for pair in pads], [0, 0]])
    if not x.shape[0] and not _compat.tracing_for_export():
        # For no examples, TensorFlow leaves the gradient of the weights uninitialised.
        weights = tf.where(tf.shape(x)[0] > 0, weights, tf.zeros_like(weights))
    if geometry.rank == 1:
        x, weights = tf.expand_dims(x, 1), tf.expand_dims(weights, 0)
        strides, dilations = strides * 2, (1, *dilations)

    def of_images(x: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        stride = strides[0] if plain else 1
        if known and _compat.tracing_for_tflite():  # which dilates by itself
            y = tf.raw_ops.DepthwiseConv2dNative(
                input=x,
                filter=weights,
                strides=[1, stride, stride, 1],
                padding=padding,
                dilations=[1, *dilations, 1],
            )
            return y if plain else _thinned(y, strides)
        y = tf.nn.depthwise_conv2d(x, weights, [1, stride, stride, 1], padding, dilations=dilations)
        return y if plain else _thinned(y, strides)

    if geometry.rank == 1:
        return tf.squeeze(of_images(x, weights), 1)
    if geometry.rank == 2:
        return of_images(x, weights)
    (_, *sizes), (channels, multiplier) = spatial_sizes(x), weights.shape[-2:]
    total = None
    for frames, own in zip(frames_under_taps(x, geometry, output[0]), tf.unstack(weights)):
        y = of_images(tf.reshape(frames, [-1, *sizes, channels]), own)
        total = y if total is None else total + y
    return tf.reshape(total, [-1, *output, channels * multiplier])


def _by_partners(x: tf.Tensor, kernel: tf.Tensor, geometry: Geometry, groups: int) -> tf.Tensor:
    """A depthwise convolution of the channels, and one of each channel's partner in its group.

    Numbers are chosen, never multiplied by zero: what is not finite stays in its group.
    """
    first = np.arange(2 * groups) % 2 == 0
    partners = tf.where(first, tf.roll(x, -1, axis=-1), tf.roll(x, 1, axis=-1))
    of_first, of_second = tf.unstack(kernel, axis=-2)
    own = depthwise(x, tf.where(first, of_first, of_second)[..., tf.newaxis], geometry)
    others = tf.where(first, of_second, of_first)[..., tf.newaxis]
    return own + depthwise(partners, others, geometry)


def _along_first_axis(geometry: Geometry) -> bool:
    """Whether the pixels of a frame are left alone."""
    padded = any(map(any, (geometry.pads or ())[1:]))
    return max(geometry.kernel_size[1:]) == max(geometry.strides[1:]) == 1 and not padded


def _of_rows(x: tf.Tensor, weights: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """`depthwise` of a volume along its first axis: each frame is a row of an image."""
    (depth, *sizes), (channels, multiplier) = spatial_sizes(x), weights.shape[-2:]
    rows = tf.reshape(x, [-1, depth, product(sizes), channels])
    y = depthwise(rows, tf.squeeze(weights, 2), geometry.along(slice(2)))
    return tf.reshape(y, [-1, spatial_sizes(y)[0], *sizes, channels * multiplier])


def frames_under_taps(
    x: tf.Tensor, geometry: Geometry, count: Any, pads: tuple[Any, Any] = (0, 0)
) -> Iterator[tf.Tensor]:
    """For each tap of the first axis of a volume, the ``count`` frames that it sees.

    Slices of few dimensions, without strides: the gradients of others are many times slower.

    Args:
        x: [N, *spatial, C] tensor.
        geometry: Where the taps fall.
        count: Outputs along the first axis.
        pads: Zeros before and after it.
    """
    (depth, *sizes), stride = spatial_sizes(x), geometry.strides[0]
    size = product([*sizes, x.shape[-1]])
    taps = [tap * geometry.dilation_rate[0] for tap in range(geometry.kernel_size[0])]
    x = tf.reshape(x, [-1, depth, size])
    before, after = pads
    if stride > 1:  # as many frames side by side
        rows = -(-taps[-1] // stride) + count
        after = rows * stride - depth - before
    if not all(isinstance(pad, int) and pad == 0 for pad in (before, after)):
        x = tf.pad(x, [[0, 0], [before, after], [0, 0]])
    if stride > 1:
        x = tf.reshape(x, [-1, rows, stride * size])
    elif len(taps) == 1:
        yield x
        return
    for first in taps:
        begin = [0, first // stride, first % stride * size]
        yield tf.slice(x, begin, [x.shape[0] or -1, count, size])  # XNNPACK takes known sizes only


def _thinned(x: tf.Tensor, strides: Sequence[int]) -> tf.Tensor:
    """Every stride-th pixel along each spatial axis."""
    if _compat.tracing_for_export():
        return x[(slice(None), *(slice(None, None, s) for s in strides))]

    def of_images(x: tf.Tensor, strides: Sequence[int]) -> tf.Tensor:
        return tf.nn.avg_pool2d(x, 1, strides, "VALID")  # faster than a strided slice

    if len(strides) == 1:
        return tf.squeeze(of_images(tf.expand_dims(x, 2), (*strides, 1)), 2)
    if len(strides) == 2:
        return of_images(x, strides)
    (depth, *sizes), channels = spatial_sizes(x), x.shape[-1]
    x = of_images(tf.reshape(x, [-1, *sizes, channels]), strides[1:])
    sizes = spatial_sizes(x)
    x = of_images(tf.reshape(x, [-1, depth, product(sizes), channels]), (strides[0], 1))
    return tf.reshape(x, [-1, spatial_sizes(x)[0], *sizes, channels])


def _without_common_steps(x: tf.Tensor, geometry: Geometry) -> tuple[tf.Tensor, Geometry]:
    """Only the pixels that strides and dilation step on, and the geometry among them."""
    pairs = list(zip(geometry.strides, geometry.dilation_rate))
    steps = [math.gcd(*pair) for pair in pairs]
    if max(steps) == 1 or _compat.tracing_for_export():
        return x, geometry
    pads = geometry.pad_amounts(spatial_sizes(x))
    x = _thinned(tf.pad(x, [[0, 0], *[list(pair) for pair in pads], [0, 0]]), steps)
    strides, dilations = zip(*((s // step, d // step) for (s, d), step in zip(pairs, steps)))
    nothing = ((0, 0),) * geometry.rank
    return x, Geometry(geometry.kernel_size, strides, dilations, nothing)


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
    return tf.reshape(y, [examples(x), *output, filters])
