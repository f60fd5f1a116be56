"""What the compiled CUDA kernels use: registers, spills, shared memory, and how wide they load.

    python benchmarks/cuda_resources.py [--arch 90]

Needs nvcc but no GPU, and prints the table of docs/native.md.
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tfconv"))

import _build  # noqa: E402

TYPES = ("float", "double", "Half", "Bfloat16")


class Kernel(NamedTuple):
    """One kernel for one type."""

    name: str  # with T for the type of the tensors
    dtype: str
    registers: int
    spills: int  # bytes stored and loaded
    shared: int  # bytes
    load: int  # bytes of the widest load from global memory


def split_type(symbol: str) -> tuple[str, str]:
    """A demangled kernel as its name, with T for the type of the tensors, and that type."""
    name = re.sub(r"\(anonymous namespace\)::|tfconv::|cuda::|^void |>\(.*", "", symbol) + ">"
    name = name.replace("(bool)1", "true").replace("(bool)0", "false")
    found = [word for word in re.findall(r"\w+", name) if word in TYPES]
    dtype = max(found, key=TYPES.index)  # half types compute in float
    return re.sub(rf"\b{dtype}\b", "T", name).replace("float", "Acc"), dtype


def kernels(nvcc: str, source: str, arch: str, folder: Path) -> Iterator[Kernel]:
    """Compiles a source and reads its code and the assembler's words."""
    ptx, target = folder / "kernels.ptx", f"-arch=sm_{arch}"
    flags = ["-O3", "-std=c++17", "-x", "cu", "-I.", target]
    subprocess.run([nvcc, *flags, "-ptx", source, "-o", ptx], cwd=ROOT / "cc", check=True)
    said = subprocess.run(
        [nvcc, target, "-Xptxas", "-v", "-cubin", ptx, "-o", folder / "kernels.cubin"],
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    code = dict(re.findall(r"\.entry (\w+)\((.*?)\n}", ptx.read_text(), re.DOTALL))
    for mangled, properties in re.findall(
        r"entry function '(\w+)'(.*?Used .*?\n)", said, re.DOTALL
    ):
        symbol = subprocess.check_output(["c++filt", mangled], text=True).strip()
        spills = re.findall(r"(\d+) bytes spill", properties)
        shared = re.search(r"(\d+) bytes smem", properties)
        loads = re.findall(r"ld\.global(?:\.nc)?(?:\.v(\d))?\.[bfsu](\d+)", code[mangled])
        yield Kernel(
            *split_type(symbol),
            registers=int(re.search(r"Used (\d+) registers", properties)[1]),
            spills=sum(map(int, spills)),
            shared=int(shared[1]) if shared else 0,
            load=max(int(count or 1) * int(bits) // 8 for count, bits in loads),
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="90", help="architecture to compile for (90)")
    arguments = parser.parse_args()
    cuda = _build.find_cuda(env={**os.environ, "TFCONV_CUDA": "1"})
    print(f"sm_{arguments.arch}, {cuda.version}; float / double / half / bfloat16\n")
    print("| family | kernel | registers | spilled bytes | shared bytes | widest load |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted((ROOT / "cc").rglob("*.cu.cc")):
            source = path.relative_to(ROOT / "cc").as_posix()
            table = collections.defaultdict(dict)
            for kernel in kernels(cuda.nvcc, source, arguments.arch, Path(folder)):
                table[kernel.name][kernel.dtype] = kernel
            for name, found in sorted(table.items()):
                columns = zip(*(found[t][2:] for t in TYPES if t in found))
                cells = (" / ".join(map(str, column)) for column in columns)
                print(f"| {Path(source).parent} | `{name}` | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
