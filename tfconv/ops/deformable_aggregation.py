"""Deformable aggregation: sampled values summed with weights of their own, without a filter."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv.ops import native
from tfconv.ops.channels import in_channels_last
from tfconv.ops.checks import fitting, of_sizes
from tfconv.ops.dispatch import (
    apart,
    dispatch,
    in_float32,
    invalid_argument,
    is_wanted,
    second_order,
)
from tfconv.ops.geometry import Geometry, Padding, output_sizes, spatial_sizes
from tfconv.ops.windows import product


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
    outside counts as zero. A NaN coordinate gives NaN; an infinite one lies outside.

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


def _starts(geometry: Geometry, axis: int, before: Any, output: list[Any]) -> tf.Tensor:
    """Where along ``axis`` the taps fall before they are moved: [P, 1, taps]."""
    first = tf.reshape(tf.range(output[axis]) * geometry.strides[axis] - before, [1, -1, 1])
    shape = [product(output[:axis]), output[axis], product(output[axis + 1 :])]
    first = tf.reshape(tf.broadcast_to(first, shape), [-1, 1, 1])
    tap = np.indices(geometry.kernel_size)[axis].reshape(-1) * geometry.dilation_rate[axis]
    return first + tap.astype(np.int32)


def _twin(geometry: Geometry, x: tf.Tensor, offset: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    return in_float32(lambda *t: _portable(*t, geometry), x, offset, weights)


def _portable(x: tf.Tensor, offset: tf.Tensor, weights: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """Stock ops: gathers all corners from x with two zeros on every side.

    A position is clipped to [-2, size]: all its corners can then be read, and those outside
    read a zero, with no test of their own.
    """
    channels, taps, rank = x.shape[-1], geometry.taps, geometry.rank
    groups = offset.shape[-1] // (taps * rank)
    sizes = spatial_sizes(x)
    batch, *output = output_sizes(x, geometry)
    positions = product(output)
    offset, weights = (
        of_sizes(
            t,
            [batch, *output, groups * taps * last],
            f"deformable_aggregation: {name} must have the batch and the output positions of x. "
            "Received: shape",
            reshaped=True,
        )
        for t, name, last in ((offset, "offset", rank), (weights, "weights", 1))
    )
    moved = tf.reshape(offset, [batch, positions * groups * taps, rank])
    index, fractions = None, []
    for axis, (size, (before, _)) in enumerate(zip(sizes, geometry.pad_amounts(sizes))):
        start = tf.cast(_starts(geometry, axis, before, output), x.dtype)
        along = tf.reshape(moved[..., axis], [batch, positions, groups, taps])
        position = along + start
        # Clipped as an integer, which any position makes without a test of its own: as a
        # fraction, NaN stays NaN, and infinity becomes one of a pixel that is zero.
        floor = tf.clip_by_value(tf.cast(tf.floor(position), tf.int32), -2, size)
        fraction = position - tf.cast(floor, x.dtype)
        fractions.append(tf.clip_by_value(fraction, tf.zeros([], x.dtype), tf.ones([], x.dtype)))
        index = floor + 2 if index is None else index * (size + 4) + floor + 2
    table = tf.pad(x, [[0, 0], *[[2, 2]] * rank, [0, 0]])
    pixels = product([size + 4 for size in sizes])
    table = tf.reshape(table, [-1, pixels * groups, channels // groups])
    index = index * groups + tf.reshape(tf.range(groups), [groups, 1])
    factors = [(1 - fraction, fraction) for fraction in fractions]
    weights = tf.reshape(weights, [batch, positions, groups, taps])
    total = None
    for corner in itertools.product((0, 1), repeat=rank):
        shift: Any = 0
        factor = weights
        for axis, further in enumerate(corner):
            shift = shift * (sizes[axis] + 4) + further
            factor = factor * factors[axis][further]
        places = tf.reshape(index + shift * groups, [-1, positions * groups * taps])
        value = tf.gather(table, places, batch_dims=1)
        term = value * tf.reshape(factor, [-1, positions * groups * taps, 1])
        total = term if total is None else total + term
    total = tf.reshape(total, [-1, positions * groups, taps, channels // groups])
    return tf.reshape(tf.reduce_sum(total, axis=2), [-1, *output, channels])


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
