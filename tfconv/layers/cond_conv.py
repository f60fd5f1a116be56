"""CondConv: convolutions whose kernel is mixed from experts for every example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfconv.layers.base import ConvLayer, KernelLayer, positive_int, register, resolved
from tfconv.layers.experts import Experts, MixedConv, mean_axes
from tfconv.ops.geometry import Padding


class CondConv(MixedConv, Experts, ConvLayer):
    """Conditionally parameterized convolution of any rank.

    ``y[n] = activation(x[n] * sum_e r[n, e] K_e + sum_e r[n, e] b_e)``: one convolution per
    example, with a kernel that is the mixture of ``num_experts`` kernels. The routing weights r
    come from the caller or, when none are given, from the input:
    ``r = sigmoid(Dense(mean of x over its spatial axes))``.

    Args:
        filters: Output channels.
        kernel_size: Taps per spatial axis; an int or one int per axis.
        strides: Pixels between neighbouring outputs.
        padding: "valid", "same", "full", "causal" (1-D), an int, or one (before, after) pair
            per spatial axis.
        data_format: "channels_last" or "channels_first"; None takes Keras's setting.
        dilation_rate: Pixels between neighbouring taps; may exceed 1 together with strides.
        groups: Groups of channels, and of filters, that see only each other.
        activation: Activation of the outputs.
        use_bias: Whether there is a bias, mixed from experts too.
        kernel_initializer: Initializes each expert as it would the kernel of a plain
            convolution, each with numbers of its own.
        bias_initializer: The same for the biases.
        kernel_regularizer, bias_regularizer, activity_regularizer: Regularizers of the experts'
            weights and of the outputs.
        kernel_constraint, bias_constraint: Constraints, applied to each expert.
        num_experts: Kernels to mix.
        routing_activation: Activation of the layer's own routing.
        execution: "mix_kernels" mixes the kernels and convolves each example with its own;
            "mix_outputs" convolves with every expert and mixes the outputs; "auto" takes the
            one with fewer multiply-adds. The result is the same.
        **kwargs: Keras's own: ``name``, ``dtype``, ``trainable``.

    Call arguments:
        inputs: [N, *spatial, C] tensor (or [N, C, *spatial]).
        routing_weights: Optional [N, num_experts] tensor. A layer first called with it has no
            routing of its own.

    Output shape: [N, *output spatial, filters].

    Weights:
        condconv_kernel: [num_experts, prod(kernel_size) * C / groups * filters].
        condconv_bias: [num_experts, filters].
        routing: a dense layer C -> num_experts, unless routing weights are given.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: Yang et al., CondConv: Conditionally Parameterized Convolutions for Efficient
    Inference, arXiv:1904.04971, section 3.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        *args: Any,
        num_experts: int = 8,
        routing_activation: Any = "sigmoid",
        execution: str = "auto",
        **kwargs: Any,
    ):
        super().__init__(
            filters,
            kernel_size,
            strides,
            padding,
            data_format,
            dilation_rate,
            groups,
            *args,
            **kwargs,
        )
        self.set_experts(num_experts, routing_activation)
        self.set_execution(execution)

    def build(self, input_shape):
        kernel_shape = self.kernel_shape(input_shape)
        self.build_experts(kernel_shape, self.filters, input_shape, self.channel_axis)
        self.built = True

    def call(self, inputs, routing_weights=None):
        x = self.fitting(inputs)
        routing = self.routed(x, routing_weights, mean_axes(x.shape, -1))
        return self.activation(self.restored(self.convolved(x, routing, self.groups)))

    def get_config(self):
        return {**super().get_config(), **self.experts_config()}


@register
class CondConv1D(CondConv):
    """Conditionally parameterized convolution of sequences; see `CondConv` for the arguments.

    ``y[n] = activation(x[n] * sum_e r[n, e] K_e + sum_e r[n, e] b_e)``.

    Example:
        >>> layer = tfconv.CondConv1D(8, 3, padding="causal", num_experts=4)
        >>> layer(tf.ones([2, 6, 3])).shape
        TensorShape([2, 6, 8])
    """

    rank = 1


@register
class CondConv2D(CondConv):
    """Conditionally parameterized convolution of images; see `CondConv` for the arguments.

    ``y[n] = activation(x[n] * sum_e r[n, e] K_e + sum_e r[n, e] b_e)``.

    Example:
        >>> layer = tfconv.CondConv2D(8, 3, num_experts=4)
        >>> layer(tf.ones([2, 6, 6, 3])).shape
        TensorShape([2, 4, 4, 8])
    """

    rank = 2


@register
class CondConv3D(CondConv):
    """Conditionally parameterized convolution of volumes; see `CondConv` for the arguments.

    ``y[n] = activation(x[n] * sum_e r[n, e] K_e + sum_e r[n, e] b_e)``.

    Example:
        >>> layer = tfconv.CondConv3D(8, 3, num_experts=4)
        >>> layer(tf.ones([2, 4, 6, 6, 3])).shape
        TensorShape([2, 2, 4, 4, 8])
    """

    rank = 3


@register
class DepthwiseCondConv2D(MixedConv, Experts, KernelLayer):
    """Depthwise convolution whose kernel is mixed from experts for every example.

    ``y[n, p, c * M + m] = sum_{t, e} r[n, e] K_e[t, c, m] * x[n, p * strides - pad +
    t * dilation, c] + bias``, with M = ``depth_multiplier``.

    Args:
        kernel_size: Taps per spatial axis; an int or two ints.
        strides: Pixels between neighbouring outputs.
        padding: "valid", "same", "full", an int, or two (before, after) pairs.
        depth_multiplier: Outputs per input channel.
        data_format: "channels_last" or "channels_first"; None takes Keras's setting.
        dilation_rate: Pixels between neighbouring taps; may exceed 1 together with strides.
        activation: Activation of the outputs.
        use_bias: Whether there is a bias, mixed from experts too.
        num_experts: Kernels to mix.
        routing_activation: Activation of the layer's own routing.
        execution: "mix_kernels" mixes the kernels and convolves each example with its own;
            "mix_outputs" convolves with every expert and mixes the outputs; "auto" takes the
            one with fewer multiply-adds. The result is the same.
        **kwargs: ``kernel_`` and ``bias_`` initializer, regularizer and constraint (applied to
            each expert; Keras's ``depthwise_`` names are taken too),
            ``activity_regularizer``, and Keras's ``name``, ``dtype``, ``trainable``.

    Call arguments:
        inputs: [N, H, W, C] tensor (or [N, C, H, W]).
        routing_weights: Optional [N, num_experts] tensor. A layer first called with it has no
            routing of its own.

    Output shape: [N, Ho, Wo, C * depth_multiplier].

    Weights:
        condconv_kernel: [num_experts, kh * kw * C * depth_multiplier].
        condconv_bias: [num_experts, C * depth_multiplier].
        routing: a dense layer C -> num_experts, unless routing weights are given.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: arXiv:1904.04971, section 3.

    Example:
        >>> layer = tfconv.DepthwiseCondConv2D(3, depth_multiplier=2, num_experts=4)
        >>> layer(tf.ones([2, 6, 6, 3])).shape
        TensorShape([2, 4, 4, 6])
    """

    rank = 2

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        activation: Any = None,
        use_bias: bool = True,
        *,
        num_experts: int = 8,
        routing_activation: Any = "sigmoid",
        execution: str = "auto",
        **kwargs: Any,
    ):
        for kind in ("initializer", "regularizer", "constraint"):
            if f"depthwise_{kind}" in kwargs:
                value = kwargs.pop(f"depthwise_{kind}")
                kwargs[f"kernel_{kind}"] = resolved(value, f"depthwise_{kind}")
        super().__init__(
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            activation=activation,
            use_bias=use_bias,
            **kwargs,
        )
        self.depth_multiplier = positive_int(depth_multiplier, "depth_multiplier")
        self.set_experts(num_experts, routing_activation)
        self.set_execution(execution)

    def output_channels(self, channels):
        return None if channels is None else channels * self.depth_multiplier

    def build(self, input_shape):
        count = self.input_channels(input_shape)
        kernel_shape = (*self.kernel_size, count, self.depth_multiplier)
        self.build_experts(
            kernel_shape, count * self.depth_multiplier, input_shape, self.channel_axis
        )
        self.built = True

    def call(self, inputs, routing_weights=None):
        x = self.fitting(inputs)
        routing = self.routed(x, routing_weights, mean_axes(x.shape, -1))
        return self.activation(self.restored(self.convolved(x, routing, x.shape[-1])))

    def get_config(self):
        config = {"depth_multiplier": self.depth_multiplier, **self.experts_config()}
        return {**super().get_config(), **config}
