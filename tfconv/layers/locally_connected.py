"""Locally connected layers: convolutions whose weights are not shared between positions."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from tfconv._compat import keras
from tfconv.layers.base import ConvLayer, register, static_shape
from tfconv.layers.experts import by_expert
from tfconv.ops.dispatch import in_float32
from tfconv.ops.windows import columns


class LocallyConnected(ConvLayer):
    """Locally connected layer of any rank: a kernel and a bias for every output position.

    ``y[p, f] = activation(bias[p, f] + sum_{t, c} kernel[p, t, c, f] * x[p * strides - pad +
    t * dilation, c])`` over the channels c of f's group. The weights belong to positions, so
    the spatial sizes must be known, and the layer takes inputs of those sizes only.

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
        kernel_initializer: Initializes the kernel of each position as it would that of a plain
            convolution, each with numbers of its own.
        bias_initializer: Initializer of the biases.
        kernel_regularizer, bias_regularizer, activity_regularizer: Regularizers of the kernels,
            the biases and the outputs.
        kernel_constraint, bias_constraint: Constraints, applied to all positions' together.
        **kwargs: Keras's own: ``name``, ``dtype``, ``trainable``.

    Input shape: [N, *spatial, C] (or [N, C, *spatial]), the spatial sizes known.

    Output shape: [N, *output spatial, filters].

    Weights:
        kernel: [*output spatial, prod(kernel_size) * C / groups, filters].
        bias: [*output spatial, filters].

    Raises:
        ValueError: If an argument is not what is described above, or a spatial size is not
            known.

    Source: LeCun, Generalization and Network Design Strategies, Technical Report CRG-TR-89-4,
    University of Toronto, 1989 (local connections without shared weights).
    """

    def build(self, input_shape):
        shape = static_shape(input_shape)
        *size, width, _ = self.kernel_shape(shape)
        first = 1 if self.data_format == "channels_last" else 2
        sizes = shape[first : first + self.rank]
        if None in sizes:
            raise ValueError(
                f"{type(self).__name__} has weights for each position, so it needs the spatial "
                f"sizes of its input to be known. Received: input_shape={shape}"
            )
        axes = {first + axis: n for axis, n in enumerate(sizes)}
        axes[self.channel_axis] = width * self.groups
        self.input_spec = keras.layers.InputSpec(ndim=self.rank + 2, axes=axes)
        self._outputs = self.geometry.output_shape(sizes)
        self.kernel = self.add_kernel(
            (*self._outputs, math.prod(size) * width, self.filters),
            initializer=self._by_position((*size, width, self.filters)),
        )
        self.bias = self.add_bias((*self._outputs, self.filters))
        self.built = True

    def _by_position(self, shape: tuple[int, ...]) -> Any:
        positions = math.prod(self._outputs)
        initializer = by_expert(self.kernel_initializer, shape)

        def initialize(full_shape, dtype=None, **kwargs):
            values = initializer((positions, math.prod(shape)), dtype=dtype)
            return tf.reshape(values, tuple(full_shape))

        return initialize

    def call(self, inputs):
        x = self.channels_last(inputs)
        y = in_float32(self._connected, x, self.weight(self.kernel))
        if self.bias is not None:
            y = y + self.weight(self.bias)
        return self.activation(self.restored(y))

    def _connected(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """One matrix product for each position and group, all examples together."""
        groups, positions = self.groups, math.prod(self._outputs)
        rows = kernel.shape[-2]  # weights that a filter has at one position
        pixels = tf.reshape(columns(x, self.geometry, groups), [-1, groups, positions, rows])
        kernel = tf.reshape(kernel, [positions, rows, groups, self.filters // groups])
        y = tf.matmul(tf.transpose(pixels, [1, 2, 0, 3]), tf.transpose(kernel, [2, 0, 1, 3]))
        return tf.reshape(tf.transpose(y, [2, 1, 0, 3]), [-1, *self._outputs, self.filters])


@register
class LocallyConnected1D(LocallyConnected):
    """Locally connected layer for sequences; see `LocallyConnected` for the arguments.

    Example:
        >>> tfconv.LocallyConnected1D(8, 3)(tf.ones([2, 10, 4])).shape
        TensorShape([2, 8, 8])
    """

    rank = 1


@register
class LocallyConnected2D(LocallyConnected):
    """Locally connected layer for images; see `LocallyConnected` for the arguments.

    Example:
        >>> tfconv.LocallyConnected2D(8, 3, strides=2, padding="same")(tf.ones([2, 6, 6, 4])).shape
        TensorShape([2, 3, 3, 8])
    """

    rank = 2
