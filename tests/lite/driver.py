"""Builds cc/lite/driver_test.cc, in build/lite/<variant>/, and runs graphs of custom ops in it.

The driver is the delegate under a small interpreter of its own. It runs where there is no TFLite:
compiled for another processor and emulated, or with sanitizers.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.kernels import build as kernels_build

ROOT = kernels_build.ROOT
SOURCE = "cc/lite/driver_test.cc"
_build = kernels_build._build

CROSS_COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = "qemu-aarch64"

FLOAT32, INT32, FLOAT16 = 1, 2, 10  # of TfLiteType
CONSTANT, ARENA, DYNAMIC = 1, 2, 4  # of TfLiteAllocationType
SPARSE, NO_MEMORY, TOO_SMALL = 1, 2, 3  # flaws of a tensor


class Variant(NamedTuple):
    """How the driver is compiled, linked and started."""

    compiler: str | None = None
    flags: tuple[str, ...] = ()
    link_flags: tuple[str, ...] = ()
    start: tuple[str, ...] = ()


VARIANTS = {
    "plain": Variant(),
    "asan": Variant(flags=kernels_build.VARIANTS["asan"]),
    "tsan": Variant(flags=kernels_build.VARIANTS["tsan"]),
    "aarch64": Variant(CROSS_COMPILER, link_flags=("-static",), start=(EMULATOR,)),
}


def missing_tool(variant: str) -> str | None:
    """The program that a variant needs and this machine lacks; None if there is none."""
    chosen = VARIANTS[variant]
    needed = [name for name in (chosen.compiler, *chosen.start) if name]
    return next((name for name in needed if shutil.which(name) is None), None)


def build(variant: str) -> Path:
    """Compiles what has changed and returns the program's path.

    Objects of the library and of the kernels' module serve, where the flags are the same.
    """
    chosen = VARIANTS[variant]
    folder = ROOT / "build" / "lite" / variant
    folder.mkdir(parents=True, exist_ok=True)
    with _build._build_lock(folder, lambda: None):
        scratch = Path(tempfile.mkdtemp(dir=folder, prefix=".tmp-"))
        try:
            return _build_locked(chosen, folder, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _build_locked(chosen: Variant, folder: Path, scratch: Path) -> Path:
    env = dict(os.environ)
    if chosen.compiler is not None:
        env["CXX"] = chosen.compiler
    compiler = _build.find_compiler(env)
    flags = (*chosen.flags, *shlex.split(env.get("TFCONV_CXXFLAGS", "")))
    sources = ROOT / "cc"
    units = [*filter(_build.serves_lite, _build.library_units(sources, compiler.isas, (), flags))]
    lite = _build.lite_units(sources, flags)
    units += [*lite, dataclasses.replace(lite[0], source=SOURCE, object_name="driver.o")]

    no_tensorflow = _build.TensorFlowConfig("none", (), (), "<none>")
    driver = _build._Build(
        sources, folder, folder, scratch, compiler, no_tensorflow, lambda *_: None, False
    )
    signatures = {unit: driver._signature(unit) for unit in units}
    others = [*(ROOT / "build" / "native").glob("tf-*"), ROOT / "build" / "kernels" / folder.name]
    caches = [driver.cache] + [
        _build._ObjectCache(path, ROOT, driver.snapshot, bool(driver.strict_flags))
        for path in others
    ]

    def find(unit) -> Path | None:
        good = (cache.path(unit) for cache in caches if cache.reusable(unit, signatures[unit]))
        return next(good, None)

    objects = {unit: find(unit) for unit in units}
    todo = [unit for unit in units if objects[unit] is None]
    driver._compile(todo, signatures, _build._default_jobs())
    paths = [objects[unit] or driver.cache.path(unit) for unit in units]
    command = [*compiler.command, "-pthread", *flags, *chosen.link_flags, *map(os.fspath, paths)]
    parts = [*command, compiler.version, *map(_build._hash_file, paths)]
    signature = _build._hash(json.dumps(parts).encode())
    program, record = folder / "driver", folder / "driver.txt"
    if not (program.is_file() and record.is_file() and record.read_text() == signature):
        made = scratch / "driver"
        driver._run([*command, "-o", os.fspath(made)], "Linking the driver")
        record.unlink(missing_ok=True)
        os.replace(made, program)
        record.write_text(signature)
    return program


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
    command = [*VARIANTS[variant].start, program, cases, results]
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
