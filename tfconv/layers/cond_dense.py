"""CondDense: a dense layer whose kernel is mixed from experts for every example."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfconv._compat import keras
from tfconv.layers.arguments import positive_int
from tfconv.layers.base import register, shape_for_keras, static_shape
from tfconv.layers.experts import Experts


@register
class CondDense(Experts):
    """Dense layer with conditional parameters.

    ``y[n] = activation(x[n] @ sum_e r[n, e] W_e + sum_e r[n, e] b_e)``. The routing weights r
    come from the caller or, when none are given, from the input:
    ``r = sigmoid(Dense(mean of x over the axes between batch and features))``.

    Args:
        units: Output features.

    Call arguments:
        inputs: [N, ..., features] tensor.
        mask: Optional booleans [N, ...]: the positions that count in the mean behind the layer's
            own routing. Keras's masks come here by themselves, and go on to the next layer.

    Output shape: [N, ..., units].

    Weights:
        kernel: [num_experts, features * units].
        bias: [num_experts, units].
        routing: a dense layer features -> num_experts, unless routing weights are given.

    Source: arXiv:1904.04971, section 3.

    Example:
        >>> tfconv.CondDense(5, num_experts=4)(tf.ones([2, 3])).shape
        TensorShape([2, 5])
    """

    def __init__(self, units: int, activation: Any = None, use_bias: bool = True, **kwargs: Any):
        super().__init__(activation=activation, use_bias=use_bias, **kwargs)
        self.take(positive_int, units=units)
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        self.supports_masking = True

    def build(self, input_shape):
        features = self.pinned_channels(input_shape, min_ndim=2)
        self.build_experts((features, self.units), self.units, features)
        self.built = True

    def call(self, inputs, routing_weights=None, mask=None, return_routing_weights=False):
        x = tf.convert_to_tensor(inputs)
        routing = self.routed(x, routing_weights, mask)
        kernels = self.mixed_kernels(routing)
        rows = tf.reshape(x, [tf.shape(x)[0], -1, x.shape[-1]]) if x.shape.rank != 3 else x
        y = tf.matmul(rows, kernels)
        if x.shape.rank == 2:
            y = y[:, 0]  # not a reshape: TensorFlow 2.15's converter folds it into the product
        elif x.shape.rank != 3:
            dynamic = tf.shape(x)
            middle = [
                dynamic[i] if size is None else size
                for i, size in enumerate(x.shape.as_list()[1:-1], start=1)
            ]
            y = tf.reshape(y, [-1, *middle, self.units])
        y = self.activated(self.with_mixed_bias(y, routing))
        return (y, routing) if return_routing_weights else y

    def compute_output_shape(self, input_shape):
        return shape_for_keras((*static_shape(input_shape)[:-1], self.units))
