"""Separable convolution: every channel by itself, then all channels of each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfconv import ops
from tfconv.layers.arguments import positive_int, resolved
from tfconv.layers.base import register
from tfconv.layers.depthwise_conv import DepthwiseConv
from tfconv.ops.geometry import Padding


class SeparableConv(DepthwiseConv):
    """Depthwise separable convolution of any rank.

    ``z[p, c * M + m] = sum_t depthwise_kernel[t, c, m] * x[p * strides - pad + t * dilation, c]``
    and ``y[p, f] = activation(bias[f] + sum_j pointwise_kernel[j, f] * z[p, j])``, with M =
    ``depth_multiplier``: a convolution whose kernel is
    ``kernel[t, c, f] = sum_m depthwise_kernel[t, c, m] * pointwise_kernel[c * M + m, f]``.

    Args:
        filters: Output channels.
        depth_multiplier: Depthwise outputs per input channel.
        depthwise_initializer, pointwise_initializer, bias_initializer: Initializers.
        depthwise_regularizer, pointwise_regularizer, bias_regularizer, activity_regularizer:
            Regularizers.
        depthwise_constraint, pointwise_constraint, bias_constraint: Constraints.

    Input shape: [N, *spatial, C] (or [N, C, *spatial]).

    Output shape: [N, *output spatial, filters] (or [N, filters, *output spatial]).

    Weights:
        depthwise_kernel: [*kernel_size, C, depth_multiplier].
        pointwise_kernel: [1, ..., C * depth_multiplier, filters], with a 1 for each spatial axis.
        bias: [filters].

    Raises:
        ValueError: If an argument is not what is described above.

    Source: Chollet, Xception, arXiv:1610.02357, section 1.
    """

    fixed = (*DepthwiseConv.fixed, "lora_rank", "lora_alpha")

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        depth_multiplier: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        pointwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None,
        pointwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        depthwise_constraint: Any = None,
        pointwise_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ):
        super().__init__(
            kernel_size,
            strides,
            padding,
            depth_multiplier,
            data_format,
            dilation_rate,
            activation,
            use_bias,
            depthwise_initializer,
            bias_initializer,
            depthwise_regularizer,
            bias_regularizer,
            activity_regularizer,
            depthwise_constraint,
            bias_constraint,
            **kwargs,
        )
        self.take(positive_int, filters=filters)
        self.take(
            resolved,
            pointwise_initializer=pointwise_initializer,
            pointwise_regularizer=pointwise_regularizer,
            pointwise_constraint=pointwise_constraint,
        )

    def output_channels(self, channels):
        return self.filters

    @property
    def kernel(self) -> Any:
        """None: there are two."""
        raise AttributeError("Separable convolutions have `depthwise_kernel`, `pointwise_kernel`.")

    def build_pointwise(self, channels):
        shape = (*[1] * self.rank, channels, self.filters)
        self.pointwise_kernel = self.add(shape, "pointwise_kernel", "pointwise")

    def convolved(self, x, kernel):
        y = super().convolved(x, kernel)
        return ops.conv(y, self.weight(self.pointwise_kernel), data_format="channels_last")


@register
class SeparableConv1D(SeparableConv):
    """Separable convolution of signals.

    Example:
        >>> tfconv.SeparableConv1D(8, 3, padding="causal")(tf.ones([2, 6, 4])).shape
        TensorShape([2, 6, 8])
    """

    rank = 1


@register
class SeparableConv2D(SeparableConv):
    """Separable convolution of images.

    Example:
        >>> tfconv.SeparableConv2D(8, 3, (2, 1), dilation_rate=2)(tf.ones([2, 7, 7, 4])).shape
        TensorShape([2, 2, 3, 8])
    """

    rank = 2


@register
class SeparableConv3D(SeparableConv):
    """Separable convolution of volumes.

    Example:
        >>> tfconv.SeparableConv3D(8, 3, padding="same")(tf.ones([2, 4, 4, 4, 3])).shape
        TensorShape([2, 4, 4, 4, 8])
    """

    rank = 3
