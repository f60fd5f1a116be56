"""Stand-alone self-attention: every position sees a window around itself."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv import _compat, ops
from tfconv._compat import keras
from tfconv.layers.arguments import positive_int
from tfconv.layers.attention import Attention
from tfconv.layers.base import require_built
from tfconv.layers.kernels import KernelArguments, independent_copies
from tfconv.layers.masking import per_position, without_mask
from tfconv.layers.spatial import SpatialLayer
from tfconv.ops.dispatch import in_float32, with_an_example
from tfconv.ops.geometry import spatial_sizes
from tfconv.ops.windows import Windows

# Below the logits of pixels outside the image. The least float32 would be too much for the scales
# of 8-bit integers.
_MASKED = 1e9


class LocalSelfAttention2D(Attention, KernelArguments, SpatialLayer, rank=2):
    """Multi-head self-attention over a window around each pixel, in place of a convolution.

    ``y[p] = sum_t softmax_t(Q[p] . (K[p + t] + r[t])) V[p + t]`` for each head, with queries
    and values ``Q, V = W x + bias``, keys ``K = W x`` and ``r[t]`` made of two trained vectors:
    one for the row of tap t in its first half, one for the column in the rest. Pixels outside
    the image take no part in the softmax. The weighted sum is an involution
    (`tfconv.ops.involution`) whose kernels are the attention.

    There are no strides: to halve an image, the authors put an average pooling after the layer.

    Args:
        num_heads: Attention heads; must divide ``filters``.
        use_bias: Whether queries and values have a bias. Keys have none: the softmax would
            cancel it.
        kernel_initializer, bias_initializer: Initializers of the weights of queries, keys and
            values.
        embedding_initializer, embedding_regularizer, embedding_constraint: Of the relative
            positions' vectors.

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

    by_position = 3
    weight_arguments = {"embedding": "glorot_uniform"}
    fixed = ("strides", "padding", "padding_mode")

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int] = 7,
        num_heads: int = 8,
        *,
        use_bias: bool = False,
        **kwargs: Any,
    ):
        super().__init__(kernel_size=kernel_size, padding="same", use_bias=use_bias, **kwargs)
        self.take(positive_int, filters=filters, num_heads=num_heads)
        if self.filters % self.num_heads or self.filters < 2 * self.num_heads:
            raise ValueError(
                "`filters` must be a multiple of `num_heads`, at least twice as many. "
                f"Received: filters={filters}, num_heads={num_heads}"
            )

    def build(self, input_shape):
        shape = (None, None, None, self.input_channels(input_shape))
        query, key, value = self.arguments_inside(3)
        key.update(use_bias=False)
        for name, arguments in (("query", query), ("key", key), ("value", value)):
            arguments.update(filters=self.filters, kernel_size=1, data_format="channels_last")
            self.sublayer(name, keras.layers.Conv2D, shape, **arguments)
        width = self.filters // self.num_heads
        initializers = independent_copies(self.embedding_initializer, 2, "embedding")
        self.row_embedding, self.column_embedding = (
            self.add(
                (taps, self.num_heads, part),
                f"{name}_embedding",
                "embedding",
                initializer=initializer,
            )
            for name, taps, part, initializer in zip(
                ("row", "column"),
                self.kernel_size,
                (width // 2, width - width // 2),
                initializers,
            )
        )
        self.build_dropout()
        self.built = True

    def output_channels(self, channels):
        return self.filters

    def call(
        self,
        inputs,
        return_attention_scores=False,
        training=None,
        use_causal_mask=False,
        mask=None,
    ):
        x = without_mask(self.fitting(inputs))
        attention = self._attention(x, use_causal_mask, mask)
        kernel = self.dropped(attention, training)
        value = self.weight(with_an_example(self.value, x))
        y = self.finish(ops.involution(value, kernel, self.kernel_size, **self.geometry_arguments))
        return (y, self.restored(attention)) if return_attention_scores else y

    def attention(
        self, inputs: tf.Tensor, use_causal_mask: bool = False, mask: Any = None
    ) -> tf.Tensor:
        """The attention [N, H, W, num_heads * taps] of each pixel to its window.

        Channels first if the inputs are; the index is ``head * taps + tap``. A head's weights
        sum to 1; those of pixels outside the image, or masked, are 0.
        """
        if _compat.is_symbolic(inputs):
            return self.second_output(inputs, use_causal_mask=use_causal_mask, mask=mask)
        require_built(self)
        x = self.fitting(tf.cast(inputs, self.compute_dtype))
        return self.restored(self._attention(x, use_causal_mask, mask))

    def _attention(self, x: tf.Tensor, use_causal_mask: bool, mask: Any) -> tf.Tensor:
        query, key = (self.weight(with_an_example(layer, x)) for layer in (self.query, self.key))
        seen = None if mask is None else per_position(mask, x)
        weights = functools.partial(self._weights, use_causal_mask, seen)
        return in_float32(weights, query, key, self._embeddings())

    def _embeddings(self) -> tf.Tensor:
        """The vectors r of all taps: [taps, heads, channels of a head]."""
        (rows, columns), heads = self.kernel_size, self.num_heads
        row, column = self.weight(self.row_embedding), self.weight(self.column_embedding)
        row = tf.repeat(row, columns, axis=0)
        column = tf.tile(column, [rows, 1, 1])
        return tf.reshape(tf.concat([row, column], axis=-1), [rows * columns, heads, -1])

    def _weights(
        self,
        use_causal_mask: bool,
        seen: tf.Tensor | None,
        query: tf.Tensor,
        key: tf.Tensor,
        embeddings: tf.Tensor,
    ) -> tf.Tensor:
        geometry, heads = self.geometry, self.num_heads
        width = self.filters // heads
        sizes = spatial_sizes(query)
        query = tf.reshape(query, [-1, *sizes, heads, width])
        windows = Windows(key, geometry, split=heads)
        logits = [
            tf.reduce_sum(query * (pixel + embeddings[tap]), axis=-1)
            for tap, pixel in enumerate(windows)
        ]
        pixels = tf.ones([1, *sizes, 1], query.dtype)
        if seen is not None:
            pixels *= tf.cast(seen, query.dtype)
        inside = list(Windows(pixels, geometry))
        if use_causal_mask:
            inside = [x if self._is_before(tap) else x * 0 for tap, x in enumerate(inside)]
        logits = [logit + (x - 1) * _MASKED for logit, x in zip(logits, inside)]
        weights = tf.nn.softmax(tf.stack(logits, axis=-1))
        if use_causal_mask or seen is not None:  # windows may be empty, and pixels see nothing
            weights *= tf.stack(inside, axis=-1) * pixels[..., tf.newaxis]
        return tf.reshape(weights, [-1, *sizes, heads * geometry.taps])

    def _is_before(self, tap: int) -> bool:
        """Whether a tap's pixel is the window's own or, row by row, before it."""
        places = np.unravel_index(tap, self.kernel_size)
        geometry = self.geometry
        apart = zip(places, geometry.dilation_rate, geometry.extent)
        return tuple(place * step - (extent - 1) // 2 for place, step, extent in apart) <= (0, 0)
