"""Self-attention: every position of the output sees every position of the input."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv import _compat
from tfconv._compat import keras
from tfconv.layers.arguments import boolean, optional, positive_int
from tfconv.layers.attention import Attention, masked_softmax
from tfconv.layers.kernels import KernelArguments
from tfconv.layers.masking import per_position
from tfconv.layers.spatial import SpatialLayer
from tfconv.ops.dispatch import widened
from tfconv.ops.geometry import spatial_sizes
from tfconv.ops.windows import product

_MOST_AT_ONCE = 1 << 24  # numbers of an example's attention
_MOST_IN_BLOCK = 1 << 22


class SelfAttention(Attention, KernelArguments, SpatialLayer):
    """Global multi-head self-attention over the positions of any number of spatial axes.

    ``y[p] = W_o concat_h(sum_q softmax_q(Q_h[p] . K_h[q] / sqrt(key_dim) + b_h[p - q]) V_h[q])``
    with queries and values ``Q, V = W x + bias`` and keys ``K = W x``. All positions see each
    other, so time grows with the square of their number; of large maps, attention is made for some
    queries after the other, and in training again. There is no residual connection and no
    normalization: those are the caller's. Masks, causality, dropout and scores
    are as in Keras's MultiHeadAttention, called with one tensor as query and value.

    Args:
        num_heads: Attention heads.
        key_dim: Channels of each head's queries and keys.
        value_dim: Channels of each head's values; None for ``key_dim``.
        filters: Output channels; None for the input's.
        relative_position_bias: Adds to the logits a trained number b for each head and each
            distance between two positions. The spatial sizes must then be known, and the layer
            takes inputs of those sizes only.
        position_bias_initializer, position_bias_regularizer, position_bias_constraint: Of these
            numbers.
        use_bias: Whether queries, values and outputs have a bias. Keys have none: the softmax
            would cancel it.

    Call arguments:
        attention_mask: Optional booleans [N, P, P], or [P, P] or [N, num_heads, P, P], where P
            counts the positions, in row-major order: what each position (row) may see. Each P
            may be all spatial axes instead. A position that may see nothing gets zeros for values.

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
    weight_arguments = {"position_bias": "zeros"}
    fixed = ("kernel_size", "strides", "padding", "dilation_rate", "padding_mode")

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
        self.build_dropout()
        self.position_bias = None
        if self.relative_position_bias:
            sizes = self.pinned_sizes(
                input_shape, "`relative_position_bias` needs the spatial sizes of the input"
            )
            self._distances = relative_positions(sizes)
            distances = math.prod(2 * size - 1 for size in sizes)
            shape = (self.num_heads, distances)
            self.position_bias = self.add_like(shape, "position_bias", "position_bias")
        self.built = True

    def output_channels(self, channels):
        return self.filters or channels

    def call(
        self,
        inputs,
        attention_mask=None,
        return_attention_scores=False,
        training=None,
        use_causal_mask=False,
        mask=None,
    ):
        x = self.fitting(inputs)
        if mask is None:  # which Keras 3 does not hand on beside another tensor
            mask = getattr(inputs, "_keras_mask", None)
        masks = attention_mask, use_causal_mask, mask
        drops = bool(self.dropout) and training is not None and training is not False
        if not (return_attention_scores or drops) and self._is_large(x):
            mixed = self._mixed_in_blocks(x, *masks)
        else:
            attention = self._attention_of(x, *masks)
            value = widened(self._heads(self.value, x))
            mixed = tf.matmul(self.dropped(attention, training), value)
        mixed = tf.cast(tf.transpose(mixed, [0, 2, 1, 3]), x.dtype)
        sizes, (heads, width) = spatial_sizes(x), mixed.shape[-2:]
        y = self.computed(self.project(tf.reshape(mixed, [-1, product(sizes), heads * width])))
        y = self.finish(tf.reshape(y, [-1, *sizes, y.shape[-1]]))
        return (y, tf.cast(attention, x.dtype)) if return_attention_scores else y

    def attention(
        self,
        inputs: tf.Tensor,
        attention_mask: Any = None,
        use_causal_mask: bool = False,
        mask: Any = None,
    ) -> tf.Tensor:
        """The attention [N, num_heads, P, P] of each position (row) to each, rows summing to 1.

        P counts the positions, in row-major order. Rows of positions that see nothing are 0.
        """
        masks = {"attention_mask": attention_mask, "use_causal_mask": use_causal_mask, "mask": mask}
        if _compat.is_symbolic(inputs):
            return self.second_output(inputs, **masks)
        x = self.fitting(self.entered(inputs))
        return tf.cast(self._attention_of(x, **masks), x.dtype)

    def _heads(self, layer: Any, x: tf.Tensor) -> tf.Tensor:
        """Queries, keys or values, by their layer: [N, heads, P, channels of a head]."""
        positions = product(spatial_sizes(x))
        part = self.computed(layer(tf.reshape(x, [-1, positions, x.shape[-1]])))
        width = part.shape[-1] // self.num_heads
        part = tf.reshape(part, [-1, positions, self.num_heads, width])
        return tf.transpose(part, [0, 2, 1, 3])

    def _attention_of(
        self, x: tf.Tensor, attention_mask: Any, use_causal_mask: bool, mask: Any
    ) -> tf.Tensor:
        """The attention in channels-last inputs, in float32 at least."""
        allowed = self._allowed(x, attention_mask, use_causal_mask, mask)
        query, key = (widened(self._heads(layer, x)) for layer in (self.query, self.key))
        table, distances = None, None
        if self.position_bias is not None:
            table, distances = (
                tf.cast(self.computed(self.position_bias), query.dtype),
                self._distances,
            )
        return _attention(query * self.key_dim**-0.5, key, table, distances, allowed)

    def _is_large(self, x: tf.Tensor) -> bool:
        """Whether all heads' attention would take much memory; files keep one product."""
        positions = product(spatial_sizes(x))
        if not isinstance(positions, int) or _compat.tracing_for_export():
            return False
        return self.num_heads * positions**2 > _MOST_AT_ONCE

    def _mixed_in_blocks(
        self, x: tf.Tensor, attention_mask: Any, use_causal_mask: bool, mask: Any
    ) -> tf.Tensor:
        """The weighted values, for some queries after the other; training makes attention again.

        The blocks follow from the sizes alone, and so do the bits of the result.
        """
        positions = product(spatial_sizes(x))
        rows = max(1, _MOST_IN_BLOCK // (self.num_heads * positions))
        allowed = self._allowed(x, attention_mask, use_causal_mask, mask)
        layers = (self.query, self.key, self.value)
        query, key, value = (widened(self._heads(layer, x)) for layer in layers)
        query *= self.key_dim**-0.5
        table = self.position_bias
        table = [] if table is None else [tf.cast(self.computed(table), query.dtype)]
        found = []
        for start in range(0, positions, rows):
            part = slice(start, start + rows)
            distances = self._distances[part] if table else None
            seen = allowed
            if allowed is not None and allowed.shape[-2] != 1:
                seen = allowed[..., part, :]
            found.append(_mixed_again(query[:, :, part], key, value, table, distances, seen))
        return tf.concat(found, axis=2)

    def _allowed(
        self, x: tf.Tensor, attention_mask: Any, use_causal_mask: bool, mask: Any
    ) -> tf.Tensor | None:
        """Which positions see which, as booleans that fit [N, heads, P, P]; None for all."""
        positions = product(spatial_sizes(x))
        seen = []
        if attention_mask is not None:
            seen.append(self._pairs(attention_mask, x))
        if mask is not None:
            valid = tf.logical_and(per_position(mask, x), tf.ones_like(x[..., :1], tf.bool))
            valid = tf.reshape(valid, [-1, 1, 1, positions])
            seen += [valid, tf.transpose(valid, [0, 1, 3, 2])]
        if use_causal_mask:
            order = tf.range(positions)
            seen.append(order[:, tf.newaxis] >= order)
        return functools.reduce(tf.logical_and, seen) if seen else None

    def _pairs(self, attention_mask: Any, x: tf.Tensor) -> tf.Tensor:
        """An attention mask as booleans that fit [N, heads, P, P]."""
        given, sizes = tf.convert_to_tensor(attention_mask), spatial_sizes(x)
        mask = tf.cast(given, tf.bool)
        positions, ahead = product(sizes), (mask.shape.rank or 0) - 2 * self.rank
        spatial = x.shape.as_list()[1:-1] * 2
        if self.rank > 1 and ahead > 0 and mask.shape[ahead:].is_compatible_with(spatial):
            shape = tf.concat([tf.shape(mask)[:ahead], [positions, positions]], axis=0)
            mask = tf.reshape(mask, shape)
        if mask.shape.rank == 3:
            mask = mask[:, tf.newaxis]
        known = positions if isinstance(positions, int) else None
        wanted = [x.shape[0], self.num_heads, known, known]
        shape = mask.shape.as_list() if mask.shape.rank else []
        pairs = zip(reversed(shape), reversed(wanted))
        fits = all(n in (None, 1, m) or m is None for n, m in pairs)
        if len(shape) not in (2, 4) or not fits:
            raise ValueError(
                "`attention_mask` must have the shape [batch, num_heads, positions, positions], "
                f"here {tf.TensorShape(wanted)}, or lack the second or both of the first axes. "
                f"Received: attention_mask of shape {given.shape}"
            )
        return mask


def _attention(query, key, table, distances, allowed) -> tf.Tensor:
    """The softmax of scaled queries and keys; ``table`` has biases by the number of a distance."""
    logits = tf.matmul(query, key, transpose_b=True)
    if table is not None:
        logits = logits + tf.gather(table, distances, axis=1)
    return masked_softmax(logits, allowed)


def _mixed_again(query, key, value, tables, distances, allowed) -> tf.Tensor:
    """Values weighted by attention, which the gradient computes again rather than keep it."""

    def mixed(query, key, value, *tables):
        table = tables[0] if tables else None
        return tf.matmul(_attention(query, key, table, distances, allowed), value)

    @tf.custom_gradient
    def once_more(*tensors):
        def gradient(upstream):
            # Behind the upstream gradient, or the first time's attention would serve, and be kept.
            with tf.control_dependencies([upstream]):
                again = [tf.identity(tensor) for tensor in tensors]
            with tf.GradientTape() as tape:
                tape.watch(again)
                y = mixed(*again)
            return tape.gradient(y, again, output_gradients=upstream)

        return mixed(*tensors), gradient

    return once_more(query, key, value, *tables)


def relative_positions(sizes: Sequence[int]) -> np.ndarray:
    """[P, P] numbers of the distances between all positions of a grid.

    The distance ``p - q`` has the row-major number of ``p - q + size - 1`` in a grid of
    ``2 * size - 1`` distances per axis.
    """
    places = np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), axis=-1)
    apart = places[:, np.newaxis] - places[np.newaxis] + np.asarray(sizes) - 1
    numbers = np.ravel_multi_index(np.moveaxis(apart, -1, 0), [2 * size - 1 for size in sizes])
    return numbers.astype(np.int32)


class SelfAttention1D(SelfAttention, rank=1):
    """Global self-attention over sequences.

    Example:
        >>> layer = tfconv.SelfAttention1D(num_heads=2, key_dim=4)
        >>> layer(tf.ones([2, 10, 8])).shape
        TensorShape([2, 10, 8])
    """


class SelfAttention2D(SelfAttention, rank=2):
    """Global self-attention over images.

    Example:
        >>> layer = tfconv.SelfAttention2D(num_heads=2, key_dim=4, relative_position_bias=True)
        >>> layer(tf.ones([2, 6, 6, 8])).shape
        TensorShape([2, 6, 6, 8])
    """


class SelfAttention3D(SelfAttention, rank=3):
    """Global self-attention over volumes.

    Example:
        >>> layer = tfconv.SelfAttention3D(num_heads=2, key_dim=4, filters=5)
        >>> layer(tf.ones([2, 3, 4, 4, 8])).shape
        TensorShape([2, 3, 4, 4, 5])
    """
