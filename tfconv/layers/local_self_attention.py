"""Stand-alone self-attention: every position sees a window around itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfconv import ops
from tfconv._compat import keras
from tfconv.layers.base import (
    SpatialLayer,
    independent_copies,
    kernel_config,
    positive_int,
    register,
    require_built,
    resolved,
    set_kernel_arguments,
)
from tfconv.ops.dispatch import in_float32, with_an_example
from tfconv.ops.geometry import spatial_sizes
from tfconv.ops.windows import Windows

# Below the logits of pixels outside the image. The least float32 would be too much for the scales
# of 8-bit integers.
_MASKED = 1e9


@register
class LocalSelfAttention2D(SpatialLayer):
    """Multi-head self-attention over a window around each pixel, in place of a convolution.

    ``y[p] = sum_t softmax_t(Q[p] . (K[p + t] + r[t])) V[p + t]`` for each head, with queries
    and values ``Q, V = W x + bias``, keys ``K = W x`` and ``r[t]`` made of two trained vectors:
    one for the row of tap t in its first half, one for the column in the rest. Pixels outside
    the image take no part in the softmax. The weighted sum is an involution
    (`tfconv.ops.involution`) whose kernels are the attention.

    There are no strides: to halve an image, the authors put an average pooling after the layer.

    Args:
        filters: Output channels.
        kernel_size: Taps per spatial axis; an int or two ints.
        num_heads: Attention heads; must divide ``filters``.
        data_format: "channels_last" or "channels_first"; None takes Keras's setting.
        dilation_rate: Pixels between neighbouring taps.
        activation: Activation of the outputs.
        use_bias: Whether queries and values have a bias. Keys have none: the softmax would
            cancel it.
        kernel_initializer, bias_initializer: Initializers of their weights.
        kernel_regularizer, bias_regularizer, activity_regularizer: Regularizers of the weights
            and of the outputs.
        kernel_constraint, bias_constraint: Constraints.
        embedding_initializer: Initializer of the relative positions' vectors.
        **kwargs: Keras's own: ``name``, ``dtype``, ``trainable``.

    Input shape: [N, H, W, C] (or [N, C, H, W]).

    Output shape: [N, H, W, filters].

    Weights:
        query, key, value: dense layers C -> filters.
        row_embedding: [kh, num_heads, D // 2], where D is ``filters // num_heads``.
        column_embedding: [kw, num_heads, D - D // 2].

    Raises:
        ValueError: If an argument is not what is described above, or a head would have fewer
            than two channels.

    Source: Ramachandran et al., Stand-Alone Self-Attention in Vision Models, arXiv:1906.05909,
    equations 2 and 3.

    Example:
        >>> layer = tfconv.LocalSelfAttention2D(8, kernel_size=3, num_heads=2)
        >>> layer(tf.ones([2, 6, 6, 4])).shape
        TensorShape([2, 6, 6, 8])
    """

    rank = 2

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int] = 7,
        num_heads: int = 8,
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        activation: Any = None,
        use_bias: bool = False,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        embedding_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ):
        super().__init__(
            kernel_size,
            strides=1,
            padding="same",
            data_format=data_format,
            dilation_rate=dilation_rate,
            activity_regularizer=activity_regularizer,
            **kwargs,
        )
        self.filters = positive_int(filters, "filters")
        self.num_heads = positive_int(num_heads, "num_heads")
        if self.filters % self.num_heads or self.filters < 2 * self.num_heads:
            raise ValueError(
                "`filters` must be a multiple of `num_heads`, at least twice as many. "
                f"Received: filters={filters}, num_heads={num_heads}"
            )
        self.embedding_initializer = resolved(embedding_initializer, "embedding_initializer")
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
        initializers = independent_copies(self.kernel_initializer, 3)
        for name, initializer in zip(("query", "key", "value"), initializers):
            layer = keras.layers.Conv2D(
                self.filters,
                1,
                data_format="channels_last",
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
            self.build_sublayer(layer, (None, None, None, count))
        width = self.filters // self.num_heads
        initializers = independent_copies(self.embedding_initializer, 2)
        self.row_embedding, self.column_embedding = (
            self.add_weight(
                name=f"{name}_embedding",
                shape=(taps, self.num_heads, part),
                initializer=initializer,
                trainable=True,
            )
            for name, taps, part, initializer in zip(
                ("row", "column"),
                self.kernel_size,
                (width // 2, width - width // 2),
                initializers,
            )
        )
        self.built = True

    def output_channels(self, channels):
        return self.filters

    def call(self, inputs):
        x = self.channels_last(inputs)
        value = tf.convert_to_tensor(with_an_example(self.value, x))
        y = ops.involution(value, self._attention(x), self.kernel_size, **self.geometry_arguments)
        return self.activation(self.restored(y))

    def attention(self, inputs: tf.Tensor) -> tf.Tensor:
        """The attention [N, H, W, num_heads * taps] of each pixel to its window.

        Channels first if the inputs are; the index is ``head * taps + tap``. A head's weights
        sum to 1; those of pixels outside the image are 0.
        """
        require_built(self)
        x = self.channels_last(tf.cast(inputs, self.compute_dtype))
        return self.restored(self._attention(x))

    def _attention(self, x: tf.Tensor) -> tf.Tensor:
        query, key = (
            tf.convert_to_tensor(with_an_example(layer, x)) for layer in (self.query, self.key)
        )
        return in_float32(self._weights, query, key, self._embeddings())

    def _embeddings(self) -> tf.Tensor:
        """The vectors r of all taps: [taps, heads, channels of a head]."""
        (rows, columns), heads = self.kernel_size, self.num_heads
        row, column = self.weight(self.row_embedding), self.weight(self.column_embedding)
        row = tf.repeat(row, columns, axis=0)
        column = tf.tile(column, [rows, 1, 1])
        return tf.reshape(tf.concat([row, column], axis=-1), [rows * columns, heads, -1])

    def _weights(self, query: tf.Tensor, key: tf.Tensor, embeddings: tf.Tensor) -> tf.Tensor:
        geometry, heads = self.geometry, self.num_heads
        width = self.filters // heads
        sizes = spatial_sizes(query)
        query = tf.reshape(query, [-1, *sizes, heads, width])
        windows = Windows(key, geometry, split=heads)
        logits = [
            tf.reduce_sum(query * (pixel + embeddings[tap]), axis=-1)
            for tap, pixel in enumerate(windows)
        ]
        inside = Windows(tf.ones([1, *sizes, 1], query.dtype), geometry)
        outside = [(pixel - 1) * _MASKED for pixel in inside]
        logits = tf.stack([a + b for a, b in zip(logits, outside)], axis=-1)
        return tf.reshape(tf.nn.softmax(logits), [-1, *sizes, heads * geometry.taps])

    def get_config(self):
        config = super().get_config()
        for name in ("strides", "padding"):
            del config[name]
        return {
            **config,
            "filters": self.filters,
            "num_heads": self.num_heads,
            "embedding_initializer": keras.initializers.serialize(self.embedding_initializer),
            **kernel_config(self),
        }
