"""Convolution with groups that train everywhere, every padding, and strides with dilation."""

from __future__ import annotations

import tensorflow as tf

from tfconv import ops
from tfconv._compat import KERAS_3
from tfconv.layers.spatial import ConvLayer, OneKernelConv


class Conv(OneKernelConv, ConvLayer):
    """Convolution of any rank.

    ``y[p, f] = activation(bias[f] + sum_{t, c} kernel[t, c, f] * x[p * strides - pad +
    t * dilation, c])`` over the channels c of f's group.

    Weights:
        kernel: [*kernel_size, C / groups, filters].
        bias: [filters].

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


class Conv1D(Conv, rank=1):
    """Convolution of signals.

    Example:
        >>> tfconv.Conv1D(8, 3, padding="causal", groups=2)(tf.ones([2, 6, 4])).shape
        TensorShape([2, 6, 8])
    """


class Conv2D(Conv, rank=2):
    """Convolution of images.

    Example:
        >>> tfconv.Conv2D(8, 3, padding="full", dilation_rate=2)(tf.ones([2, 6, 6, 4])).shape
        TensorShape([2, 10, 10, 8])
    """


class Conv3D(Conv, rank=3):
    """Convolution of volumes.

    Example:
        >>> tfconv.Conv3D(8, 3, strides=2, padding="same", groups=2)(tf.ones([2, 6, 6, 6, 4])).shape
        TensorShape([2, 3, 3, 3, 8])
    """
