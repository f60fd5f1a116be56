"""Flattened convolution: a filter across the channels, then one along each spatial axis."""

from __future__ import annotations

import tensorflow as tf

from tfconv.layers.base import register, require_built
from tfconv.layers.factorized import FactorizedConv


class FlattenedConv(FactorizedConv):
    """Convolution of any rank whose kernel is, for each output channel, a product of vectors.

    ``kernel[t, c, f] = channel_kernel[c, f] * prod_a axis_kernel_a[t_a, f]``: a 1x1 convolution
    to ``filters`` channels, then one 1-D filter along each spatial axis, each channel on its
    own.

    It has ``filters * (C / groups + sum(kernel_size))`` weights and a bias; a dense kernel has
    ``filters * C / groups * prod(kernel_size)``.

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
        use_bias: Whether there is a bias.
        kernel_initializer, bias_initializer: Initializers of all filters and of the bias. The
            filters along the axes start as kernels of one channel.
        kernel_regularizer, bias_regularizer, activity_regularizer: Regularizers.
        kernel_constraint, bias_constraint: Constraints, of every filter.
        **kwargs: Keras's own: ``name``, ``dtype``, ``trainable``.

    Input shape: [N, *spatial, C] (or [N, C, *spatial]).

    Output shape: [N, *output spatial, filters].

    Weights:
        channel_kernel: [1, ..., 1, C / groups, filters].
        axis_kernel_0 and so on, one for each spatial axis: [taps along it, filters].
        bias: [filters].

    Raises:
        ValueError: If an argument is not what is described above, or ``groups`` does not divide
            the input's channels.

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


@register
class FlattenedConv1D(FlattenedConv):
    """Flattened convolution of sequences; see `FlattenedConv` for the arguments.

    Example:
        >>> layer = tfconv.FlattenedConv1D(8, 3)
        >>> layer(tf.ones([2, 10, 4])).shape
        TensorShape([2, 8, 8])
        >>> layer.effective_kernel().shape
        TensorShape([3, 4, 8])
    """

    rank = 1


@register
class FlattenedConv2D(FlattenedConv):
    """Flattened convolution of images; see `FlattenedConv` for the arguments.

    Example:
        >>> layer = tfconv.FlattenedConv2D(8, 3, padding="same")
        >>> layer(tf.ones([2, 6, 6, 4])).shape
        TensorShape([2, 6, 6, 8])
        >>> layer.parameter_count(4)  # 8 * (4 + 3 + 3) + 8; a dense kernel: 8 * 4 * 9 + 8
        88
    """

    rank = 2


@register
class FlattenedConv3D(FlattenedConv):
    """Flattened convolution of volumes; see `FlattenedConv` for the arguments.

    Example:
        >>> tfconv.FlattenedConv3D(8, 3, strides=2)(tf.ones([1, 7, 7, 7, 4])).shape
        TensorShape([1, 3, 3, 3, 8])
    """

    rank = 3
