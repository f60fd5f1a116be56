"""Self-attention: every position of the output sees every position of the input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv._compat import keras
from tfconv.layers.arguments import boolean, optional, positive_int
from tfconv.layers.base import KernelArguments, SpatialLayer, register, require_built
from tfconv.ops.dispatch import in_float32
from tfconv.ops.geometry import spatial_sizes
from tfconv.ops.windows import product


class SelfAttention(KernelArguments, SpatialLayer):
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
        relative_position_bias: Adds to the logits a trained number b for each head and each
            distance between two positions. The spatial sizes must then be known, and the layer
            takes inputs of those sizes only.
        use_bias: Whether queries, values and outputs have a bias. Keys have none: the softmax
            would cancel it.

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

    by_position = 2
    fixed = ("kernel_size", "strides", "padding", "dilation_rate")

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        *,
        value_dim: int | None = None,
        filters: int | None = None,
        relative_position_bias: bool = False,
        **kwargs: Any,
    ):
        super().__init__(kernel_size=1, **kwargs)
        self.take(positive_int, num_heads=num_heads, key_dim=key_dim)
        self.take(optional(positive_int), value_dim=value_dim, filters=filters)
        self.take(boolean, relative_position_bias=relative_position_bias)

    def build(self, input_shape):
        count = self.input_channels(input_shape)
        keys = self.num_heads * self.key_dim
        values = self.num_heads * (self.value_dim or self.key_dim)
        widths = {
            "query": (count, keys),
            "key": (count, keys),
            "value": (count, values),
            "project": (values, self.filters or count),
        }
        for arguments, (name, (inputs, units)) in zip(self.arguments_inside(4), widths.items()):
            if name == "key":
                arguments.update(use_bias=False)
            shape = (None, None, inputs)
            self.sublayer(name, keras.layers.Dense, shape, units=units, **arguments)
        self.position_bias = None
        if self.relative_position_bias:
            sizes = self.pinned_sizes(
                input_shape, "`relative_position_bias` needs the spatial sizes of the input"
            )
            self._distances = relative_positions(sizes)
            self.position_bias = self.add_weight(
                name="position_bias",
                shape=(self.num_heads, math.prod(2 * size - 1 for size in sizes)),
                initializer="zeros",
                trainable=True,
            )
        self.built = True

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
        return self.finish(y)

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
    """Global self-attention over sequences.

    Example:
        >>> layer = tfconv.SelfAttention1D(num_heads=2, key_dim=4)
        >>> layer(tf.ones([2, 10, 8])).shape
        TensorShape([2, 10, 8])
    """

    rank = 1


@register
class SelfAttention2D(SelfAttention):
    """Global self-attention over images.

    Example:
        >>> layer = tfconv.SelfAttention2D(num_heads=2, key_dim=4, relative_position_bias=True)
        >>> layer(tf.ones([2, 6, 6, 8])).shape
        TensorShape([2, 6, 6, 8])
    """

    rank = 2


@register
class SelfAttention3D(SelfAttention):
    """Global self-attention over volumes.

    Example:
        >>> layer = tfconv.SelfAttention3D(num_heads=2, key_dim=4, filters=5)
        >>> layer(tf.ones([2, 3, 4, 4, 8])).shape
        TensorShape([2, 3, 4, 4, 5])
    """

    rank = 3
