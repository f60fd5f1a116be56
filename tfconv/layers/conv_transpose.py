"""Transposed convolution with groups, dilation, output padding and every padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfconv import ops
from tfconv.layers.base import register, static_shape
from tfconv.layers.conv import Conv
from tfconv.ops.conv_transpose import transposed_crops, transposed_shape
from tfconv.ops.geometry import Padding, per_axis


class ConvTranspose(Conv):
    """Transposed convolution ("deconvolution") of any rank.

    ``y[i, f] = activation(bias[f] + sum kernel[t, f, c] * x[p, c])`` over all pixels p, taps t
    and channels c of f's group with ``p * strides + t * dilation = i + before``, where the
    padding gives ``before``: the gradient of a convolution with these arguments for its input.

    Args:
        filters: Output channels.
        kernel_size: Taps per spatial axis; an int or one int per axis.
        strides: Outputs between neighbouring pixels.
        padding: "valid", "same", "full", "causal" (1-D), an int, or one (before, after) pair
            per spatial axis: what is cut off the outputs. `tfconv.ops.conv_transpose` has the
            sizes: those of Keras for "valid" and "same", those of PyTorch for ints and pairs.
        output_padding: Outputs added after the last ones, below the larger of stride and
            dilation; an int or one int per axis. None: what the padding gives by itself.
        data_format: "channels_last" or "channels_first"; None takes Keras's setting.
        dilation_rate: Outputs between neighbouring taps; may exceed 1 together with strides.
        activation: Activation of the outputs.
        use_bias: Whether there is a bias.
        kernel_initializer, bias_initializer: Initializers.
        kernel_regularizer, bias_regularizer, activity_regularizer: Regularizers.
        kernel_constraint, bias_constraint: Constraints.
        groups: Groups of channels, and of filters, that see only each other.
        **kwargs: Keras's own: ``name``, ``dtype``, ``trainable``.

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
        if output_padding is not None:
            output_padding = per_axis(output_padding, self.rank, "output_padding", minimum=0)
        self.output_padding = output_padding
        self._crops()  # checks them

    def _crops(self):
        return transposed_crops(self.geometry, self.padding, self.output_padding)

    def kernel_shape(self, input_shape: Any) -> tuple[int, ...]:
        """[*kernel_size, filters / groups, C] for an input shape."""
        *size, width, _ = super().kernel_shape(input_shape)
        return (*size, self.filters // self.groups, width * self.groups)

    @property
    def least_sizes(self) -> tuple[int, ...]:
        kept = (kept for _, kept in self._crops())
        return tuple(1 + -(-(1 - k) // s) for k, s in zip(kept, self.strides))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        shape = list(static_shape(input_shape))
        first = 1 if self.data_format == "channels_last" else 2
        spatial = slice(first, first + self.rank)
        shape[spatial] = transposed_shape(self.geometry, self._crops(), shape[spatial])
        shape[self.channel_axis] = self.filters
        return tuple(shape)

    def convolved(self, x, kernel):
        return ops.conv_transpose(
            x,
            kernel,
            output_padding=self.output_padding,
            groups=self.groups,
            **self.geometry_arguments,
        )

    def get_config(self):
        output_padding = None if self.output_padding is None else list(self.output_padding)
        return {**super().get_config(), "output_padding": output_padding}


@register
class Conv1DTranspose(ConvTranspose):
    """Transposed convolution of signals; see `tfconv.layers.conv_transpose.ConvTranspose`.

    ``y[i, f] = activation(bias[f] + sum kernel[t, f, c] * x[p, c])`` over all p, t and c with
    ``p * strides + t * dilation = i + before``.

    Example:
        >>> tfconv.Conv1DTranspose(8, 3, strides=2, padding="causal")(tf.ones([2, 6, 4])).shape
        TensorShape([2, 12, 8])
    """

    rank = 1


@register
class Conv2DTranspose(ConvTranspose):
    """Transposed convolution of images; see `tfconv.layers.conv_transpose.ConvTranspose`.

    ``y[i, f] = activation(bias[f] + sum kernel[t, f, c] * x[p, c])`` over all p, t and c with
    ``p * strides + t * dilation = i + before``.

    Example:
        >>> layer = tfconv.Conv2DTranspose(8, 3, strides=2, padding="same", groups=2)
        >>> layer(tf.ones([2, 6, 6, 4])).shape
        TensorShape([2, 12, 12, 8])
    """

    rank = 2


@register
class Conv3DTranspose(ConvTranspose):
    """Transposed convolution of volumes; see `tfconv.layers.conv_transpose.ConvTranspose`.

    ``y[i, f] = activation(bias[f] + sum kernel[t, f, c] * x[p, c])`` over all p, t and c with
    ``p * strides + t * dilation = i + before``.

    Example:
        >>> layer = tfconv.Conv3DTranspose(2, 2, strides=2, padding=1, output_padding=1)
        >>> layer(tf.ones([2, 3, 3, 3, 4])).shape
        TensorShape([2, 5, 5, 5, 2])
    """

    rank = 3
