"""The work that rivals share: its sizes, its numbers, and the least that it costs."""

from __future__ import annotations

import dataclasses
import math
import zlib

import numpy as np

EXPERTS = 8


@dataclasses.dataclass(frozen=True)
class Case:
    """One pass of one kind of convolution, channels last, with padding "same".

    Attributes:
        family: "involution", "attention", "aggregation", "deformable", "deformable_3d",
            "per_example" or "condconv".
        batch, channels, size: Shape of the input: [batch, size, size, channels].
        kernel: Taps per axis.
        group_channels: Channels that share a kernel (involution) or offsets (aggregation), of a
            head (attention).
        stride: Pixels between neighbouring outputs.
        dtype: Type of all tensors.
        backward: Whether the gradients of all inputs are computed after the output.
        depth: Of volumes, [batch, depth, size, size, channels]; 0 for images.
    """

    family: str
    batch: int
    channels: int
    size: int
    kernel: int
    group_channels: int = 16
    stride: int = 1
    dtype: str = "float32"
    backward: bool = False
    depth: int = 0

    @property
    def direction(self) -> str:
        return "forward+backward" if self.backward else "forward"

    @property
    def outputs(self) -> int:
        """Output positions per axis."""
        return -(-self.size // self.stride)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The spatial sizes of the input."""
        return (self.depth, self.size, self.size) if self.depth else (self.size, self.size)

    @property
    def taps(self) -> int:
        return self.kernel ** len(self.sizes)

    @property
    def positions(self) -> int:
        """Outputs, of all examples."""
        return self.batch * math.prod(-(-size // self.stride) for size in self.sizes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an input by its name."""
        n, c, k = self.batch, self.channels, self.kernel
        image = (n, *(-(-size // self.stride) for size in self.sizes))
        taps, groups = (k,) * len(self.sizes), c // self.group_channels
        shapes = {
            "x": (n, *self.sizes, c),
            "query": (*image, c),
            "key": (n, *self.sizes, c),
            "position_kernels": (*image, groups, k * k),
            "group_offset": (*image, groups * len(taps) * self.taps),
            "group_weights": (*image, groups * self.taps),
            "depthwise_kernel": (k, k, c, 1),
            "offset": (*image, len(taps) * self.taps),
            "mask": (*image, self.taps),
            "kernel": (*taps, c, c),
            "kernels": (n, k, k, c, c),
            "experts": (EXPERTS, k, k, c, c),
            "routing": (n, EXPERTS),
        }
        return shapes[name]

    def array(self, name: str) -> np.ndarray:
        """An input in float32: the same numbers in every process."""
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        values = rng.standard_normal(self.shape(name), np.float32)
        return np.abs(values) if name in ("mask", "routing") else values

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the definition.

        Each product of the forward pass has two gradients, hence three times as many with them.
        """
        positions, taps = self.positions, self.taps
        matrix = positions * taps * self.channels**2
        count = {
            "involution": positions * taps * self.channels,
            "attention": 2 * positions * taps * self.channels,
            "aggregation": 4 * positions * taps * self.channels,
            "deformable": matrix + positions * taps * self.channels * 4,
            "deformable_3d": matrix + positions * taps * self.channels * 8,
            "per_example": matrix,
            "condconv": matrix + self.batch * EXPERTS * taps * self.channels**2,
        }[self.family]
        return count * (3 if self.backward else 1)

    @property
    def bytes(self) -> int:
        """Bytes to read and to write at least: each input, each output and each gradient once.

        The backward pass reads the inputs again, and what comes from above.
        """
        inputs, y = self.inputs_bytes, self.output_bytes
        return 3 * inputs + 2 * y if self.backward else inputs + y

    @property
    def item_bytes(self) -> int:
        return 4 if self.dtype == "float32" else 2

    @property
    def inputs_bytes(self) -> int:
        """Size of all inputs, which is that of their gradients."""
        elements = sum(math.prod(self.shape(name)) for name in INPUTS[self.family])
        return self.item_bytes * elements

    @property
    def output_bytes(self) -> int:
        return self.item_bytes * self.positions * self.channels

    @property
    def columns_bytes(self) -> int:
        """Size of the matrix that holds every tap's pixels: taps times the output."""
        return self.taps * self.output_bytes


# Inputs of tfconv's functions, in their order.
INPUTS = {
    "involution": ("x", "position_kernels"),
    "attention": ("query", "key", "x"),
    "aggregation": ("x", "group_offset", "group_weights"),
    "deformable": ("x", "offset", "kernel", "mask"),
    "deformable_3d": ("x", "offset", "kernel", "mask"),
    "per_example": ("x", "kernels"),
    "condconv": ("x", "experts", "routing"),
}


@dataclasses.dataclass(frozen=True)
class Product:
    """A product of matrices, [rows, depth] by [depth, columns]."""

    rows: int
    depth: int
    columns: int

    @property
    def multiply_adds(self) -> int:
        return self.rows * self.depth * self.columns


@dataclasses.dataclass(frozen=True)
class Transfer:
    """A copy or a reading of memory that moves so many bytes, all threads together."""

    bytes: int

    @property
    def repeats(self) -> int:
        """How often it is done in one go: starting the threads must not count."""
        return max(2**27 // self.bytes, 1)


@dataclasses.dataclass(frozen=True)
class Rival:
    """Somebody who does a piece of work.

    Attributes:
        name: Who: a key of the tables of rivals.
        case: What.
        engine: In which process: "tensorflow", "torch", "numpy", or "memory", where TensorFlow's
            memory is measured instead of time.
        threads: On how many threads.
    """

    name: str
    case: Case | Product | Transfer
    engine: str = "tensorflow"
    threads: int = 2
