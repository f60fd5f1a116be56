"""Layers that are several convolutions, one after the other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

import tfconv

from .connections import Function, Weight, built, connections, plain
from .layouts import draw_weights, picture
from .style import by_variable


def _chain(
    layer: Any,
    input_shape: Sequence[int],
    stages: Callable[[Any], Sequence[tuple[str, Function, Mapping[str, Any]]]],
    hue_of: Callable[[Weight], Any] | None = by_variable,
) -> Figure:
    """A layer in stages, each a name, a function and its variables.

    The product of the stages' matrices has to be the layer's.
    """
    layer = built(layer, input_shape)
    made, shape, names, variables = [], tuple(input_shape), ["input"], {}
    for name, function, used in stages(layer):
        made.append(connections(function, shape, used))
        shape = made[-1].output_shape
        names.append(name)
        variables.update(used)
    total = connections(layer, input_shape, variables)
    product = functools.reduce(
        lambda left, stage: stage.matrix @ left, made, np.eye(len(made[0].matrix[0]))
    )
    assert np.allclose(product, total.matrix), "the stages are not the layer"
    return draw_weights(made, total, headings=names, hue_of=hue_of)


def _depthwise(kernel: Any, rank: int, **kwargs: Any) -> Function:
    """Every channel by itself; the kernel is [taps..., channels, multiplier]."""
    shape = tuple(kernel.shape)

    def function(x):
        channels = x.shape[-1]
        flat = tf.reshape(tf.convert_to_tensor(kernel), [*shape[:rank], 1, -1])
        return tfconv.ops.conv(x, flat, groups=channels, **kwargs)

    return function


def _across(kernel: Any) -> Function:
    return lambda x: tfconv.ops.conv(x, tf.convert_to_tensor(kernel))


def _along(kernel: Any, axis: int) -> Function:
    """A filter [taps, channels] along one axis of an image."""

    def function(x):
        values = tf.convert_to_tensor(kernel)
        shape = [1, 1, 1, values.shape[1]]
        shape[axis] = values.shape[0]
        return tfconv.ops.conv(x, tf.reshape(values, shape), groups=values.shape[1])

    return function


@picture
def separable_conv() -> Figure:
    return _chain(
        plain(tfconv.SeparableConv1D, 2, 3),
        (6, 2),
        lambda layer: [
            (
                "depthwise",
                _depthwise(layer.depthwise_kernel, 1),
                {"depthwise_kernel": layer.depthwise_kernel},
            ),
            (
                "pointwise",
                _across(layer.pointwise_kernel),
                {"pointwise_kernel": layer.pointwise_kernel},
            ),
        ],
        hue_of=None,
    )


@picture
def flattened_conv() -> Figure:
    return _chain(
        plain(tfconv.FlattenedConv2D, 2, 2),
        (3, 3, 2),
        lambda layer: [
            ("channels", _across(layer.channel_kernel), {"channel_kernel": layer.channel_kernel}),
            ("rows", _along(layer.axis_kernel_0, 0), {"axis_kernel_0": layer.axis_kernel_0}),
            ("columns", _along(layer.axis_kernel_1, 1), {"axis_kernel_1": layer.axis_kernel_1}),
        ],
    )


@picture
def low_rank_conv() -> Figure:
    return _chain(
        plain(tfconv.LowRankConv2D, 2, 2, kernel_rank=2),
        (3, 3, 2),
        lambda layer: [
            ("channels", _across(layer.input_kernel), {"input_kernel": layer.input_kernel}),
            ("rows", _along(layer.axis_kernel_0, 0), {"axis_kernel_0": layer.axis_kernel_0}),
            ("columns", _along(layer.axis_kernel_1, 1), {"axis_kernel_1": layer.axis_kernel_1}),
            ("filters", _across(layer.output_kernel), {"output_kernel": layer.output_kernel}),
        ],
    )


@picture
def tucker_conv() -> Figure:
    return _chain(
        plain(tfconv.TuckerConv1D, 4, 3, ranks=2),
        (5, 3),
        lambda layer: [
            ("fewer", _across(layer.input_kernel), {"input_kernel": layer.input_kernel}),
            ("core", _across(layer.core_kernel), {"core_kernel": layer.core_kernel}),
            ("filters", _across(layer.output_kernel), {"output_kernel": layer.output_kernel}),
        ],
    )
