"""Group convolution: channels in groups that see only each other."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfconv import ops
from tfconv.layers.arguments import boolean
from tfconv.layers.conv import Conv
from tfconv.ops.geometry import spatial_sizes
from tfconv.ops.windows import product


class GroupConv(Conv):
    """Group convolution of any rank: one convolution for every group of channels.

    ``y[p, f] = activation(bias[f] + sum_{t, c} kernel[t, c, f] * x[p * strides - pad +
    t * dilation, g(f) * C / groups + c])``, where ``g(f) = f // (filters / groups)``. With
    ``share_kernel``, ``kernel[t, c, f mod (filters / groups)]`` takes the kernel's place: every
    group goes through the same one.

    Args:
        groups: Groups of channels; has to be given, and must divide the input's channels and
            ``filters``.
        use_bias: Whether there is a bias; it is each filter's own in any case.
        share_kernel: Whether all groups have one kernel.

    Weights:
        kernel: [*kernel_size, C / groups, filters], or [*kernel_size, C / groups,
            filters / groups] if shared.
        bias: [filters].

    Source: Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks,
    section 3; Xie et al., Aggregated Residual Transformations, arXiv:1611.05431.
    """

    by_position = 2

    def __init__(self, *args: Any, groups: int, share_kernel: bool = False, **kwargs: Any):
        super().__init__(*args, groups=groups, **kwargs)
        self.take(boolean, share_kernel=share_kernel)

    def kernel_shape(self, input_shape):
        shape = super().kernel_shape(input_shape)
        return (*shape[:-1], self.filters // self.groups) if self.share_kernel else shape

    def convolved(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return self._shared(x, kernel) if self.share_kernel else super().convolved(x, kernel)

    def _shared(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """One plain convolution, with the groups folded into the batch."""
        sizes, (width, filters) = spatial_sizes(x), kernel.shape[-2:]
        x = tf.reshape(x, [-1, product(sizes), self.groups, width])
        x = tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [-1, *sizes, width])
        y = ops.conv(x, kernel, **self.geometry_arguments)
        sizes = spatial_sizes(y)
        y = tf.reshape(y, [-1, self.groups, product(sizes), filters])
        return tf.reshape(tf.transpose(y, [0, 2, 1, 3]), [-1, *sizes, self.filters])


class GroupConv1D(GroupConv, rank=1):
    """Group convolution of sequences.

    Example:
        >>> tfconv.GroupConv1D(6, 3, groups=2)(tf.ones([2, 10, 4])).shape
        TensorShape([2, 8, 6])
    """


class GroupConv2D(GroupConv, rank=2):
    """Group convolution of images.

    Example:
        >>> layer = tfconv.GroupConv2D(8, 3, padding="same", groups=4, share_kernel=True)
        >>> layer(tf.ones([2, 6, 6, 12])).shape
        TensorShape([2, 6, 6, 8])
        >>> layer.kernel.shape == (3, 3, 3, 2)
        True
    """


class GroupConv3D(GroupConv, rank=3):
    """Group convolution of volumes.

    Example:
        >>> tfconv.GroupConv3D(6, 2, groups=3)(tf.ones([1, 4, 4, 4, 3])).shape
        TensorShape([1, 3, 3, 3, 6])
    """
