"""Dynamic convolution: attention over kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv._compat import convert_variable, keras
from tfconv.layers.base import (
    ConvLayer,
    global_mean,
    positive_int,
    positive_number,
    register,
    require_built,
)
from tfconv.layers.experts import MixedConv, Mixture, mean_axes
from tfconv.ops.dispatch import in_float32
from tfconv.ops.geometry import Padding


class DynamicConv(MixedConv, Mixture, ConvLayer):
    """Dynamic convolution of any rank: each example's kernel is a mixture by attention.

    ``y[n] = activation(x[n] * sum_k a[n, k] K_k + sum_k a[n, k] b_k)`` with
    ``a[n] = softmax((W2 relu(W1 mean_p(x[n]) + b1) + b2) / temperature)``. A high temperature
    makes the attention nearly uniform, so that all kernels learn; see
    `tfconv.callbacks.TemperatureAnnealing`, which lowers it during training.

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
        use_bias: Whether there is a bias, mixed too.
        kernel_initializer: Initializes each kernel as it would that of a plain convolution,
            each with numbers of its own.
        bias_initializer: The same for the biases.
        kernel_regularizer, bias_regularizer, activity_regularizer: Regularizers of the kernels,
            the biases and the outputs.
        kernel_constraint, bias_constraint: Constraints, applied to each kernel and bias.
        num_kernels: Kernels to mix.
        ratio: The attention's hidden layer has ``C // ratio`` units (at least 1).
        temperature: The softmax's temperature at first. It is a weight that is not trained,
            saved with the others; `set_temperature` changes it.
        execution: "mix_kernels" mixes the kernels and convolves each example with its own;
            "mix_outputs" convolves with every kernel and mixes the outputs; "auto" takes the
            one with fewer multiply-adds. The result is the same.
        **kwargs: Keras's own: ``name``, ``dtype``, ``trainable``.

    Input shape: [N, *spatial, C] (or [N, C, *spatial]).

    Output shape: [N, *output spatial, filters].

    Weights:
        kernel: [num_kernels, prod(kernel_size) * C / groups * filters].
        bias: [num_kernels, filters].
        squeeze, attend: dense layers C -> C // ratio -> num_kernels.
        temperature: a scalar, not trained.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: Chen et al., Dynamic Convolution: Attention over Convolution Kernels,
    arXiv:1912.03458, sections 3.1-3.3.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        *args: Any,
        num_kernels: int = 4,
        ratio: int = 4,
        temperature: float = 30.0,
        execution: str = "auto",
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
        self.num_kernels = positive_int(num_kernels, "num_kernels")
        self.ratio = positive_int(ratio, "ratio")
        self._last_temperature = positive_number(temperature, "temperature")
        self.temperature = None
        self.set_execution(execution)

    def build(self, input_shape):
        kernel_shape = self.kernel_shape(input_shape)
        self.build_mixture(self.num_kernels, kernel_shape, self.filters)
        count = kernel_shape[-2] * self.groups
        hidden = max(count // self.ratio, 1)
        dtype = self.sublayer_dtype
        self.squeeze = keras.layers.Dense(hidden, activation="relu", name="squeeze", dtype=dtype)
        self.attend = keras.layers.Dense(self.num_kernels, name="attend", dtype=dtype)
        self.build_sublayer(self.squeeze, (None, count))
        self.build_sublayer(self.attend, (None, hidden))
        self.temperature = self.add_weight(
            name="temperature",
            shape=(),
            initializer=keras.initializers.Constant(self._last_temperature),
            trainable=False,
        )
        self.built = True

    @property
    def kernel(self) -> Any:
        """The kernels, one a row."""
        return self.expert_kernels

    @property
    def bias(self) -> Any:
        """The biases, one a row; None without."""
        return self.expert_biases

    def set_temperature(self, temperature: float) -> None:
        """Sets the attention's temperature, in functions that were compiled before too."""
        self._last_temperature = positive_number(temperature, "temperature")
        if self.temperature is not None:
            self.temperature.assign(self._last_temperature)

    def attention(self, inputs: tf.Tensor) -> tf.Tensor:
        """The weights [N, num_kernels] that inputs give the kernels; each row sums to 1."""
        require_built(self)
        return self._attention(self.channels_last(inputs))

    def _attention(self, x: tf.Tensor) -> tf.Tensor:
        pooled = global_mean(x, mean_axes(x.shape, -1))
        logits = tf.convert_to_tensor(self.attend(self.squeeze(pooled)))

        def softmax(logits):
            return tf.nn.softmax(logits / convert_variable(self.temperature, logits.dtype))

        return in_float32(softmax, logits)

    def call(self, inputs):
        x = self.fitting(inputs)
        y = self.convolved(x, self._attention(x), self.groups)
        return self.activation(self.restored(y))

    def get_config(self):
        temperature = self._last_temperature
        if self.temperature is not None and tf.executing_eagerly():
            value = self.temperature.numpy()  # which loaded weights may have changed
            if value != np.asarray(temperature, value.dtype) and 0 < value < np.inf:
                temperature = float(value)
        return {
            **super().get_config(),
            "num_kernels": self.num_kernels,
            "ratio": self.ratio,
            "temperature": temperature,
        }


@register
class DynamicConv1D(DynamicConv):
    """Dynamic convolution of sequences; see `DynamicConv` for the arguments.

    Example:
        >>> layer = tfconv.DynamicConv1D(8, 3, padding="causal", num_kernels=4)
        >>> layer(tf.ones([2, 10, 4])).shape
        TensorShape([2, 10, 8])
    """

    rank = 1


@register
class DynamicConv2D(DynamicConv):
    """Dynamic convolution of images; see `DynamicConv` for the arguments.

    Example:
        >>> layer = tfconv.DynamicConv2D(8, 3, padding="same", num_kernels=4)
        >>> layer(tf.ones([2, 6, 6, 4])).shape
        TensorShape([2, 6, 6, 8])
    """

    rank = 2


@register
class DynamicConv3D(DynamicConv):
    """Dynamic convolution of volumes; see `DynamicConv` for the arguments.

    Example:
        >>> layer = tfconv.DynamicConv3D(8, 3, num_kernels=4)
        >>> layer(tf.ones([2, 4, 6, 6, 4])).shape
        TensorShape([2, 2, 4, 4, 8])
    """

    rank = 3
