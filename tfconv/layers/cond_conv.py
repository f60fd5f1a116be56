"""CondConv: convolutions whose kernel is mixed from experts for every example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfconv.layers.arguments import positive_int
from tfconv.layers.experts import Experts, MixedConv
from tfconv.layers.spatial import ConvLayer, SpatialLayer


class CondConv(MixedConv, Experts, ConvLayer):
    """Conditionally parameterized convolution of any rank.

    ``y[n] = activation(x[n] * sum_e r[n, e] K_e + sum_e r[n, e] b_e)``: one convolution per
    example, with a kernel that is the mixture of ``num_experts`` kernels. The routing weights r
    come from the caller or, when none are given, from the input:
    ``r = sigmoid(Dense(mean of x over its spatial axes))``.

    Weights:
        kernel: [num_experts, prod(kernel_size) * C / groups * filters].
        bias: [num_experts, filters].
        routing: a dense layer C -> num_experts, unless routing weights are given.

    Source: Yang et al., CondConv: Conditionally Parameterized Convolutions for Efficient
    Inference, arXiv:1904.04971, section 3.
    """

    by_position = 2

    def build(self, input_shape):
        kernel_shape = self.kernel_shape(input_shape)
        self.build_experts(kernel_shape, self.filters, kernel_shape[-2] * self.groups)
        self.built = True

    def call(self, inputs, routing_weights=None, mask=None, return_routing_weights=False):
        x = self.fitting(inputs)
        routing = self.routed(x, routing_weights, mask)
        return self.mixed_outputs(x, routing, return_routing_weights)


class CondConv1D(CondConv, rank=1):
    """Conditionally parameterized convolution of sequences.

    Example:
        >>> layer = tfconv.CondConv1D(8, 3, padding="causal", num_experts=4)
        >>> layer(tf.ones([2, 6, 3])).shape
        TensorShape([2, 6, 8])
    """


class CondConv2D(CondConv, rank=2):
    """Conditionally parameterized convolution of images.

    Example:
        >>> layer = tfconv.CondConv2D(8, 3, num_experts=4)
        >>> layer(tf.ones([2, 6, 6, 3])).shape
        TensorShape([2, 4, 4, 8])
    """


class CondConv3D(CondConv, rank=3):
    """Conditionally parameterized convolution of volumes.

    Example:
        >>> layer = tfconv.CondConv3D(8, 3, num_experts=4)
        >>> layer(tf.ones([2, 4, 6, 6, 3])).shape
        TensorShape([2, 2, 4, 4, 8])
    """


class DepthwiseCondConv2D(MixedConv, Experts, SpatialLayer, rank=2):
    """Depthwise convolution whose kernel is mixed from experts for every example.

    ``y[n, p, c * M + m] = sum_{t, e} r[n, e] K_e[t, c, m] * x[n, p * strides - pad +
    t * dilation, c] + bias``, with M = ``depth_multiplier``. The kernel's arguments have Keras's
    names, ``depthwise_initializer`` and so on, too.

    Args:
        depth_multiplier: Outputs per input channel.

    Output shape: [N, Ho, Wo, C * depth_multiplier].

    Weights:
        kernel: [num_experts, kh * kw * C * depth_multiplier].
        bias: [num_experts, C * depth_multiplier].
        routing: a dense layer C -> num_experts, unless routing weights are given.

    Source: arXiv:1904.04971, section 3.

    Example:
        >>> layer = tfconv.DepthwiseCondConv2D(3, depth_multiplier=2, num_experts=4)
        >>> layer(tf.ones([2, 6, 6, 3])).shape
        TensorShape([2, 4, 4, 6])
    """

    by_position = 1
    lora_axes = -2
    renamed = {
        **Experts.renamed,
        "depthwise_initializer": "kernel_initializer",
        "depthwise_regularizer": "kernel_regularizer",
        "depthwise_constraint": "kernel_constraint",
    }

    def __init__(
        self, kernel_size: int | Sequence[int], *, depth_multiplier: int = 1, **kwargs: Any
    ):
        super().__init__(kernel_size=kernel_size, **kwargs)
        self.take(positive_int, depth_multiplier=depth_multiplier)

    def output_channels(self, channels):
        return None if channels is None else channels * self.depth_multiplier

    def build(self, input_shape):
        count = self.input_channels(input_shape)
        kernel_shape = (*self.kernel_size, count, self.depth_multiplier)
        self.build_experts(kernel_shape, count * self.depth_multiplier, count)
        self.built = True

    call = CondConv.call
