"""Depthwise convolution: every channel by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfconv import ops
from tfconv.layers.base import KernelLayer, positive_int, register, resolved
from tfconv.ops.geometry import Padding


class DepthwiseConv(KernelLayer):
    """Depthwise convolution of any rank.

    ``y[p, c * M + m] = activation(bias[c * M + m] + sum_t depthwise_kernel[t, c, m] *
    x[p * strides - pad + t * dilation, c])``, with M = ``depth_multiplier``.

    Args:
        kernel_size: Taps per spatial axis; an int or one int per axis.
        strides: Pixels between neighbouring outputs; may differ from axis to axis.
        padding: "valid", "same", "full", "causal" (1-D), an int, or one (before, after) pair
            per spatial axis.
        depth_multiplier: Outputs per input channel.
        data_format: "channels_last" or "channels_first"; None takes Keras's setting.
        dilation_rate: Pixels between neighbouring taps; may exceed 1 together with strides.
        activation: Activation of the outputs.
        use_bias: Whether there is a bias.
        depthwise_initializer, bias_initializer: Initializers.
        depthwise_regularizer, bias_regularizer, activity_regularizer: Regularizers.
        depthwise_constraint, bias_constraint: Constraints.
        **kwargs: Keras's own: ``name``, ``dtype``, ``trainable``.

    Input shape: [N, *spatial, C] (or [N, C, *spatial]).

    Output shape: [N, *output spatial, C * depth_multiplier] (or channels first).

    Weights:
        depthwise_kernel: [*kernel_size, C, depth_multiplier].
        bias: [C * depth_multiplier].

    Raises:
        ValueError: If an argument is not what is described above.

    Source: Chollet, Xception, arXiv:1610.02357, section 1.
    """

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
        depthwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        depthwise_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ):
        super().__init__(
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=resolved(depthwise_initializer, "depthwise_initializer"),
            bias_initializer=bias_initializer,
            kernel_regularizer=resolved(depthwise_regularizer, "depthwise_regularizer"),
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=resolved(depthwise_constraint, "depthwise_constraint"),
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self.depth_multiplier = positive_int(depth_multiplier, "depth_multiplier")

    def output_channels(self, channels):
        return None if channels is None else channels * self.depth_multiplier

    def build(self, input_shape):
        count = self.input_channels(input_shape)
        self.depthwise_kernel = self.add_kernel(
            (*self.kernel_size, count, self.depth_multiplier), "depthwise_kernel"
        )
        self.build_pointwise(count * self.depth_multiplier)
        self.bias = self.add_bias((self.output_channels(count),))
        self.built = True

    def build_pointwise(self, channels: int) -> None:
        """Creates what `mixed` needs for ``channels`` of the depthwise outputs."""

    def mixed(self, y: tf.Tensor) -> tf.Tensor:
        """What the layer does with the depthwise outputs."""
        return y

    def call(self, inputs):
        x = self.fitting(inputs)
        kernel = self.weight(self.depthwise_kernel)
        *size, count, multiplier = kernel.shape
        kernel = tf.reshape(kernel, [*size, 1, count * multiplier])
        y = self.mixed(ops.conv(x, kernel, groups=count, **self.geometry_arguments))
        if self.bias is not None:
            y = y + self.weight(self.bias)
        y = self.restored(y)
        # Wrappers such as weight normalization take the activation away for a while.
        return y if self.activation is None else self.activation(y)

    def get_config(self):
        config = {**super().get_config(), "depth_multiplier": self.depth_multiplier}
        for kind in ("initializer", "regularizer", "constraint"):
            config[f"depthwise_{kind}"] = config.pop(f"kernel_{kind}")
        return config


@register
class DepthwiseConv1D(DepthwiseConv):
    """Depthwise convolution of signals; see `tfconv.layers.depthwise_conv.DepthwiseConv`.

    ``y[p, c * M + m] = activation(bias + sum_t depthwise_kernel[t, c, m] * x[p * strides - pad
    + t * dilation, c])``.

    Example:
        >>> tfconv.DepthwiseConv1D(3, padding="causal")(tf.ones([2, 6, 4])).shape
        TensorShape([2, 6, 4])
    """

    rank = 1


@register
class DepthwiseConv2D(DepthwiseConv):
    """Depthwise convolution of images; see `tfconv.layers.depthwise_conv.DepthwiseConv`.

    ``y[p, c * M + m] = activation(bias + sum_t depthwise_kernel[t, c, m] * x[p * strides - pad
    + t * dilation, c])``.

    Example:
        >>> tfconv.DepthwiseConv2D(3, (2, 1), depth_multiplier=2)(tf.ones([2, 7, 7, 4])).shape
        TensorShape([2, 3, 5, 8])
    """

    rank = 2


@register
class DepthwiseConv3D(DepthwiseConv):
    """Depthwise convolution of volumes; see `tfconv.layers.depthwise_conv.DepthwiseConv`.

    ``y[p, c * M + m] = activation(bias + sum_t depthwise_kernel[t, c, m] * x[p * strides - pad
    + t * dilation, c])``.

    Example:
        >>> tfconv.DepthwiseConv3D(3, padding="same")(tf.ones([2, 4, 4, 4, 3])).shape
        TensorShape([2, 4, 4, 4, 3])
    """

    rank = 3
