"""Conditional parameters: weights mixed from experts for every example.

`Mixture` holds the experts' weights and mixes them, `MixedConv` convolves with the mixture, and
`Experts` is a `Mixture` with CondConv's routing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfconv._compat import convert_variable, keras
from tfconv.layers.base import (
    OptionalInputs,
    checked,
    dtype_policy_of,
    global_mean,
    independent_copies,
    known_channels,
    one_of,
    positive_int,
    require_built,
    resolved,
    static_shape,
)
from tfconv.ops.per_example_conv import EXECUTIONS, mix, mixed_conv


class Mixture:
    """Mixin: several kernels and biases, mixed with weights of each example's own.

    The host layer has Keras's kernel and bias arguments (``use_bias``, ``kernel_initializer``,
    ...), and calls `build_mixture` when built, and `mixed_kernels` and `with_mixed_bias` when
    called.
    """

    def build_mixture(
        self, count: int, kernel_shape: Sequence[int], bias_size: int, prefix: str = ""
    ) -> None:
        """Creates ``count`` kernels and biases, each initialised as a plain one would be."""
        self.expert_shape = tuple(kernel_shape)
        self.expert_kernels = self.add_weight(
            name=f"{prefix}kernel",
            shape=(count, math.prod(kernel_shape)),
            initializer=by_expert(self.kernel_initializer, kernel_shape),
            regularizer=self.kernel_regularizer,
            constraint=_constraint_by_expert(self.kernel_constraint, kernel_shape),
            trainable=True,
        )
        self.expert_biases = None
        if self.use_bias:
            self.expert_biases = self.add_weight(
                name=f"{prefix}bias",
                shape=(count, bias_size),
                initializer=by_expert(self.bias_initializer, (bias_size,)),
                regularizer=self.bias_regularizer,
                constraint=_constraint_by_expert(self.bias_constraint, (bias_size,)),
                trainable=True,
            )

    def mixed_kernels(self, weights: tf.Tensor) -> tf.Tensor:
        """The kernel [N, *kernel shape] of each example."""
        kernels = convert_variable(self.expert_kernels, weights.dtype)
        return tf.reshape(mix(weights, kernels), [-1, *self.expert_shape])

    def with_mixed_bias(self, y: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """Adds each example's bias to [N, ..., C]."""
        if self.expert_biases is None:
            return y
        bias = mix(weights, convert_variable(self.expert_biases, weights.dtype))
        return y + tf.reshape(bias, [-1, *[1] * (y.shape.rank - 2), bias.shape[-1]])


class MixedConv:
    """Mixin: convolution with a `Mixture`, in either of the two orders of `mixed_conv`."""

    def set_execution(self, execution: str) -> None:
        self.execution = one_of(execution, "execution", EXECUTIONS)

    def convolved(self, x: tf.Tensor, weights: tf.Tensor, groups: int) -> tf.Tensor:
        """Each example of a channels-last x convolved with its own mixture, bias included."""
        channels = x.shape[-1]
        shape = (*self.kernel_size, channels // groups, self.output_channels(channels))
        kernels = tf.reshape(self.weight(self.expert_kernels), [-1, *shape])
        y = mixed_conv(x, kernels, weights, execution=self.execution, **self.geometry_arguments)
        return self.with_mixed_bias(y, weights)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "execution": self.execution}


class Experts(Mixture, OptionalInputs):
    """Mixin: expert weights ``condconv_kernel`` and ``condconv_bias`` and their routing.

    The host layer calls `set_experts` when constructed, `build_experts` when built, and
    `routed` when called.
    """

    def set_experts(self, num_experts: int, routing_activation: Any) -> None:
        self.num_experts = positive_int(num_experts, "num_experts")
        self.routing_activation = resolved(routing_activation, "routing_activation")
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

    @property
    def condconv_kernel(self) -> Any:
        """The experts' kernels, one a row."""
        return self.expert_kernels

    @property
    def condconv_bias(self) -> Any:
        """The experts' biases, one a row; None without."""
        return self.expert_biases

    def build_experts(
        self, kernel_shape: Sequence[int], bias_size: int, input_shape: Any, channel_axis: int
    ) -> None:
        """Creates the experts' weights and, unless the caller routes, the routing."""
        self.build_mixture(self.num_experts, kernel_shape, bias_size, "condconv_")
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
            pooled = global_mean(inputs, axes) if axes else inputs
            return tf.convert_to_tensor(self.routing(pooled))
        routing = convert_variable(routing_weights, self.compute_dtype)
        if not routing.shape.is_compatible_with([inputs.shape[0], self.num_experts]):
            raise ValueError(
                "`routing_weights` must have the shape [batch, num_experts], here "
                f"{tf.TensorShape([inputs.shape[0], self.num_experts])}. "
                f"Received: routing_weights of shape {routing.shape}"
            )
        if routing.shape.is_fully_defined() and inputs.shape[0] is not None:
            return routing
        shape = tf.stack([tf.shape(inputs)[0], self.num_experts])
        return checked(
            routing,
            tf.reduce_all(tf.shape(routing) == shape),
            "`routing_weights` must have the shape [batch, num_experts]. Received: shape",
            tf.shape(routing),
        )

    def routing_weights(self, inputs: tf.Tensor) -> tf.Tensor:
        """The routing weights [N, num_experts] that the layer makes for inputs."""
        require_built(self)
        x = tf.convert_to_tensor(inputs)
        axis = getattr(self, "channel_axis", -1)
        return self.routed(x, None, mean_axes(x.shape, axis))


def mean_axes(shape: Any, channel_axis: int) -> list[int]:
    """The axes between batch and channels, over which routing takes the mean."""
    rank = len(static_shape(shape))
    return [axis for axis in range(1, rank) if axis != channel_axis % rank]


def by_expert(initializer: Any, shape: Sequence[int]) -> Callable[..., tf.Tensor]:
    """An initializer of [count, prod(shape)] that draws each row as ``initializer`` a shape."""

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
