"""Convolution with groups that train everywhere, every padding, and strides with dilation."""

from __future__ import annotations

import tensorflow as tf

from tfconv import ops
from tfconv._compat import KERAS_3
from tfconv.layers.base import ConvLayer, OneKernelConv, register


class Conv(OneKernelConv, ConvLayer):
    """Convolution of any rank.

    ``y[p, f] = activation(bias[f] + sum_{t, c} kernel[t, c, f] * x[p * strides - pad +
    t * dilation, c])`` over the channels c of f's group.

    Input shape: [N, *spatial, C] (or [N, C, *spatial]).

    Output shape: [N, *output spatial, filters] (or [N, filters, *output spatial]).

    Weights:
        kernel: [*kernel_size, C / groups, filters].
        bias: [filters].

    Raises:
        ValueError: If an argument is not what is described above, or ``groups`` does not divide
            the input's channels.

    Source: Dumoulin and Visin, A guide to convolution arithmetic for deep learning,
    arXiv:1603.07285, sections 2 and 5.1.
    """

    extra_batch_axes = not KERAS_3  # as in Keras 2

    def build(self, input_shape):
        self.kernel = self.add_kernel(self.kernel_shape(input_shape))
        self.bias = self.add_bias((self.filters,))
        self.adapt_if_asked()
        self.built = True

    def convolved(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return ops.conv(x, kernel, groups=self.groups, **self.geometry_arguments)


@register
class Conv1D(Conv):
    """Convolution of signals.

    Example:
        >>> tfconv.Conv1D(8, 3, padding="causal", groups=2)(tf.ones([2, 6, 4])).shape
        TensorShape([2, 6, 8])
    """

    rank = 1


@register
class Conv2D(Conv):
    """Convolution of images.

    Example:
        >>> tfconv.Conv2D(8, 3, padding="full", dilation_rate=2)(tf.ones([2, 6, 6, 4])).shape
        TensorShape([2, 10, 10, 8])
    """

    rank = 2


@register
class Conv3D(Conv):
    """Convolution of volumes.

    Example:
        >>> tfconv.Conv3D(8, 3, strides=2, padding="same", groups=2)(tf.ones([2, 6, 6, 6, 4])).shape
        TensorShape([2, 3, 3, 3, 8])
    """

    rank = 3
