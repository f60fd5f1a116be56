"""Slow, obvious NumPy references in float64: a loop for every sum.

They share no code with tfconv. `tests/test_reference.py` holds them against the recorded cases.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

Ints = tuple[int, ...]


class Window(NamedTuple):
    """A kernel's window: output p and tap t read pixel ``p * stride - before + t * dilation``."""

    kernel_size: Ints
    strides: Ints
    pads: tuple[tuple[int, int], ...]
    dilations: Ints

    @property
    def taps(self) -> list[Ints]:
        return list(np.ndindex(*self.kernel_size))

    def outputs(self, sizes: Sequence[int]) -> Ints:
        return tuple(
            (size + before + after - (k - 1) * d - 1) // s + 1
            for size, k, s, (before, after), d in zip(sizes, *self)
        )

    def pixel(self, position: Sequence[int], tap: Sequence[int]) -> Ints:
        return tuple(
            p * s - before + t * d for p, t, s, (before, _), d in zip(position, tap, *self[1:])
        )


def window(sizes, kernel_size, strides=1, padding="valid", dilations=1) -> Window:
    """The window for an input of the given spatial sizes, with its padding spelled out."""
    rank = len(sizes)
    kernel, strides, dilations = (
        (v,) * rank if isinstance(v, int) else tuple(v) for v in (kernel_size, strides, dilations)
    )
    reach = [(k - 1) * d for k, d in zip(kernel, dilations)]
    if padding == "same":
        totals = [
            max((math.ceil(n / s) - 1) * s + r + 1 - n, 0) for n, s, r in zip(sizes, strides, reach)
        ]
        pads = [(total // 2, total - total // 2) for total in totals]
    elif padding == "valid":
        pads = [(0, 0)] * rank
    elif padding == "full":
        pads = [(r, r) for r in reach]
    elif padding == "causal":
        pads = [(r, 0) for r in reach]
    elif isinstance(padding, int):
        pads = [(padding, padding)] * rank
    else:
        pads = [tuple(pair) for pair in padding]
    return Window(kernel, strides, tuple(pads), dilations)


def _pixel(x: np.ndarray, at: Sequence[int]) -> np.ndarray:
    """Pixel ``at`` of all images of a batch: [N, C], zeros outside."""
    if all(0 <= i < n for i, n in zip(at, x.shape[1:-1])):
        return x[(slice(None), *at)]
    return np.zeros((x.shape[0], x.shape[-1]))


def _pixels(x: np.ndarray, w: Window) -> Iterator[tuple[Ints, int, np.ndarray]]:
    """(output position, number of the tap, pixel [N, C]) for all positions and taps."""
    for position in np.ndindex(*w.outputs(x.shape[1:-1])):
        for number, tap in enumerate(w.taps):
            yield position, number, _pixel(x, w.pixel(position, tap))


def involution(x: np.ndarray, kernel: np.ndarray, w: Window) -> np.ndarray:
    """``y[n, p, c] = sum_t kernel[n, p, g(c) * T + t] * x[n, pixel(p, t), c]``."""
    x, kernel = x.astype(np.float64), kernel.astype(np.float64)
    taps = len(w.taps)
    width = x.shape[-1] * taps // kernel.shape[-1]  # channels of a group
    y = np.zeros((x.shape[0], *w.outputs(x.shape[1:-1]), x.shape[-1]))
    for position, tap, pixel in _pixels(x, w):
        weights = kernel[(slice(None), *position, slice(tap, None, taps))]  # [N, groups]
        y[(slice(None), *position)] += np.repeat(weights, width, axis=1) * pixel
    return y


class Neighbourhood(NamedTuple):
    """The arguments of `local_attention` for one axis."""

    size: int
    queries: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1
    shifted: bool = False
    causal: bool = False

    @property
    def pixels(self) -> list[list[tuple[int, int]]]:
        """For each query (tap, pixel) of all that it sees."""
        size, queries, k, s, d, shifted, causal = self
        middle = s - 1 if causal else s // 2
        seen = []
        for query in range(queries):
            if queries == size:
                alike = list(range(query % d, size, d))  # those of the same phase
                first_of_block = alike.index(query) // s * s
                centre = alike[min(first_of_block + middle, len(alike) - 1)]
            else:
                query = centre = min(query * s + middle, size - 1)
            if causal:
                pixels = [(t, centre - (k - 1 - t) * d) for t in range(k)]
                seen.append([(t, pixel) for t, pixel in pixels if 0 <= pixel <= query])
            elif shifted:
                alike = list(range(centre % d, size, d))
                before = min(max(alike.index(centre) - k // 2, 0), len(alike) - k)
                seen.append(list(enumerate(alike[before : before + k])))
            else:
                pixels = [(t, centre - (k - 1) * d // 2 + t * d) for t in range(k)]
                seen.append([(t, pixel) for t, pixel in pixels if 0 <= pixel < size])
        return seen


def neighbours(axes: Sequence[Neighbourhood]) -> Iterator[tuple[Ints, list[tuple[int, Ints]]]]:
    """For each query's position the (number of the tap, pixel) of all that it sees."""
    sizes = [axis.kernel_size for axis in axes]
    for position in np.ndindex(*[axis.queries for axis in axes]):
        seen = [axis.pixels[p] for axis, p in zip(axes, position)]
        yield (
            position,
            [
                (int(np.ravel_multi_index([t for t, _ in taps], sizes)), tuple(i for _, i in taps))
                for taps in itertools.product(*seen)
            ],
        )


def local_attention(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    bias: np.ndarray | None,
    axes: Sequence[Neighbourhood],
    heads: int,
    scale: float,
) -> tuple[np.ndarray, np.ndarray]:
    """``y[p] = sum_t softmax_t(scale * query[p] . key[pixel(p, t)] + bias[t]) value[pixel(p, t)]``
    for each head, and the softmax [N, *queries, heads * taps]."""
    query, key, value = (t.astype(np.float64) for t in (query, key, value))
    taps = math.prod(axis.kernel_size for axis in axes)
    y = np.zeros((*query.shape[:-1], value.shape[-1]))
    weights = np.zeros((*query.shape[:-1], heads * taps))
    width, depth = query.shape[-1] // heads, value.shape[-1] // heads
    for (position, seen), n in itertools.product(list(neighbours(axes)), range(len(query))):
        for h in range(heads if seen else 0):
            own, mine = slice(h * width, (h + 1) * width), slice(h * depth, (h + 1) * depth)
            logits = [
                scale * np.dot(query[(n, *position, own)], key[(n, *p, own)]) for _, p in seen
            ]
            if bias is not None:
                row = bias[h] if bias.ndim == 2 else bias[(n, *position)].reshape(heads, taps)[h]
                logits = [logit + np.float64(row[t]) for logit, (t, _) in zip(logits, seen)]
            terms = np.exp(np.array(logits) - np.max(logits))
            for share, (tap, pixel) in zip(terms / terms.sum(), seen):
                weights[(n, *position, h * taps + tap)] = share
                y[(n, *position, mine)] += share * value[(n, *pixel, mine)]
    return y, weights


def conv(x: np.ndarray, kernel: np.ndarray, w: Window, groups: int = 1) -> np.ndarray:
    """``y[n, p, f] = sum_{t, c} kernel[t, c, f] * x[n, pixel(p, t), c]`` within f's group."""
    return per_example_conv(x, np.broadcast_to(kernel, (len(x), *kernel.shape)), w, groups)


def per_example_conv(
    x: np.ndarray, kernels: np.ndarray, w: Window, groups: int | None = None
) -> np.ndarray:
    """`conv` with kernel n for example n; the shapes say how many groups there are."""
    x, kernels = x.astype(np.float64), kernels.astype(np.float64)
    width, filters = kernels.shape[-2:]
    count = x.shape[-1] // width
    assert groups in (None, count)
    per_group = filters // count
    flat = kernels.reshape(len(kernels), len(w.taps), width, filters)
    y = np.zeros((x.shape[0], *w.outputs(x.shape[1:-1]), filters))
    for position, tap, pixel in _pixels(x, w):
        for g in range(count):
            inputs = pixel[:, g * width : (g + 1) * width]
            mine = slice(g * per_group, (g + 1) * per_group)
            products = inputs[:, :, None] * flat[:, tap, :, mine]
            y[(slice(None), *position, mine)] += products.sum(axis=1)
    return y


def interpolated(image: np.ndarray, at: Sequence[float]) -> np.ndarray:
    """The value of image [*sizes, C] between its pixels; each corner outside counts as zero."""
    near = [math.floor(i) for i in at]
    value = np.zeros(image.shape[-1])
    for corner in np.ndindex(*[2] * len(near)):
        pixel = tuple(i + far for i, far in zip(near, corner))
        if all(0 <= i < n for i, n in zip(pixel, image.shape)):
            weights = [1 - abs(i - j) for i, j in zip(at, pixel)]
            value += math.prod(weights) * image[pixel]
    return value


def deformable_sample(
    x: np.ndarray, offset: np.ndarray, mask: np.ndarray | None, w: Window
) -> np.ndarray:
    """``s[n, p, t, c] = mask * interpolated(x[n, ..., c], pixel(p, t) + offset)``."""
    x, offset = x.astype(np.float64), offset.astype(np.float64)
    rank, taps, channels = len(w.kernel_size), len(w.taps), x.shape[-1]
    groups = offset.shape[-1] // (rank * taps)
    width = channels // groups
    samples = np.zeros((*offset.shape[:-1], taps, channels))
    for n, *position in np.ndindex(*offset.shape[:-1]):
        here = (n, *position)
        for t, tap in enumerate(w.taps):
            for o in range(groups):
                moved = offset[here][(o * taps + t) * rank :][:rank]
                mine = slice(o * width, (o + 1) * width)
                value = interpolated(x[n][..., mine], w.pixel(position, tap) + moved)
                if mask is not None:
                    value = value * np.float64(mask[here][o * taps + t])
                samples[here][t, mine] = value
    return samples


def deformable_conv(
    x: np.ndarray,
    offset: np.ndarray,
    kernel: np.ndarray,
    mask: np.ndarray | None,
    bias: np.ndarray | None,
    w: Window,
) -> np.ndarray:
    """``y[n, p, f] = bias[f] + sum_{t, c} kernel[t, c, f] * s[n, p, t, c]`` within f's group."""
    samples = deformable_sample(x, offset, mask, w)
    width, filters = kernel.shape[-2:]
    per_group = filters // (x.shape[-1] // width)
    y = np.zeros((*offset.shape[:-1], filters))
    for f in range(filters):
        g = f // per_group
        for t, tap in enumerate(w.taps):
            for c in range(width):
                y[..., f] += np.float64(kernel[(*tap, c, f)]) * samples[..., t, g * width + c]
        if bias is not None:
            y[..., f] += np.float64(bias[f])
    return y


def linear(pixels: np.ndarray, at: Sequence[float]) -> np.ndarray:
    """The value of pixels [*sizes, C] between them, along any number of axes; zeros outside."""
    value = np.zeros(pixels.shape[-1])
    for corner in np.ndindex(*[2] * len(at)):
        place = [math.floor(p) + further for p, further in zip(at, corner)]
        if all(0 <= i < n for i, n in zip(place, pixels.shape)):
            factor = math.prod(1 - abs(p - i) for p, i in zip(at, place))
            value += factor * pixels[tuple(place)]
    return value


def deformable_aggregation(
    x: np.ndarray, offset: np.ndarray, weights: np.ndarray, w: Window
) -> np.ndarray:
    """``y[n, p, c] = sum_t weights[n, p, g(c) * T + t] * linear(x[n, ..., c], pixel + offset)``."""
    x, offset, weights = (t.astype(np.float64) for t in (x, offset, weights))
    taps, axes = len(w.taps), x.ndim - 2
    width = x.shape[-1] * taps // weights.shape[-1]  # channels of a group
    y = np.zeros((*weights.shape[:-1], x.shape[-1]))
    for n, *position in np.ndindex(*weights.shape[:-1]):
        here = (n, *position)
        for t, tap in enumerate(w.taps):
            for g in range(weights.shape[-1] // taps):
                moved = w.pixel(position, tap) + offset[here][(g * taps + t) * axes :][:axes]
                mine = slice(g * width, (g + 1) * width)
                y[here][mine] += weights[here][g * taps + t] * linear(x[n, ..., mine], moved)
    return y
