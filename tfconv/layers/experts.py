"""Conditional parameters: weights mixed from experts for every example.

What `CondConv2D`, `DepthwiseCondConv2D` and `CondDense` share: expert weights, the routing
function, and the mixture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfconv._compat import convert_variable, keras
from tfconv.layers.base import (
    OptionalInputs,
    dtype_policy_of,
    independent_copies,
    known_channels,
    positive_int,
    static_shape,
)


class Experts(OptionalInputs):
    """Mixin: expert weights ``condconv_kernel`` and ``condconv_bias`` and their routing.

    The host layer has Keras's kernel and bias arguments (``use_bias``, ``kernel_initializer``,
    ...), and calls `set_experts` when constructed, `build_experts` when built, and `routed`
    and `mixed` when called.
    """

    def set_experts(self, num_experts: int, routing_activation: Any) -> None:
        self.num_experts = positive_int(num_experts, "num_experts")
        self.routing_activation = keras.activations.get(routing_activation)
        self.routing = None

    def experts_config(self) -> dict[str, Any]:
        return {
            "num_experts": self.num_experts,
            "routing_activation": keras.activations.serialize(self.routing_activation),
        }

    def __call__(self, inputs, routing_weights=None, **kwargs):
        self.note_given(routing_weights is not None)
        if routing_weights is not None:
            kwargs["routing_weights"] = routing_weights
        return super().__call__(inputs, **kwargs)

    def build_experts(
        self, kernel_shape: Sequence[int], bias_size: int, input_shape: Any, channel_axis: int
    ) -> None:
        """Creates the experts' weights, each initialised as a plain kernel would be."""
        self.expert_shape = tuple(kernel_shape)
        self.condconv_kernel = self.add_weight(
            name="condconv_kernel",
            shape=(self.num_experts, math.prod(kernel_shape)),
            initializer=_by_expert(self.kernel_initializer, kernel_shape),
            regularizer=self.kernel_regularizer,
            constraint=_constraint_by_expert(self.kernel_constraint, kernel_shape),
            trainable=True,
        )
        self.condconv_bias = None
        if self.use_bias:
            self.condconv_bias = self.add_weight(
                name="condconv_bias",
                shape=(self.num_experts, bias_size),
                initializer=_by_expert(self.bias_initializer, (bias_size,)),
                regularizer=self.bias_regularizer,
                constraint=_constraint_by_expert(self.bias_constraint, (bias_size,)),
                trainable=True,
            )
        if not self.given_at_build:
            self.routing = keras.layers.Dense(
                self.num_experts,
                activation=self.routing_activation,
                name="routing",
                dtype=dtype_policy_of(self),
            )
            channels = known_channels(input_shape, channel_axis, self)
            with tf.name_scope("routing"):
                self.routing.build((None, channels))

    def routed(self, inputs: tf.Tensor, routing_weights: Any, axes: Sequence[int]) -> tf.Tensor:
        """The routing weights [N, experts]: the caller's, or own ones.

        Own ones are ``activation(W * mean(inputs over axes) + b)``.
        """
        if routing_weights is None:
            self.require_own("routing_weights")
            pooled = tf.reduce_mean(inputs, axis=list(axes)) if axes else inputs
            return tf.convert_to_tensor(self.routing(pooled))
        routing = convert_variable(routing_weights, self.compute_dtype)
        if not routing.shape.is_compatible_with([inputs.shape[0], self.num_experts]):
            raise ValueError(
                "`routing_weights` must have the shape [batch, num_experts], here "
                f"{tf.TensorShape([inputs.shape[0], self.num_experts])}. "
                f"Received: routing_weights of shape {routing.shape}"
            )
        return routing

    def routing_weights(self, inputs: tf.Tensor) -> tf.Tensor:
        """The routing weights [N, num_experts] that the layer makes for inputs."""
        x = tf.convert_to_tensor(inputs)
        axis = getattr(self, "channel_axis", -1)
        return self.routed(x, None, mean_axes(x.shape, axis))

    def mixed(self, routing: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Kernels [N, *kernel shape] and biases [N, size] of every example."""
        kernels = tf.matmul(routing, convert_variable(self.condconv_kernel, routing.dtype))
        kernels = tf.reshape(kernels, [-1, *self.expert_shape])
        if self.condconv_bias is None:
            return kernels, None
        return kernels, tf.matmul(routing, convert_variable(self.condconv_bias, routing.dtype))


def with_bias(y: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
    """Adds a bias [N, C] per example to [N, ..., C]."""
    if bias is None:
        return y
    return y + tf.reshape(bias, [-1, *[1] * (y.shape.rank - 2), bias.shape[-1]])


def mean_axes(shape: Any, channel_axis: int) -> list[int]:
    """The axes between batch and channels, over which routing takes the mean."""
    rank = len(static_shape(shape))
    return [axis for axis in range(1, rank) if axis != channel_axis % rank]


def _by_expert(initializer: Any, shape: Sequence[int]) -> Callable[..., tf.Tensor]:
    def initialize(full_shape, dtype=None, **kwargs):
        copies = independent_copies(initializer, full_shape[0])
        values = [convert_variable(copy(tuple(shape), dtype=dtype)) for copy in copies]
        return tf.reshape(tf.stack(values), tuple(full_shape))

    return initialize


def _constraint_by_expert(constraint: Any, shape: Sequence[int]) -> Callable[..., Any] | None:
    if constraint is None:
        return None

    def constrain(weights):
        weights = convert_variable(weights)
        experts = [
            tf.reshape(constraint(tf.reshape(expert, tuple(shape))), [-1])
            for expert in tf.unstack(weights, axis=0)
        ]
        return tf.stack(experts)

    return constrain
