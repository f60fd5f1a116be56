"""Squeeze-and-excitation: channels weighted by what the whole input holds."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfconv import _compat
from tfconv._compat import keras
from tfconv.layers.base import (
    boolean,
    dtype_policy_of,
    global_mean,
    independent_copies,
    known_channels,
    positive_int,
    register,
    resolved,
    static_shape,
)


@register
class SqueezeExcite(keras.layers.Layer):
    """Squeeze-and-excitation over any number of spatial axes.

    ``y[n, p, c] = x[n, p, c] * gate(W2 activation(W1 mean_p(x[n]) + b1) + b2)[c]``.

    Args:
        ratio: The squeezed representation has ``C // ratio`` channels (at least 1).
        activation: Activation of the squeezed representation.
        gate_activation: Activation of the channel weights.
        squeeze_channels: Channels of the squeezed representation, instead of ``ratio``.
        data_format: "channels_last" or "channels_first"; None takes Keras's setting.
        use_bias: Whether both dense layers have a bias.
        kernel_initializer, bias_initializer: Initializers of both dense layers.
        kernel_regularizer, bias_regularizer: Regularizers of both dense layers.
        **kwargs: Keras's own: ``name``, ``dtype``, ``trainable``.

    Input shape: [N, *spatial, C] (or [N, C, *spatial]), at least one spatial axis.

    Output shape: The input's.

    Weights:
        squeeze, excite: dense layers C -> C // ratio -> C.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: Hu et al., Squeeze-and-Excitation Networks, arXiv:1709.01507, equations 2-4.

    Example:
        >>> tfconv.SqueezeExcite(ratio=4)(tf.ones([2, 6, 6, 8])).shape
        TensorShape([2, 6, 6, 8])
    """

    def __init__(
        self,
        ratio: int = 16,
        activation: Any = "relu",
        gate_activation: Any = "sigmoid",
        squeeze_channels: int | None = None,
        data_format: str | None = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.ratio = positive_int(ratio, "ratio")
        self.squeeze_channels = (
            None if squeeze_channels is None else positive_int(squeeze_channels, "squeeze_channels")
        )
        self.activation = resolved(activation, "activation")
        self.gate_activation = resolved(gate_activation, "gate_activation")
        self.data_format = _compat.standardized_data_format(data_format)
        self.use_bias = boolean(use_bias, "use_bias")
        self.kernel_initializer = resolved(kernel_initializer, "kernel_initializer")
        self.bias_initializer = resolved(bias_initializer, "bias_initializer")
        self.kernel_regularizer = resolved(kernel_regularizer, "kernel_regularizer")
        self.bias_regularizer = resolved(bias_regularizer, "bias_regularizer")
        self.input_spec = keras.layers.InputSpec(min_ndim=3)

    def build(self, input_shape):
        axis = self._channel_axis(len(static_shape(input_shape)))
        count = known_channels(input_shape, axis, self)
        self.input_spec = keras.layers.InputSpec(min_ndim=3, axes={axis: count})
        squeezed = self.squeeze_channels or max(count // self.ratio, 1)
        initializers = independent_copies(self.kernel_initializer, 2)
        self.squeeze = self._dense(squeezed, self.activation, initializers[0], "squeeze")
        self.excite = self._dense(count, self.gate_activation, initializers[1], "excite")
        for layer, width in ((self.squeeze, count), (self.excite, squeezed)):
            with tf.name_scope(layer.name):
                layer.build((None, width))
        self.built = True

    def _channel_axis(self, rank: int) -> int:
        return rank - 1 if self.data_format == "channels_last" else 1

    def _dense(self, units: int, activation: Any, initializer: Any, name: str) -> Any:
        return keras.layers.Dense(
            units,
            activation=activation,
            use_bias=self.use_bias,
            kernel_initializer=initializer,
            bias_initializer=self.bias_initializer,
            kernel_regularizer=self.kernel_regularizer,
            bias_regularizer=self.bias_regularizer,
            name=name,
            dtype=dtype_policy_of(self),
        )

    def call(self, inputs):
        x = tf.convert_to_tensor(inputs)
        axis = self._channel_axis(x.shape.rank)
        spatial = [a for a in range(1, x.shape.rank) if a != axis]
        weights = tf.convert_to_tensor(self.excite(self.squeeze(global_mean(x, spatial))))
        shape = [-1] + [1] * (x.shape.rank - 1)
        shape[axis] = x.shape[axis]
        return x * tf.reshape(weights, shape)

    def compute_output_shape(self, input_shape):
        return static_shape(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "ratio": self.ratio,
            "activation": keras.activations.serialize(self.activation),
            "gate_activation": keras.activations.serialize(self.gate_activation),
            "squeeze_channels": self.squeeze_channels,
            "data_format": self.data_format,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
        }
