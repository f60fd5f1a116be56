"""Layers whose connections depend on the input.

What they make of an input is held, so that the rest is linear: ``held(x)`` is a function that
gives for x itself what the layer gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

import tfconv

from .connections import (
    Connections,
    Function,
    built,
    connections,
    plain,
    run,
    two_inputs,
    weight_sum,
)
from .layouts import draw_values, picture


def held_values(
    layer: Any,
    shape: Sequence[int],
    held: Callable[[tf.Tensor], Function],
    caption: Callable[[tf.Tensor], str] = lambda x: "",
    examples: Sequence[np.ndarray] | None = None,
) -> list[tuple[str, Connections]]:
    """Captions and connections for two inputs."""
    made = []
    for letter, x in zip("AB", examples or two_inputs(shape)):
        x = tf.constant(x)
        function = held(x)
        assert np.allclose(run(function, x), run(layer, x)), "held values are not the layer's"
        more = caption(x)
        made.append(
            (f"input {letter}" + (f": {more}" if more else ""), connections(function, shape))
        )
    return made


def repeated(values: Any, x: tf.Tensor) -> tf.Tensor:
    """One example's values for every example of x."""
    values = tf.convert_to_tensor(values)
    return tf.repeat(values, tf.shape(x)[0], axis=0)


def _routed(layer: Any, shape: Sequence[int]) -> Figure:
    layer = built(layer, shape, signed=("routing/kernel",), scale=2)

    def held(x):
        routing = layer.routing_weights(x)
        return lambda other: layer(other, routing_weights=repeated(routing, other))

    def caption(x):
        return weight_sum(layer.routing_weights(x).numpy()[0])

    return draw_values(held_values(layer, shape, held, caption))


@picture
def cond_conv() -> Figure:
    return _routed(plain(tfconv.CondConv1D, 1, 3, num_experts=3), (6, 1))


@picture
def depthwise_cond_conv() -> Figure:
    return _routed(plain(tfconv.DepthwiseCondConv2D, 2, num_experts=3), (3, 3, 2))


@picture
def cond_dense() -> Figure:
    return _routed(plain(tfconv.CondDense, 3, num_experts=3), (4,))


@picture
def dynamic_conv() -> Figure:
    shape = (6, 1)
    layer = plain(tfconv.DynamicConv1D, 1, 3, num_experts=3, temperature=1)
    built(layer, shape, signed=("attend/kernel",), scale=3)

    def held(x):
        kernel = layer.mixed_kernels(layer.attention(x))[0]
        return lambda other: tfconv.ops.conv(other, kernel)

    return draw_values(
        held_values(layer, shape, held, lambda x: weight_sum(layer.attention(x).numpy()[0]))
    )


@picture
def gated_conv() -> Figure:
    shape = (6, 1)
    layer = built(plain(tfconv.GatedConv1D, 1, 3), shape, signed=("gate_kernel",))

    def held(x):
        gate = tf.sigmoid(tfconv.ops.conv(x, tf.convert_to_tensor(layer.gate_kernel)))
        kernel = tf.convert_to_tensor(layer.kernel)
        return lambda other: tfconv.ops.conv(other, kernel) * gate

    def caption(x):
        gate = tf.sigmoid(tfconv.ops.conv(x, tf.convert_to_tensor(layer.gate_kernel)))
        return "gates " + ", ".join(f"{value:.2f}" for value in np.ravel(gate))

    return draw_values(held_values(layer, shape, held, caption))


@picture
def squeeze_excite() -> Figure:
    shape = (4, 3)
    layer = tfconv.SqueezeExcite(reduction_ratio=1, dtype="float64")
    built(layer, shape, signed=("excite/kernel",))

    def held(x):
        gates = tf.convert_to_tensor(layer(x)) / x
        return lambda other: other * gates

    def caption(x):
        gates = (layer(x) / x)[0, 0]
        return "channels times " + ", ".join(f"{value:.2f}" for value in gates)

    return draw_values(held_values(layer, shape, held, caption))


@picture
def involution() -> Figure:
    shape = (4, 4)
    layer = tfconv.Involution1D(3, groups=2, reduction_ratio=1, dtype="float64")
    built(layer, shape, signed=("reduce/kernel",), scale=0.7)

    def held(x):
        kernels = layer.kernels(x)
        return lambda other: tfconv.ops.involution(other, repeated(kernels, other), 3)

    return draw_values(held_values(layer, shape, held))


@picture
def self_attention() -> Figure:
    shape = (5, 2)
    layer = plain(tfconv.SelfAttention1D, 1, 2)
    built(layer, shape, signed=("query", "key"))

    def held(x):
        attention = layer.attention(x)[:, 0]

        def function(other):
            return layer.project(repeated(attention, other) @ layer.value(other))

        return function

    return draw_values(held_values(layer, shape, held))
