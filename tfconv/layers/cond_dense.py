"""CondDense: a dense layer whose kernel is mixed from experts for every example."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfconv._compat import keras
from tfconv.layers.base import (
    kernel_config,
    known_channels,
    positive_int,
    register,
    resolved,
    set_kernel_arguments,
    static_shape,
)
from tfconv.layers.experts import Experts, mean_axes


@register
class CondDense(Experts, keras.layers.Layer):
    """Dense layer with conditional parameters.

    ``y[n] = activation(x[n] @ sum_e r[n, e] W_e + sum_e r[n, e] b_e)``. The routing weights r
    come from the caller or, when none are given, from the input:
    ``r = sigmoid(Dense(mean of x over the axes between batch and features))``.

    Args:
        units: Output features.
        activation: Activation of the outputs.
        use_bias: Whether there is a bias, mixed from experts too.
        kernel_initializer, bias_initializer: Initialize each expert as they would a plain
            layer, each with numbers of its own.
        kernel_regularizer, bias_regularizer, activity_regularizer: Regularizers of the experts'
            weights and of the outputs.
        kernel_constraint, bias_constraint: Constraints, applied to each expert.
        num_experts: Kernels to mix.
        routing_activation: Activation of the layer's own routing.
        **kwargs: Keras's own: ``name``, ``dtype``, ``trainable``.

    Call arguments:
        inputs: [N, ..., features] tensor.
        routing_weights: Optional [N, num_experts] tensor. A layer first called with it has no
            routing of its own.

    Output shape: [N, ..., units].

    Weights:
        condconv_kernel: [num_experts, features * units].
        condconv_bias: [num_experts, units].
        routing: a dense layer features -> num_experts, unless routing weights are given.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: arXiv:1904.04971, section 3.

    Example:
        >>> tfconv.CondDense(5, num_experts=4)(tf.ones([2, 3])).shape
        TensorShape([2, 5])
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        num_experts: int = 8,
        routing_activation: Any = "sigmoid",
        **kwargs: Any,
    ):
        super().__init__(
            activity_regularizer=resolved(activity_regularizer, "activity_regularizer"), **kwargs
        )
        set_kernel_arguments(
            self,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
        )
        self.units = positive_int(units, "units")
        self.set_experts(num_experts, routing_activation)
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        self.supports_masking = True

    def build(self, input_shape):
        features = known_channels(input_shape, -1, self)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: features})
        self.build_experts((features, self.units), self.units, input_shape, -1)
        self.built = True

    def call(self, inputs, routing_weights=None):
        x = tf.convert_to_tensor(inputs)
        routing = self.routed(x, routing_weights, mean_axes(x.shape, -1))
        kernels = self.mixed_kernels(routing)
        rows = tf.reshape(x, [tf.shape(x)[0], -1, x.shape[-1]]) if x.shape.rank != 3 else x
        y = tf.matmul(rows, kernels)
        if x.shape.rank != 3:
            dynamic = tf.shape(x)
            middle = [
                dynamic[i] if size is None else size
                for i, size in enumerate(x.shape.as_list()[1:-1], start=1)
            ]
            y = tf.reshape(y, [-1, *middle, self.units])
        return self.activation(self.with_mixed_bias(y, routing))

    def compute_output_shape(self, input_shape):
        return (*static_shape(input_shape)[:-1], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "activity_regularizer": keras.regularizers.serialize(self.activity_regularizer),
            **kernel_config(self),
            **self.experts_config(),
        }
