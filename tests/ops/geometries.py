"""The geometries that every sliding-window op is tested on, and what turns them into tests."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from tests import reference
from tfconv.ops.channels import to_first


class Geometry(NamedTuple):
    """Arguments of a sliding window, as tfconv's functions take them."""

    sizes: tuple[int, ...]
    kernel_size: Any
    strides: Any = 1
    padding: Any = "same"
    dilation_rate: Any = 1

    @property
    def window(self) -> reference.Window:
        return reference.window(*self)

    @property
    def outputs(self) -> tuple[int, ...]:
        return self.window.outputs(self.sizes)

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of functions that see the kernel."""
        return {name: getattr(self, name) for name in ("strides", "padding", "dilation_rate")}

    def __str__(self) -> str:
        words = (f"{n[0]}{v}" for n, v in zip(self._fields[1:], self[1:]))
        return " ".join([str(self.sizes), *words]).replace(", ", ",")


GEOMETRIES = {
    1: [
        Geometry((9,), 3),
        Geometry((10,), 4, 3, "causal", 2),
        Geometry((8,), 5, 2, "full", 2),
        Geometry((1,), 3),
        Geometry((12,), 3, 2, ((1, 2),), 3),
        Geometry((6,), 1, 1, "valid"),
        Geometry((7,), 2, 1, 3, 2),
    ],
    2: [
        Geometry((7, 6), 3),
        Geometry((7, 6), (3, 5), 1, "valid"),
        Geometry((6, 9), (2, 3), (2, 1)),
        Geometry((9, 8), 3, 2, "same", 2),
        Geometry((9, 10), (3, 2), (2, 3), ((2, 1), (0, 3)), (2, 1)),
        Geometry((5, 4), 1),
        Geometry((5, 6), 1, 2, "valid"),
        Geometry((4, 5), 3, 1, "full", 2),
        Geometry((4, 5), (2, 4), (3, 2), 2),
        Geometry((1, 1), 3),
        Geometry((1, 4), 3, 2, 1),
        Geometry((3, 2), 7),
        Geometry((6, 5), 3, (4, 6)),
    ],
    3: [
        Geometry((4, 3, 5), 3),
        Geometry((5, 4, 4), (2, 1, 3), (2, 1, 2)),
        Geometry((5, 5, 4), 2, 2, 1, (2, 1, 2)),
        Geometry((3, 2, 2), (3, 2, 1), 1, "full"),
        Geometry((1, 1, 1), 3),
        Geometry((4, 4, 5), 2, 1, "valid", 2),
    ],
}


def table(ranks: Sequence[int], *cycles: Sequence[Any]) -> list[Any]:
    """Parameters (geometry, ...) for all geometries of ``ranks``.

    The further values are taken in turn from ``cycles``, so that each meets many geometries.
    """
    turns = [itertools.cycle(values) for values in cycles]
    rows = []
    for rank in ranks:
        for geometry in GEOMETRIES[rank]:
            values = [next(turn) for turn in turns]
            name = " ".join([f"{rank}D", str(geometry), *map(str, values)])
            rows.append(pytest.param(geometry, *values, id=name))
    return rows


def random_geometry(rng: np.random.Generator, rank: int) -> Geometry:
    """Any geometry whose output has at least one position."""
    while True:
        sizes = tuple(rng.integers(1, 9 if rank < 3 else 6, rank).tolist())
        kernel = tuple(rng.integers(1, 5 if rank < 3 else 4, rank).tolist())
        strides = tuple(rng.integers(1, 4, rank).tolist())
        dilations = tuple(rng.integers(1, 4, rank).tolist())
        pairs = tuple(map(tuple, rng.integers(0, 4, (rank, 2)).tolist()))
        padding = ["same", "valid", "full", int(rng.integers(0, 3)), pairs][rng.integers(5)]
        geometry = Geometry(sizes, kernel, strides, padding, dilations)
        if min(geometry.outputs) > 0:
            return geometry


def as_function(function, mode: str):
    """``function`` itself for mode "eager", traced for mode "graph"."""
    return tf.function(function) if mode == "graph" else function


def in_format(data_format: str, *tensors):
    """Channels-last arrays as tensors of a data format."""
    move = to_first if data_format == "channels_first" else tf.identity
    return [None if t is None else move(tf.convert_to_tensor(t)) for t in tensors]


def gradients(function, inputs, upstream=None):
    """``function(*inputs)`` and its gradients for all inputs, for a fixed upstream gradient."""
    inputs = [tf.convert_to_tensor(t) for t in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = function(*inputs)
    if upstream is None:
        size = tf.size(y, out_type=tf.int64)
        upstream = tf.reshape(tf.sin(tf.cast(tf.range(size), tf.float64) * 1.7), tf.shape(y))
    return [y, *tape.gradient(y, inputs, tf.cast(upstream, y.dtype))]


def second_gradients(function, inputs):
    """Gradients, for all inputs, of a sum that weighs all first gradients of ``function``."""
    inputs = [tf.convert_to_tensor(t) for t in inputs]
    with tf.GradientTape() as outer:
        outer.watch(inputs)
        _, *first = gradients(function, inputs)
        total = tf.add_n([tf.reduce_sum(tf.sin(g) * (i + 1)) for i, g in enumerate(first)])
    return outer.gradient(total, inputs)


def assert_numeric_gradients(function, inputs, tolerance=1e-6):
    """Analytic gradients equal numeric ones, in float64, for every input on its own."""
    inputs = [tf.constant(t, tf.float64) for t in inputs]
    for number in range(len(inputs)):

        def of_one(value, number=number):
            return function(*inputs[:number], value, *inputs[number + 1 :])

        theory, numeric = tf.test.compute_gradient(of_one, [inputs[number]])
        assert np.abs(theory[0]).max() > 1e-3, "a gradient that vanishes proves nothing"
        np.testing.assert_allclose(
            theory[0], numeric[0], rtol=tolerance, atol=tolerance, err_msg=f"input {number}"
        )


# Half precision is computed in float32 and rounded once: half a unit in the last place, and a
# little for the float32 sum.
TOLERANCES = {
    tf.float16: {"rtol": 6e-4, "atol": 1e-4},
    tf.bfloat16: {"rtol": 5e-3, "atol": 1e-3},
    tf.float32: {"rtol": 2e-5, "atol": 2e-5},
    tf.float64: {"rtol": 1e-11, "atol": 1e-11},
}


def assert_close(actual, expected, dtype=None):
    """Compares with the tolerance of the actual value's type."""
    if dtype is None:
        dtype = tf.as_dtype(actual.dtype)
    np.testing.assert_allclose(
        np.asarray(tf.cast(actual, tf.float64)),
        np.asarray(tf.cast(expected, tf.float64)),
        **TOLERANCES[dtype],
    )
