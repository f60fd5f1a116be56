"""How evenly the passes of the native kernels keep many threads busy, from their plans alone.

    python -m benchmarks.units

A row is a pass at one of the benchmark's shapes: its units, and for each number of threads the
share of the work that the busiest thread has, times the number of threads. 1 is even; 2 means that
a thread has twice its part. Units are dealt out in equal ranges, as equal ones. The kernels are
those that tests import (tests/kernels); nothing runs but their planning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import ModuleType

import numpy as np

from benchmarks.rows import SHAPES, SHAPES_PER_EXAMPLE

THREADS = (2, 8, 16, 64)
MOST = {2: 1.5, 8: 1.5, 16: 1.5, 64: 2.5}
# Work that is over in 200 us needs no more threads; in cycles, at 3 GHz.
SHORT = 600_000
SHAPES_BATCH_1 = ((1, 64, 56), (1, 128, 28), (1, 256, 14), (1, 512, 7))
FAMILIES = (
    *("involution", "span_involution", "local_attention", "aggregation", "deformable"),
    "per_example",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A pass: its units, and the cycles that each is planned to take."""

    family: str
    shape: tuple[int, int, int]
    name: str
    units: int
    cycles: int

    def busiest(self, threads: int) -> float:
        """The share of the thread with the most units, times the threads."""
        return -(-self.units // threads) * threads / self.units

    @property
    def is_short(self) -> bool:
        return self.units * self.cycles < SHORT

    @property
    def uneven(self) -> list[int]:
        """Numbers of threads with a thread that has too much."""
        return [t for t in THREADS if not self.is_short and self.busiest(t) > MOST[t]]


def planned(kernels: ModuleType, isa: str, family: str, shape: tuple[int, int, int], dtype):
    """The plans of all passes of a family, forward and backward."""
    batch, channels, size = shape
    kernel = 7 if "involution" in family or "attention" in family else 3
    axes = [(size, kernel, 1, 1, kernel // 2)] * 2
    run = kernels.Run(isa, plans=True)

    def zeros(*last: int) -> np.ndarray:
        return np.zeros((batch, size, size, *last), dtype)

    x, taps = zeros(channels), kernel**2
    weights = np.zeros((kernel, kernel, channels, channels), dtype)
    if family == "involution":
        inputs = (x, zeros(channels // 16 * taps))
        kernels.involution(run, *inputs, axes)
        kernels.involution_gradients(run, *inputs, x, axes)
    elif family == "span_involution":
        columns, features = channels // 16 * taps, channels // 4
        inputs = (
            x,
            zeros(features),
            np.zeros((features, columns), dtype),
            np.zeros(columns, dtype),
        )
        kernels.span_involution(run, *inputs, axes)
        kernels.span_involution_gradients(run, *inputs, x, axes)
    elif family == "local_attention":
        seen = [(size, kernel, 1, 1, 0, 0)] * 2
        sizes = {"heads": channels // 16, "scale": 0.25, "axes": seen}
        kernels.local_attention(run, x, x, x, None, **sizes)
        bias = np.zeros((channels // 16, taps), dtype)
        kernels.local_attention_gradients(run, x, x, x, bias, x, **sizes)
    elif family == "aggregation":
        samples = channels // 16 * taps
        inputs = (x, zeros(2 * samples), zeros(samples))
        kernels.aggregation(run, *inputs, axes)
        kernels.aggregation_gradients(run, *inputs, x, axes)
    elif family == "per_example":
        inputs = (x, np.zeros((batch, *weights.shape), dtype))
        kernels.per_example_conv(run, *inputs, axes)
        kernels.per_example_gradients(run, *inputs, x, axes)
    else:
        inputs = (x, zeros(2 * taps), zeros(taps), weights)
        kernels.deformable_conv(run, *inputs, axes)
        kernels.deformable_conv_gradients(run, *inputs, x, axes)
    return run.plans


def rows(kernels: ModuleType, isa: str, families=FAMILIES, dtype=np.float32) -> Iterator[Row]:
    """All passes of some families at all shapes of the benchmark."""
    for family in families:
        own = SHAPES_PER_EXAMPLE if family == "per_example" else ()
        for shape in dict.fromkeys((*own, *SHAPES, *SHAPES_BATCH_1)):
            for name, units, cycles, _ in planned(kernels, isa, family, shape, dtype):
                if units:
                    yield Row(family, shape, name, units, cycles)


def main() -> None:
    from tests.kernels import build

    kernels = build.load("plain")
    isa = [name for name in kernels.available() if name != "cuda"][-1]  # the widest
    print(f"{isa}, float32: busiest thread's share times the threads (- : over in 200 us)")
    print(f"{'':47}{'units':>7}" + "".join(f"{t:>7}" for t in THREADS))
    for row in rows(kernels, isa):
        shares = ["-" if row.is_short else f"{row.busiest(t):.2f}" for t in THREADS]
        what = f"{row.family} {row.shape} {row.name}"
        print(f"{what:47}{row.units:7}" + "".join(f"{share:>7}" for share in shares))


if __name__ == "__main__":
    main()
