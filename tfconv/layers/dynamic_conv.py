"""Dynamic convolution: attention over kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfconv import _compat
from tfconv._compat import convert_variable, keras
from tfconv.layers.arguments import positive_int, positive_number
from tfconv.layers.calls import SecondOutput
from tfconv.layers.experts import MixedConv, Mixture
from tfconv.layers.masking import mean_of_positions
from tfconv.layers.spatial import ConvLayer
from tfconv.ops.dispatch import in_float32


class DynamicConv(MixedConv, Mixture, SecondOutput, ConvLayer):
    """Dynamic convolution of any rank: each example's kernel is a mixture by attention.

    ``y[n] = activation(x[n] * sum_k a[n, k] K_k + sum_k a[n, k] b_k)`` with
    ``a[n] = softmax((W2 relu(W1 mean_p(x[n]) + b1) + b2) / temperature)``. A high temperature
    makes the attention nearly uniform, so that all kernels learn; see
    `tfconv.callbacks.TemperatureAnnealing`, which lowers it during training.

    Args:
        num_experts: Kernels to mix.
        attention_initializer, attention_regularizer, attention_constraint: Of the kernels of the
            attention's dense layers.
        attention_bias_initializer, attention_bias_regularizer, attention_bias_constraint: Of
            their biases.
        reduction_ratio: The attention's hidden layer has ``C // reduction_ratio`` units (at
            least 1).
        temperature: The softmax's temperature at first. It is a weight that is not trained,
            saved with the others; `set_temperature` changes it.

    Call arguments:
        inputs: [N, *spatial, C] tensor (or [N, C, *spatial]).
        mask: Optional booleans [N, *spatial]: the positions that count in the mean. Keras's masks
            come here by themselves.
        return_attention_scores: Whether to give what `attention` gives as a second output.

    Weights:
        kernel: [num_experts, prod(kernel_size) * C / groups * filters].
        bias: [num_experts, filters].
        squeeze, attend: dense layers C -> C // reduction_ratio -> num_experts.
        temperature: a scalar, not trained.

    Source: Chen et al., Dynamic Convolution: Attention over Convolution Kernels,
    arXiv:1912.03458, sections 3.1-3.3.
    """

    by_position = 2
    asks_for_second = "return_attention_scores"
    weight_arguments = {"attention": "glorot_uniform", "attention_bias": "zeros"}
    renamed = {"num_kernels": "num_experts", "ratio": "reduction_ratio"}
    deprecated = {"num_kernels": "0.3", "ratio": "0.3"}

    def __init__(
        self,
        *args: Any,
        num_experts: int = 4,
        reduction_ratio: int = 4,
        temperature: float = 30.0,
        **kwargs: Any,
    ):
        super().__init__(*args, num_experts=num_experts, **kwargs)
        self.take(positive_int, reduction_ratio=reduction_ratio)
        self.take(positive_number, temperature=temperature)
        self._last_temperature, self.temperature = self.temperature, None

    def build(self, input_shape):
        kernel_shape = self.kernel_shape(input_shape)
        self.build_mixture(kernel_shape, self.filters)
        count = kernel_shape[-2] * self.groups
        hidden = max(count // self.reduction_ratio, 1)
        dense = keras.layers.Dense
        first, second = self.arguments_inside(2, "attention", "attention_bias")
        first.update(units=hidden, activation="relu")
        second.update(units=self.num_experts)
        self.sublayer("squeeze", dense, (None, count), **first)
        self.sublayer("attend", dense, (None, hidden), **second)
        self.temperature = self.add_weight(
            name="temperature",
            shape=(),
            initializer=keras.initializers.Constant(self._last_temperature),
            trainable=False,
        )
        self.built = True

    def set_temperature(self, temperature: float) -> None:
        """Sets the attention's temperature, in functions that were compiled before too."""
        self._last_temperature = positive_number(temperature, "temperature")
        if self.temperature is not None:
            self.temperature.assign(self._last_temperature)

    def attention(self, inputs: tf.Tensor, mask: Any = None) -> tf.Tensor:
        """The weights [N, num_experts] that inputs give the kernels; each row sums to 1."""
        if _compat.is_symbolic(inputs):
            return self.second_output(inputs, mask=mask)
        return self._attention(self.fitting(self.entered(inputs)), mask)

    def _attention(self, x: tf.Tensor, mask: Any) -> tf.Tensor:
        pooled = mean_of_positions(x, mask=mask)
        logits = self.computed(self.attend(self.squeeze(pooled)))

        def softmax(logits):
            return tf.nn.softmax(logits / convert_variable(self.temperature, logits.dtype))

        return in_float32(softmax, logits)

    def call(self, inputs, mask=None, return_attention_scores=False):
        x = self.fitting(inputs)
        return self.mixed_outputs(x, self._attention(x, mask), return_attention_scores)

    def get_config(self):
        temperature = self._last_temperature
        if self.temperature is not None and tf.executing_eagerly():
            value = self.temperature.numpy()  # which loaded weights may have changed
            if value != np.asarray(temperature, value.dtype) and 0 < value < np.inf:
                temperature = float(value)
        return {**super().get_config(), "temperature": temperature}


class DynamicConv1D(DynamicConv, rank=1):
    """Dynamic convolution of sequences.

    Example:
        >>> layer = tfconv.DynamicConv1D(8, 3, padding="causal", num_experts=4)
        >>> layer(tf.ones([2, 10, 4])).shape
        TensorShape([2, 10, 8])
    """


class DynamicConv2D(DynamicConv, rank=2):
    """Dynamic convolution of images.

    Example:
        >>> layer = tfconv.DynamicConv2D(8, 3, padding="same", num_experts=4)
        >>> layer(tf.ones([2, 6, 6, 4])).shape
        TensorShape([2, 6, 6, 8])
    """


class DynamicConv3D(DynamicConv, rank=3):
    """Dynamic convolution of volumes.

    Example:
        >>> layer = tfconv.DynamicConv3D(8, 3, num_experts=4)
        >>> layer(tf.ones([2, 4, 6, 6, 4])).shape
        TensorShape([2, 2, 4, 4, 8])
    """
