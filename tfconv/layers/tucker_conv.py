"""Tucker convolution: a small convolution between two 1x1 ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfconv import ops
from tfconv.layers.base import require_built
from tfconv.layers.factorized import FactorizedConv
from tfconv.ops.geometry import per_axis


class TuckerConv(FactorizedConv):
    """Convolution of any rank whose kernel has low ranks across input and output channels.

    ``kernel[t, c, f] = sum_{i, o} input_kernel[c, i] * core_kernel[t, i, o] *
    output_kernel[o, f]``, the Tucker-2 decomposition: a 1x1 convolution to ``ranks[0]``
    channels, a convolution to ``ranks[1]`` channels, and a 1x1 convolution to ``filters``.

    It has ``(C * ranks[0] + prod(kernel_size) * ranks[0] * ranks[1] + ranks[1] * filters) /
    groups`` weights and a bias; a dense kernel has ``filters * C / groups *
    prod(kernel_size)``.

    Args:
        ranks: Channels before and after the convolution in the middle, of all groups together;
            an int for both, or two. Must be divisible by ``groups``.

    Weights:
        input_kernel: [1, ..., 1, C / groups, ranks[0]].
        core_kernel: [*kernel_size, ranks[0] / groups, ranks[1]].
        output_kernel: [1, ..., 1, ranks[1] / groups, filters].
        bias: [filters].

    Source: Kim et al., Compression of Deep Convolutional Neural Networks for Fast and Low Power
    Mobile Applications, arXiv:1511.06530, section 3.1.
    """

    def __init__(self, *args: Any, ranks: int | Sequence[int], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.take(_two, ranks=ranks)
        if any(rank % self.groups for rank in self.ranks):
            raise ValueError(
                "`ranks` must be divisible by `groups`. "
                f"Received: ranks={ranks!r}, groups={self.groups}"
            )

    def factor_shapes(self, channels):
        inputs, outputs = self.ranks
        return {
            "input_kernel": self.pointwise_shape(channels, inputs),
            "core_kernel": (*self.kernel_size, inputs // self.groups, outputs),
            "output_kernel": self.pointwise_shape(outputs, self.filters),
        }

    def convolved(self, x):
        x = self.pointwise(x, self.input_kernel)
        core = self.computed(self.core_kernel)
        x = ops.conv(x, core, groups=self.groups, **self.geometry_arguments)
        return self.pointwise(x, self.output_kernel)

    def effective_kernel(self):
        """The dense kernel [*kernel_size, C / groups, filters] that the factors stand for."""
        require_built(self)
        taps, width = self.geometry.taps, self.input_kernel.shape[-2]
        inner = self.by_group(self.input_kernel)  # [groups, C / groups, inputs of a group]
        core = self.by_group(self.core_kernel)  # [groups, taps * inputs, outputs of a group]
        kernel = tf.matmul(core, self.by_group(self.output_kernel))
        kernel = tf.reshape(kernel, [self.groups, taps, inner.shape[-1], -1])
        kernel = tf.reshape(tf.transpose(kernel, [0, 2, 1, 3]), [self.groups, inner.shape[-1], -1])
        kernel = tf.reshape(tf.matmul(inner, kernel), [self.groups, width, taps, -1])
        kernel = tf.transpose(kernel, [2, 1, 0, 3])
        return tf.reshape(kernel, [*self.kernel_size, width, self.filters])


def _two(value: Any, name: str) -> tuple[int, ...]:
    try:
        return per_axis(value, 2, name)
    except ValueError:
        raise ValueError(
            f"`{name}` must be a positive integer or two of them. Received: {name}={value!r}"
        ) from None


class TuckerConv1D(TuckerConv, rank=1):
    """Tucker convolution of sequences.

    Example:
        >>> tfconv.TuckerConv1D(8, 3, ranks=2)(tf.ones([2, 10, 4])).shape
        TensorShape([2, 8, 8])
    """


class TuckerConv2D(TuckerConv, rank=2):
    """Tucker convolution of images.

    Example:
        >>> layer = tfconv.TuckerConv2D(8, 3, padding="same", ranks=(2, 3))
        >>> layer(tf.ones([2, 6, 6, 4])).shape
        TensorShape([2, 6, 6, 8])
        >>> layer.parameter_count(4)  # 4 * 2 + 9 * 2 * 3 + 3 * 8 + 8
        94
        >>> layer.effective_kernel().shape
        TensorShape([3, 3, 4, 8])
    """


class TuckerConv3D(TuckerConv, rank=3):
    """Tucker convolution of volumes.

    Example:
        >>> layer = tfconv.TuckerConv3D(8, 3, strides=2, ranks=2)
        >>> layer(tf.ones([1, 7, 7, 7, 4])).shape
        TensorShape([1, 3, 3, 3, 8])
    """
