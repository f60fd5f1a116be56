"""Times exported layers in the interpreter of TensorFlow Lite beside the nearest layers of Keras.

`python -m benchmarks.lite` prints a table. Rivals take turns, so what slows the machine for a while
slows both; the ratio is the median of those of the turns.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import Any

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import tfconv
from tfconv._compat import keras
from tfconv.export import to_tflite
from tfconv.export.verification import Runner

TURNS = 60


@dataclasses.dataclass(frozen=True)
class Pair:
    """A layer, the layer of Keras that is nearest to it, and the most time it should take."""

    layer: Any
    base: Any
    shape: tuple[int, ...]
    target: float


class SplitConv(keras.layers.Layer):
    """A convolution for each group."""

    def __init__(self, filters: int, kernel_size: int, groups: int):
        super().__init__()
        self.parts = [
            keras.layers.Conv2D(filters // groups, kernel_size, padding="same")
            for _ in range(groups)
        ]

    def call(self, x):
        pieces = tf.split(x, len(self.parts), axis=-1)
        return tf.concat([part(piece) for part, piece in zip(self.parts, pieces)], axis=-1)


def pairs() -> list[Pair]:
    """What is timed."""
    conv, same = keras.layers.Conv2D, {"padding": "same"}
    offsets = keras.initializers.RandomNormal(stddev=0.02)
    return [
        Pair(tfconv.Involution2D(7), keras.layers.DepthwiseConv2D(7, **same), (56, 56, 64), 1.8),
        Pair(tfconv.Involution2D(7), keras.layers.DepthwiseConv2D(7, **same), (14, 14, 32), 1.5),
        Pair(
            tfconv.DeformableConv2D(128, 3, offset_initializer=offsets, **same),
            conv(128, 3, **same),
            (28, 28, 128),
            2.0,
        ),
        Pair(
            tfconv.CondConv2D(64, 3, num_experts=4, **same), conv(64, 3, **same), (28, 28, 64), 1.5
        ),
        *(
            Pair(
                getattr(tfconv, f"Conv{rank}DTranspose")(filters, size, 2, **same),
                getattr(keras.layers, f"Conv{rank}DTranspose")(filters, size, 2, **same),
                (*shape, filters),
                0.9,
            )
            for rank, filters, size, shape in (
                (2, 32, 3, (14, 14)),
                (2, 64, 4, (28, 28)),
                (3, 16, 3, (6, 8, 8)),
            )
        ),
        Pair(
            tfconv.GroupConv2D(128, 3, groups=4, **same), SplitConv(128, 3, 4), (28, 28, 128), 1.1
        ),
    ]


def seconds(runners: list[Runner], shape: tuple[int, ...], turns: int) -> list[list[float]]:
    """The times of each, taking turns."""
    arrays = {"x": np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)}
    times: list[list[float]] = [[] for _ in runners]
    for turn in range(turns + 2):
        for runner, mine in zip(runners, times):
            start = time.perf_counter()
            runner(arrays)
            if turn >= 2:  # the first ones prepare
                mine.append(time.perf_counter() - start)
    return times


def runner(layer: Any, shape: tuple[int, ...]) -> Runner:
    x = keras.Input(shape, name="x")
    return Runner(to_tflite(keras.Model(x, layer(x)), verify=False).content)


def main() -> None:
    table = Table()
    for heading in ("layer", "beside", "shape", "ms", "ratio", "at most"):
        table.add_column(heading)
    for pair in pairs():
        runners = [runner(layer, pair.shape) for layer in (pair.layer, pair.base)]
        mine, others = seconds(runners, pair.shape, TURNS)
        ratio = statistics.median(a / b for a, b in zip(mine, others))
        table.add_row(
            type(pair.layer).__name__,
            type(pair.base).__name__,
            "x".join(map(str, pair.shape)),
            f"{1e3 * statistics.median(mine):.2f}",
            f"{ratio:.2f}" + ("" if ratio <= pair.target else " (missed)"),
            f"{pair.target}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
