"""Builds cc/lite/driver_test.cc and runs graphs of custom ops in it.

The driver is the delegate under a small interpreter of its own. It runs where there is no TFLite:
compiled for another processor and emulated, or with sanitizers.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import shlex
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.kernels import build as kernels_build

ROOT = kernels_build.ROOT

CROSS_COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = "qemu-aarch64"

FLOAT32, INT32, FLOAT16 = 1, 2, 10  # of TfLiteType
CONSTANT, ARENA, DYNAMIC = 1, 2, 4  # of TfLiteAllocationType
SPARSE, NO_MEMORY, TOO_SMALL = 1, 2, 3  # flaws of a tensor


VARIANTS = [*kernels_build.VARIANTS, "aarch64"]


def missing_tool(variant: str) -> str | None:
    """The program that a variant needs and this machine lacks; None if there is none."""
    needed = (CROSS_COMPILER, EMULATOR) if variant == "aarch64" else ()
    return next((name for name in needed if shutil.which(name) is None), None)


@functools.cache
def build(variant: str) -> Path:
    """Compiles what has changed and returns the program's path."""
    if variant == "aarch64":
        env, variables = {**os.environ, "CXX": CROSS_COMPILER}, {"TFCONV_LDFLAGS": "-static"}
        return kernels_build.make(
            ROOT / "build" / "lite-aarch64" / kernels_build.DRIVER, variables, env
        )
    folder = kernels_build.objects_of(variant)
    return kernels_build.make(folder / kernels_build.DRIVER, kernels_build.VARIANTS[variant])


@dataclasses.dataclass
class Tensor:
    """A tensor of a graph: with data, or one that a node computes."""

    data: np.ndarray | None = None
    allocation: int = ARENA
    type: int = FLOAT32
    flaw: int = 0


class Node(NamedTuple):
    name: str
    options: bytes
    inputs: Sequence[int]
    outputs: Sequence[int]


@dataclasses.dataclass
class Graph:
    """A case: nodes in the order of execution, and which tensors to return."""

    tensors: Sequence[Tensor]
    nodes: Sequence[Node]
    wanted: Sequence[int]
    threads: int = 1
    runs: int = 2


def _integers(values: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(values) + 1}i", len(values), *values)


def _data(data: bytes) -> bytes:
    return struct.pack("<i", len(data)) + data


def _encode(graph: Graph) -> bytes:
    parts = [struct.pack("<iii", graph.threads, graph.runs, len(graph.tensors))]
    for tensor in graph.tensors:
        data = np.zeros([0], np.float32) if tensor.data is None else tensor.data
        parts.append(struct.pack("<iii", tensor.type, tensor.allocation, tensor.flaw))
        parts += [_integers(data.shape), _data(data.tobytes())]
    parts.append(struct.pack("<i", len(graph.nodes)))
    for node in graph.nodes:
        parts += [_data(node.name.encode()), _data(node.options)]
        parts += [_integers(node.inputs), _integers(node.outputs)]
    return b"".join([*parts, _integers(graph.wanted)])


class _Results:
    def __init__(self, content: bytes):
        self.content, self.position = content, 0

    def integer(self) -> int:
        self.position += 4
        return struct.unpack_from("<i", self.content, self.position - 4)[0]

    def data(self) -> bytes:
        size = self.integer()
        self.position += size
        return self.content[self.position - size : self.position]


def run(variant: str, graphs: Sequence[Graph], folder: Path) -> list[list[np.ndarray] | str]:
    """Runs graphs one after the other: their tensors, or what the delegate reported."""
    program = build(variant)
    cases, results = folder / "cases", folder / "results"
    cases.write_bytes(struct.pack("<i", len(graphs)) + b"".join(map(_encode, graphs)))
    start = [EMULATOR] if variant == "aarch64" else []
    command = [*start, program, cases, results]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(map(str, command))}:\n{done.stderr}"
    reader = _Results(results.read_bytes())
    return [_decode(reader, graph) for graph in graphs]


def _decode(reader: _Results, graph: Graph) -> list[np.ndarray] | str:
    if reader.integer() != 0:
        return reader.data().decode()
    tensors = []
    for index in graph.wanted:
        dims = np.frombuffer(reader.data(), np.int32)
        dtype = np.float16 if graph.tensors[index].type == FLOAT16 else np.float32
        tensors.append(np.frombuffer(reader.data(), dtype).reshape(dims))
    return tensors
