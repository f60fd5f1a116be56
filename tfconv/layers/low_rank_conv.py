"""Low-rank convolution: the kernel is a sum of a few separable ones."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfconv.layers.arguments import positive_int
from tfconv.layers.base import require_built
from tfconv.layers.factorized import FactorizedConv


class LowRankConv(FactorizedConv):
    """Convolution of any rank whose kernel is a sum of ``kernel_rank`` separable kernels.

    ``kernel[t, c, f] = sum_r input_kernel[c, r] * prod_a axis_kernel_a[t_a, r] *
    output_kernel[r, f]``, the canonical polyadic decomposition: a 1x1 convolution to
    ``kernel_rank`` channels, one 1-D filter along each spatial axis, each channel on its own,
    and a 1x1 convolution to ``filters`` channels.

    It has ``kernel_rank * (C / groups + sum(kernel_size) + filters / groups)`` weights and a
    bias; a dense kernel has ``filters * C / groups * prod(kernel_size)``.

    Args:
        kernel_rank: Separable kernels in the sum, of all groups together; must be divisible by
            ``groups``.

    Weights:
        input_kernel: [1, ..., 1, C / groups, kernel_rank].
        axis_kernel_0 and so on, one for each spatial axis: [taps along it, kernel_rank].
        output_kernel: [1, ..., 1, kernel_rank / groups, filters].
        bias: [filters].

    Source: Lebedev et al., Speeding-up Convolutional Neural Networks Using Fine-tuned
    CP-Decomposition, arXiv:1412.6553, section 3.2.
    """

    def __init__(self, *args: Any, kernel_rank: int, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.take(positive_int, kernel_rank=kernel_rank)
        if self.kernel_rank % self.groups:
            raise ValueError(
                "`kernel_rank` must be divisible by `groups`. "
                f"Received: kernel_rank={kernel_rank}, groups={self.groups}"
            )

    def factor_shapes(self, channels):
        return {
            "input_kernel": self.pointwise_shape(channels, self.kernel_rank),
            **self.axis_shapes(self.kernel_rank),
            "output_kernel": self.pointwise_shape(self.kernel_rank, self.filters),
        }

    def convolved(self, x):
        x = self.along_axes(self.pointwise(x, self.input_kernel))
        return self.pointwise(x, self.output_kernel)

    def effective_kernel(self):
        """The dense kernel [*kernel_size, C / groups, filters] that the factors stand for."""
        require_built(self)
        taps, width = self.geometry.taps, self.input_kernel.shape[-2]
        inner = self.by_group(self.input_kernel)  # [groups, C / groups, ranks of a group]
        along = tf.reshape(self.axis_product(), [taps, self.groups, -1])
        along = tf.transpose(along, [1, 0, 2])[:, :, None]
        inner = tf.reshape(along * inner[:, None], [self.groups, taps * width, -1])
        outer = self.by_group(self.output_kernel)  # [groups, ranks of a group, filters of one]
        kernel = tf.transpose(tf.matmul(inner, outer), [1, 0, 2])
        return tf.reshape(kernel, [*self.kernel_size, width, self.filters])


class LowRankConv1D(LowRankConv, rank=1):
    """Low-rank convolution of sequences.

    Example:
        >>> tfconv.LowRankConv1D(8, 3, kernel_rank=2)(tf.ones([2, 10, 4])).shape
        TensorShape([2, 8, 8])
    """


class LowRankConv2D(LowRankConv, rank=2):
    """Low-rank convolution of images.

    Example:
        >>> layer = tfconv.LowRankConv2D(8, 3, padding="same", kernel_rank=4)
        >>> layer(tf.ones([2, 6, 6, 4])).shape
        TensorShape([2, 6, 6, 8])
        >>> layer.parameter_count(4)  # 4 * (4 + 3 + 3 + 8) + 8
        80
        >>> layer.effective_kernel().shape
        TensorShape([3, 3, 4, 8])
    """


class LowRankConv3D(LowRankConv, rank=3):
    """Low-rank convolution of volumes.

    Example:
        >>> layer = tfconv.LowRankConv3D(8, 3, strides=2, kernel_rank=2)
        >>> layer(tf.ones([1, 7, 7, 7, 4])).shape
        TensorShape([1, 3, 3, 3, 8])
    """
