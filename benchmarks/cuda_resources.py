"""What the compiled CUDA kernels are made of: registers, local memory, divisions, instructions.

    python benchmarks/cuda_resources.py [--arch 90]

Needs nvcc and nvdisasm (`pip install nvidia-cuda-nvdisasm`) but no GPU, and prints the table of
docs/native.md.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tfconv"))

import _build  # noqa: E402

# And their elements in 16 bytes.
TYPES = {"float": 4, "double": 2, "Half": 8, "Bfloat16": 8}
# Those that divide once for each query, by the sum of its softmax.
SOFTMAX = ("AttendKernel", "QueryGradientKernel")


class Kernel(NamedTuple):
    """One kernel for one type."""

    name: str  # with T for the type of the tensors, and V for its elements in 16 bytes
    dtype: str
    registers: int
    local: int  # bytes of local memory that a thread has, and instructions that use it
    reciprocals: int  # divisions by what is not constant; of SOFTMAX, those in the inner loops
    load: int  # bytes of the widest load from global memory
    per_tap: float | None  # instructions for 4 channels of a tap, of kernels that have taps


def find_nvdisasm() -> str | None:
    """On the PATH, or from the package of that name."""
    found = shutil.which("nvdisasm")
    package = importlib.util.find_spec("nvidia")
    if found is None and package is not None:
        places = map(Path, package.submodule_search_locations or ())
        tools = (tool for place in places for tool in place.glob("*/bin/nvdisasm"))
        found = next(map(str, tools), None)
    return found


def split_type(symbol: str) -> tuple[str, str]:
    """A demangled kernel as its name, with T for the type of the tensors and V, and that type."""
    name = re.sub(r"\(anonymous namespace\)::|tfconv::|cuda::|^void |>\(.*", "", symbol) + ">"
    name = re.sub(r"\(int\)", "", name.replace("(bool)1", "true").replace("(bool)0", "false"))
    dtype = next(word for word in re.findall(r"\w+", name) if word in TYPES)
    vector = rf"<{dtype}, {TYPES[dtype]}(?=,)"  # a number by itself is a rank
    return re.sub(vector, "<T, V", name).replace(f"<{dtype}", "<T"), dtype


class Code:
    """The instructions of a kernel, in their order."""

    def __init__(self, text: str):
        self.instructions: list[str] = []
        labels = {}
        for line in text.splitlines():
            if label := re.match(r"(\.L\w+):", line):
                labels[label[1]] = len(self.instructions)
            elif instruction := re.match(r"\s+/\*[0-9a-f]+\*/\s+(.*?);", line):
                self.instructions.append(instruction[1])
        self.loops: list[tuple[int, int]] = []  # begins and ends
        for i, instruction in enumerate(self.instructions):
            to = re.search(r"BRA.*\((\.L\w+)\)", instruction)
            if to is not None and labels[to[1]] < i:  # what jumps to itself is never reached
                self.loops.append((labels[to[1]], i + 1))

    def places(self, pattern: str) -> list[int]:
        return [i for i, s in enumerate(self.instructions) if re.search(pattern, s)]

    @property
    def inner(self) -> list[tuple[int, int]]:
        """The loops that load from global memory, but have no other in them that does."""
        loads = self.places(r"\bLDG")
        loading = {loop for loop in self.loops if any(loop[0] <= i < loop[1] for i in loads)}
        return [
            (begin, end)
            for begin, end in loading
            if not any(begin <= b and e <= end and (b, e) != (begin, end) for b, e in loading)
        ]

    def per_turn(self) -> int:
        """Instructions of the innermost loop that has all loads from global memory."""
        loads = self.places(r"\bLDG")
        around = [end - begin for begin, end in self.loops if begin <= loads[0] and loads[-1] < end]
        return min(around)


def taps_in_code(name: str) -> int | None:
    """How many taps the code of a kernel that loads 16 bytes goes through in one turn."""
    found = re.match(r"(Gather|Sample|Aggregate)Kernel<T, V, (\d+)", name)
    if found is None:
        found = re.match(r"(Attend|QueryGradient|KeyGradient)Kernel<T, true, (\d+)", name)
        return None if found is None else int(found[2])
    side = int(found[2])
    return max(1, side * side if found[1] == "Gather" or side == 3 else side)


def kernels(nvcc: str, nvdisasm: str, source: str, arch: str, folder: Path) -> Iterator[Kernel]:
    """Compiles a source and reads its code and the assembler's words."""
    cubin = folder / "kernels.cubin"
    flags = ["-O3", "-std=c++17", "-x", "cu", "-I.", f"-arch=sm_{arch}", "-Xptxas", "-v"]
    said = subprocess.run(
        [nvcc, *flags, "-cubin", source, "-o", cubin],
        cwd=ROOT / "cc",
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    listing = subprocess.check_output([nvdisasm, "-c", cubin], text=True)
    texts = dict(re.findall(r"\n\.text\.(\w+):\n(.*?)(?=\n//-----|\Z)", listing, re.DOTALL))
    for mangled, properties in re.findall(
        r"entry function '(\w+)'(.*?Used .*?\n)", said, re.DOTALL
    ):
        symbol = subprocess.check_output(["c++filt", mangled], text=True).strip()
        name, dtype = split_type(symbol)
        code = Code(texts[mangled])
        stack = int(re.search(r"(\d+) bytes stack frame", properties)[1])
        widths = [re.search(r"LDG\S*?\.(64|128)", code.instructions[i]) for i in code.places("LDG")]
        taps = taps_in_code(name)
        reciprocals = code.places(r"MUFU\.RCP")
        if name.startswith(SOFTMAX):
            reciprocals = [i for i in reciprocals if any(b <= i < e for b, e in code.inner)]
        # Local attention's loops go over some taps of a line; what is the window's is outside.
        turns = [end - begin for begin, end in code.inner] if "<T, V" not in name else []
        yield Kernel(
            name,
            dtype,
            registers=int(re.search(r"Used (\d+) registers", properties)[1]),
            local=stack + len(code.places(r"\b(LDL|STL)\b")),
            reciprocals=len(reciprocals),
            load=max((int(width[1]) // 8 if width else 4 for width in widths), default=0),
            per_tap=None
            if taps is None
            else 4 * max(turns or [code.per_turn()]) / (taps * TYPES[dtype]),
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="90", help="architecture to compile for (90)")
    arguments = parser.parse_args()
    cuda = _build.find_cuda(env={**os.environ, "TFCONV_CUDA": "1"})
    nvdisasm = find_nvdisasm()
    if nvdisasm is None:
        print("This needs nvdisasm: pip install nvidia-cuda-nvdisasm", file=sys.stderr)
        return 1
    print(f"sm_{arguments.arch}, {cuda.version}; float / double / half / bfloat16\n")
    heading = ("registers", "local memory", "reciprocals", "widest load", "per tap and 4 channels")
    print(f"| family | kernel | {' | '.join(heading)} |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted((ROOT / "cc").rglob("*.cu.cc")):
            source = path.relative_to(ROOT / "cc").as_posix()
            table = collections.defaultdict(dict)
            for kernel in kernels(cuda.nvcc, nvdisasm, source, arguments.arch, Path(folder)):
                table[kernel.name][kernel.dtype] = kernel
            for name, found in sorted(table.items()):
                columns = zip(*(found[t][2:] for t in TYPES if t in found))
                cells = (
                    "" if None in column else " / ".join(f"{value:.0f}" for value in column)
                    for column in columns
                )
                print(f"| {Path(source).parent} | `{name}` | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
