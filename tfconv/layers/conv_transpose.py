"""Transposed convolution with groups, dilation, output padding and every padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfconv import ops
from tfconv.layers.arguments import optional
from tfconv.layers.conv import Conv
from tfconv.layers.signatures import in_order
from tfconv.layers.spatial import OF_KERNELS
from tfconv.ops.conv_transpose import transposed_crops, transposed_shape
from tfconv.ops.geometry import per_axis


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
        padding_mode: Only "zeros": the padding cuts outputs off, and puts nothing around the input.
        output_padding: Outputs added after the last ones, below the larger of stride and
            dilation; an int or one int per axis. None: what the padding gives by itself.
        dilation_rate: Outputs between neighbouring taps; may exceed 1 together with strides.

    Weights:
        kernel: [*kernel_size, filters / groups, C].
        bias: [filters].

    Source: Dumoulin and Visin, A guide to convolution arithmetic for deep learning,
    arXiv:1603.07285, section 4.
    """

    extra_batch_axes, takes_no_pixels = False, True

    @in_order(
        *("filters", "kernel_size", "strides", "padding", "output_padding", "data_format"),
        *("dilation_rate", *OF_KERNELS),
    )
    def __init__(self, *, output_padding: int | Sequence[int] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        if self.padding_mode != "zeros":
            raise ValueError(
                '`padding_mode` must be "zeros": the padding of a transposed convolution cuts '
                "outputs off, so that no pixels stand for what is around its input. "
                f"Received: padding_mode={self.padding_mode!r}"
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


class Conv1DTranspose(ConvTranspose, rank=1):
    """Transposed convolution of signals.

    Example:
        >>> tfconv.Conv1DTranspose(8, 3, strides=2, padding="causal")(tf.ones([2, 6, 4])).shape
        TensorShape([2, 12, 8])
    """


class Conv2DTranspose(ConvTranspose, rank=2):
    """Transposed convolution of images.

    Example:
        >>> layer = tfconv.Conv2DTranspose(8, 3, strides=2, padding="same", groups=2)
        >>> layer(tf.ones([2, 6, 6, 4])).shape
        TensorShape([2, 12, 12, 8])
    """


class Conv3DTranspose(ConvTranspose, rank=3):
    """Transposed convolution of volumes.

    Example:
        >>> layer = tfconv.Conv3DTranspose(2, 2, strides=2, padding=1, output_padding=1)
        >>> layer(tf.ones([2, 3, 3, 3, 4])).shape
        TensorShape([2, 5, 5, 5, 2])
    """
