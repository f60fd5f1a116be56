"""Transposed convolution with groups, dilation, output padding and every padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfconv import ops
from tfconv.layers.arguments import optional
from tfconv.layers.base import register
from tfconv.layers.conv import Conv
from tfconv.ops.conv_transpose import transposed_crops, transposed_shape
from tfconv.ops.geometry import Padding, per_axis


class ConvTranspose(Conv):
    """Transposed convolution ("deconvolution") of any rank.

    ``y[i, f] = activation(bias[f] + sum kernel[t, f, c] * x[p, c])`` over all pixels p, taps t
    and channels c of f's group with ``p * strides + t * dilation = i + before``, where the
    padding gives ``before``: the gradient of a convolution with these arguments for its input.

    Args:
        strides: Outputs between neighbouring pixels.
        padding: "valid", "same", "full", "causal" (1-D), an int, or one (before, after) pair
            per spatial axis: what is cut off the outputs. `tfconv.ops.conv_transpose` has the
            sizes: those of Keras for "valid" and "same", those of PyTorch for ints and pairs.
        output_padding: Outputs added after the last ones, below the larger of stride and
            dilation; an int or one int per axis. None: what the padding gives by itself.
        dilation_rate: Outputs between neighbouring taps; may exceed 1 together with strides.

    Input shape: [N, *spatial, C] (or [N, C, *spatial]).

    Output shape: [N, *output spatial, filters] (or [N, filters, *output spatial]).

    Weights:
        kernel: [*kernel_size, filters / groups, C].
        bias: [filters].

    Raises:
        ValueError: If an argument is not what is described above, or ``groups`` does not divide
            the input's channels.

    Source: Dumoulin and Visin, A guide to convolution arithmetic for deep learning,
    arXiv:1603.07285, section 4.
    """

    extra_batch_axes, takes_no_pixels = False, True
    fixed = ("padding_mode",)

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        output_padding: int | Sequence[int] | None = None,
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        *args: Any,
        groups: int = 1,
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
        self.take(optional(self._output_padding), output_padding=output_padding)
        self._crops()  # checks them

    def _output_padding(self, value: Any, name: str) -> tuple[int, ...]:
        return per_axis(value, self.rank, name, minimum=0)

    def _crops(self):
        return transposed_crops(self.geometry, self.padding, self.output_padding)

    def kernel_shape(self, input_shape: Any) -> tuple[int, ...]:
        """[*kernel_size, filters / groups, C] for an input shape."""
        *size, width, _ = super().kernel_shape(input_shape)
        return (*size, self.filters // self.groups, width * self.groups)

    def output_sizes(self, sizes):
        return transposed_shape(self.geometry, self._crops(), sizes)

    def convolved(self, x, kernel):
        return ops.conv_transpose(
            x,
            kernel,
            output_padding=self.output_padding,
            groups=self.groups,
            **self.geometry_arguments,
        )


@register
class Conv1DTranspose(ConvTranspose):
    """Transposed convolution of signals.

    Example:
        >>> tfconv.Conv1DTranspose(8, 3, strides=2, padding="causal")(tf.ones([2, 6, 4])).shape
        TensorShape([2, 12, 8])
    """

    rank = 1


@register
class Conv2DTranspose(ConvTranspose):
    """Transposed convolution of images.

    Example:
        >>> layer = tfconv.Conv2DTranspose(8, 3, strides=2, padding="same", groups=2)
        >>> layer(tf.ones([2, 6, 6, 4])).shape
        TensorShape([2, 12, 12, 8])
    """

    rank = 2


@register
class Conv3DTranspose(ConvTranspose):
    """Transposed convolution of volumes.

    Example:
        >>> layer = tfconv.Conv3DTranspose(2, 2, strides=2, padding=1, output_padding=1)
        >>> layer(tf.ones([2, 3, 3, 3, 4])).shape
        TensorShape([2, 5, 5, 5, 2])
    """

    rank = 3
