"""Convolution with a kernel of its own for every example of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfconv import _compat
from tfconv.ops import native
from tfconv.ops.channels import in_channels_last
from tfconv.ops.checks import fitting, of_sizes
from tfconv.ops.conv import conv, depthwise
from tfconv.ops.dispatch import dispatch, in_float32, invalid_argument, is_wanted
from tfconv.ops.geometry import Geometry, Padding, examples, known_sizes, spatial_sizes
from tfconv.ops.windows import Windows, columns, product

MOST_EXAMPLES_APART = 32  # with more, the graph would grow too large
EXECUTIONS = ("auto", "mix_kernels", "mix_outputs")


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
        fits = channels and width and filters and channels % width == 0
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
        form = _form(x, geometry, width)
        x = fitting(x, geometry, "per_example_conv")

        def portable():
            given = of_sizes(
                kernels,
                [*known_sizes(x, slice(0, 1)), *kernels.shape[1:]],
                "per_example_conv: there must be as many kernels as examples. Received: kernels "
                "of shape",
                reshaped=form is _by_columns,
            )
            return in_float32(lambda x, k: form(x, k, geometry), x, given)

        def call(module):
            return module.tfconv_per_example_conv(x=x, filter=kernels, **geometry.op_attributes())

        # The other forms are TensorFlow's own operations, which the native op does not beat.
        y = dispatch(call, portable, x) if form is _by_columns else portable()
        y.set_shape([x.shape[0], *output, filters])
        return y

    return in_channels_last(channels_last, data_format, x)


_Form = Callable[[tf.Tensor, tf.Tensor, Geometry], tf.Tensor]


def _form(x: tf.Tensor, geometry: Geometry, width: int) -> _Form:
    """The fastest formulation for kernels of so many channels a group."""
    exported = _compat.tracing_for_export()
    if width > 1 or x.shape[-1] == 1:
        moved = max(geometry.strides) > 1 or any(map(any, geometry.pads or ()))
        pointwise = geometry.taps == 1 and width == x.shape[-1] and not moved
        return _pointwise if pointwise and not exported else _by_columns
    # Converters want constant kernels, and TensorFlow a channel.
    if geometry.rank == 3 or exported or x.shape[0] == 0:
        return _depthwise
    known = x.shape[0] is not None and 0 < x.shape[0] <= MOST_EXAMPLES_APART
    return _depthwise_apart if known else _depthwise_folded


def _pointwise(x: tf.Tensor, kernels: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """One matrix product per example over its pixels."""
    channels, filters = kernels.shape[-2:]
    sizes = spatial_sizes(x)
    # One product is faster than a batch of one.
    examples = [] if x.shape[0] == 1 else [tf.shape(x)[0]]
    y = tf.matmul(
        tf.reshape(x, [*examples, product(sizes), channels]),
        tf.reshape(kernels, [*examples, channels, filters]),
    )
    return tf.reshape(y, [tf.shape(x)[0], *sizes, filters])


def _by_columns(x: tf.Tensor, kernels: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """One matrix product per example over gathered columns."""
    taps, (width, filters) = geometry.taps, kernels.shape[-2:]
    groups = x.shape[-1] // width
    output = [geometry.output_size(n, axis) for axis, n in enumerate(spatial_sizes(x))]
    pixels = columns(x, geometry, groups)
    (batch,) = known_sizes(x, slice(0, 1))
    if groups == 1:
        y = tf.matmul(pixels, tf.reshape(kernels, [batch, taps * width, filters]))
    else:
        weights = tf.reshape(kernels, [batch, taps * width, groups, filters // groups])
        y = tf.matmul(pixels, tf.transpose(weights, [0, 2, 1, 3]))
        y = tf.transpose(y, [0, 2, 1, 3])
    return tf.reshape(y, [examples(x), *output, filters])


def _by_rows(x: tf.Tensor, kernels: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """One matrix product per example for all rows of its kernel, whose results are then shifted.

    A third of the copies of `_by_columns` for three rows. Images in one group, no stride between
    rows.

    Args:
        x: [N, H, W, C] tensor.
        kernels: What reshapes to [N, kw, C, kh, filters].
        geometry: Where the taps fall.
    """
    (kh, kw), channels = geometry.kernel_size, x.shape[-1]
    sizes = spatial_sizes(x)
    pads = geometry.pad_amounts(sizes)
    height, width = (geometry.output_size(n, axis) for axis, n in enumerate(sizes))
    x = tf.pad(x, [[0, 0], *[list(pair) for pair in pads], [0, 0]])
    stride, dilation = geometry.strides[1], geometry.dilation_rate[1]
    starts = [tap * dilation for tap in range(kw)]
    taps = [x[:, :, t : t + (width - 1) * stride + 1 : stride] for t in starts]
    rows = sizes[0] + sum(pads[0])
    pixels = tf.reshape(tf.concat(taps, axis=-1), [-1, rows * width, kw * channels])
    filters = kernels.shape[-1] // (geometry.taps * channels)
    y = tf.matmul(pixels, tf.reshape(kernels, [-1, kw * channels, kh * filters]))
    total = None
    for tap in range(kh):
        first = tap * geometry.dilation_rate[0] * width
        part = y[:, first : first + height * width, tap * filters : (tap + 1) * filters]
        total = part if total is None else total + part
    return tf.reshape(total, [-1, height, width, filters])


def _depthwise(x: tf.Tensor, kernels: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """One multiply-add a tap: with one channel a group there is nothing to sum over."""
    channels, filters = x.shape[-1], kernels.shape[-1]
    output = [geometry.output_size(n, axis) for axis, n in enumerate(spatial_sizes(x))]
    positions = product(output)
    weights = tf.reshape(kernels, [-1, geometry.taps, filters])
    total = None
    for tap, pixel in enumerate(Windows(x, geometry)):
        pixel = tf.reshape(pixel, [examples(x), positions, channels, 1])
        term = pixel * tf.reshape(weights[:, tap], [-1, 1, channels, filters // channels])
        total = term if total is None else total + term
    return tf.reshape(total, [examples(x), *output, filters])


def _depthwise_apart(x: tf.Tensor, kernels: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """A depthwise convolution for each example."""
    count, channels = x.shape[0], x.shape[-1]
    weights = tf.reshape(kernels, [count, *geometry.kernel_size, channels, -1])
    pairs = zip(tf.split(x, count), tf.unstack(weights))
    return tf.concat([depthwise(example, own, geometry) for example, own in pairs], axis=0)


def _depthwise_folded(x: tf.Tensor, kernels: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """One depthwise convolution of one example, which has the channels of all."""
    count, channels, filters = tf.shape(x)[0], x.shape[-1], kernels.shape[-1]
    spatial = [*range(1, geometry.rank + 1)]
    rest = geometry.rank + 1, geometry.rank + 2
    together = tf.transpose(x, [*spatial, 0, rest[0]])
    together = tf.reshape(together, [1, *spatial_sizes(x), count * channels])
    weights = [count, *geometry.kernel_size, channels, filters // channels]
    weights = tf.transpose(tf.reshape(kernels, weights), [*spatial, 0, *rest])
    weights = tf.reshape(weights, [*geometry.kernel_size, count * channels, filters // channels])
    if x.shape[0] is None:  # of no examples, a channel that is left out again
        more = [0, tf.cast(tf.equal(count, 0), tf.int32)]
        together = tf.pad(together, [[0, 0]] * rest[0] + [more])
        weights = tf.pad(weights, [[0, 0]] * geometry.rank + [more, [0, 0]])
    y = depthwise(together, weights, geometry)
    sizes = spatial_sizes(y)
    y = tf.reshape(y, [-1])[: product(sizes) * count * filters]
    y = tf.reshape(y, [*sizes, count, filters])
    return tf.transpose(y, [geometry.rank, *range(geometry.rank), rest[0]])


def _of_op(op) -> dict[str, Any]:
    """The attributes of another native op of this family."""
    names = ("strides", "dilations", "padding", "explicit_paddings")
    return {name: op.get_attr(name) for name in names}


# The convolution is linear in either input, so the gradients of its gradients are of their kind.


@tf.RegisterGradient("Tfconv>PerExampleConv")
def _gradient(op, upstream):
    x, kernels = op.inputs
    module = native.library().module
    given = {"x": x, "filter": kernels, "dy": upstream, **_of_op(op)}
    grads = (
        module.tfconv_per_example_conv_input_grad,
        module.tfconv_per_example_conv_filter_grad,
    )
    return [grad(**given) if is_wanted(op, i) else None for i, grad in enumerate(grads)]


@tf.RegisterGradient("Tfconv>PerExampleConvInputGrad")
def _input_second_gradient(op, upstream):
    _, kernels, dy = op.inputs
    module = native.library().module
    return [
        None,
        module.tfconv_per_example_conv_filter_grad(x=upstream, filter=kernels, dy=dy, **_of_op(op)),
        module.tfconv_per_example_conv(x=upstream, filter=kernels, **_of_op(op)),
    ]


@tf.RegisterGradient("Tfconv>PerExampleConvFilterGrad")
def _kernel_second_gradient(op, upstream):
    x, _, dy = op.inputs
    module = native.library().module
    return [
        module.tfconv_per_example_conv_input_grad(x=x, filter=upstream, dy=dy, **_of_op(op)),
        None,
        module.tfconv_per_example_conv(x=x, filter=upstream, **_of_op(op)),
    ]


def mix(weights: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """``sum_e weights[n, e] * values[e]``: [N, E] and [E, size] -> [N, size]."""
    return in_float32(tf.matmul, weights, values)


def mixed_conv(
    x: tf.Tensor,
    kernels: tf.Tensor,
    weights: tf.Tensor,
    *,
    execution: str = "auto",
    strides: int | Sequence[int] = 1,
    padding: Padding = "same",
    dilation_rate: int | Sequence[int] = 1,
    data_format: str | None = None,
) -> tf.Tensor:
    """Convolves example n with a mixture of kernels of its own.

    ``y[n] = x[n] * sum_e weights[n, e] kernels[e] = sum_e weights[n, e] (x[n] * kernels[e])``:
    the same in two orders.

    Args:
        x: [N, *spatial, C] tensor.
        kernels: [E, *kernel_size, C / groups, filters] tensor.
        weights: [N, E] tensor.
        execution: "mix_kernels": mix the kernels and convolve each example once (with
            `per_example_conv`); "mix_outputs": convolve all examples with every kernel and mix
            the outputs; "auto": what `cheaper_execution` says, "mix_kernels" where the number
            of output positions is not known.
        strides, padding, dilation_rate, data_format: As `per_example_conv` takes them.

    Returns:
        [N, *output spatial, filters] tensor of ``x``'s type.
    """

    def channels_last(x):
        count, *size, width, filters = kernels.shape.as_list()
        geometry = Geometry.of(size, strides, padding, dilation_rate, x.shape.rank - 2)
        arguments = {
            "strides": strides,
            "padding": padding,
            "dilation_rate": dilation_rate,
            "data_format": "channels_last",
        }
        flat = tf.reshape(kernels, [count, geometry.taps * width * filters])
        order = execution
        if order == "auto":
            outputs = geometry.output_shape(x.shape.as_list()[1:-1])
            known = None not in outputs
            order = cheaper_execution(flat.shape, filters, math.prod(outputs) if known else None)
        if order == "mix_kernels":

            def by_kernels():
                mixed = tf.reshape(mix(weights, flat), [-1, *size, width, filters])
                return per_example_conv(x, mixed, **arguments)

            def by_rows():
                rows = tf.reshape(tf.transpose(kernels, [0, 2, 3, 1, 4]), flat.shape)
                return in_float32(lambda x, k: _by_rows(x, k, geometry), x, mix(weights, rows))

            fits = geometry.rank == 2 and width == x.shape[-1] and geometry.strides[0] == 1
            if not fits or not _compat.tracing_for_export():  # the gradient would be slow
                return by_kernels()
            return dispatch(lambda module: by_kernels(), by_rows, x)
        # The kernels' outputs side by side, those of one filter together: groups stay whole.
        joined = tf.reshape(tf.transpose(flat), [*size, width, filters * count])
        y = conv(x, joined, groups=x.shape[-1] // width, **arguments)
        output = spatial_sizes(y)
        y = tf.reshape(y, [examples(x), product(output) * filters, count])
        y = in_float32(tf.matmul, y, weights[:, :, tf.newaxis])
        return tf.reshape(y, [examples(x), *output, filters])

    return in_channels_last(channels_last, data_format, x)


def cheaper_execution(shape: Sequence[int], filters: int, positions: int | None) -> str:
    """The order of `mixed_conv` that takes fewer multiply-adds.

    With E kernels of P weights each and S output positions, an example costs ``E * P + S * P``
    when kernels are mixed and ``E * S * (P + filters)`` when outputs are.

    Args:
        shape: [E, P].
        filters: Output channels.
        positions: S, None if not known.
    """
    count, size = shape
    if positions is None:
        return "mix_kernels"
    of_kernels = count * size + positions * size
    of_outputs = count * positions * (size + filters)
    return "mix_kernels" if of_kernels <= of_outputs else "mix_outputs"
