"""Tucker convolution: a small convolution between two 1x1 ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfconv import ops
from tfconv.layers.base import register, require_built
from tfconv.layers.factorized import FactorizedConv
from tfconv.ops.geometry import Padding, per_axis


class TuckerConv(FactorizedConv):
    """Convolution of any rank whose kernel has low ranks across input and output channels.

    ``kernel[t, c, f] = sum_{i, o} input_kernel[c, i] * core_kernel[t, i, o] *
    output_kernel[o, f]``, the Tucker-2 decomposition: a 1x1 convolution to ``ranks[0]``
    channels, a convolution to ``ranks[1]`` channels, and a 1x1 convolution to ``filters``.

    It has ``(C * ranks[0] + prod(kernel_size) * ranks[0] * ranks[1] + ranks[1] * filters) /
    groups`` weights and a bias; a dense kernel has ``filters * C / groups *
    prod(kernel_size)``.

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
        kernel_initializer, bias_initializer: Initializers of all three kernels and of the bias.
        kernel_regularizer, bias_regularizer, activity_regularizer: Regularizers.
        kernel_constraint, bias_constraint: Constraints, of every kernel.
        ranks: Channels before and after the convolution in the middle, of all groups together;
            an int for both, or two. Must be divisible by ``groups``.
        **kwargs: Keras's own: ``name``, ``dtype``, ``trainable``.

    Input shape: [N, *spatial, C] (or [N, C, *spatial]).

    Output shape: [N, *output spatial, filters].

    Weights:
        input_kernel: [1, ..., 1, C / groups, ranks[0]].
        core_kernel: [*kernel_size, ranks[0] / groups, ranks[1]].
        output_kernel: [1, ..., 1, ranks[1] / groups, filters].
        bias: [filters].

    Raises:
        ValueError: If an argument is not what is described above, or ``groups`` does not divide
            the input's channels.

    Source: Kim et al., Compression of Deep Convolutional Neural Networks for Fast and Low Power
    Mobile Applications, arXiv:1511.06530, section 3.1.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        *args: Any,
        ranks: int | Sequence[int],
        **kwargs: Any,
    ):
        super().__init__(
            filters,
            kernel_size,
            strides,
            padding,
            data_format,
            dilation_rate,
            groups,
            *args,
            **kwargs,
        )
        try:
            self.ranks = per_axis(ranks, 2, "ranks")
        except ValueError:
            raise ValueError(
                f"`ranks` must be a positive integer or two of them. Received: ranks={ranks!r}"
            ) from None
        if any(rank % self.groups for rank in self.ranks):
            raise ValueError(
                f"`ranks` must be divisible by `groups`. Received: ranks={ranks!r}, groups={groups}"
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
        core = self.weight(self.core_kernel)
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

    def get_config(self):
        return {**super().get_config(), "ranks": list(self.ranks)}


@register
class TuckerConv1D(TuckerConv):
    """Tucker convolution of sequences; see `TuckerConv` for the arguments.

    Example:
        >>> tfconv.TuckerConv1D(8, 3, ranks=2)(tf.ones([2, 10, 4])).shape
        TensorShape([2, 8, 8])
    """

    rank = 1


@register
class TuckerConv2D(TuckerConv):
    """Tucker convolution of images; see `TuckerConv` for the arguments.

    Example:
        >>> layer = tfconv.TuckerConv2D(8, 3, padding="same", ranks=(2, 3))
        >>> layer(tf.ones([2, 6, 6, 4])).shape
        TensorShape([2, 6, 6, 8])
        >>> layer.parameter_count(4)  # 4 * 2 + 9 * 2 * 3 + 3 * 8 + 8
        94
        >>> layer.effective_kernel().shape
        TensorShape([3, 3, 4, 8])
    """

    rank = 2


@register
class TuckerConv3D(TuckerConv):
    """Tucker convolution of volumes; see `TuckerConv` for the arguments.

    Example:
        >>> layer = tfconv.TuckerConv3D(8, 3, strides=2, ranks=2)
        >>> layer(tf.ones([1, 7, 7, 7, 4])).shape
        TensorShape([1, 3, 3, 3, 8])
    """

    rank = 3
