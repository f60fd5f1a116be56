"""Deformable aggregation: sampled values summed with weights of their own, without a filter."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfconv.ops import native
from tfconv.ops.channels import in_channels_last
from tfconv.ops.checks import fitting
from tfconv.ops.deformable_rows import portable_rows
from tfconv.ops.dispatch import (
    apart,
    dispatch,
    in_float32,
    invalid_argument,
    is_wanted,
    second_order,
)
from tfconv.ops.geometry import Geometry, Padding, examples, spatial_sizes


@tf.autograph.experimental.do_not_convert  # nothing to convert, and tracing stays fast
def deformable_aggregation(
    x: tf.Tensor,
    offset: tf.Tensor,
    weights: tf.Tensor,
    kernel_size: int | Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "same",
    dilation_rate: int | Sequence[int] = 1,
    data_format: str | None = None,
) -> tf.Tensor:
    """Weighted sum of the pixels under taps that are each moved by an offset.

    ``y[n, p, c] = sum_t weights[n, p, g(c) * T + t] * x(n, p * strides - pad + t * dilation +
    offset[n, p, g(c), t], c)`` with T taps in row-major order and ``g(c) = c // (C / G)``. Between
    pixels, x is interpolated linearly along each axis; every one of the 2, 4 or 8 corners that lies
    outside counts as zero. A NaN coordinate gives NaN, also in the gradients of its offsets and its
    weight, and none for x; an infinite one lies outside, with gradients of zero.

    Args:
        x: [N, *spatial, C] tensor, one to three spatial axes; float16, bfloat16, float32 or
            float64.
        offset: [N, *output spatial, G * T * axes] tensor in pixels, index
            ``(g * T + tap) * axes + axis``; G must divide C.
        weights: [N, *output spatial, G * T] tensor.
        kernel_size: Taps per spatial axis; an int or one int per axis.
        strides: Pixels between neighbouring outputs.
        padding: "valid", "same", "full", "causal" (one spatial axis), an int, or one
            (before, after) pair per spatial axis.
        dilation_rate: Pixels between neighbouring taps.
        data_format: "channels_last" or "channels_first", which holds for ``x``, ``offset``,
            ``weights`` and the result; None takes Keras's setting.

    Returns:
        [N, *output spatial, C] tensor of ``x``'s type.

    Raises:
        ValueError: If an argument is not what is described above.
        tf.errors.InvalidArgumentError: If the shapes do not fit each other.

    Source: Wang et al., InternImage, arXiv:2211.05778, equation 2; Xiong et al., Efficient
    Deformable ConvNets (DCNv4), arXiv:2401.06197, section 3.

    Example:
        >>> x, offset = tf.ones([1, 5, 5, 4]), tf.zeros([1, 5, 5, 2 * 9 * 2])
        >>> weights = tf.ones([1, 5, 5, 2 * 9])
        >>> tfconv.ops.deformable_aggregation(x, offset, weights, 3)[0, 2, 2].numpy()
        array([9., 9., 9., 9.], dtype=float32)
    """
    x = tf.convert_to_tensor(x)
    offset, weights = (tf.convert_to_tensor(t, dtype=x.dtype) for t in (offset, weights))
    if x.shape.rank not in (3, 4, 5):
        raise invalid_argument(
            "deformable_aggregation needs x of rank 3 to 5 ([N, spatial..., C]). "
            f"Received: shape {x.shape}"
        )
    geometry = Geometry.of(kernel_size, strides, padding, dilation_rate, x.shape.rank - 2)

    def channels_last(x, offset, weights):
        _check(x, offset, weights, geometry)
        x = fitting(x, geometry, "deformable_aggregation")
        attributes = geometry.attributes()
        return dispatch(
            lambda module: module.tfconv_deformable_aggregation(
                x=x, offset=offset, weights=weights, **attributes
            ),
            lambda: _twin(geometry, x, offset, weights),
            x,
        )

    return in_channels_last(channels_last, data_format, x, offset, weights)


def _check(x: tf.Tensor, offset: tf.Tensor, weights: tf.Tensor, geometry: Geometry) -> None:
    """Raises when what is known of the shapes does not fit."""
    channels, samples = x.shape[-1], geometry.taps * geometry.rank
    if not channels:
        raise invalid_argument(
            "deformable_aggregation needs a known number of channels. "
            f"Received: x of shape {x.shape}"
        )
    output = [x.shape[0], *geometry.output_shape(x.shape.as_list()[1:-1])]
    width = offset.shape[-1] if offset.shape.rank == x.shape.rank else None
    fits = width is not None and offset.shape.is_compatible_with([*output, None])
    if not fits or width % samples or not width or channels % (width // samples):
        raise invalid_argument(
            f"deformable_aggregation: offset of shape {offset.shape} does not fit x of shape "
            f"{x.shape}: expected {tf.TensorShape([*output, None])} with G * {geometry.taps} * "
            f"{geometry.rank} in the last place, G a divisor of the {channels} channels "
            f"(kernel_size={geometry.kernel_size}, strides={geometry.strides}, "
            f"dilation_rate={geometry.dilation_rate}, pads={geometry.pads or 'same'})"
        )
    expected = tf.TensorShape([*output, width // geometry.rank])
    if weights.shape[-1:].rank != 1 or not weights.shape.is_compatible_with(expected):
        raise invalid_argument(
            f"deformable_aggregation: weights of shape {weights.shape} do not fit offset of shape "
            f"{offset.shape} and x of shape {x.shape}: expected {expected}"
        )


def _twin(geometry: Geometry, x: tf.Tensor, offset: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    def portable(x, offset, weights):
        names = ("deformable_aggregation", "weights")
        sums = functools.partial(tf.reduce_sum, axis=1)
        y = portable_rows(x, offset, weights, geometry, names, then=sums)
        output = [geometry.output_size(n, axis) for axis, n in enumerate(spatial_sizes(x))]
        return tf.reshape(y, [examples(x), *output, x.shape[-1]])

    return in_float32(portable, x, offset, weights)


@tf.RegisterGradient("Tfconv>DeformableAggregation")
def _gradient(op, upstream):
    given = _given(op, dy=upstream)
    module = native.library().module
    dx, others = None, [None, None]
    if is_wanted(op, 0):
        dx = module.tfconv_deformable_aggregation_input_grad(**given)
    if is_wanted(op, 1) or is_wanted(op, 2):
        others = apart(*module.tfconv_deformable_aggregation_sampling_grad(**given))
    return [dx, *others]


def _given(op, **others) -> dict[str, Any]:
    """The arguments of an op with the inputs of another, or with others for some."""
    names = ("x", "offset", "weights", "dy")
    return {**dict(zip(names, op.inputs)), **others, **Geometry.of_op(op).attributes()}


def _second_gradient(op, grads: list) -> list:
    """`grads` are those that flow into the gradients of x, offset and weights."""
    *inputs, dy = op.inputs
    twin = functools.partial(_twin, Geometry.of_op(op))
    return second_order(twin, inputs, dy, grads)


@tf.RegisterGradient("Tfconv>DeformableAggregationInputGrad")
def _input_second_gradient(op, by_dx):
    return _second_gradient(op, [by_dx, None, None])


@tf.RegisterGradient("Tfconv>DeformableAggregationSamplingGrad")
def _sampling_second_gradient(op, by_doffset, by_dweights):
    return _second_gradient(op, [None, by_doffset, by_dweights])
