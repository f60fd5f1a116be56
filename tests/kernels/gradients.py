"""Gradients of `tests/reference.py`, as slow and obvious: a loop for every sum, in float64.

`test_gradients.py` holds them against numeric differences.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from tests import reference
from tests.reference import Ints, Window


def _pixels(sizes: Ints, w: Window) -> Iterator[tuple[Ints, int, Ints | None]]:
    """(output position, number of the tap, pixel or None outside)."""
    for position in np.ndindex(*w.outputs(sizes)):
        for number, tap in enumerate(w.taps):
            at = w.pixel(position, tap)
            inside = all(0 <= i < n for i, n in zip(at, sizes))
            yield position, number, at if inside else None


def involution(x, kernel, dy, w: Window) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of `reference.involution` for x and kernel."""
    x, kernel, dy = (t.astype(np.float64) for t in (x, kernel, dy))
    taps = len(w.taps)
    groups = kernel.shape[-1] // taps
    dx, dkernel = np.zeros_like(x), np.zeros_like(kernel)
    for position, tap, at in _pixels(x.shape[1:-1], w):
        here = (slice(None), *position)
        upstream = dy[here]
        pixel = np.zeros_like(upstream) if at is None else x[(slice(None), *at)]
        products = (upstream * pixel).reshape(len(x), groups, x.shape[-1] // groups)
        dkernel[(*here, slice(tap, None, taps))] = products.sum(axis=2)
        if at is not None:
            weights = kernel[(*here, slice(tap, None, taps))]
            weights = np.repeat(weights, x.shape[-1] // groups, axis=1)
            dx[(slice(None), *at)] += weights * upstream
    return dx, dkernel


def local_attention(query, key, value, bias, dy, axes, heads, scale) -> tuple[np.ndarray, ...]:
    """Gradients of `reference.local_attention` for query, key, value and bias (zeros by position
    if it is None)."""
    _, weights = reference.local_attention(query, key, value, bias, axes, heads, scale)
    query, key, value, dy = (t.astype(np.float64) for t in (query, key, value, dy))
    dquery, dkey, dvalue = np.zeros_like(query), np.zeros_like(key), np.zeros_like(value)
    dlogits = np.zeros_like(weights)
    taps = weights.shape[-1] // heads
    width, depth = query.shape[-1] // heads, value.shape[-1] // heads
    for (position, seen), n in itertools.product(
        list(reference.neighbours(axes)), range(len(query))
    ):
        for h in range(heads):
            own = (n, *position, slice(h * width, (h + 1) * width))
            upstream = dy[(n, *position, slice(h * depth, (h + 1) * depth))]
            shares = weights[(n, *position)].reshape(heads, taps)[h]
            matches = {
                t: upstream @ value[(n, *p, slice(h * depth, (h + 1) * depth))] for t, p in seen
            }
            mean = sum(shares[t] * match for t, match in matches.items())
            for t, pixel in seen:
                there = (n, *pixel, slice(h * width, (h + 1) * width))
                dvalue[(n, *pixel, slice(h * depth, (h + 1) * depth))] += shares[t] * upstream
                change = shares[t] * (matches[t] - mean)
                dlogits[(n, *position, h * taps + t)] = change
                dquery[own] += scale * change * key[there]
                dkey[there] += scale * change * query[own]
    if bias is not None and bias.ndim == 2:
        dlogits = dlogits.reshape(-1, heads, taps).sum(axis=0)
    return dquery, dkey, dvalue, dlogits


def per_example_conv(x, kernels, dy, w: Window) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of `reference.per_example_conv` for x and kernels."""
    x, kernels, dy = (t.astype(np.float64) for t in (x, kernels, dy))
    width, filters = kernels.shape[-2:]
    groups = x.shape[-1] // width
    per_group = filters // groups
    flat = kernels.reshape(len(kernels), len(w.taps), width, filters)
    dx, dflat = np.zeros_like(x), np.zeros_like(flat)
    for position, tap, at in _pixels(x.shape[1:-1], w):
        upstream = dy[(slice(None), *position)]
        pixel = np.zeros((len(x), x.shape[-1])) if at is None else x[(slice(None), *at)]
        for g in range(groups):
            c, f = slice(g * width, (g + 1) * width), slice(g * per_group, (g + 1) * per_group)
            dflat[:, tap, :, f] += pixel[:, c, None] * upstream[:, None, f]
            if at is not None:
                products = flat[:, tap, :, f] * upstream[:, None, f]
                dx[(slice(None), *at, c)] += products.sum(axis=2)
    return dx, dflat.reshape(kernels.shape)


def columns_times_filter(columns, filter_) -> np.ndarray:
    """``y[n, p, f] = sum_{t, c} filter[t, c, f] * columns[n, p, t, c]`` within f's group."""
    width, filters = filter_.shape[-2:]
    groups = columns.shape[-1] // width
    per_group = filters // groups
    flat = filter_.astype(np.float64).reshape(columns.shape[-2], width, filters)
    y = np.zeros((*columns.shape[:-2], filters))
    for g in range(groups):
        c, f = slice(g * width, (g + 1) * width), slice(g * per_group, (g + 1) * per_group)
        y[..., f] = np.einsum("...tc,tcf->...f", columns[..., c], flat[..., f])
    return y


def of_columns_times_filter(columns, filter_, dy) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of `columns_times_filter`."""
    width, filters = filter_.shape[-2:]
    groups = columns.shape[-1] // width
    per_group = filters // groups
    dy = dy.astype(np.float64)
    positions = math.prod(dy.shape[:-1])
    flat_columns = columns.reshape(positions, *columns.shape[-2:])
    flat_dy = dy.reshape(positions, filters)
    flat = filter_.astype(np.float64).reshape(columns.shape[-2], width, filters)
    dcolumns, dflat = np.zeros(columns.shape), np.zeros_like(flat)
    for g in range(groups):
        c, f = slice(g * width, (g + 1) * width), slice(g * per_group, (g + 1) * per_group)
        dcolumns[..., c] = np.einsum("...f,tcf->...tc", dy[..., f], flat[..., f])
        dflat[..., f] = np.einsum("ptc,pf->tcf", flat_columns[..., c], flat_dy[..., f])
    return dcolumns, dflat.reshape(filter_.shape)


def deformable_sample(
    x, offset, mask, dcolumns, w: Window
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of `reference.deformable_sample` for x, offset and mask (ones if it is None).

    At integer positions they are those towards the pixels that follow along each axis.
    """
    x, offset, dcolumns = (t.astype(np.float64) for t in (x, offset, dcolumns))
    rank, taps = len(w.kernel_size), len(w.taps)
    groups = offset.shape[-1] // (rank * taps)
    width = x.shape[-1] // groups
    mask = np.ones((*offset.shape[:-1], groups * taps)) if mask is None else mask.astype(np.float64)
    dx, doffset, dmask = np.zeros_like(x), np.zeros_like(offset), np.zeros_like(mask)
    for n, *position in np.ndindex(*offset.shape[:-1]):
        here = (n, *position)
        for o, (t, tap) in ((o, pair) for o in range(groups) for pair in enumerate(w.taps)):
            number = o * taps + t
            c = slice(o * width, (o + 1) * width)
            at = w.pixel(position, tap) + offset[here][rank * number : rank * (number + 1)]
            weight = mask[here][number]
            upstream = dcolumns[here][t, c]
            for corner in np.ndindex(*[2] * rank):
                pixel = tuple(math.floor(i) + far for i, far in zip(at, corner))
                along = [1 - abs(i - j) for i, j in zip(at, pixel)]
                values = np.zeros(width)
                if all(0 <= i < size for i, size in zip(pixel, x.shape[1:-1])):
                    values = x[(n, *pixel)][c]
                    dx[(n, *pixel)][c] += weight * math.prod(along) * upstream
                product = np.sum(values * upstream)
                dmask[here][number] += math.prod(along) * product
                for axis, far in enumerate(corner):
                    others = math.prod(along[:axis] + along[axis + 1 :])
                    doffset[here][rank * number + axis] += weight * (2 * far - 1) * others * product
    return dx, doffset, dmask


def deformable_aggregation(
    x, offset, weights, dy, w: Window
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of `reference.deformable_aggregation` for x, offset and weights.

    At integer positions they are those towards the pixels beyond.
    """
    x, offset, weights, dy = (t.astype(np.float64) for t in (x, offset, weights, dy))
    taps, axes = len(w.taps), x.ndim - 2
    width = x.shape[-1] * taps // weights.shape[-1]
    dx, doffset, dweights = np.zeros_like(x), np.zeros_like(offset), np.zeros_like(weights)
    for n, *position in np.ndindex(*weights.shape[:-1]):
        here = (n, *position)
        for number in range(weights.shape[-1]):
            c = slice(number // taps * width, (number // taps + 1) * width)
            own = slice(number * axes, (number + 1) * axes)
            at = w.pixel(position, w.taps[number % taps]) + offset[here][own]
            for corner in np.ndindex(*[2] * axes):
                place = [math.floor(p) + further for p, further in zip(at, corner)]
                factors = [1 - abs(p - i) for p, i in zip(at, place)]
                pixel = np.zeros(width)
                if all(0 <= i < size for i, size in zip(place, x.shape[1:-1])):
                    there = (n, *place, c)
                    pixel = x[there]
                    dx[there] += weights[here][number] * math.prod(factors) * dy[here][c]
                product = np.sum(pixel * dy[here][c])
                dweights[here][number] += math.prod(factors) * product
                for axis, further in enumerate(corner):
                    others = math.prod(factors[:axis] + factors[axis + 1 :])
                    change = weights[here][number] * (2 * further - 1) * others * product
                    doffset[here][own][axis] += change
    return dx, doffset, dweights
