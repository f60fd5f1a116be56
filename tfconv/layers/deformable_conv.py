"""Deformable convolution: the taps move by offsets learned from the input."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfconv import ops
from tfconv.layers.arguments import boolean, number, positive_int, positive_number
from tfconv.layers.calls import OptionalInputs
from tfconv.layers.spatial import ConvLayer, OneKernelConv


class DeformableConv(OptionalInputs, OneKernelConv, ConvLayer):
    """Deformable convolution of any rank, version 2 (modulated) or 1.

    ``y[p, f] = activation(bias[f] + sum_{t, c} kernel[t, c, f] * mask[p, o(c), t] *
    linear(x[..., c], p * strides - pad + t * dilation + offset[p, o(c), t]))``, with linear
    interpolation along each axis, where what lies outside of x counts as zero. Offsets (in
    pixels) and masks come from the caller or, when none are given, from a convolution of the
    input with the same kernel size, strides, padding and dilation, whose weights start at
    zero. With ``mask = mask_scale * sigmoid(...)`` the layer so starts as a plain convolution:
    put in the place of one, with its weights, it gives the same until it is trained. Offsets may
    move taps anywhere, with ``padding="causal"`` to later steps, too.

    Args:
        offset_groups: Groups of input channels that have offsets of their own.
        modulated: True for version 2, with a mask; False for version 1.
        offset_initializer, offset_regularizer, offset_constraint: Of the kernel that makes
            offsets and masks.
        offset_bias_initializer, offset_bias_regularizer, offset_bias_constraint: Of its bias.
        offset_learning_rate_multiplier: Factor of the gradients of the weights that make
            offsets and masks; the papers take 0.1, and 0 freezes them. With SGD, momentum or
            not, that is a learning rate of their own. Adaptive optimizers such as Adam mostly
            undo such factors.
        mask_scale: Factor of the masks that the layer makes: 2 for masks from 0 to 2 that start
            at 1, 1 for masks from 0 to 1 that start at one half, as in the paper.

    Call arguments:
        inputs: [N, *spatial, C] tensor (or [N, C, *spatial]).
        offset: Optional [N, *output, offset_groups * taps * rank] tensor in pixels, index
            ``(o * taps + tap) * rank + axis`` (in images dy, then dx), channels first if the
            inputs are. A layer first called with it has no offset convolution of its own.
        modulation: The masks: optional [N, *output, offset_groups * taps] tensor, only together
            with ``offset``; without it, samples are not modulated. (``mask`` was its name; in
            Keras, that says which timesteps count.)

    Output shape: [N, *output, filters].

    Weights:
        kernel: [*kernel_size, C / groups, filters].
        bias: [filters].
        offset_kernel: [*kernel_size, C, offset_groups * taps * (rank + 1 if modulated else rank)]:
            offsets first, then masks.
        offset_bias: one for each of its outputs.

    Raises:
        ValueError: If an argument is not what is described above, or ``offset_groups`` does not
            divide the input's channels.

    Source: Dai et al., Deformable Convolutional Networks, arXiv:1703.06211, section 2.1; Zhu et
    al., Deformable ConvNets v2, arXiv:1811.11168, section 3.2.
    """

    by_position = 2
    weight_arguments = {"offset": "zeros", "offset_bias": "zeros"}

    def __init__(
        self,
        *args: Any,
        offset_groups: int = 1,
        modulated: bool = True,
        offset_learning_rate_multiplier: float = 1.0,
        mask_scale: float = 2.0,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.take(positive_int, offset_groups=offset_groups)
        self.take(boolean, modulated=modulated)
        self.take(number, offset_learning_rate_multiplier=offset_learning_rate_multiplier)
        self.take(positive_number, mask_scale=mask_scale)

    def __call__(self, inputs, offset=None, modulation=None, mask=None, **kwargs):
        modulation = mask if modulation is None else modulation  # as old files call it
        if modulation is not None and offset is None:
            raise ValueError(
                "`modulation` can be given only together with `offset`. Received: offset=None"
            )
        self.note_given(offset is not None)
        given = self.given_inputs(offset=offset, modulation=modulation)
        return super().__call__(inputs, **given, **kwargs)

    def build(self, input_shape):
        kernel_shape = self.kernel_shape(input_shape)
        count = kernel_shape[-2] * self.groups
        self.require_divisor("offset_groups", count, input_shape)
        self.kernel = self.add_kernel(kernel_shape)
        self.bias = self.add_bias((self.filters,))
        self.offset_kernel = self.offset_bias = None
        if not self.given_at_build:
            made = self.offset_groups * self.geometry.taps * (self.rank + self.modulated)
            shape = (*self.kernel_size, count, made)
            self.offset_kernel = self.add_like(shape, "offset_kernel", "offset")
            self.offset_bias = self.add_like((made,), "offset_bias", "offset_bias")
        self.adapt_if_asked()
        self.built = True

    def call(self, inputs, offset=None, modulation=None):
        if offset is None:
            self.require_own("offset")
        return self._result(inputs if offset is None else (inputs, offset, modulation))

    def convolution_op(self, inputs, kernel):
        """What the layer does between its input and its kernel: a hook, as in Keras.

        Args:
            inputs: The layer's input, in its data format; where its call was given offsets, a
                tuple of the input, the offsets, and the masks or None.
            kernel: The kernel.

        Returns:
            The output before bias and activation, in the layer's data format.
        """
        several = isinstance(inputs, tuple)
        x, offset, modulation = inputs if several else (inputs, None, None)
        x = self.padded(self.fitting(x))
        if offset is None:
            offset, modulation = self._made(x)
        else:
            # Keras 2 casts the first argument only.
            offset = self.channels_last(self.computed(offset))
            if modulation is not None:
                modulation = self.channels_last(self.computed(modulation))
        kernel = tf.convert_to_tensor(kernel)
        y = ops.deformable_conv(x, offset, kernel, modulation, **self.geometry_arguments)
        return self.restored(y)

    def offsets_and_mask(self, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The offsets and the mask (None if not modulated) that the layer makes for inputs.

        Laid out as the call arguments ``offset`` and ``modulation``.
        """
        x = self.entered(inputs)
        self.require_own("offset")
        offset, mask = self._made(self.padded(self.fitting(x)))
        return self.restored(offset), None if mask is None else self.restored(mask)

    def _made(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Offsets and masks made from the input."""
        kernel, bias = (
            _with_scaled_gradient(self.computed(weight), self.offset_learning_rate_multiplier)
            for weight in (self.offset_kernel, self.offset_bias)
        )
        made = ops.conv(x, kernel, **self.geometry_arguments) + bias
        offsets = self.offset_groups * self.geometry.taps * self.rank
        if not self.modulated:
            return made, None
        return made[..., :offsets], self.mask_scale * tf.sigmoid(made[..., offsets:])


def _with_scaled_gradient(x: tf.Tensor, factor: float) -> tf.Tensor:
    """``x``, whose gradient is multiplied with ``factor``."""
    return x if factor == 1 else x + (factor - 1) * (x - tf.stop_gradient(x))


class DeformableConv1D(DeformableConv, rank=1):
    """Deformable convolution of sequences.

    Example:
        >>> tfconv.DeformableConv1D(8, 3, padding="causal")(tf.zeros([2, 10, 4])).shape
        TensorShape([2, 10, 8])
    """


class DeformableConv2D(DeformableConv, rank=2):
    """Deformable convolution of images.

    Example:
        >>> layer = tfconv.DeformableConv2D(8, 3, padding="same", offset_groups=2)
        >>> x = tf.random.normal([2, 6, 6, 4])
        >>> y = layer(x)
        >>> y.shape
        TensorShape([2, 6, 6, 8])
        >>> plain = tfconv.ops.conv(x, tf.convert_to_tensor(layer.kernel), padding="same")
        >>> bool(tf.reduce_all(tf.abs(y - plain) < 1e-4))  # before training
        True
    """


class DeformableConv3D(DeformableConv, rank=3):
    """Deformable convolution of volumes.

    Example:
        >>> tfconv.DeformableConv3D(8, 3, padding="same")(tf.zeros([1, 4, 6, 6, 2])).shape
        TensorShape([1, 4, 6, 6, 8])
    """
