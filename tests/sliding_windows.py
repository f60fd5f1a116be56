"""The geometries that sliding-window ops and their kernels are tested on; needs no TensorFlow."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests import reference


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
