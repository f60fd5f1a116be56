"""Pointwise convolution: one tap, channels only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfconv.layers.base import register
from tfconv.layers.conv import Conv
from tfconv.ops.geometry import Padding


class PointwiseConv(Conv):
    """Pointwise ("1x1") convolution of any rank: a dense layer over the channels of each pixel.

    ``y[p, f] = activation(bias[f] + sum_c kernel[c, f] * x[p * strides - pad, c])`` over the
    channels c of f's group.

    Args:
        filters: Output channels.
        strides: Pixels between neighbouring outputs.
        padding: An int or one (before, after) pair per spatial axis puts zeros around the
            input. With one tap, all names ("valid", "same", ...) mean none.
        data_format: "channels_last" or "channels_first"; None takes Keras's setting.
        dilation_rate: Taken for the sake of Keras's order; nothing depends on it.
        groups: Groups of channels, and of filters, that see only each other.
        activation: Activation of the outputs.
        use_bias: Whether there is a bias.
        kernel_initializer, bias_initializer: Initializers.
        kernel_regularizer, bias_regularizer, activity_regularizer: Regularizers.
        kernel_constraint, bias_constraint: Constraints.
        **kwargs: Keras's own: ``name``, ``dtype``, ``trainable``.

    Input shape: [N, *spatial, C] (or [N, C, *spatial]).

    Output shape: [N, *output spatial, filters] (or [N, filters, *output spatial]).

    Weights:
        kernel: [1, ..., C / groups, filters], with a 1 for each spatial axis.
        bias: [filters].

    Raises:
        ValueError: If an argument is not what is described above, or ``groups`` does not divide
            the input's channels.

    Source: Lin et al., Network In Network, arXiv:1312.4400, section 3.1.
    """

    def __init__(
        self,
        filters: int,
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        *args: Any,
        **kwargs: Any,
    ):
        super().__init__(
            filters, 1, strides, padding, data_format, dilation_rate, groups, *args, **kwargs
        )

    def get_config(self):
        config = super().get_config()
        del config["kernel_size"]
        return config


@register
class PointwiseConv1D(PointwiseConv):
    """Pointwise convolution of signals; see `tfconv.layers.pointwise_conv.PointwiseConv`.

    ``y[p, f] = activation(bias[f] + sum_c kernel[c, f] * x[p * strides, c])``.

    Example:
        >>> tfconv.PointwiseConv1D(8, strides=2)(tf.ones([2, 6, 4])).shape
        TensorShape([2, 3, 8])
    """

    rank = 1


@register
class PointwiseConv2D(PointwiseConv):
    """Pointwise convolution of images; see `tfconv.layers.pointwise_conv.PointwiseConv`.

    ``y[p, f] = activation(bias[f] + sum_c kernel[c, f] * x[p * strides, c])``.

    Example:
        >>> tfconv.PointwiseConv2D(8, groups=2)(tf.ones([2, 6, 6, 4])).shape
        TensorShape([2, 6, 6, 8])
    """

    rank = 2


@register
class PointwiseConv3D(PointwiseConv):
    """Pointwise convolution of volumes; see `tfconv.layers.pointwise_conv.PointwiseConv`.

    ``y[p, f] = activation(bias[f] + sum_c kernel[c, f] * x[p * strides, c])``.

    Example:
        >>> tfconv.PointwiseConv3D(8)(tf.ones([2, 3, 3, 3, 4])).shape
        TensorShape([2, 3, 3, 3, 8])
    """

    rank = 3
