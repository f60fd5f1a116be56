"""Self-attention: every position of the output sees every position of the input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv._compat import keras
from tfconv.layers.base import (
    SpatialLayer,
    boolean,
    independent_copies,
    kernel_config,
    positive_int,
    register,
    require_built,
    set_kernel_arguments,
    static_shape,
)
from tfconv.ops.dispatch import in_float32
from tfconv.ops.geometry import spatial_sizes
from tfconv.ops.windows import product


class SelfAttention(SpatialLayer):
    """Global multi-head self-attention over the positions of any number of spatial axes.

    ``y[p] = W_o concat_h(sum_q softmax_q(Q_h[p] . K_h[q] / sqrt(key_dim) + b_h[p - q]) V_h[q])``
    with queries and values ``Q, V = W x + bias`` and keys ``K = W x``. All positions see each
    other, so time and memory grow with the square of their number. There is no residual
    connection and no normalization: those are the caller's.

    Args:
        num_heads: Attention heads.
        key_dim: Channels of each head's queries and keys.
        value_dim: Channels of each head's values; None for ``key_dim``.
        filters: Output channels; None for the input's.
        data_format: "channels_last" or "channels_first"; None takes Keras's setting.
        relative_position_bias: Adds to the logits a trained number b for each head and each
            distance between two positions. The spatial sizes must then be known, and the layer
            takes inputs of those sizes only.
        activation: Activation of the outputs.
        use_bias: Whether queries, values and outputs have a bias. Keys have none: the softmax
            would cancel it.
        kernel_initializer, bias_initializer: Initializers of their weights.
        kernel_regularizer, bias_regularizer, activity_regularizer: Regularizers of the weights
            and of the outputs.
        kernel_constraint, bias_constraint: Constraints.
        **kwargs: Keras's own: ``name``, ``dtype``, ``trainable``.

    Input shape: [N, *spatial, C] (or [N, C, *spatial]).

    Output shape: [N, *spatial, filters].

    Weights:
        query, key, value: dense layers to ``num_heads * key_dim`` (or ``value_dim``) channels.
        project: a dense layer to ``filters`` channels.
        position_bias: [num_heads, prod(2 * size - 1)], with ``relative_position_bias``.

    Raises:
        ValueError: If an argument is not what is described above, or the spatial sizes are not
            known with ``relative_position_bias``.

    Source: Vaswani et al., Attention Is All You Need, arXiv:1706.03762, section 3.2; for the
    positions: Liu et al., Swin Transformer, arXiv:2103.14030, equation 4.
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        filters: int | None = None,
        data_format: str | None = None,
        relative_position_bias: bool = False,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ):
        super().__init__(
            kernel_size=1,
            strides=1,
            padding="valid",
            data_format=data_format,
            dilation_rate=1,
            activity_regularizer=activity_regularizer,
            **kwargs,
        )
        self.num_heads = positive_int(num_heads, "num_heads")
        self.key_dim = positive_int(key_dim, "key_dim")
        self.value_dim = None if value_dim is None else positive_int(value_dim, "value_dim")
        self.filters = None if filters is None else positive_int(filters, "filters")
        self.relative_position_bias = boolean(relative_position_bias, "relative_position_bias")
        set_kernel_arguments(
            self,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
        )

    def build(self, input_shape):
        count = self.input_channels(input_shape)
        values = self.num_heads * (self.value_dim or self.key_dim)
        widths = {
            "query": (count, self.num_heads * self.key_dim),
            "key": (count, self.num_heads * self.key_dim),
            "value": (count, values),
            "project": (values, self.filters or count),
        }
        initializers = independent_copies(self.kernel_initializer, len(widths))
        for (name, (inputs, units)), initializer in zip(widths.items(), initializers):
            layer = keras.layers.Dense(
                units,
                use_bias=self.use_bias and name != "key",
                kernel_initializer=initializer,
                bias_initializer=self.bias_initializer,
                kernel_regularizer=self.kernel_regularizer,
                bias_regularizer=self.bias_regularizer,
                kernel_constraint=self.kernel_constraint,
                bias_constraint=self.bias_constraint,
                name=name,
                dtype=self.sublayer_dtype,
            )
            setattr(self, name, layer)
            self.build_sublayer(layer, (None, None, inputs))
        self.position_bias = None
        if self.relative_position_bias:
            self._build_positions(static_shape(input_shape), count)
        self.built = True

    def _build_positions(self, shape: tuple[int | None, ...], count: int) -> None:
        first = 1 if self.data_format == "channels_last" else 2
        sizes = shape[first : first + self.rank]
        if None in sizes:
            raise ValueError(
                "`relative_position_bias` needs the spatial sizes of the input to be known. "
                f"Received: relative_position_bias=True, input_shape={shape}"
            )
        axes = {first + axis: size for axis, size in enumerate(sizes)}
        axes[self.channel_axis] = count
        self.input_spec = keras.layers.InputSpec(ndim=self.rank + 2, axes=axes)
        self._distances = relative_positions(sizes)
        self.position_bias = self.add_weight(
            name="position_bias",
            shape=(self.num_heads, math.prod(2 * size - 1 for size in sizes)),
            initializer="zeros",
            trainable=True,
        )

    def output_channels(self, channels):
        return self.filters or channels

    def call(self, inputs):
        x = self.channels_last(inputs)
        sizes = spatial_sizes(x)
        positions = product(sizes)
        flat = tf.reshape(x, [-1, positions, x.shape[-1]])
        mixed = in_float32(self._values_of, *self._heads(flat, positions))
        mixed = tf.reshape(mixed, [-1, positions, mixed.shape[-1]])
        y = tf.convert_to_tensor(self.project(mixed))
        y = tf.reshape(y, [-1, *sizes, y.shape[-1]])
        return self.activation(self.restored(y))

    def attention(self, inputs: tf.Tensor) -> tf.Tensor:
        """The attention [N, num_heads, P, P] of each position (row) to each, rows summing to 1.

        P counts the positions, in row-major order.
        """
        require_built(self)
        x = self.channels_last(tf.cast(inputs, self.compute_dtype))
        positions = product(spatial_sizes(x))
        flat = tf.reshape(x, [-1, positions, x.shape[-1]])
        query, key, _ = self._heads(flat, positions)
        return in_float32(self._attention, query, key)

    def _heads(self, flat: tf.Tensor, positions: Any) -> list[tf.Tensor]:
        """Queries, keys and values, each [N, heads, P, channels of a head]."""
        parts = []
        for layer in (self.query, self.key, self.value):
            part = tf.convert_to_tensor(layer(flat))
            width = part.shape[-1] // self.num_heads
            part = tf.reshape(part, [-1, positions, self.num_heads, width])
            parts.append(tf.transpose(part, [0, 2, 1, 3]))
        return parts

    def _attention(self, query: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        logits = tf.matmul(query * self.key_dim**-0.5, key, transpose_b=True)
        if self.position_bias is not None:
            table = tf.cast(self.weight(self.position_bias), logits.dtype)
            logits = logits + tf.gather(table, self._distances, axis=1)
        return tf.nn.softmax(logits)

    def _values_of(self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
        """What each position takes from all: [N, P, heads, channels of a head], flattened."""
        mixed = tf.transpose(tf.matmul(self._attention(query, key), value), [0, 2, 1, 3])
        heads, width = mixed.shape[-2:]
        return tf.reshape(mixed, [-1, heads * width])

    def get_config(self):
        config = super().get_config()
        for name in ("kernel_size", "strides", "padding", "dilation_rate"):
            del config[name]
        return {
            **config,
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "filters": self.filters,
            "relative_position_bias": self.relative_position_bias,
            **kernel_config(self),
        }


def relative_positions(sizes: Sequence[int]) -> np.ndarray:
    """[P, P] numbers of the distances between all positions of a grid.

    The distance ``p - q`` has the row-major number of ``p - q + size - 1`` in a grid of
    ``2 * size - 1`` distances per axis.
    """
    places = np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), axis=-1)
    apart = places[:, np.newaxis] - places[np.newaxis] + np.asarray(sizes) - 1
    numbers = np.ravel_multi_index(np.moveaxis(apart, -1, 0), [2 * size - 1 for size in sizes])
    return numbers.astype(np.int32)


@register
class SelfAttention1D(SelfAttention):
    """Global self-attention over sequences; see `SelfAttention` for the arguments.

    Example:
        >>> layer = tfconv.SelfAttention1D(num_heads=2, key_dim=4)
        >>> layer(tf.ones([2, 10, 8])).shape
        TensorShape([2, 10, 8])
    """

    rank = 1


@register
class SelfAttention2D(SelfAttention):
    """Global self-attention over images; see `SelfAttention` for the arguments.

    Example:
        >>> layer = tfconv.SelfAttention2D(num_heads=2, key_dim=4, relative_position_bias=True)
        >>> layer(tf.ones([2, 6, 6, 8])).shape
        TensorShape([2, 6, 6, 8])
    """

    rank = 2


@register
class SelfAttention3D(SelfAttention):
    """Global self-attention over volumes; see `SelfAttention` for the arguments.

    Example:
        >>> layer = tfconv.SelfAttention3D(num_heads=2, key_dim=4, filters=5)
        >>> layer(tf.ones([2, 3, 4, 4, 8])).shape
        TensorShape([2, 3, 4, 4, 5])
    """

    rank = 3
