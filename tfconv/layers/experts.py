"""Conditional parameters: weights mixed from experts for every example."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfconv import _compat
from tfconv._compat import convert_variable, keras
from tfconv.layers.arguments import choice, positive_int, resolved
from tfconv.layers.base import BaseLayer
from tfconv.layers.calls import OptionalInputs, SecondOutput
from tfconv.layers.kernels import Adaptable, independent_copies
from tfconv.layers.masking import mean_of_positions
from tfconv.ops.checks import of_sizes
from tfconv.ops.geometry import known_sizes
from tfconv.ops.per_example_conv import EXECUTIONS, mix, mixed_conv


class Mixture(Adaptable):
    """Several kernels and biases, mixed with weights of each example's own.

    Layers call `build_mixture` when built, and `mixed_kernels` and `with_mixed_bias` when called.

    Args:
        use_bias: Whether there is a bias, mixed too.
        kernel_initializer: Initializes each kernel as it would that of a plain layer, each with
            numbers of its own.
        bias_initializer: The same for the biases.
        kernel_regularizer, bias_regularizer, activity_regularizer: Regularizers of the kernels,
            the biases and the outputs.
        kernel_constraint, bias_constraint: Constraints, applied to each kernel and bias.
        num_experts: Kernels to mix.
    """

    expert_kernels = Adaptable.kernel  # one a row

    def __init__(self, *args: Any, num_experts: int, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.take(positive_int, num_experts=num_experts)

    def build_mixture(self, kernel_shape: Sequence[int], bias_size: int, prefix: str = "") -> None:
        """Creates the kernels and biases, each initialised as a plain one would be."""
        self.expert_shape = tuple(kernel_shape)
        self.expert_kernels = self.add_kernel(
            (self.num_experts, math.prod(kernel_shape)),
            f"{prefix}kernel",
            initializer=by_expert(self.kernel_initializer, kernel_shape),
            constraint=_constraint_by_expert(self.kernel_constraint, kernel_shape),
        )
        self.expert_biases = self.add_bias(
            (self.num_experts, bias_size),
            f"{prefix}bias",
            initializer=by_expert(self.bias_initializer, (bias_size,)),
            constraint=_constraint_by_expert(self.bias_constraint, (bias_size,)),
        )
        self.adapt_if_asked()

    def add_adaptation(self, name, shape, initializer):
        initializer = by_expert(initializer, shape)
        return super().add_adaptation(name, (self.num_experts, *shape), initializer)

    def kernel_as_matrix(self):
        """Those of each expert's kernel."""
        shape = self.expert_shape
        return shape[: self.lora_axes], math.prod(shape[self.lora_axes :])

    @property
    def bias(self) -> Any:
        """The biases, one a row; None without."""
        return self.expert_biases

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


class MixedConv(BaseLayer):
    """Convolution with a `Mixture`, in either of the two orders of `mixed_conv`.

    Args:
        execution: "mix_kernels" mixes the kernels and convolves each example with its own;
            "mix_outputs" convolves with every kernel and mixes the outputs; "auto" takes the
            one with fewer multiply-adds. The result is the same.
    """

    def __init__(self, *args: Any, execution: str = "auto", **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.take(choice(*EXECUTIONS), execution=execution)

    def mixed_outputs(self, x: tf.Tensor, weights: tf.Tensor, with_weights: bool) -> Any:
        """The layer's output for a channels-last x, and the weights of each example's mixture."""
        shape = (self.num_experts, *self.kernel_size, -1, self.output_channels(x.shape[-1]))
        kernels = tf.reshape(self.computed(self.expert_kernels), shape)
        arguments = {"execution": self.execution, **self.geometry_arguments}
        y = mixed_conv(self.padded(x), kernels, weights, **arguments)
        y = self.finish(self.with_mixed_bias(y, weights))
        return (y, weights) if with_weights else y


class Experts(Mixture, OptionalInputs, SecondOutput):
    """A `Mixture` with CondConv's routing, and its names for the experts' weights.

    Layers call `build_experts` when built, and `routed` when called.

    Args:
        routing_activation: Activation of the layer's own routing.
        routing_initializer, routing_regularizer, routing_constraint: Of the routing's kernel.
        routing_bias_initializer, routing_bias_regularizer, routing_bias_constraint: Of its bias.

    Call arguments:
        inputs: [N, *spatial, C] tensor (or [N, C, *spatial]).
        routing_weights: Optional [N, num_experts] tensor. A layer first called with it has no
            routing of its own.
        mask: Optional booleans [N, *spatial]: the positions that count in the mean behind the
            layer's own routing. Keras's masks come here by themselves.
        return_routing_weights: Whether to give the routing weights as a second output.
    """

    asks_for_second = "return_routing_weights"
    renamed = {"condconv_kernel": "kernel", "condconv_bias": "bias"}
    weight_arguments = {"routing": "glorot_uniform", "routing_bias": "zeros"}

    def __init__(
        self,
        *args: Any,
        num_experts: int = 8,
        routing_activation: Any = "sigmoid",
        **kwargs: Any,
    ):
        super().__init__(*args, num_experts=num_experts, **kwargs)
        self.take(resolved, routing_activation=routing_activation)
        self.routing = None  # not of the class: Keras 2 would not track the instance's

    def __call__(self, inputs, routing_weights=None, **kwargs):
        self.note_given(routing_weights is not None)
        given = self.given_inputs(routing_weights=routing_weights)
        return super().__call__(inputs, **given, **kwargs)

    def build_experts(self, kernel_shape: Sequence[int], bias_size: int, channels: int) -> None:
        """Creates the experts' weights and, unless the caller routes, the routing."""
        self.build_mixture(kernel_shape, bias_size, "condconv_")
        if not self.given_at_build:
            self.sublayer(
                "routing",
                keras.layers.Dense,
                (None, channels),
                units=self.num_experts,
                activation=self.routing_activation,
                **self.arguments_inside(1, "routing", "routing_bias")[0],
            )

    def routed(
        self, inputs: tf.Tensor, routing_weights: Any, mask: Any, channel_axis: int = -1
    ) -> tf.Tensor:
        """The routing weights [N, experts]: the caller's, or own ones.

        Own ones are ``activation(W * mean(inputs over their positions) + b)``.
        """
        if routing_weights is None:
            self.require_own("routing_weights")
            return self.computed(self.routing(mean_of_positions(inputs, channel_axis, mask)))
        routing = self.computed(routing_weights)
        if not routing.shape.is_compatible_with([inputs.shape[0], self.num_experts]):
            raise ValueError(
                "`routing_weights` must have the shape [batch, num_experts], here "
                f"{tf.TensorShape([inputs.shape[0], self.num_experts])}. "
                f"Received: routing_weights of shape {routing.shape}"
            )
        return of_sizes(
            routing,
            [*known_sizes(inputs, slice(0, 1)), self.num_experts],
            "`routing_weights` must have the shape [batch, num_experts]. Received: shape",
        )

    def routing_weights(self, inputs: tf.Tensor, mask: Any = None) -> tf.Tensor:
        """The routing weights [N, num_experts] that the layer makes for inputs."""
        if _compat.is_symbolic(inputs):
            return self.second_output(inputs, mask=mask)
        return self.routed(self.entered(inputs), None, mask, self.channel_axis)


def by_expert(initializer: Any, shape: Sequence[int]) -> Callable[..., tf.Tensor]:
    """An initializer of [count, prod(shape)] that draws each row as ``initializer`` a shape."""

    def initialize(full_shape, dtype=None, **kwargs):
        copies = independent_copies(initializer, full_shape[0], "expert")
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
