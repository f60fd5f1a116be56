"""Involution: a kernel for every position, shared by the channels of a group."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from tfconv import _compat
from tfconv.ops import involution_frames, native
from tfconv.ops.channels import in_channels_last
from tfconv.ops.checks import fitting, of_sizes
from tfconv.ops.conv import frames_under_taps
from tfconv.ops.dispatch import (
    compiled,
    dispatch,
    for_stock_server,
    in_float32,
    invalid_argument,
    is_wanted,
    runs_on_cpu,
)
from tfconv.ops.geometry import Geometry, Padding, output_sizes, spatial_sizes
from tfconv.ops.involution_blocks import by_blocks, suits
from tfconv.ops.windows import Windows, product
from tfconv.ops.xla import summed


@tf.autograph.experimental.do_not_convert  # nothing to convert, and tracing stays fast
def involution(
    x: tf.Tensor,
    kernel: tf.Tensor,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: Padding = "same",
    dilation_rate: int | Sequence[int] = 1,
    data_format: str | None = None,
) -> tf.Tensor:
    """Involution of one, two or three spatial axes.

    ``y[n, p, c] = sum_t kernel[n, p, g(c) * T + t] * x[n, p * strides - pad + t * dilation, c]``
    with T taps in row-major order and ``g(c) = c // (C / G)``; pixels outside are zero. What
    infinite or NaN weights make of those is not defined: native ops leave them out.

    Args:
        x: [N, *spatial, C] tensor, one to three spatial axes; float16, bfloat16, float32 or
            float64.
        kernel: [N, *output spatial, G * T] tensor; G must divide C.
        kernel_size: Taps per spatial axis; an int or one int per axis.
        strides: Pixels between neighbouring outputs.
        padding: "valid", "same", "full", "causal" (one spatial axis), an int, or one
            (before, after) pair per spatial axis.
        dilation_rate: Pixels between neighbouring taps.
        data_format: "channels_last" or "channels_first", which holds for ``x``, ``kernel`` and
            the result; None takes Keras's setting.

    Returns:
        [N, *output spatial, C] tensor of ``x``'s type.

    Raises:
        ValueError: If an argument is not what is described above.
        tf.errors.InvalidArgumentError: If the shapes do not fit each other.

    Source: Li et al., Involution: Inverting the Inherence of Convolution for Visual
    Recognition, arXiv:2103.06255, equation 4.

    Example:
        >>> x, kernel = tf.ones([1, 5, 5, 4]), tf.ones([1, 5, 5, 2 * 9])
        >>> tfconv.ops.involution(x, kernel, kernel_size=3)[0, 2, 2].numpy()
        array([9., 9., 9., 9.], dtype=float32)
    """
    x = tf.convert_to_tensor(x)
    kernel = tf.convert_to_tensor(kernel, dtype=x.dtype)
    if x.shape.rank not in (3, 4, 5):
        raise invalid_argument(
            f"involution needs x of rank 3 to 5 ([N, spatial..., C]). Received: shape {x.shape}"
        )
    geometry = Geometry.of(kernel_size, strides, padding, dilation_rate, x.shape.rank - 2)

    def channels_last(x, kernel):
        _check(x, kernel.shape, geometry)
        x = fitting(x, geometry, "involution")
        return dispatch(
            lambda module: module.tfconv_involution(x=x, kernel=kernel, **geometry.attributes()),
            lambda: compiled(_involution, x, kernel, arguments=(geometry,), before=_padded),
            x,
        )

    return in_channels_last(channels_last, data_format, x, kernel)


@tf.autograph.experimental.do_not_convert
def span_involution(
    x: tf.Tensor,
    features: tf.Tensor,
    span: tf.Tensor,
    bias: tf.Tensor,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: Padding = "same",
    dilation_rate: int | Sequence[int] = 1,
) -> tf.Tensor:
    """Involution whose kernels are made from features of the output positions.

    ``involution(x, kernel)`` with ``kernel[n, p] = features[n, p] @ span + bias``. The native op
    makes the kernels of a few positions at a time, in its gradients once more, so that the tensor
    of all kernels is never in memory.

    Args:
        x: [N, *spatial, C] tensor, one to three spatial axes; float16, bfloat16, float32 or
            float64.
        features: [N, *output spatial, R] tensor.
        span: [R, G * T] tensor, T the number of taps; G must divide C.
        bias: [G * T] tensor.
        kernel_size, strides, padding, dilation_rate: As for `involution`.

    Returns:
        [N, *output spatial, C] tensor of ``x``'s type.

    Raises:
        ValueError: If an argument is not what is described above.
        tf.errors.InvalidArgumentError: If the shapes do not fit each other.

    Source: Li et al., Involution: Inverting the Inherence of Convolution for Visual
    Recognition, arXiv:2103.06255, equations 4 and 6.

    Example:
        >>> x, features = tf.ones([1, 5, 5, 4]), tf.ones([1, 5, 5, 3])
        >>> span, bias = tf.ones([3, 2 * 9]), tf.zeros([2 * 9])
        >>> span_involution(x, features, span, bias, kernel_size=3)[0, 2, 2].numpy()
        array([27., 27., 27., 27.], dtype=float32)
    """
    x = tf.convert_to_tensor(x)
    inputs = [x, *(tf.convert_to_tensor(t, dtype=x.dtype) for t in (features, span, bias))]
    geometry = Geometry.of(kernel_size, strides, padding, dilation_rate, x.shape.rank - 2)
    _check(x, _kernel_shape(*inputs[1:]), geometry)
    inputs[0] = fitting(x, geometry, "involution")
    names = ("x", "features", "span", "bias")
    if _compat.tracing_for_tflite():
        return _span_for_tflite(*inputs, geometry)
    if not runs_on_cpu(x):
        return _portable_span(*inputs, geometry)
    return dispatch(
        lambda module: module.tfconv_span_involution(
            **dict(zip(names, inputs)), **geometry.attributes()
        ),
        lambda: _portable_span(*inputs, geometry),
        x,
    )


def _kernel_shape(features: tf.Tensor, span: tf.Tensor, bias: tf.Tensor) -> tf.TensorShape:
    """The shape of the kernels that are made; raises when what is known of the shapes differs."""
    fits = span.shape.rank == 2 and features.shape.rank is not None and bias.shape.rank == 1
    if (
        not fits
        or not features.shape[-1:].is_compatible_with(span.shape[:1])
        or not bias.shape.is_compatible_with(span.shape[1:])
    ):
        raise invalid_argument(
            f"involution: span of shape {span.shape} must have a row for each of the features of "
            f"shape {features.shape} and a column for each element of bias of shape {bias.shape}"
        )
    return features.shape[:-1].concatenate(span.shape[1:])


def _check(x: tf.Tensor, kernel: tf.TensorShape, geometry: Geometry) -> None:
    """Raises when what is known of the shapes does not fit."""
    channels = x.shape[-1]
    if not channels:
        raise invalid_argument(
            f"involution needs a known number of channels. Received: x of shape {x.shape}"
        )
    expected = [x.shape[0], *geometry.output_shape(x.shape.as_list()[1:-1]), None]
    width = kernel[-1] if kernel.rank == x.shape.rank else None
    if width is None or not kernel.is_compatible_with(expected):
        fits = False
    else:
        groups, rest = divmod(width, geometry.taps)
        fits = rest == 0 and groups > 0 and channels % groups == 0
    if not fits:
        raise invalid_argument(
            f"involution: kernel of shape {kernel} does not fit x of shape {x.shape}: "
            f"expected {tf.TensorShape(expected)} with G * {geometry.taps} in the last place, G a "
            f"divisor of the {channels} channels (kernel_size={geometry.kernel_size}, "
            f"strides={geometry.strides}, dilation_rate={geometry.dilation_rate}, "
            f"pads={geometry.pads or 'same'})"
        )


def _padded(tensors: tuple, arguments: tuple) -> tuple[tuple, tuple]:
    """Tensors and arguments without padding, which XLA would look at for each tap."""
    (x, kernel), (geometry,) = tensors, arguments
    pads = geometry.pad_amounts(spatial_sizes(x))
    x = tf.pad(x, [[0, 0], *map(list, pads), [0, 0]])
    return (x, kernel), (dataclasses.replace(geometry, pads=((0, 0),) * geometry.rank),)


def _involution(x: tf.Tensor, kernel: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    return in_float32(lambda *t: _portable(*t, geometry), x, kernel)


def _portable(x: tf.Tensor, kernel: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """Stock ops: one multiply-add a tap; at most 5-D tensors, as converters want them."""
    channels, groups = x.shape[-1], kernel.shape[-1] // geometry.taps
    width = channels // groups
    batch, *output = output_sizes(x, geometry)
    kernel = of_sizes(
        kernel,
        [batch, *output, kernel.shape[-1]],
        "involution: kernel must have the batch and the output positions of x. Received: shape",
        reshaped=True,
    )
    if for_stock_server() and suits(x, geometry):
        return by_blocks(x, kernel, geometry)
    if geometry.rank < 3:
        shape, pixels = [-1, *output], Windows(x, geometry, split=groups)
    else:
        shape = [-1, product(output)]
        pixels = (tf.reshape(w, [*shape, groups, width]) for w in Windows(x, geometry))
    kernel = tf.reshape(kernel, [batch, *shape[1:], groups, geometry.taps])
    weights = tf.split(kernel, geometry.taps, -1)
    terms = (pixel * weight for pixel, weight in zip(pixels, weights))
    total = summed(terms, geometry.kernel_size[-1])
    return tf.reshape(total, [-1, *output, channels])


def _portable_span(x, features, span, bias, geometry: Geometry) -> tf.Tensor:
    def twin(x, features, span, bias):
        rows = tf.matmul(tf.reshape(features, [-1, span.shape[0]]), span) + bias
        shape = tf.concat([tf.shape(features)[:-1], tf.shape(bias)], 0)
        kernel = tf.reshape(rows, shape)
        kernel.set_shape(_kernel_shape(features, span, bias))
        return _portable(x, kernel, geometry)

    return in_float32(twin, x, features, span, bias)


# In TensorFlow Lite: a product for each tap makes its weights for all channels, if it is small.
_MOST_FEATURES = 8
_MOST_ELEMENTS = 1 << 14  # of the output, but of volumes


def _span_for_tflite(x, features, span, bias, geometry: Geometry) -> tf.Tensor:
    """The kernels tap by tap, not group by group: a tap's weights then are few runs to copy."""
    channels, taps = x.shape[-1], geometry.taps
    groups = span.shape[-1] // taps
    if involution_frames.suits(x, span, geometry):
        return involution_frames.by_frames(x, features, span, bias, geometry)
    batch, *output = output_sizes(x, geometry)
    of_images = [-1, *output[-2:]]
    known = all(isinstance(n, int) for n in output)
    small = geometry.rank == 3 or (known and product(output) * channels <= _MOST_ELEMENTS)
    # Of four axes, as products stay.
    features = tf.reshape(
        features, [-1, *[1] * (3 - len(of_images)), *of_images[1:], span.shape[0]]
    )

    def product_with(columns):
        weights = tf.gather(span, columns, axis=1)[tf.newaxis, tf.newaxis]
        return tf.nn.conv2d(features, weights, 1, "VALID") + tf.gather(bias, columns)

    if small and span.shape[0] <= _MOST_FEATURES:
        pixels = _pixels(x, geometry)

        def weights(tap):
            columns = np.arange(channels) // (channels // groups) * taps + tap
            return tf.reshape(product_with(columns), [*of_images, channels])

    else:
        # Rows of all images are one axis, for tensors of four.
        rows = [-1, output[-1]]
        pixels = (tf.reshape(w, [*rows, groups, channels // groups]) for w in _pixels(x, geometry))
        columns = np.arange(groups * taps).reshape(groups, taps).T.reshape(-1)
        kernel = tf.reshape(product_with(columns), [*rows, taps * groups, 1])
        # XNNPACK takes slices of known sizes only.
        sizes = [n or -1 for n in kernel.shape.as_list()[:2]]

        def weights(tap):
            return tf.slice(kernel, [0, 0, tap * groups, 0], [*sizes, groups, 1])

    terms = (pixel * weights(tap) for tap, pixel in enumerate(pixels))
    total = summed(terms, geometry.kernel_size[-1], in_runs=True)
    return tf.reshape(total, [batch, *output, channels])


def _pixels(x: tf.Tensor, geometry: Geometry) -> Iterator[tf.Tensor]:
    """`Windows`, of volumes for their frames: [N * D, H, W, C]."""
    if geometry.rank < 3:
        yield from Windows(x, geometry)
        return
    depth, *sizes = spatial_sizes(x)
    before, *around = geometry.pad_amounts([depth, *sizes])
    images = tf.reshape(x, [-1, *sizes, x.shape[-1]])
    images = tf.pad(images, [[0, 0], *map(list, around), [0, 0]])
    sizes = spatial_sizes(images)
    volume = tf.reshape(images, [-1, depth, *sizes, x.shape[-1]])
    within = dataclasses.replace(geometry.along(slice(1, None)), pads=((0, 0),) * 2)
    count = geometry.output_size(depth, 0)
    for frames in frames_under_taps(volume, geometry, count, before):
        yield from Windows(tf.reshape(frames, [-1, *sizes, x.shape[-1]]), within)


@tf.RegisterGradient("Tfconv>Involution")
def _gradient(op, upstream):
    x, kernel = op.inputs
    module = native.library().module
    given = {"x": x, "kernel": kernel, "dy": upstream, **Geometry.of_op(op).attributes()}
    gradients = (module.tfconv_involution_input_grad, module.tfconv_involution_kernel_grad)
    return [
        gradient(**given) if is_wanted(op, index) else None
        for index, gradient in enumerate(gradients)
    ]


# The involution B is linear in both of its inputs: the gradient of dy * B(x, kernel) for x, times
# a, is dy * B(a, kernel), of which these are the gradients; that for the kernel alike.


@tf.RegisterGradient("Tfconv>InvolutionInputGrad")
def _input_second_gradient(op, by_dx):
    _, kernel, dy = op.inputs
    module, attributes = native.library().module, Geometry.of_op(op).attributes()
    by_kernel = module.tfconv_involution_kernel_grad(x=by_dx, kernel=kernel, dy=dy, **attributes)
    return [None, by_kernel, module.tfconv_involution(x=by_dx, kernel=kernel, **attributes)]


@tf.RegisterGradient("Tfconv>InvolutionKernelGrad")
def _kernel_second_gradient(op, by_dkernel):
    x, _, dy = op.inputs
    module, attributes = native.library().module, Geometry.of_op(op).attributes()
    by_x = module.tfconv_involution_input_grad(x=x, kernel=by_dkernel, dy=dy, **attributes)
    return [by_x, None, module.tfconv_involution(x=x, kernel=by_dkernel, **attributes)]


@tf.RegisterGradient("Tfconv>InvolutionGrad")
def _second_gradient(op, by_dx, by_dkernel):
    # Both at once: graphs that were saved by earlier versions have this op.
    x, kernel, dy = op.inputs
    module, attributes = native.library().module, Geometry.of_op(op).attributes()
    by_x, by_kernel = module.tfconv_involution_grad(x=by_dx, kernel=by_dkernel, dy=dy, **attributes)
    by_dy = module.tfconv_involution(x=by_dx, kernel=kernel, **attributes)
    by_dy += module.tfconv_involution(x=x, kernel=by_dkernel, **attributes)
    return [by_x, by_kernel, by_dy]


@tf.RegisterGradient("Tfconv>SpanInvolution")
def _span_gradient(op, upstream):
    module, given = native.library().module, _span_inputs(op, dy=upstream)
    dx, others = None, [None] * 3
    if is_wanted(op, 0):
        dx = module.tfconv_span_involution_input_grad(**given)
    if any(is_wanted(op, index) for index in (1, 2, 3)):
        others = module.tfconv_span_involution_span_grad(**given)
    return [dx, *others]


def _span_inputs(op, **others):
    names = ("x", "features", "span", "bias", "dy")
    return {**dict(zip(names, op.inputs)), **others, **Geometry.of_op(op).attributes()}


@tf.RegisterGradient("Tfconv>SpanInvolutionInputGrad")
def _span_input_second_gradient(op, by_dx):
    module, given = native.library().module, _span_inputs(op, x=by_dx)
    others = module.tfconv_span_involution_span_grad(**given)
    del given["dy"]
    return [None, *others, module.tfconv_span_involution(**given)]


@tf.RegisterGradient("Tfconv>SpanInvolutionSpanGrad")
def _span_span_second_gradient(op, by_dfeatures, by_dspan, by_dbias):
    # With the kernel's gradient K, which is linear in x and dy, the outputs are K @ span^T,
    # features^T @ K and the sum of K. Times what flows into them they make the product of K with
    # [by_dfeatures, features] @ [span, by_dspan] + by_dbias, the kernel of another involution.
    _, features, span, _, _ = op.inputs
    module = native.library().module
    given = _span_inputs(
        op,
        features=tf.concat([by_dfeatures, features], -1),
        span=tf.concat([span, by_dspan], 0),
        bias=by_dbias,
    )
    by_x = module.tfconv_span_involution_input_grad(**given)
    by_features, by_span, _ = module.tfconv_span_involution_span_grad(**given)
    del given["dy"]
    by_dy = module.tfconv_span_involution(**given)
    return [by_x, tf.split(by_features, 2, -1)[1], tf.split(by_span, 2, 0)[0], None, by_dy]
