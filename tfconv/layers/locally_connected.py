"""Locally connected layers: convolutions whose weights are not shared between positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv.layers.experts import by_expert
from tfconv.layers.spatial import ConvLayer, OneKernelConv
from tfconv.ops.dispatch import in_float32
from tfconv.ops.windows import columns


class LocallyConnected(OneKernelConv, ConvLayer):
    """Locally connected layer of any rank: a kernel and a bias for every output position.

    ``y[p, f] = activation(bias[p, f] + sum_{t, c} kernel[p, t, c, f] * x[p * strides - pad +
    t * dilation, c])`` over the channels c of f's group. The weights belong to positions, so
    the spatial sizes must be known, and the layer takes inputs of those sizes only.

    Args:
        kernel_initializer: Initializes the kernel of each position as it would that of a plain
            convolution, each with numbers of its own.
        bias_initializer: Initializer of the biases.
        kernel_constraint, bias_constraint: Constraints, applied to all positions' together.

    Input shape: [N, *spatial, C] (or [N, C, *spatial]), the spatial sizes known.

    Weights:
        kernel: [*output spatial, prod(kernel_size) * C / groups, filters].
        bias: [*output spatial, filters].

    Raises:
        ValueError: If an argument is not what is described above, or a spatial size is not
            known.

    Source: LeCun, Generalization and Network Design Strategies, Technical Report CRG-TR-89-4,
    University of Toronto, 1989 (local connections without shared weights).
    """

    ignored = ("implementation",)  # Keras 2's ways to compute

    def build(self, input_shape):
        *size, width, _ = self.kernel_shape(input_shape)
        sizes = self.pinned_sizes(
            input_shape,
            f"{type(self).__name__} has weights for each position, so it needs the spatial sizes "
            "of its input",
        )
        self._outputs = self.geometry.output_shape(sizes)
        self.kernel = self.add_kernel(
            (*self._outputs, math.prod(size) * width, self.filters),
            initializer=self._by_position((*size, width, self.filters)),
        )
        self.bias = self.add_bias((*self._outputs, self.filters))
        self.adapt_if_asked()
        self.built = True

    def _by_position(self, shape: tuple[int, ...]) -> Any:
        positions = math.prod(self._outputs)
        initializer = by_expert(self.kernel_initializer, shape)

        def initialize(full_shape, dtype=None, **kwargs):
            values = initializer((positions, math.prod(shape)), dtype=dtype)
            return tf.reshape(values, tuple(full_shape))

        return initialize

    def set_weights(self, weights):
        """Sets the weights; takes those of Keras 2's layer of two axes as well."""
        if weights and np.ndim(weights[0]) == 3 < len(self.kernel.shape):
            weights = self.from_keras_2(weights)
        super().set_weights(weights)

    def from_keras_2(self, weights: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The weights of Keras 2's layer in this one's layout.

        There, the positions are one axis of the kernel. With "channels_first", the channels come
        before the taps, and before the positions in what the bias is reshaped to.
        """
        kernel, *biases = map(np.asarray, weights)
        if self.channel_axis == 1:
            taps = self.geometry.taps
            kernel = kernel.reshape(len(kernel), -1, taps, self.filters).swapaxes(1, 2)
            shape = (self.filters, *self._outputs)
            biases = [np.moveaxis(bias.reshape(shape), 0, -1) for bias in biases]
        return [kernel.reshape(self.kernel.shape), *biases]

    def convolved(self, x, kernel):
        return in_float32(self._connected, x, kernel)

    def biased(self, y, bias):
        return y if bias is None else y + self.restored(self.computed(bias)[None])

    def _connected(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """One matrix product for each position and group, all examples together."""
        groups, positions = self.groups, math.prod(self._outputs)
        rows = kernel.shape[-2]  # weights that a filter has at one position
        pixels = tf.reshape(columns(x, self.padded_geometry, groups), [-1, groups, positions, rows])
        kernel = tf.reshape(kernel, [positions, rows, groups, self.filters // groups])
        y = tf.matmul(tf.transpose(pixels, [1, 2, 0, 3]), tf.transpose(kernel, [2, 0, 1, 3]))
        return tf.reshape(tf.transpose(y, [2, 1, 0, 3]), [-1, *self._outputs, self.filters])


class LocallyConnected1D(LocallyConnected, rank=1):
    """Locally connected layer for sequences.

    Example:
        >>> tfconv.LocallyConnected1D(8, 3)(tf.ones([2, 10, 4])).shape
        TensorShape([2, 8, 8])
    """


class LocallyConnected2D(LocallyConnected, rank=2):
    """Locally connected layer for images.

    Example:
        >>> tfconv.LocallyConnected2D(8, 3, strides=2, padding="same")(tf.ones([2, 6, 6, 4])).shape
        TensorShape([2, 3, 3, 8])
    """
