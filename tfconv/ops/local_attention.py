"""Local attention: the softmax over a window around each position, and the sum that it weighs."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv import _compat
from tfconv.ops import native
from tfconv.ops.channels import to_first, to_last
from tfconv.ops.checks import checked, of_sizes, sufficient
from tfconv.ops.dispatch import (
    apart,
    compiled,
    dispatch,
    invalid_argument,
    second_order,
    widened,
)
from tfconv.ops.geometry import Geometry, examples, is_int, known_sizes, spatial_sizes
from tfconv.ops.windows import Windows, product
from tfconv.ops.xla import summed

# How far below the largest logit of those that take part the others stand: their share is lost in
# rounding, and 8-bit integers, whose steps follow from the range, have steps left for the rest.
_BELOW = {tf.float32: 20.0, tf.float64: 45.0}


@tf.autograph.experimental.do_not_convert  # nothing to convert, and tracing stays fast
def local_attention(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    kernel_size: int | Sequence[int],
    *,
    num_heads: int,
    strides: int | Sequence[int] = 1,
    dilation_rate: int | Sequence[int] = 1,
    bias: tf.Tensor | None = None,
    edges: str = "masked",
    causal: bool | Sequence[bool] = False,
    scale: float | None = None,
    return_weights: bool = False,
    data_format: str | None = None,
) -> Any:
    """Multi-head attention of each position to a window of one, two or three spatial axes.

    ``y[p] = sum_t softmax_t(scale * query[p] . key[p + t] + bias[t]) value[p + t]`` for each
    head, with T taps ``t`` in row-major order. What happens where a window reaches over the
    border:

    - ``edges="masked"``: pixels outside take no part in the softmax. Tap ``t`` of an axis is the
      pixel ``p - (kernel_size - 1) * dilation // 2 + t * dilation``. Where none is inside, the
      result is zero.
    - ``edges="shifted"``: the window moves inside, so that each position has all taps. With
      dilation it does so among the pixels that are a multiple of the dilation apart, of which
      there must be ``kernel_size``; of these, ``kernel_size // 2`` stand before ``p`` where there
      is room.
    - ``causal``: the last tap of an axis is the position itself, and pixels before the first take
      no part, with either kind of edges.

    With ``strides``, blocks of as many positions share the window of the one in their middle (the
    last one if it is causal, of which each position sees what is not behind itself). The query has
    either every position, where blocks are made of positions a multiple of the dilation apart, or
    one for each block, such as pooled queries.

    Args:
        query: [N, *spatial, heads * D] tensor, one to three spatial axes; along each, as many
            positions as ``key``, or ``ceil(positions / strides)``. float16, bfloat16, float32 or
            float64.
        key: [N, *spatial, heads * D] tensor.
        value: [N, *spatial, heads * E] tensor.
        kernel_size: Taps per spatial axis; an int or one int per axis.
        num_heads: Heads; must divide the channels.
        strides: Positions that share a window.
        dilation_rate: Pixels between neighbouring taps.
        bias: What is added to the logits, finite: [heads, T] for all positions, or [N, *query's
            spatial, heads * T], index ``head * T + tap``.
        edges: "masked" or "shifted".
        causal: A bool or one per spatial axis.
        scale: Factor of the products; None takes ``1 / sqrt(D)``.
        return_weights: Whether to return the softmax as well, which is computed by stock ops.
        data_format: "channels_last" or "channels_first", which holds for all tensors of all
            positions; None takes Keras's setting.

    Returns:
        [N, *query's spatial, heads * E] tensor of ``query``'s type; with ``return_weights``, that
        and the weights [N, *query's spatial, heads * T], zero for what takes no part.

    Raises:
        ValueError: If an argument is not what is described above.
        tf.errors.InvalidArgumentError: If the shapes do not fit each other.

    Source: Ramachandran et al., Stand-Alone Self-Attention in Vision Models, arXiv:1906.05909,
    equation 2; shifted windows: Hassani et al., Neighborhood Attention Transformer,
    arXiv:2204.07143, equations 1-4; dilation: arXiv:2209.15001; strides and causal windows:
    Generalized Neighborhood Attention, arXiv:2504.16922.

    Example:
        >>> x = tf.reshape(tf.range(4.0), [1, 4, 1])
        >>> zeros = tf.zeros([1, 4, 1])
        >>> tfconv.ops.local_attention(zeros, zeros, x, 3, num_heads=1)[0, :, 0].numpy()
        array([0.5, 1. , 2. , 2.5], dtype=float32)
        >>> y = tfconv.ops.local_attention(zeros, zeros, x, 3, num_heads=1, edges="shifted")
        >>> y[0, :, 0].numpy()
        array([1., 1., 2., 2.], dtype=float32)
    """
    query = tf.convert_to_tensor(query)
    key, value = (tf.convert_to_tensor(t, dtype=query.dtype) for t in (key, value))
    bias = None if bias is None else tf.convert_to_tensor(bias, dtype=query.dtype)
    if query.shape.rank not in (3, 4, 5):
        raise invalid_argument(
            "local_attention needs a query of rank 3 to 5 ([N, spatial..., C]). "
            f"Received: shape {query.shape}"
        )
    places = Neighbourhoods.of(
        kernel_size, strides, dilation_rate, edges, causal, query.shape.rank - 2
    )
    if not is_int(num_heads) or num_heads < 1:
        raise ValueError(f"`num_heads` must be a positive int. Received: num_heads={num_heads!r}")
    is_number = isinstance(scale, numbers.Real) and not isinstance(scale, bool)
    if scale is not None and not (is_number and math.isfinite(scale)):
        raise ValueError(f"`scale` must be a finite number or None. Received: scale={scale!r}")
    first = _compat.standardized_data_format(data_format) == "channels_first"
    if first:
        query, key, value = (to_last(t) if t.shape.rank else t for t in (query, key, value))
        bias = bias if bias is None or bias.shape.rank == 2 else to_last(bias)
    _check(query, key, value, bias, num_heads, places)
    if scale is None:
        scale = 1.0 / math.sqrt(max(1, query.shape[-1] // num_heads))
    tensors, arguments = (query, key, value, bias), (int(num_heads), float(scale), places)
    if return_weights:
        results = _portable_in_float32(*tensors, *arguments)
    else:
        results = dispatch(
            lambda module: [_native(module, *tensors, *arguments)],
            lambda: [compiled(_local_attention, *tensors, arguments=arguments)],
            query,
        )
    results = [to_first(t) for t in results] if first else results
    return tuple(results) if return_weights else results[0]


@dataclasses.dataclass(frozen=True)
class Neighbourhoods:
    """Which pixels each query sees, axis by axis. See `local_attention`."""

    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    dilation_rate: tuple[int, ...]
    edges: str
    causal: tuple[bool, ...]

    @classmethod
    def of(cls, kernel_size, strides, dilation_rate, edges, causal, rank: int) -> Neighbourhoods:
        """Checks the arguments of `local_attention`."""
        window = Geometry.of(kernel_size, strides, "same", dilation_rate, rank)
        if edges not in ("masked", "shifted"):
            raise ValueError(f'`edges` must be "masked" or "shifted". Received: edges={edges!r}')
        flags = (causal,) * rank if isinstance(causal, (bool, np.bool_)) else causal
        if (
            not isinstance(flags, Sequence)
            or len(flags) != rank
            or not all(isinstance(flag, (bool, np.bool_)) for flag in flags)
        ):
            raise ValueError(
                f"`causal` must be a bool or {rank} bools (one per spatial axis). "
                f"Received: causal={causal!r}"
            )
        for k, s in zip(window.kernel_size, window.strides):
            if s > k:
                raise ValueError(
                    "`strides` must not exceed `kernel_size`, or pixels would be seen by none. "
                    f"Received: strides={strides!r} with kernel_size={kernel_size!r}"
                )
        flags = tuple(bool(flag) for flag in flags)
        return cls(window.kernel_size, window.strides, window.dilation_rate, edges, flags)

    @property
    def rank(self) -> int:
        return len(self.kernel_size)

    @property
    def taps(self) -> int:
        return math.prod(self.kernel_size)

    @property
    def least_sizes(self) -> tuple[int, ...]:
        """Pixels that are needed along each axis, if there are any."""
        moves = [self.edges == "shifted" and not causal for causal in self.causal]
        return tuple(
            k * d if move else 1 for k, d, move in zip(self.kernel_size, self.dilation_rate, moves)
        )

    @property
    def is_sliding(self) -> bool:
        """Whether windows are those of a convolution with padding "same"."""
        return self.edges == "masked" and not any(self.causal) and max(self.strides) == 1

    def blocks(self, size: Any, axis: int) -> Any:
        """Blocks of positions along an axis."""
        return (size + self.strides[axis] - 1) // self.strides[axis]

    def of_axes(self, sizes: Sequence[Any], queries: Sequence[Any]) -> list[tuple[Any, Any]]:
        """What `of_axis` gives for each axis."""
        return [self.of_axis(*each) for each in zip(range(self.rank), sizes, queries)]

    def of_axis(self, axis: int, size: Any, queries: Any) -> tuple[Any, Any]:
        """The pixels of each query and tap, and which of them take part: [queries, taps].

        Arrays if the sizes are ints, else tensors. Those that take no part lie inside as well.
        """
        k, s, d = (v[axis] for v in (self.kernel_size, self.strides, self.dilation_rate))
        causal = self.causal[axis]
        known = isinstance(size, int) and isinstance(queries, int)
        xp: Any = np if known else tf
        # Distances may go beyond 32 bits; positions do not.
        step: Any = np.arange(k, dtype=np.int64 if known else np.int32)
        position = np.arange(queries) if known else tf.range(queries)
        own = centre = position
        if s > 1:
            middle = s - 1 if causal else s // 2
            place, phase = position // d, position % d
            last = (size - 1 - phase) // d
            shared = xp.minimum(place // s * s + middle, last) * d + phase
            pooled = xp.minimum(position * s + middle, size - 1)
            every = queries == size if known else tf.equal(queries, size)
            centre = xp.where(every, shared, pooled)
            own = xp.where(every, position, pooled)
        if causal:
            first = centre - (k - 1) * d
        elif self.edges == "masked":
            first = centre - (k - 1) * d // 2
        else:
            place, phase = centre // d, centre % d
            count = (size - 1 - phase) // d + 1
            first = xp.maximum(xp.minimum(place - k // 2, count - k), 0) * d + phase
        pixel = first[:, None] + step * d
        inside = (pixel >= 0) & (pixel <= (own[:, None] if causal else size - 1))
        pixel = xp.maximum(xp.minimum(pixel, size - 1), 0)
        return pixel.astype(np.int32) if known else pixel, inside


def _check(query, key, value, bias, heads: int, places: Neighbourhoods) -> None:
    """Raises when what is known of the shapes does not fit."""
    rank = places.rank + 2
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.shape.rank != rank:
            raise invalid_argument(
                f"local_attention: {name} must have the rank of query. Received: {name} of shape "
                f"{tensor.shape}, query of shape {query.shape}"
            )
        if tensor.shape[-1] is None or tensor.shape[-1] % heads:
            raise invalid_argument(
                f"local_attention needs a known number of channels, a multiple of the {heads} "
                f"heads. Received: {name} of shape {tensor.shape}"
            )
    if query.shape[-1] != key.shape[-1] or not key.shape[:-1].is_compatible_with(value.shape[:-1]):
        raise invalid_argument(
            "local_attention: key must have the channels of query, and the batch and the sizes of "
            f"value. Received: query of shape {query.shape}, key of shape {key.shape}, value of "
            f"shape {value.shape}"
        )
    sizes = key.shape[:-1].merge_with(value.shape[:-1]).as_list()[1:]
    fits = query.shape[:1].is_compatible_with(key.shape[:1])
    for axis, (queries, size) in enumerate(zip(query.shape.as_list()[1:-1], sizes)):
        if queries is not None and size is not None:
            fits = fits and queries in (size, places.blocks(size, axis))
    if not fits:
        raise invalid_argument(
            f"local_attention: query must have the batch of key and along each axis as many "
            f"positions, or 1/{places.strides} of them rounded up. Received: query of shape "
            f"{query.shape}, key of shape {key.shape}"
        )
    for size, least in zip(sizes, places.least_sizes):
        if size and size < least:
            raise invalid_argument(
                f'local_attention: windows with edges="shifted", kernel_size={places.kernel_size} '
                f"and dilation_rate={places.dilation_rate} need at least {places.least_sizes} "
                f"pixels. Received: key of shape {key.shape}"
            )
    if bias is not None:
        expected = [[heads, places.taps], [*query.shape[:-1], heads * places.taps]]
        if not any(bias.shape.is_compatible_with(shape) for shape in expected):
            raise invalid_argument(
                f"local_attention: bias must have the shape {expected[0]} or {expected[1]} for "
                f"{heads} heads and kernel_size={places.kernel_size}. Received: shape {bias.shape}"
            )
        if bias.shape.rank is None:
            raise invalid_argument("local_attention needs a bias of known rank. Received: unknown")


def _native(module, query, key, value, bias, heads, scale, places) -> tf.Tensor:
    fraction, exponent = math.frexp(scale)
    return module.tfconv_local_attention(
        query=query,
        key=key,
        value=value,
        bias=[] if bias is None else [bias],
        num_heads=heads,
        kernel_size=list(places.kernel_size),
        strides=list(places.strides),
        dilations=list(places.dilation_rate),
        edges=places.edges.upper(),
        causal=[int(flag) for flag in places.causal],
        scale=[int(fraction * 2**53), exponent - 53],
    )


def _local_attention(query, key, value, bias, *arguments) -> tf.Tensor:
    return _portable_in_float32(query, key, value, bias, *arguments)[0]


def _portable_in_float32(query, key, value, bias, *arguments) -> list[tf.Tensor]:
    results = _portable(*map(widened, (query, key, value, bias)), *arguments)
    return [tf.cast(t, query.dtype) for t in results]


def _fitting(query, key, value, bias, places: Neighbourhoods) -> list[tf.Tensor | None]:
    """The tensors, whose use raises as that of `checked` unless they fit each other."""
    what = "local_attention: "
    message = (
        f'{what}windows with edges="shifted", kernel_size={places.kernel_size} and dilation_rate='
        f"{places.dilation_rate} need at least {places.least_sizes} pixels. Received: spatial sizes"
    )
    key = sufficient(key, places.least_sizes, message)
    batch, *sizes = known_sizes(key, slice(0, -1))
    message = f"{what}value must have the batch and the sizes of key. Received: shape"
    value = of_sizes(value, [batch, *sizes, None], message)
    message = f"{what}query must have the batch and the positions of key. Received: shape"
    strided = max(places.strides) > 1
    query = of_sizes(query, [batch, *([None] * places.rank if strided else sizes), None], message)
    queries = spatial_sizes(query)
    if strided and not all(isinstance(n, int) for n in (*queries, *sizes)):
        every = tf.equal(tf.stack(queries), tf.stack(sizes))
        blocks = [places.blocks(size, axis) for axis, size in enumerate(sizes)]
        holds = tf.reduce_all(every | tf.equal(tf.stack(queries), tf.stack(blocks)))
        query = checked(query, holds, message, tf.shape(query))
    if bias is not None and bias.shape.rank > 2:
        message = f"{what}bias must have the batch and the positions of query. Received: shape"
        of_query = [*known_sizes(query, slice(0, -1)), None]
        bias = of_sizes(bias, of_query, message, reshaped=True)
    return [query, key, value, bias]


def _portable(query, key, value, bias, heads, scale, places) -> list[tf.Tensor]:
    """Stock ops; at most 5-D tensors, as converters want them: the result and the weights."""
    query, key, value, bias = _fitting(query, key, value, bias, places)
    outputs, sizes = spatial_sizes(query), spatial_sizes(key)
    rows = [examples(query), product(outputs), heads]
    axes = places.of_axes(sizes, outputs)
    query = tf.reshape(query * tf.constant(scale, query.dtype), [*rows, query.shape[-1] // heads])

    def by_tap(x):
        shape = [*rows, x.shape[-1] // heads]
        return (tf.reshape(pixel, shape) for pixel in _pixels(x, places, [p for p, _ in axes]))

    products = [tf.reduce_sum(query * pixel, -1, keepdims=True) for pixel in by_tap(key)]
    logits = tf.concat(products, axis=-1)
    if bias is not None:
        per_position = bias.shape.rank > 2
        logits += tf.reshape(bias, [*rows, places.taps]) if per_position else bias
    weights = _softmax(logits, _combined([inside for _, inside in axes]))
    pairs = zip(by_tap(value), tf.split(weights, places.taps, -1))
    total = summed((pixel * weight for pixel, weight in pairs), places.kernel_size[-1])
    width, columns = value.shape[-1], heads * places.taps
    return [
        tf.reshape(total, [rows[0], *outputs, width]),
        tf.reshape(weights, [rows[0], *outputs, columns]),
    ]


def pixels_under(
    x: tf.Tensor, places: Neighbourhoods, queries: Sequence[Any]
) -> Iterator[tf.Tensor]:
    """The pixels of [N, *spatial, C] under each tap of as many queries along each axis: [N,
    *queries, C]. Those that take no part are zero, or some other pixel's.
    """
    axes = places.of_axes(spatial_sizes(x), queries)
    return _pixels(x, places, [pixels for pixels, _ in axes])


def _pixels(x: tf.Tensor, places: Neighbourhoods, pixels: list[Any]) -> Iterator[tf.Tensor]:
    """The pixels under each tap: [N, *queries, C]."""
    if places.is_sliding:
        rank = places.rank
        geometry = Geometry.of(places.kernel_size, 1, "same", places.dilation_rate, rank)
        yield from Windows(x, geometry)
        return

    def gathered(x, axis):
        if axis == places.rank:
            yield x
            return
        for tap in range(places.kernel_size[axis]):
            yield from gathered(tf.gather(x, pixels[axis][:, tap], axis=axis + 1), axis + 1)

    yield from gathered(x, 0)


def _combined(axes: list[Any]) -> Any:
    """Which taps of all axes take part, from those of each: [positions, taps]."""
    xp: Any = np if all(isinstance(inside, np.ndarray) for inside in axes) else tf
    result = axes[0]
    for inside in axes[1:]:
        both = result[:, None, :, None] & inside[None, :, None, :]
        shape = [a * b for a, b in zip(_sizes(result), _sizes(inside))]
        result = xp.reshape(both, shape)
    return result


def _sizes(inside: Any) -> list[Any]:
    return list(inside.shape) if isinstance(inside, np.ndarray) else known_sizes(inside, slice(2))


def _softmax(logits: tf.Tensor, inside: Any) -> tf.Tensor:
    """Softmax [N, positions, heads, taps] over the taps that take part: [positions, taps]."""
    if isinstance(inside, np.ndarray) and inside.all():
        return tf.nn.softmax(logits)
    part = tf.convert_to_tensor(inside)[:, tf.newaxis]
    least = tf.reduce_min(logits, axis=-1, keepdims=True)
    top = tf.reduce_max(tf.where(part, logits, least), axis=-1, keepdims=True)
    below = tf.stop_gradient(top) - _BELOW[logits.dtype]
    return tf.nn.softmax(tf.where(part, logits, below)) * tf.cast(part, logits.dtype)


@tf.RegisterGradient("Tfconv>LocalAttention")
def _gradient(op, upstream):
    query, key, value, *bias = op.inputs
    names = ("num_heads", "kernel_size", "strides", "dilations", "edges", "causal", "scale")
    dquery, dkey, dvalue, dbias = native.library().module.tfconv_local_attention_grad(
        query=query,
        key=key,
        value=value,
        bias=bias,
        dy=upstream,
        **{name: op.get_attr(name) for name in names},
    )
    return apart(dquery, dkey, dvalue, *dbias)


@tf.RegisterGradient("Tfconv>LocalAttentionGrad")
def _second_gradient(op, *grads):
    *inputs, upstream = op.inputs
    edges = op.get_attr("edges")
    places = Neighbourhoods(
        *(tuple(op.get_attr(name)) for name in ("kernel_size", "strides", "dilations")),
        (edges if isinstance(edges, str) else edges.decode()).lower(),
        tuple(bool(flag) for flag in op.get_attr("causal")),
    )
    heads, scale = op.get_attr("num_heads"), math.ldexp(*op.get_attr("scale"))

    def twin(query, key, value, bias=None):
        return _portable_in_float32(query, key, value, bias, heads, scale, places)[0]

    return second_order(twin, inputs, upstream, list(grads))
