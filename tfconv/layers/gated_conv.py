"""Gated convolution: a second convolution says how much of the first one passes."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfconv._compat import keras
from tfconv.layers.arguments import choice
from tfconv.layers.conv import Conv
from tfconv.layers.kernels import independent_copies


class GatedConv(Conv):
    """Gated convolution of any rank.

    ``y = activation(x * kernel + bias) . sigmoid(x * gate_kernel + gate_bias)``, where ``*`` is
    a convolution and ``.`` the product of elements. With ``gate="glu"`` (gated linear unit)
    there is no activation, so that gradients have a linear path; with ``gate="feature"`` (a
    soft mask learned for every position and channel) there is, ELU unless another is given.

    Args:
        activation: Activation of what the gate lets through; only with ``gate="feature"``.
        use_bias: Whether both convolutions have a bias.
        kernel_initializer, bias_initializer: Initializers of both.
        gate: "glu" or "feature".

    Weights:
        kernel, gate_kernel: [*kernel_size, C / groups, filters].
        bias, gate_bias: [filters].

    Source: Dauphin et al., Language Modeling with Gated Convolutional Networks,
    arXiv:1612.08083, equation 1; Yu et al., Free-Form Image Inpainting with Gated Convolution,
    arXiv:1806.03589, section 3.1.
    """

    by_position = 2
    fixed = ("lora_rank", "lora_alpha")
    extra_batch_axes = False

    def __init__(self, *args: Any, activation: Any = None, gate: str = "glu", **kwargs: Any):
        if gate == "feature" and activation is None:
            activation = "elu"
        super().__init__(*args, activation=activation, **kwargs)
        self.take(choice("glu", "feature"), gate=gate)
        if gate == "glu" and self.activation is not keras.activations.linear:
            raise ValueError(
                '`activation` needs `gate` to be "feature": a gated linear unit has none. '
                f"Received: activation={activation!r}, gate={gate!r}"
            )

    def build(self, input_shape):
        super().build(input_shape)
        initializers = self.kernel_initializer, self.bias_initializer
        (kernel,), (bias,) = (independent_copies(each, 1, "gate") for each in initializers)
        shape = self.kernel_shape(input_shape)
        self.gate_kernel = self.add_kernel(shape, "gate_kernel", initializer=kernel)
        self.gate_bias = self.add_bias((self.filters,), "gate_bias", initializer=bias)
        self.built = True

    def call(self, inputs):
        features, gate = self._both(inputs)
        return self.activated(features) * tf.sigmoid(gate)

    def gates(self, inputs: tf.Tensor) -> tf.Tensor:
        """What the layer multiplies its features by: between 0 and 1, in the outputs' shape."""
        _, gate = self._both(self.entered(inputs))
        return tf.sigmoid(gate)

    def _both(self, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Features and gates before their activations."""
        kernels = [self.computed(kernel) for kernel in (self.kernel, self.gate_kernel)]
        if self.groups == 1:  # one convolution reads the input once
            y = self.convolution_op(inputs, tf.concat(kernels, axis=-1))
            features, gates = tf.split(y, 2, axis=self.channel_axis)
        else:
            features, gates = (self.convolution_op(inputs, kernel) for kernel in kernels)
        return self.biased(features, self.bias), self.biased(gates, self.gate_bias)


class GatedConv1D(GatedConv, rank=1):
    """Gated convolution of sequences.

    Example:
        >>> layer = tfconv.GatedConv1D(8, 3, padding="causal")
        >>> layer(tf.ones([2, 10, 4])).shape
        TensorShape([2, 10, 8])
    """


class GatedConv2D(GatedConv, rank=2):
    """Gated convolution of images.

    Example:
        >>> layer = tfconv.GatedConv2D(8, 3, padding="same", activation="relu", gate="feature")
        >>> layer(tf.ones([2, 6, 6, 4])).shape
        TensorShape([2, 6, 6, 8])
        >>> layer.gates(tf.ones([2, 6, 6, 4])).shape
        TensorShape([2, 6, 6, 8])
    """


class GatedConv3D(GatedConv, rank=3):
    """Gated convolution of volumes.

    Example:
        >>> tfconv.GatedConv3D(8, 3, strides=2)(tf.ones([1, 7, 7, 7, 4])).shape
        TensorShape([1, 3, 3, 3, 8])
    """
