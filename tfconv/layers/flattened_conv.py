"""Flattened convolution: a filter across the channels, then one along each spatial axis."""

from __future__ import annotations

import tensorflow as tf

from tfconv.layers.base import require_built
from tfconv.layers.factorized import FactorizedConv


class FlattenedConv(FactorizedConv):
    """Convolution of any rank whose kernel is, for each output channel, a product of vectors.

    ``kernel[t, c, f] = channel_kernel[c, f] * prod_a axis_kernel_a[t_a, f]``: a 1x1 convolution
    to ``filters`` channels, then one 1-D filter along each spatial axis, each channel on its
    own.

    It has ``filters * (C / groups + sum(kernel_size))`` weights and a bias; a dense kernel has
    ``filters * C / groups * prod(kernel_size)``.

    Weights:
        channel_kernel: [1, ..., 1, C / groups, filters].
        axis_kernel_0 and so on, one for each spatial axis: [taps along it, filters].
        bias: [filters].

    Source: Jin et al., Flattened Convolutional Neural Networks for Feedforward Acceleration,
    arXiv:1412.5474, section 3.1.
    """

    def factor_shapes(self, channels):
        return {
            "channel_kernel": self.pointwise_shape(channels, self.filters),
            **self.axis_shapes(self.filters),
        }

    def convolved(self, x):
        return self.along_axes(self.pointwise(x, self.channel_kernel))

    def effective_kernel(self):
        """The dense kernel [*kernel_size, C / groups, filters] that the filters stand for."""
        require_built(self)
        across = tf.convert_to_tensor(self.channel_kernel)
        along = tf.reshape(self.axis_product(), [*self.kernel_size, 1, self.filters])
        return across * along


class FlattenedConv1D(FlattenedConv, rank=1):
    """Flattened convolution of sequences.

    Example:
        >>> layer = tfconv.FlattenedConv1D(8, 3)
        >>> layer(tf.ones([2, 10, 4])).shape
        TensorShape([2, 8, 8])
        >>> layer.effective_kernel().shape
        TensorShape([3, 4, 8])
    """


class FlattenedConv2D(FlattenedConv, rank=2):
    """Flattened convolution of images.

    Example:
        >>> layer = tfconv.FlattenedConv2D(8, 3, padding="same")
        >>> layer(tf.ones([2, 6, 6, 4])).shape
        TensorShape([2, 6, 6, 8])
        >>> layer.parameter_count(4)  # 8 * (4 + 3 + 3) + 8; a dense kernel: 8 * 4 * 9 + 8
        88
    """


class FlattenedConv3D(FlattenedConv, rank=3):
    """Flattened convolution of volumes.

    Example:
        >>> tfconv.FlattenedConv3D(8, 3, strides=2)(tf.ones([1, 7, 7, 7, 4])).shape
        TensorShape([1, 3, 3, 3, 8])
    """
