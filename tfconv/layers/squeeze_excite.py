"""Squeeze-and-excitation: channels weighted by what the whole input holds."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfconv._compat import keras
from tfconv.layers.arguments import known_data_format, optional, positive_int, resolved
from tfconv.layers.base import known_channels, register, shape_for_keras, static_shape
from tfconv.layers.kernels import KernelArguments
from tfconv.layers.masking import mean_of_positions


@register
class SqueezeExcite(KernelArguments):
    """Squeeze-and-excitation over any number of spatial axes.

    ``y[n, p, c] = x[n, p, c] * gate(W2 activation(W1 mean_p(x[n]) + b1) + b2)[c]``.

    Args:
        reduction_ratio: The squeezed representation has ``C // reduction_ratio`` channels (at
            least 1).
        activation: Activation of the squeezed representation.
        gate_activation: Activation of the channel weights.
        squeeze_channels: Channels of the squeezed representation, instead of
            ``reduction_ratio``.
        data_format: "channels_last" or "channels_first"; None takes Keras's setting.
        use_bias: Whether both dense layers have a bias.
        kernel_initializer, bias_initializer: Initializers of both dense layers.
        kernel_regularizer, bias_regularizer: Regularizers of both dense layers.
        kernel_constraint, bias_constraint: Constraints of both dense layers.

    Call arguments:
        inputs: [N, *spatial, C] tensor (or [N, C, *spatial]), at least one spatial axis.
        mask: Optional booleans [N, *spatial]: the positions that count in the mean. Keras's masks
            come here by themselves, and go on to the next layer.

    Output shape: The input's.

    Weights:
        squeeze, excite: dense layers C -> C // reduction_ratio -> C.

    Source: Hu et al., Squeeze-and-Excitation Networks, arXiv:1709.01507, equations 2-4.

    Example:
        >>> tfconv.SqueezeExcite(reduction_ratio=4)(tf.ones([2, 6, 6, 8])).shape
        TensorShape([2, 6, 6, 8])
    """

    by_position = 1
    renamed = {"ratio": "reduction_ratio"}
    deprecated = {"ratio": "0.3"}

    def __init__(
        self,
        reduction_ratio: int = 16,
        *,
        activation: Any = "relu",
        gate_activation: Any = "sigmoid",
        squeeze_channels: int | None = None,
        data_format: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(activation=activation, **kwargs)
        self.take(positive_int, reduction_ratio=reduction_ratio)
        self.take(resolved, gate_activation=gate_activation)
        self.take(optional(positive_int), squeeze_channels=squeeze_channels)
        self.take(known_data_format, data_format=data_format)
        self.input_spec = keras.layers.InputSpec(min_ndim=3)
        self.supports_masking = True

    def build(self, input_shape):
        count = self.pinned_channels(input_shape, min_ndim=3)
        squeezed = self.squeeze_channels or max(count // self.reduction_ratio, 1)
        first, second = self.arguments_inside(2)
        first.update(units=squeezed, activation=self.activation)
        second.update(units=count, activation=self.gate_activation)
        self.sublayer("squeeze", keras.layers.Dense, (None, count), **first)
        self.sublayer("excite", keras.layers.Dense, (None, squeezed), **second)
        self.built = True

    def call(self, inputs, mask=None):
        x = tf.convert_to_tensor(inputs)
        mean = mean_of_positions(x, self.channel_axis, mask)
        weights = self.computed(self.excite(self.squeeze(mean)))
        shape = [-1] + [1] * (x.shape.rank - 1)
        shape[self.channel_axis] = known_channels(x.shape, self.channel_axis, self)
        return x * tf.reshape(weights, shape)

    def compute_output_shape(self, input_shape):
        return shape_for_keras(static_shape(input_shape))
