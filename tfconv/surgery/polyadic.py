"""The canonical polyadic decomposition, of many tensors at once."""

from __future__ import annotations

import functools

import numpy as np

_TOLERANCE = 1e-5  # the share of the squared error that an iteration has to take away
_DAMPING = 1e-10  # keeps a factor near what it was where the others do not say what it should be
_SEED = 0


def polyadic(tensors: np.ndarray, rank: int, iterations: int = 1000) -> list[np.ndarray]:
    """Factors ``[batch, n_a, rank]`` with ``tensors[b, i...] ~ sum_r prod_a factor_a[b, i_a, r]``.

    Alternating least squares, begun at the singular vectors of the unfoldings; every third time,
    going further in the direction of the last step is tried. Where at most two axes are longer
    than 1 it is the singular value decomposition, and no other factors are nearer. The factors of
    a term have one norm.

    Args:
        tensors: [batch, n_0, n_1, ...], each to be decomposed by itself.
        rank: Terms in the sum.
        iterations: How many there are at most.
    """
    batch, *shape = tensors.shape
    long = [axis for axis, n in enumerate(shape) if n > 1]
    if len(long) > 2:
        reduced = tensors.reshape(batch, *(shape[axis] for axis in long))
        found = _alternating(reduced, rank, iterations)
    else:
        long = [*long, *(axis for axis, n in enumerate(shape) if n == 1)][:2]
        found = _svd(tensors.reshape(batch, *(shape[axis] for axis in long)), rank)
    factors = [np.ones([batch, 1, rank])] * len(shape)
    for axis, factor in zip(long, found):
        factors[axis] = factor
    return _balanced(factors)


def _svd(matrices: np.ndarray, rank: int) -> list[np.ndarray]:
    left, values, right = np.linalg.svd(matrices, full_matrices=False)
    terms = [left * values[:, None], np.swapaxes(right, 1, 2)]
    missing = max(rank - values.shape[1], 0)
    return [np.pad(term[:, :, :rank], [(0, 0), (0, 0), (0, missing)]) for term in terms]


def _alternating(tensors: np.ndarray, rank: int, iterations: int) -> list[np.ndarray]:
    batch, *sizes = tensors.shape
    scale = np.linalg.norm(tensors.reshape(batch, -1), axis=1)
    scale = np.where(scale > 0, scale, 1)[:, None, None]  # what is zero stays zero
    matrices = tensors.reshape(batch, -1, sizes[-1]) / scale
    factors = _start(matrices.reshape(tensors.shape), rank)
    last, before = factors, np.inf
    for iteration in range(iterations):
        if iteration % 3 == 2:
            step = iteration ** (1 / 3)
            ahead = [now + step * (now - then) for now, then in zip(factors, last)]
            better = (_error(matrices, ahead) < before)[:, None, None]
            factors = [np.where(better, far, near) for far, near in zip(ahead, factors)]
        last = list(factors)
        # The last axis is summed over once for all others.
        summed = np.reshape(matrices @ factors[-1], [batch, *sizes[:-1], rank])
        for axis in range(len(factors) - 1):
            factors[axis] = _updated(factors, axis, _summed(summed, factors, axis))
        columns = functools.reduce(_outer, factors[:-1])
        factors[-1] = _updated(factors, -1, np.swapaxes(matrices, 1, 2) @ columns)
        error = _error(matrices, factors)
        if np.all(before - error <= _TOLERANCE * error):
            break
        before = error
        factors = _balanced(factors)
    factors[-1] = factors[-1] * scale
    return factors


def _error(matrices: np.ndarray, factors: list[np.ndarray]) -> np.ndarray:
    """The squared distance of each tensor, unfolded along its last axis, from the factors' sum."""
    columns = functools.reduce(_outer, factors[:-1])
    return np.sum((matrices - columns @ np.swapaxes(factors[-1], 1, 2)) ** 2, axis=(1, 2))


def _start(tensors: np.ndarray, rank: int) -> list[np.ndarray]:
    """For each axis the first left singular vectors of the unfolding; beyond its size, random."""
    rng = np.random.default_rng(_SEED)
    factors = []
    for axis, n in enumerate(tensors.shape[1:], 1):
        unfolded = np.moveaxis(tensors, axis, 1).reshape(len(tensors), n, -1)
        _, vectors = np.linalg.eigh(unfolded @ np.swapaxes(unfolded, 1, 2))  # the last the largest
        more = rng.standard_normal([len(tensors), n, max(rank - n, 0)]) / np.sqrt(n)
        factors.append(np.concatenate([vectors[:, :, ::-1][:, :, :rank], more], axis=2))
    return factors


def _summed(summed: np.ndarray, factors: list[np.ndarray], axis: int) -> np.ndarray:
    """The sum of [batch, n_0, n_1, ..., rank] over all axes but one, with their factors."""
    for other in reversed(range(len(factors) - 1)):
        if other != axis:
            shape = [len(summed), *[1] * (summed.ndim - 2), summed.shape[-1]]
            shape[other + 1] = -1
            summed = np.sum(summed * factors[other].reshape(shape), axis=other + 1)
    return summed


def _updated(factors: list[np.ndarray], axis: int, products: np.ndarray) -> np.ndarray:
    """The least squares' solution for a factor, from the products of the tensor with the others."""
    others = [factor for factor in factors if factor is not factors[axis]]
    gram = functools.reduce(np.multiply, [np.swapaxes(x, 1, 2) @ x for x in others])
    rank = gram.shape[-1]
    damping = _DAMPING * (1 + np.trace(gram, axis1=1, axis2=2)[:, None, None])
    products = products + damping * factors[axis]
    solved = np.linalg.solve(gram + damping * np.eye(rank), np.swapaxes(products, 1, 2))
    return np.swapaxes(solved, 1, 2)


def _outer(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[batch, m, rank] and [batch, n, rank] as [batch, m * n, rank]: products of the columns."""
    return np.reshape(first[:, :, None] * second[:, None], [len(first), -1, first.shape[2]])


def _balanced(factors: list[np.ndarray]) -> list[np.ndarray]:
    """The same products with the norm of each term shared evenly by its factors."""
    norms = [np.linalg.norm(factor, axis=1, keepdims=True) for factor in factors]
    share = functools.reduce(np.multiply, norms) ** (1 / len(factors))
    return [
        factor * np.divide(share, norm, out=np.zeros_like(norm), where=norm > 0)
        for factor, norm in zip(factors, norms)
    ]
