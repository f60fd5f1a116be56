"""Separable convolution: every channel by itself, then all channels of each pixel."""

from __future__ import annotations

from typing import Any

from tfconv import ops
from tfconv.layers.arguments import positive_int
from tfconv.layers.depthwise_conv import DepthwiseConv
from tfconv.layers.signatures import in_order
from tfconv.layers.spatial import OF_WINDOWS


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

    Output shape: [N, *output spatial, filters] (or [N, filters, *output spatial]).

    Weights:
        depthwise_kernel: [*kernel_size, C, depth_multiplier].
        pointwise_kernel: [1, ..., C * depth_multiplier, filters], with a 1 for each spatial axis.
        bias: [filters].

    Source: Chollet, Xception, arXiv:1610.02357, section 1.
    """

    weight_arguments = {"pointwise": "glorot_uniform"}
    fixed = (*DepthwiseConv.fixed, "lora_rank", "lora_alpha")

    @in_order(
        *("filters", *OF_WINDOWS, "depth_multiplier", "activation", "use_bias"),
        *("depthwise_initializer", "pointwise_initializer", "bias_initializer"),
        *("depthwise_regularizer", "pointwise_regularizer", "bias_regularizer"),
        *("activity_regularizer", "depthwise_constraint", "pointwise_constraint"),
        "bias_constraint",
    )
    def __init__(self, *, filters: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.take(positive_int, filters=filters)

    def output_channels(self, channels):
        return self.filters

    @property
    def kernel(self) -> Any:
        """None: there are two."""
        raise AttributeError("Separable convolutions have `depthwise_kernel`, `pointwise_kernel`.")

    def build_pointwise(self, channels):
        shape = (*[1] * self.rank, channels, self.filters)
        self.pointwise_kernel = self.add_like(shape, "pointwise_kernel", "pointwise")

    def convolved(self, x, kernel):
        y = super().convolved(x, kernel)
        return ops.conv(y, self.computed(self.pointwise_kernel), data_format="channels_last")


class SeparableConv1D(SeparableConv, rank=1):
    """Separable convolution of signals.

    Example:
        >>> tfconv.SeparableConv1D(8, 3, padding="causal")(tf.ones([2, 6, 4])).shape
        TensorShape([2, 6, 8])
    """


class SeparableConv2D(SeparableConv, rank=2):
    """Separable convolution of images.

    Example:
        >>> tfconv.SeparableConv2D(8, 3, (2, 1), dilation_rate=2)(tf.ones([2, 7, 7, 4])).shape
        TensorShape([2, 2, 3, 8])
    """


class SeparableConv3D(SeparableConv, rank=3):
    """Separable convolution of volumes.

    Example:
        >>> tfconv.SeparableConv3D(8, 3, padding="same")(tf.ones([2, 4, 4, 4, 3])).shape
        TensorShape([2, 4, 4, 4, 8])
    """
