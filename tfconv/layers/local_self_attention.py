"""Stand-alone self-attention: every position sees a window around itself."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv import _compat, ops
from tfconv.layers.arguments import choice, flags_per_axis, positive_int
from tfconv.layers.attention import Attention
from tfconv.layers.involution import pooled_volumes
from tfconv.layers.kernels import KernelArguments, independent_copies
from tfconv.layers.masking import per_position, without_mask
from tfconv.layers.spatial import SpatialLayer
from tfconv.ops.dispatch import in_float32
from tfconv.ops.geometry import spatial_sizes
from tfconv.ops.local_attention import Neighbourhoods, pixels_under
from tfconv.ops.windows import Windows, product

# Below the logits of pixels that Keras's masks hide; as float16 has it, too.
_HIDDEN = {tf.float16: 3e4}
_AXES = {1: ("position",), 2: ("row", "column"), 3: ("depth", "row", "column")}


class LocalSelfAttention(Attention, KernelArguments, SpatialLayer):
    """Multi-head self-attention over a window around each position, in place of a convolution.

    ``y[p] = sum_t softmax_t(Q[p] . (K[p + t] + r[t]) + b[t]) V[p + t]`` for each head, with
    queries and values ``Q, V = W x + bias`` and keys ``K = W x``. One of ``r`` and ``b`` tells
    places in the window apart: a vector, made of a trained part for each axis, or a trained
    number for each head and tap.

    Args:
        kernel_size: Taps per spatial axis.
        num_heads: Attention heads; must divide ``filters``.
        strides: Positions of the input for one of the output. Queries are then made from the
            means of blocks of so many, and a window lies around the middle of its block.
        edges: "masked": pixels outside the input take no part. "shifted": windows move inside,
            so that each has all of its taps; the input must be as large as they are.
        causal: Whether windows end at the position itself, a bool or one per spatial axis.
        relative_positions: "keys" for ``r``, "bias" for ``b``, None for neither.
        use_bias: Whether queries and values have a bias. Keys have none: the softmax would
            cancel it.
        kernel_initializer, bias_initializer: Initializers of the weights of queries, keys and
            values.
        embedding_initializer, embedding_regularizer, embedding_constraint: Of ``r``.
        position_bias_initializer, position_bias_regularizer, position_bias_constraint: Of ``b``.

    Call arguments:
        use_causal_mask: Whether positions see only themselves and those before them, row by row:
            with ``edges="masked"`` only, and neither ``strides`` nor ``causal``.

    Output shape: [N, *output spatial, filters].

    Weights:
        query, key, value: 1x1 convolutions C -> filters.
        row_embedding: [kh, num_heads, D // 2], where D is ``filters // num_heads``, and
        column_embedding: [kw, num_heads, D - D // 2]; of sequences ``position_embedding``
            alone, of volumes ``depth_embedding`` before them, each with a third of D.
        position_bias: [num_heads, prod(kernel_size)], instead of these.

    Raises:
        ValueError: If an argument is not what is described above, a head has fewer channels
            than there are axes with embeddings, or the input is smaller than shifted windows.

    Source: Ramachandran et al., Stand-Alone Self-Attention in Vision Models, arXiv:1906.05909,
    equations 2 and 3; shifted windows and biases: Hassani et al., Neighborhood Attention
    Transformer, arXiv:2204.07143, equations 1-4.
    """

    by_position = 3
    weight_arguments = {"embedding": "glorot_uniform", "position_bias": "zeros"}
    fixed = ("padding", "padding_mode")
    position_embedding = depth_embedding = row_embedding = column_embedding = None
    position_bias = None

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int] = 7,
        num_heads: int = 8,
        *,
        edges: str = "masked",
        causal: bool | Sequence[bool] = False,
        relative_positions: str | None = "keys",
        use_bias: bool = False,
        **kwargs: Any,
    ):
        super().__init__(kernel_size=kernel_size, padding="same", use_bias=use_bias, **kwargs)
        self.take(positive_int, filters=filters, num_heads=num_heads)
        self.take(choice("masked", "shifted"), edges=edges)
        self.take(functools.partial(flags_per_axis, rank=self.rank), causal=causal)
        self.take(choice("keys", "bias", None), relative_positions=relative_positions)
        least = self.rank if self.relative_positions == "keys" else 1
        if self.filters % self.num_heads or self.filters < least * self.num_heads:
            raise ValueError(
                f"`filters` must be a multiple of `num_heads`, at least {least} times as many. "
                f"Received: filters={filters}, num_heads={num_heads}"
            )
        self.supports_masking = max(self.strides) == 1
        self._places()  # which raises

    def _places(self) -> Neighbourhoods:
        window = self.kernel_size, self.strides, self.dilation_rate
        return Neighbourhoods.of(*window, self.edges, self.causal, self.rank)

    def build(self, input_shape):
        count = self.input_channels(input_shape)
        query, key, value = self.arguments_inside(3)
        key.update(use_bias=False)
        for name, arguments in (("query", query), ("key", key), ("value", value)):
            self.pointwise_sublayer(name, count, self.filters, **arguments)
        if self.relative_positions == "keys":
            self._build_embeddings()
        elif self.relative_positions == "bias":
            shape = (self.num_heads, self.geometry.taps)
            self.position_bias = self.add_like(shape, "position_bias", "position_bias")
        self.build_dropout()
        self.built = True

    def _build_embeddings(self) -> None:
        width = self.filters // self.num_heads
        part = width // self.rank
        widths = [*[part] * (self.rank - 1), width - part * (self.rank - 1)]
        initializers = independent_copies(self.embedding_initializer, self.rank, "embedding")
        for axis, taps, part, initializer in zip(
            _AXES[self.rank], self.kernel_size, widths, initializers
        ):
            name, shape = f"{axis}_embedding", (taps, self.num_heads, part)
            setattr(self, name, self.add_like(shape, name, "embedding", initializer=initializer))

    def output_channels(self, channels):
        return self.filters

    def output_sizes(self, sizes):
        least = self._places().least_sizes
        if any(size and size < most for size, most in zip(sizes, least)):
            raise ValueError(
                f'`edges` may be "shifted" for inputs of at least {least} pixels, with kernel_size='
                f"{self.kernel_size} and dilation_rate={self.dilation_rate}. "
                f"Received: spatial sizes {tuple(sizes)}"
            )
        return super().output_sizes(sizes)

    def call(
        self,
        inputs,
        return_attention_scores=False,
        training=None,
        use_causal_mask=False,
        mask=None,
    ):
        x = without_mask(self.fitting(inputs))
        drops = bool(self.dropout) and training is not None and training is not False
        value = self.made_by(self.value, x)
        wanted = return_attention_scores or drops
        y, attention = self._attended(x, value, use_causal_mask, mask, wanted)
        if drops:
            y = self._weighted(self.dropped(attention, training), value)
        y = self.finish(y)
        return (y, self.restored(attention)) if return_attention_scores else y

    def attention(
        self, inputs: tf.Tensor, use_causal_mask: bool = False, mask: Any = None
    ) -> tf.Tensor:
        """The attention [N, *output spatial, num_heads * taps] of each position to its window.

        Channels first if the inputs are; the index is ``head * taps + tap``. A head's weights
        sum to 1; those of pixels outside the input, or masked, are 0.
        """
        if _compat.is_symbolic(inputs):
            return self.second_output(inputs, use_causal_mask=use_causal_mask, mask=mask)
        x = self.fitting(self.entered(inputs))
        value = self.made_by(self.value, x)
        return self.restored(self._attended(x, value, use_causal_mask, mask, True)[1])

    def _attended(
        self, x: tf.Tensor, value: tf.Tensor, use_causal_mask: bool, mask: Any, with_weights: bool
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The result for channels-last inputs and, if asked for, the attention."""
        if use_causal_mask and not self._places().is_sliding:
            raise ValueError(
                '`use_causal_mask` goes with edges="masked", strides of 1 and causal=False; '
                f"`causal` is for the others. Received: use_causal_mask=True in {self.name!r}"
            )
        query = self.made_by(self.query, mean_of_blocks(x, self.strides))
        key = self.made_by(self.key, x)
        bias = self._bias(query, use_causal_mask)
        seen = None if mask is None else per_position(mask, x)
        if seen is not None:
            query, key = self._hiding(query, key, seen)
        found = [self._attend(query, key, value, self.num_heads, bias)]
        if with_weights:  # beside the result, which is the same with and without
            found.append(self._attend(query, key, value, self.num_heads, bias, True)[1])
        if use_causal_mask or seen is not None:  # windows may be empty, and pixels see nothing
            kept = tf.cast(self._sees(x, use_causal_mask, seen), x.dtype)
            found = [y * kept for y in found]
        return (*found, None)[:2]

    def _attend(self, query, key, value, heads, bias=None, with_weights=False) -> Any:
        return ops.local_attention(
            query,
            key,
            value,
            self.kernel_size,
            num_heads=heads,
            strides=self.strides,
            dilation_rate=self.dilation_rate,
            bias=bias,
            edges=self.edges,
            causal=self.causal,
            scale=1.0,
            return_weights=with_weights,
            data_format="channels_last",
        )

    # What is added to logits.

    def _bias(self, query: tf.Tensor, use_causal_mask: bool) -> tf.Tensor | None:
        """[heads, taps] or, where it depends on the query, [N, *query's spatial, heads * taps]."""
        bias = None
        if self.relative_positions == "keys":
            bias = in_float32(_products, query, self._embeddings())
        elif self.relative_positions == "bias":
            bias = self.computed(self.position_bias)
        if not use_causal_mask:
            return bias
        taps, least = range(self.geometry.taps), -_hidden(query.dtype)
        later = [0.0 if self._is_before(tap) else least for tap in taps]
        later = tf.constant([later] * self.num_heads, query.dtype)
        if bias is None:
            return later
        return bias + (later if bias.shape.rank == 2 else tf.reshape(later, [-1]))

    def _embeddings(self) -> tf.Tensor:
        """The vectors r of all taps: [taps, heads, channels of a head]."""
        parts, before, after = [], 1, self.geometry.taps
        for axis, taps in zip(_AXES[self.rank], self.kernel_size):
            after //= taps
            part = self.computed(getattr(self, f"{axis}_embedding"))
            parts.append(tf.tile(tf.repeat(part, after, axis=0), [before, 1, 1]))
            before *= taps
        return tf.concat(parts, axis=-1)

    def _is_before(self, tap: int) -> bool:
        """Whether a tap's pixel is the window's own or, row by row, before it."""
        places = np.unravel_index(tap, self.kernel_size)
        geometry = self.geometry
        apart = zip(places, geometry.dilation_rate, geometry.extent)
        found = tuple(place * step - (extent - 1) // 2 for place, step, extent in apart)
        return found <= (0,) * self.rank

    # Masks.

    def _hiding(
        self, query: tf.Tensor, key: tf.Tensor, seen: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Queries and keys with one more channel for each head, which hides what is not seen."""
        ones = tf.ones_like(key[..., :1])
        hidden = (ones * tf.cast(seen, key.dtype) - 1) * _hidden(key.dtype)
        return self._with_channel(query, tf.ones_like(query[..., :1])), self._with_channel(
            key, hidden
        )

    def _with_channel(self, x: tf.Tensor, channel: tf.Tensor) -> tf.Tensor:
        heads, sizes = self.num_heads, spatial_sizes(x)
        width = x.shape[-1] // heads
        flat = tf.reshape(x, [-1, product(sizes), heads, width])
        channel = tf.tile(tf.reshape(channel, [-1, product(sizes), 1, 1]), [1, 1, heads, 1])
        return tf.reshape(tf.concat([flat, channel], -1), [-1, *sizes, heads * (width + 1)])

    def _sees(self, x: tf.Tensor, use_causal_mask: bool, seen: tf.Tensor | None) -> tf.Tensor:
        """Whether positions see anything, and are seen themselves: [N, *output spatial, 1]."""
        pixels = tf.ones_like(x[..., :1])
        if seen is not None:
            pixels *= tf.cast(seen, x.dtype)
        if use_causal_mask:
            windows = enumerate(Windows(pixels, self.geometry))
            found = [window for tap, window in windows if self._is_before(tap)]
            return functools.reduce(tf.maximum, found) * pixels > 0
        queries = mean_of_blocks(pixels, self.strides)
        share = self._attend(tf.zeros_like(queries), tf.zeros_like(pixels), pixels, heads=1)
        return share * queries > 0

    def _weighted(self, weights: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
        """The sum of the values of windows by weights that are no softmax: some were dropped."""
        places = self._places()
        if places.is_sliding:
            return ops.involution(value, weights, self.kernel_size, **self.geometry_arguments)
        return in_float32(functools.partial(_sums, self.num_heads, places), value, weights)


def _hidden(dtype: tf.DType) -> float:
    return _HIDDEN.get(dtype, 1e9)


def _products(query: tf.Tensor, embeddings: tf.Tensor) -> tf.Tensor:
    """Those of queries and the vectors of all taps."""
    taps, heads, width = embeddings.shape
    rows = tf.transpose(tf.reshape(query, [-1, heads, width]), [1, 0, 2])
    products = tf.matmul(rows, tf.transpose(embeddings, [1, 2, 0]))
    products = tf.transpose(products, [1, 0, 2])
    return tf.reshape(products, [-1, *spatial_sizes(query), heads * taps])


def _sums(heads: int, places: Neighbourhoods, value: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    sizes, width = spatial_sizes(weights), value.shape[-1] // heads
    weights = tf.reshape(weights, [-1, *sizes, heads, places.taps])
    total = 0.0
    for pixel, weight in zip(
        pixels_under(value, places, sizes), tf.split(weights, places.taps, -1)
    ):
        total += tf.reshape(pixel, [-1, *sizes, heads, width]) * weight
    return tf.reshape(total, [-1, *sizes, heads * width])


def mean_of_blocks(x: tf.Tensor, strides: Sequence[int]) -> tf.Tensor:
    """Means of blocks of pixels, the first of which starts at the first; the last may be less."""
    if max(strides) == 1:
        return x
    more = [(s - size % s) % s for size, s in zip(spatial_sizes(x), strides)]

    def summed(x):
        if any(not isinstance(n, int) or n for n in more):
            x = tf.pad(x, [[0, 0], *[[0, n] for n in more], [0, 0]])
        if len(strides) == 3:
            return pooled_volumes(x, strides)
        return tf.nn.avg_pool(x, strides, strides, "VALID")

    if all(isinstance(n, int) and not n for n in more):
        return summed(x)
    return summed(x) / summed(tf.ones_like(x[..., :1]))


class LocalSelfAttention1D(LocalSelfAttention, rank=1):
    """Local self-attention over sequences.

    Example:
        >>> layer = tfconv.LocalSelfAttention1D(8, kernel_size=5, num_heads=2, causal=True)
        >>> layer(tf.ones([2, 9, 4])).shape
        TensorShape([2, 9, 8])
    """


class LocalSelfAttention2D(LocalSelfAttention, rank=2):
    """Local self-attention over images.

    Example:
        >>> layer = tfconv.LocalSelfAttention2D(8, kernel_size=3, num_heads=2)
        >>> layer(tf.ones([2, 6, 6, 4])).shape
        TensorShape([2, 6, 6, 8])
    """


class LocalSelfAttention3D(LocalSelfAttention, rank=3):
    """Local self-attention over volumes.

    Example:
        >>> layer = tfconv.LocalSelfAttention3D(
        ...     6, kernel_size=3, num_heads=2, strides=2, edges="shifted"
        ... )
        >>> layer(tf.ones([1, 4, 6, 6, 3])).shape
        TensorShape([1, 2, 3, 3, 6])
    """
