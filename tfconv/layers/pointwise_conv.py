"""Pointwise convolution: one tap, channels only."""

from __future__ import annotations

from typing import Any

from tfconv.layers.conv import Conv


class PointwiseConv(Conv):
    """Pointwise ("1x1") convolution of any rank: a dense layer over the channels of each pixel.

    ``y[p, f] = activation(bias[f] + sum_c kernel[c, f] * x[p * strides - pad, c])`` over the
    channels c of f's group.

    Args:
        padding: An int or one (before, after) pair per spatial axis puts zeros around the
            input. With one tap, all names ("valid", "same", ...) mean none.
        dilation_rate: Taken for the sake of Keras's order; nothing depends on it.

    Weights:
        kernel: [1, ..., C / groups, filters], with a 1 for each spatial axis.
        bias: [filters].

    Source: Lin et al., Network In Network, arXiv:1312.4400, section 3.1.
    """

    by_position = 1
    fixed = ("kernel_size",)

    def __init__(self, filters: int, **kwargs: Any):
        super().__init__(filters, 1, **kwargs)


class PointwiseConv1D(PointwiseConv, rank=1):
    """Pointwise convolution of signals.

    Example:
        >>> tfconv.PointwiseConv1D(8, strides=2)(tf.ones([2, 6, 4])).shape
        TensorShape([2, 3, 8])
    """


class PointwiseConv2D(PointwiseConv, rank=2):
    """Pointwise convolution of images.

    Example:
        >>> tfconv.PointwiseConv2D(8, groups=2)(tf.ones([2, 6, 6, 4])).shape
        TensorShape([2, 6, 6, 8])
    """


class PointwiseConv3D(PointwiseConv, rank=3):
    """Pointwise convolution of volumes.

    Example:
        >>> tfconv.PointwiseConv3D(8)(tf.ones([2, 3, 3, 3, 4])).shape
        TensorShape([2, 3, 3, 3, 8])
    """
