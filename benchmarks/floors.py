"""The least time that a row can take on this machine, from its own measured rates.

A row moves each of its bytes once at the rate at which memory is copied or read in blocks of its
size, and multiplies at the best rate of TensorFlow's matrix product; the longer of the two times
is its floor.
"""

from __future__ import annotations

import dataclasses
import statistics

from benchmarks.cases import Case, Product, Rival, Transfer
from benchmarks.measuring import take_turns
from benchmarks.rows import SHAPES, SHAPES_PER_EXAMPLE
from benchmarks.worker import Workers

# The products of 3x3 convolutions of the shapes, and a square one.
PRODUCTS = [
    *(
        Product(batch * size**2, 9 * channels, channels)
        for batch, channels, size in dict.fromkeys(SHAPES + SHAPES_PER_EXAMPLE)
    ),
    Product(1024, 1024, 1024),
]
TRANSFERS = [Transfer(2**n) for n in (22, 24, 26, 28)]


@dataclasses.dataclass(frozen=True)
class Rates:
    """What the machine does in a second.

    Attributes:
        products: Multiply-adds, by product of matrices.
        copies, readings: Bytes read and written, and bytes read, by the bytes of a block.
    """

    products: dict[Product, float]
    copies: dict[int, float]
    readings: dict[int, float]

    def floor(self, case: Case) -> tuple[float, str]:
        """The least seconds, and what they are spent on: "products" or "bytes"."""
        products = case.multiply_adds / max(self.products.values())
        size = max([n for n in self.copies if n <= case.bytes], default=min(self.copies))
        moved = case.bytes / max(self.copies[size], self.readings[size])
        return (products, "products") if products > moved else (moved, "bytes")


def measured_rates(workers: Workers, rounds: int) -> Rates:
    def seconds(rivals):
        times = take_turns(workers, rivals, rounds)
        return {rival.case: statistics.median(times[rival]) for rival in rivals}

    products = seconds([Rival("tf.matmul", product) for product in PRODUCTS])
    copies = seconds([Rival("copy", transfer, "numpy") for transfer in TRANSFERS])
    readings = seconds([Rival("read", transfer, "numpy") for transfer in TRANSFERS])
    return Rates(
        {product: product.multiply_adds / time for product, time in products.items()},
        {t.bytes: t.bytes * t.repeats / time for t, time in copies.items()},
        {t.bytes: t.bytes * t.repeats / time for t, time in readings.items()},
    )
