"""A small tree of sources and a stand-in for TensorFlow, built in place of the real ones."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

VALUE = 'extern "C" __attribute__((visibility("default"))) int {}() {{ return {}; }}\n'
KERNEL = """#include "{0}/{0}.h"
namespace tfconv {{ namespace TFCONV_ISA {{ int {0}() {{ return 1; }} }} }}
"""
LITE = "namespace tfconv {{ namespace base {{ int a(); }} int Isa(); }}\n" + VALUE
SOURCES = {
    "a/a.h": "#define A_VALUE 1\n",
    "a/a_cpu.cc": KERNEL.format("a"),
    "a/a_op.cc": '#include "a/a.h"\n' + VALUE.format("tfconv_value", "A_VALUE"),
    "a/a_test.cc": "#error a test is no part of the library\n",
    "b/b.h": "#define B_VALUE 2\n",
    "b/b_cpu.cc": KERNEL.format("b"),
    "b/b.cu.cc": "__global__ void Kernel() {}\nnamespace tfconv { int BCuda() { return 3; } }\n",
    "b/b_gpu.cc": "namespace tfconv { int BCuda(); }\n"
    + VALUE.format("tfconv_gpu", "tfconv::BCuda()"),
    "common/isa.cc": "namespace tfconv { int Isa() { return 7; } }\n",
    "lite/lite.cc": LITE.format("tfconv_lite_value", "10 * tfconv::Isa() + tfconv::base::a()")
    + VALUE.format("tfconv_other", "0"),
    "tf2xla/xla_ops.cc": VALUE.format("tfconv_xla", "5"),
}
BUILD_FILES = ("CMakeLists.txt", "flags.cmake", "lite/CMakeLists.txt", "lite/tfconv_lite.lds")
ISAS = ("base", "avx2", "avx512", "avx512bf16") if os.uname().machine == "x86_64" else ("base",)
A_CPU, B_CPU = ({f"cc/{name}/{name}_cpu.cc [{isa}]" for isa in ISAS} for name in "ab")
OP_UNIT = "cc/*/*_op.cc"  # all of them at once
OPS = {OP_UNIT, "cc/tf2xla/xla_ops.cc"}
OTHERS = {"cc/common/isa.cc", "cc/lite/lite.cc"}


def load_build_module(package: Path):
    """`_build.py` of a package folder, loaded as setup.py does it."""
    name = f"_tfconv_build_{abs(hash(package))}"
    spec = importlib.util.spec_from_file_location(name, package / "_build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def write(root: Path, files: dict) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def write_program(path: Path, script: str) -> str:
    write(path.parent, {path.name: f"#!/bin/sh\n{script}\n"})
    path.chmod(0o755)
    return str(path)


def copy_package(root: Path) -> Path:
    """The part of the package that builds, in a folder of its own."""
    package = root / "tfconv"
    package.mkdir(parents=True)
    for name in ("_build.py", "_version.py"):
        shutil.copy(ROOT / "tfconv" / name, package / name)
    return package


def copy_sources(folder: Path) -> Path:
    write(folder, SOURCES)
    for name in BUILD_FILES:
        shutil.copy(ROOT / "cc" / name, folder / name)
    return folder


def copy_tensorflow(root: Path) -> Path:
    """A stand-in for TensorFlow as a Python package."""
    flags = "get_compile_flags = lambda: ['-I' + get_include(), '-std=c++17']\n"
    sysconfig = (
        "import os\nget_include = lambda: os.path.join(os.path.dirname(__file__), 'include')\n"
        f"{flags}get_link_flags = lambda: []\nget_build_info = lambda: {{}}\n"
    )
    start = "__version__ = '9.9.1'\nfrom . import sysconfig\n"
    write(root, {"tensorflow/__init__.py": start, "tensorflow/sysconfig.py": sysconfig})
    (root / "tensorflow/include").mkdir()
    return root


class Tree:
    """A package with sources, and what it was built to; none includes TensorFlow."""

    def __init__(self, root: Path):
        self.root = root
        self.package = copy_package(root / "lib")
        self.module = load_build_module(ROOT / "tfconv")
        self.module._PACKAGE = self.package
        self.sources = copy_sources(root / "my sources" / "cc")
        self.output = root / "native" / "tf-9.9"
        self.library = self.output / "libtfconv_ops.so"
        self.tensorflow = copy_tensorflow(root / "site") / "tensorflow" / "include"

    def config(self, version: str = "9.9.1"):
        flags = (f"-I{self.tensorflow}", "-std=c++17")
        return self.module.TensorFlowConfig(version, flags, (), str(self.tensorflow))

    def build(self, **kwargs):
        kwargs = {"source_dir": self.sources, "config": self.config(), **kwargs}
        return self.module.build(self.output, self.root / "my objects", **kwargs)

    def fails(self, **kwargs) -> str:
        with pytest.raises(self.module.BuildError) as caught:
            self.build(**kwargs)
        return str(caught.value)

    def compiled(self, **kwargs) -> set:
        return set(self.build(**kwargs).compiled)

    def restored(self, *names):
        write(self.sources, {name: SOURCES[name] for name in names})


def call(library: Path, name: str) -> int:
    """Calls a function in a process of its own: the loader knows libraries by their paths."""
    code = f"import ctypes; print(ctypes.CDLL({str(library)!r}).{name}())"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def exported(library: Path) -> str:
    return subprocess.run(["nm", "-D", library], capture_output=True, text=True, check=True).stdout
