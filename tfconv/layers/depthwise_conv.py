"""Depthwise convolution: every channel by itself."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfconv import ops
from tfconv.layers.arguments import positive_int
from tfconv.layers.signatures import in_order
from tfconv.layers.spatial import OF_KERNELS, OneKernelConv


class DepthwiseConv(OneKernelConv):
    """Depthwise convolution of any rank.

    ``y[p, c * M + m] = activation(bias[c * M + m] + sum_t depthwise_kernel[t, c, m] *
    x[p * strides - pad + t * dilation, c])``, with M = ``depth_multiplier``.

    Args:
        depth_multiplier: Outputs per input channel.
        depthwise_initializer, bias_initializer: Initializers.
        depthwise_regularizer, bias_regularizer, activity_regularizer: Regularizers.
        depthwise_constraint, bias_constraint: Constraints.

    Output shape: [N, *output spatial, C * depth_multiplier] (or channels first).

    Weights:
        depthwise_kernel: [*kernel_size, C, depth_multiplier].
        bias: [C * depth_multiplier].

    Source: Chollet, Xception, arXiv:1610.02357, section 1.
    """

    fixed = ("kernel_initializer", "kernel_regularizer", "kernel_constraint")
    ignored = ("groups", *fixed)  # Keras 2 has them from its Conv
    weight_arguments = {"depthwise": "glorot_uniform"}
    lora_axes = -2
    depthwise_kernel = OneKernelConv.kernel

    @in_order(
        *("kernel_size", "strides", "padding", "depth_multiplier", "data_format", "dilation_rate"),
        *(name.replace("kernel", "depthwise") for name in OF_KERNELS),
    )
    def __init__(self, *, depth_multiplier: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.take(positive_int, depth_multiplier=depth_multiplier)

    def output_channels(self, channels):
        return None if channels is None else channels * self.depth_multiplier

    def build(self, input_shape):
        count = self.input_channels(input_shape)
        shape = (*self.kernel_size, count, self.depth_multiplier)
        self.depthwise_kernel = self.add_like(shape, "depthwise_kernel", "depthwise")
        self.build_pointwise(count * self.depth_multiplier)
        self.bias = self.add_bias((self.output_channels(count),))
        self.adapt_if_asked()
        self.built = True

    def build_pointwise(self, channels: int) -> None:
        """Creates what `convolved` needs for ``channels`` of the depthwise outputs."""

    def convolved(self, x, kernel):
        *size, count, multiplier = kernel.shape
        kernel = tf.reshape(kernel, [*size, 1, count * multiplier])
        return ops.conv(x, kernel, groups=count, **self.geometry_arguments)


class DepthwiseConv1D(DepthwiseConv, rank=1):
    """Depthwise convolution of signals.

    Example:
        >>> tfconv.DepthwiseConv1D(3, padding="causal")(tf.ones([2, 6, 4])).shape
        TensorShape([2, 6, 4])
    """


class DepthwiseConv2D(DepthwiseConv, rank=2):
    """Depthwise convolution of images.

    Example:
        >>> tfconv.DepthwiseConv2D(3, (2, 1), depth_multiplier=2)(tf.ones([2, 7, 7, 4])).shape
        TensorShape([2, 3, 5, 8])
    """


class DepthwiseConv3D(DepthwiseConv, rank=3):
    """Depthwise convolution of volumes.

    Example:
        >>> tfconv.DepthwiseConv3D(3, padding="same")(tf.ones([2, 4, 4, 4, 3])).shape
        TensorShape([2, 4, 4, 4, 3])
    """
