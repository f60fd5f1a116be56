"""The build of the native libraries and the packages that carry them.

A small tree of sources and a stand-in for TensorFlow take the place of the real ones, and CMake and
Ninja build them as they do the real ones.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
import tensorflow as tf

ROOT = Path(__file__).resolve().parent.parent

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
TF_HEADERS = ("framework/op_kernel.h", "framework/shape_inference.h", "util/work_sharder.h")
ISAS = ("base", "avx2", "avx512", "avx512bf16") if os.uname().machine == "x86_64" else ("base",)
A_CPU, B_CPU = ({f"cc/{name}/{name}_cpu.cc [{isa}]" for isa in ISAS} for name in "ab")
OPS = {"cc/a/a_op.cc", "cc/tf2xla/xla_ops.cc"}
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
    headers = {name: "#include <string>\n" for name in TF_HEADERS}
    write(root / "tensorflow/include/tensorflow/core", headers)
    return root


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch, tmp_path):
    """No settings of the caller's, and a cache of the test's own."""
    for name in list(os.environ):
        if name.startswith("TFCONV_") or name in ("CXX", "CUDA_HOME", "SOURCE_DATE_EPOCH"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


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


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def call(library: Path, name: str) -> int:
    """Calls a function in a process of its own: the loader knows libraries by their paths."""
    code = f"import ctypes; print(ctypes.CDLL({str(library)!r}).{name}())"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def exported(library: Path) -> str:
    return subprocess.run(["nm", "-D", library], capture_output=True, text=True, check=True).stdout


# What is built, and built again.


def test_module_needs_the_standard_library_only():
    code = (
        "import importlib.util as u, sys; s = u.spec_from_file_location('b', sys.argv[1]); "
        "m = u.module_from_spec(s); sys.modules['b'] = m; s.loader.exec_module(m); "
        "print(m.package_version())"
    )
    command = [sys.executable, "-I", "-S", "-c", code, ROOT / "tfconv" / "_build.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", done.stdout.strip())


def test_what_changed_is_built_again(tree, monkeypatch, capsys):
    steps = []
    first = tree.build(progress=lambda *step: steps.append(step))
    assert set(first.compiled) == A_CPU | B_CPU | OPS | OTHERS
    done, totals = [step[0] for step in steps], {step[1] for step in steps}
    assert done == [*range(1, len(steps) + 1)] and totals == {len(steps)}
    assert first.library == tree.library and all(path.is_file() for path in first.files)
    assert call(tree.library, "tfconv_value") == 1 and call(tree.library, "tfconv_xla") == 5
    assert first.info["tf_version"] == "9.9.1" and first.info["cuda_archs"] == []
    assert first.info["sources_hash"] == tree.module.sources_hash(tree.sources)
    lite = tree.output.parent / "libtfconv_lite.so"
    assert call(lite, "tfconv_lite_value") == 71
    assert "tfconv_other" not in exported(lite) and "tfconv_lite" not in exported(tree.library)
    assert (tree.root / "my objects" / "compile_commands.json").is_file()
    assert capsys.readouterr().err == ""

    before = tree.library.stat().st_mtime_ns
    second = tree.build(progress=lambda *step: pytest.fail(str(step)))
    assert second.compiled == () and second.info == first.info
    assert tree.library.stat().st_mtime_ns == before

    write(tree.sources, {"a/a.h": "#define A_VALUE 3\n"})
    third = tree.build()
    assert set(third.compiled) == A_CPU | {"cc/a/a_op.cc"}
    assert third.info["sources_hash"] != first.info["sources_hash"]
    assert call(tree.library, "tfconv_value") == 3
    write(tree.sources, {"b/b_cpu.cc": SOURCES["b/b_cpu.cc"] + "// a comment\n", "c/c_op.cc": ""})
    assert tree.compiled() == B_CPU | {"cc/c/c_op.cc"}
    exports = tree.sources / "lite" / "tfconv_lite.lds"
    exports.write_text(exports.read_text().replace("tfconv_lite_*", "tfconv_*"))
    assert tree.compiled(verbose=True) == set() and "tfconv_other" in exported(lite)
    assert "-shared" in capsys.readouterr().err

    tree.library.write_bytes(b"damaged")
    lite.unlink()
    assert tree.compiled() == set() and call(tree.library, "tfconv_value") == 3
    assert lite.is_file()

    # Kernels know no TensorFlow.
    assert tree.compiled(config=tree.config("9.10.0")) == OPS | {"cc/c/c_op.cc"}
    assert tree.compiled() == set()
    monkeypatch.setenv("TFCONV_CXXFLAGS", "-DMORE=1")
    assert tree.compiled() == A_CPU | B_CPU | OPS | OTHERS | {"cc/c/c_op.cc"}


def test_another_version_of_the_compiler_compiles_all(tree, monkeypatch):
    compiler = tree.root / "g++"
    script = '[ "$1" = --version ] && echo g++ {} && exit\nexec /usr/bin/env g++ "$@"'
    monkeypatch.setenv("CXX", write_program(compiler, script.format(1)))
    everything = tree.compiled()
    assert everything and tree.compiled() == set()
    write_program(compiler, script.format(2))
    assert tree.compiled() == everything


def test_warnings(tree, monkeypatch):
    unused = {"b/b_cpu.cc": SOURCES["b/b_cpu.cc"] + "static int unused() { return 0; }\n"}
    write(tree.sources, unused)
    assert "-Wunused-function" in tree.build().warnings
    assert tree.build().warnings == ""
    monkeypatch.setenv("TFCONV_WERROR", "1")
    assert re.match(r"cc/b/b_cpu.cc \[\w+\] failed:\n(.*\n)*.*unused", tree.fails())
    tree.restored("b/b_cpu.cc")
    assert B_CPU <= tree.compiled()
    monkeypatch.delenv("TFCONV_WERROR")
    assert tree.compiled() == set()


def test_builds_at_the_same_time_share_the_work(tree):
    results = []
    threads = [threading.Thread(target=lambda: results.append(tree.build(jobs=1))) for _ in "123"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(result.compiled) > 0 for result in results) == [False, False, True]
    assert len({result.info["library_sha256"] for result in results}) == 1


# What goes wrong.


def test_failures_leave_the_library_of_before(tree, monkeypatch):
    first = tree.build()
    files = {path: path.read_bytes() for path in tree.output.parent.rglob("*") if path.is_file()}

    write(tree.sources, {"a/a_op.cc": SOURCES["a/a_op.cc"] + "int broken() { return no_such; }\n"})
    message = tree.fails()
    assert message.startswith("cc/a/a_op.cc failed:\n")
    assert "cc/a/a_op.cc:3:" in message and "no_such" in message
    assert re.search(f"Command, in {tree.root}/my objects:\n  \\S+g?\\+\\+ .*a_op.cc", message)

    tree.restored("a/a_op.cc")
    monkeypatch.setenv("TFCONV_LDFLAGS", "-lno_such_library_of_tfconv")
    assert re.match(r"libtfconv_\w+.so failed:\n(.*\n)*.*no_such_library", tree.fails())
    monkeypatch.delenv("TFCONV_LDFLAGS")

    def interrupt(done, total, what):
        raise KeyboardInterrupt

    write(tree.sources, {"a/a.h": "#define A_VALUE 4\n"})
    with pytest.raises(KeyboardInterrupt):
        tree.build(progress=interrupt)
    found = {path: path.read_bytes() for path in tree.output.parent.rglob("*") if path.is_file()}
    assert found == files
    assert tree.build().info["library_sha256"] != first.info["library_sha256"]
    assert call(tree.library, "tfconv_value") == 4


OURS = 'case "$*" in *" -c /"*"/my sources/"*) {} ;; *) exec g++ "$@" ;; esac'


@pytest.mark.parametrize(
    ("script", "match", "without"),
    [
        (
            OURS.format("echo from x; echo a.cc:1: error: the first; seq 100 180; exit 1"),
            r"cc/\S+ .*failed:\n  a.cc:1: error: the first\n(.*\n)*  128\n  ... 52 more lines\n",
            "from x|129",
        ),
        (
            OURS.format("kill -9 $$"),
            r"cc/\S+ .*failed:\n(.*\n)*The compiler was killed.* TFCONV_JOBS=1",
            "error",
        ),
        (
            'case $1 in -*) exec g++ "$@" ;; *) echo out of luck; exit 1 ;; esac',
            r"Configuring the build failed \(exit status 1\):\n(.*\n)*.*CXX",
            "a_op",
        ),
    ],
)
def test_compilers_that_fail(tree, monkeypatch, script, match, without):
    monkeypatch.setenv("CXX", write_program(tree.root / "bin" / "g++-that-fails", script))
    message = tree.fails(jobs=1)
    assert re.match(match, message), message
    assert not re.search(without, message.partition("Command")[0])


def test_missing_programs(tree, monkeypatch):
    module, tools = tree.module, tree.root / "tools"
    tools.mkdir()
    monkeypatch.setattr(module.sysconfig, "get_path", lambda name: "/nowhere")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(module.CompilerNotFoundError, match="Received: CXX=no-such-compiler\n"):
        tree.build()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(module.CompilerNotFoundError) as caught:
        tree.build()
    assert "apt-get install g++" in str(caught.value)
    assert "portable ops serve" in str(caught.value)
    write_program(tools / "g++", "echo 1")
    assert re.match(r"cmake, which builds .*\n.*pip install cmake ninja", tree.fails())
    write_program(tools / "cmake", "")
    assert "ninja, which builds" in tree.fails()


def test_what_cannot_be_built(tree, monkeypatch):
    with pytest.raises(ValueError, match="jobs .* Received: 0"):
        tree.build(jobs=0)
    for value in ("0", "-1", "many"):
        monkeypatch.setenv("TFCONV_JOBS", value)
        assert re.search(f"TFCONV_JOBS.* Received: '{value}'", tree.fails())
    monkeypatch.setenv("TFCONV_JOBS", "7")
    assert tree.module.default_jobs() == 7
    monkeypatch.delenv("TFCONV_JOBS")
    assert tree.module.default_jobs() >= 1
    tree.output.parent.mkdir()
    tree.output.touch()
    assert re.search("Cannot write to the build folders: .*tf-9.9", tree.fails())
    monkeypatch.setattr(sys, "platform", "win32")
    assert re.search("not built on Windows.*portable ops serve", tree.fails())


def test_files_are_replaced_whole_or_not_at_all(tree):
    path = tree.root / "file"
    path.write_text("old")
    with pytest.raises(TypeError):
        tree.module._write_json(path, {"first": 1, "second": object()})
    with pytest.raises(FileNotFoundError):
        tree.module._publish(tree.root / "no such library", path)
    assert path.read_text() == "old" and not list(tree.root.glob(".file*"))


@pytest.mark.parametrize(
    ("outcome", "status", "out", "err"),
    [
        (
            None,
            0,
            "  [1/1] a step\n  lib.so for TensorFlow 9.9.1: 2 compiled, 3.0 s\n",
            "a warning\n",
        ),
        ("BuildError", 1, "", "tfconv: the native ops could not be built.\nout of luck\n"),
        ("KeyboardInterrupt", 130, "", ""),
    ],
)
def test_program(tree, monkeypatch, capsys, outcome, status, out, err):
    """`python tfconv/_build.py`."""
    module = tree.module

    def stand_in(progress):
        if outcome is not None:
            raise {"BuildError": module.BuildError}.get(outcome, KeyboardInterrupt)("out of luck")
        progress(1, 1, "a step")
        info = {"tf_version": "9.9.1"}
        return module.BuildResult(Path("lib.so"), info, (), ("a", "b"), "a warning", 3.0)

    monkeypatch.setattr(module, "build", stand_in)
    assert module.main() == status
    assert tuple(capsys.readouterr()) == (out, err)


# CUDA.

NVCC = """case $* in
  *--version*) echo "nvcc: the compiler"; echo "Build 1" ;;
  *--list-gpu-code*) printf "sm_75\\nsm_80\\nsm_86\\nsm_90\\nsm_91\\n" ;;
  *-E*) exit ;;
esac"""


@pytest.fixture
def nvcc(tree, monkeypatch):
    """A stand-in, on the PATH."""
    path = Path(write_program(tree.root / "cuda" / "bin" / "nvcc", NVCC))
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    return path


@pytest.mark.parametrize(
    ("of_tensorflow", "environment", "archs"),
    [
        ((), {}, None),  # there is an nvcc, but no CUDA in TensorFlow
        ((), {"TFCONV_CUDA": "1"}, ("75", "80", "90")),  # not 86, which runs the code for 80
        (("60", "80", "86", "89"), {}, ("80", "86")),  # what both know
        (("80",), {"TFCONV_CUDA": "0"}, None),
        (("80",), {"TFCONV_CUDA_ARCHS": "90,100a"}, ("90", "100a")),
    ],
)
def test_cuda_is_tensorflows(tree, nvcc, monkeypatch, of_tensorflow, environment, archs):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = tree.module.find_cuda(of_tensorflow)
    assert (found and found.archs) == archs
    assert found is None or (found.nvcc, found.version) == (str(nvcc), "Build 1")


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("-E*) exit", "-E*) echo too new; exit 3", "exit status 3\\):\n  too new"),
        ("sm_75\\nsm_80\\n", "", "none of the architectures 75, 80\\."),
    ],
)
def test_nvcc_that_does_not_work(tree, nvcc, monkeypatch, capsys, old, new, match):
    assert old in nvcc.read_text()
    nvcc.write_text(nvcc.read_text().replace(old, new))
    assert tree.module.find_cuda(("75", "80")) is None
    assert re.search(match, capsys.readouterr().err)
    monkeypatch.setenv("TFCONV_CUDA", "1")
    with pytest.raises(tree.module.BuildError, match=match):
        tree.module.find_cuda(("75", "80"))


def test_cuda_settings(tree, nvcc, monkeypatch):
    other = Path(write_program(tree.root / "other" / "bin" / "nvcc", NVCC))
    monkeypatch.setenv("CUDA_HOME", str(other.parent.parent))
    assert tree.module.find_cuda(("80",)).nvcc == str(other)
    monkeypatch.delenv("CUDA_HOME")
    monkeypatch.setenv("PATH", str(tree.root))
    assert tree.module.find_cuda(("80",)) is None
    for variable, value, match in [
        ("TFCONV_CUDA", "1", "no nvcc in CUDA_HOME or on the PATH"),
        ("TFCONV_CUDA", "yes", "TFCONV_CUDA.*Received: 'yes'"),
        ("TFCONV_CUDA_ARCHS", "sm_90", "TFCONV_CUDA_ARCHS.*Received: 'sm_90'"),
    ]:
        monkeypatch.setenv(variable, value)
        with pytest.raises(tree.module.BuildError, match=match):
            tree.module.find_cuda(("80",))
        monkeypatch.delenv(variable)


def test_cuda_is_built(tree, monkeypatch):
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc")
    monkeypatch.setenv("TFCONV_CUDA", "1")
    monkeypatch.setenv("TFCONV_CUDA_ARCHS", "80")
    monkeypatch.setenv("TFCONV_WERROR", "1")
    first = tree.build()
    assert {"cc/b/b.cu.cc", "cc/b/b_gpu.cc"} < set(first.compiled)
    assert first.info["cuda_archs"] == ["80"]
    assert call(tree.library, "tfconv_gpu") == 3  # without a GPU, and without CUDA's libraries
    monkeypatch.setenv("TFCONV_CUDA", "0")
    assert tree.build().info["cuda_archs"] == []
    assert "tfconv_gpu" not in exported(tree.library)


# TensorFlow.


def test_installed_tensorflow(tree):
    config = tree.module.tensorflow_config()
    assert config.version == tf.__version__
    assert Path(config.include_dir).samefile(tf.sysconfig.get_include())
    assert list(config.compile_flags) == tf.sysconfig.get_compile_flags()
    assert list(config.link_flags) == tf.sysconfig.get_link_flags()
    assert bool(config.cuda_archs) == tf.sysconfig.get_build_info()["is_cuda_build"]
    path = tree.root / "tf.cmake"
    config.write(path)
    assert "/external/highwayhash" in path.read_text() and "libtensorflow_cc" in path.read_text()


def test_tensorflow_that_cannot_be_used(tree):
    module = tree.module
    python = write_program(tree.root / "python", f'exec "{sys.executable}" -S "$@"')
    with pytest.raises(module.TensorFlowNotFoundError, match="TensorFlow is not installed"):
        module.tensorflow_config(python, env={"PATH": os.environ["PATH"]})
    with pytest.raises(module.BuildError, match="Cannot run the Python interpreter"):
        module.tensorflow_config(tree.root / "no-python")
    write(tree.root / "bad", {"tensorflow/__init__.py": "raise ImportError('libx.so is gone')"})
    environment = dict(os.environ, PYTHONPATH=str(tree.root / "bad"))
    with pytest.raises(module.TensorFlowNotFoundError, match="libx.so is gone"):
        module.tensorflow_config(env=environment)
    archs = {"cuda_compute_capabilities": ["sm_80", "sm_90", "compute_90"]}
    with open(tree.root / "site" / "tensorflow" / "sysconfig.py", "a") as file:
        file.write(f"get_build_info = lambda: {archs}\n")
    environment["PYTHONPATH"] = str(tree.root / "site")
    assert module.tensorflow_config(env=environment).cuda_archs == ("80", "90")


# Where libraries are looked for.


def put_library(module, folder: Path, **info) -> Path:
    write(folder, {"libtfconv_ops.so": "a library"})
    base = {"tfconv_version": module.package_version(), "sources_hash": module.sources_hash()}
    module._write_json(folder / "build_info.json", {**base, **info})
    return folder / "libtfconv_ops.so"


def test_library_search_order(tree):
    module = tree.module
    shutil.copytree(tree.sources, tree.package / "_cc")
    package, cache = module.library_dirs("2.21.3")
    assert package == tree.package / "_native" / "tf-2.21"
    assert cache == tree.root / "cache" / "tfconv" / module.package_version() / "tf-2.21"
    assert module.find_library("2.21.3") is None and module.built_versions() == []
    assert module.find_delegate("2.21.3") is None

    in_cache = put_library(module, cache, tf_version="2.21.1")
    assert module.find_library("2.21.3")[0] == in_cache
    in_package = put_library(module, package, tf_version="2.21.1")
    assert module.find_library("2.21.3")[0] == in_package
    put_library(module, cache, tf_version="2.21.3")  # the exact version
    assert module.find_library("2.21.3")[0] == in_cache
    put_library(module, cache, tf_version="2.21.3", sources_hash="of older sources")
    assert module.find_library("2.21.3")[0] == in_package
    (package / "build_info.json").write_text("{ not JSON")
    assert module.find_library("2.21.3")[0] == in_cache

    delegates = [folder.parent / "libtfconv_lite.so" for folder in (package, cache)]
    delegates[0].touch()
    assert module.find_delegate("2.21.3") == module.find_delegate("3.0") == delegates[0]
    delegates[1].touch()  # beside the library that serves
    assert module.find_delegate("2.21.3") == delegates[1]

    put_library(module, module.library_dirs("2.9.0")[0], tf_version="2.9.0")
    assert module.built_versions() == ["2.9", "2.21"]
    assert module.find_library("2.15.1") is None


def test_where_the_loader_finds_tensorflow(tree):
    """An installed library finds it beside itself, wherever it was for the build."""
    module = tree.module
    config = module.TensorFlowConfig("2.21.0", (), ("-L/one/tensorflow", "-ltf"), "/one/inc")
    native, cache = module.library_dirs("2.21.0")
    assert module._rpath(native, config) == "$ORIGIN/../../../tensorflow"
    assert module._rpath(cache, config) == "/one/tensorflow"
    write(tree.package.parent, {"setup.py": "", "cc/a.cc": ""})  # a checkout
    assert module._rpath(native, config) == "/one/tensorflow"
    assert module.default_build_dir() == tree.package.parent / "build" / "native"


def test_sources_and_staleness(tree):
    module = tree.module
    assert not module.is_stale({"tfconv_version": module.package_version()})  # no sources
    write(tree.package.parent, {"cc/other.cc": "somebody else's folder of that name"})
    with pytest.raises(module.BuildError, match="C\\+\\+ sources of tfconv are missing"):
        module.find_sources()
    shutil.copytree(tree.sources, tree.package / "_cc")
    assert module.find_sources() == tree.package / "_cc"
    good = {"tfconv_version": module.package_version(), "sources_hash": module.sources_hash()}
    assert not module.is_stale(good) and module.is_stale({**good, "tfconv_version": "0.0.1"})
    assert module.sources_hash(tree.sources) == module.sources_hash()  # in `cc` as in `_cc`
    write(tree.package / "_cc", {"a/a_test.cc": "a test changes nothing"})
    assert not module.is_stale(good)
    for name in ("a/a.h", "flags.cmake"):
        text = (tree.package / "_cc" / name).read_text()
        write(tree.package / "_cc", {name: text + " "})
        assert module.is_stale(good)
        write(tree.package / "_cc", {name: text})


def test_output_goes_to_the_cache_if_the_package_is_read_only(tree, monkeypatch):
    module = tree.module
    package, cache = module.library_dirs("2.21.0")
    assert module.default_output_dir("2.21.0") == package
    access = os.access
    monkeypatch.setattr(
        os,
        "access",
        lambda path, mode: tree.package not in (path, *Path(path).parents) and access(path, mode),
    )
    assert module.default_output_dir("2.21.0") == cache
    # A package outside a checkout keeps its objects in the cache as well.
    assert module.default_build_dir() == cache.parent / "objects"


def test_folder_name_of_a_tensorflow_version(tree):
    for version, key in [("2.21.0", "2.21"), ("2.15", "2.15"), ("2.22.0rc1", "2.22")]:
        assert tree.module.tf_key(version) == f"tf-{key}"
    with pytest.raises(ValueError, match="Received: 'nightly'"):
        tree.module.tf_key("nightly")


# Packages.


def run_hook(project: Path, hook: str, *arguments: str, python=sys.executable, **variables):
    """Runs a hook of setuptools' build backend in a project, as pip does but offline."""
    code = (
        "import sys\nfrom setuptools import build_meta\n"
        f"print('@@' + str(build_meta.{hook}(*sys.argv[1:])))"
    )
    done = subprocess.run(
        [os.fspath(python), "-c", code, *arguments],
        cwd=project,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.rpartition("@@")[2].strip(), done.stdout + done.stderr


@pytest.fixture
def project(tmp_path):
    """A copy of this project: what a checkout has, without environments and build results."""
    ignored = shutil.ignore_patterns(
        ".git", ".venv*", "build", "dist", "_native", "_cc", "*.egg-info", "__pycache__", ".*_cache"
    )
    copy = tmp_path / "project"
    shutil.copytree(ROOT, copy, ignore=ignored, symlinks=True)
    write(copy, {"tfconv/_native/tf-1.0/libtfconv_ops.so": "stale"})
    return copy


@pytest.fixture
def small_project(tmp_path, monkeypatch):
    """The project's packaging around the small tree, in an environment with the stand-in."""
    root = tmp_path / "small"
    copy_package(root)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE"):
        shutil.copy(ROOT / name, root / name)
    write(root, {"README.md": "# tfconv\n", "tfconv/__init__.py": ""})
    write(root, {"tfconv/_native/tf-1.0/libtfconv_ops.so": "stale"})
    write(root, {"build/lib/tfconv/removed.py": "", "build/lib/tfconv/_native/x.so": ""})
    copy_sources(root / "cc")
    monkeypatch.setenv("PYTHONPATH", str(copy_tensorflow(tmp_path / "stand-in")))
    return root


def cc_files(root: Path) -> set:
    return {p.relative_to(root).as_posix() for p in (root / "cc").rglob("*") if p.is_file()}


def test_sdist_is_complete(project, tmp_path):
    name, _ = run_hook(project, "build_sdist", str(tmp_path))
    with tarfile.open(tmp_path / name) as archive:
        names = {n.partition("/")[2] for n in archive.getnames()}
    assert cc_files(project) and cc_files(project) <= names
    own = {"setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md", "Makefile"}
    assert own | {".ci/run", "tfconv/_build.py", "tests/test_build.py"} <= names
    assert not [n for n in names if "/_native/" in n or n.endswith((".so", ".pyc"))]


def test_wheel_without_library_is_pure_and_has_the_sources(project, tmp_path):
    name, _ = run_hook(project, "build_wheel", str(tmp_path), TFCONV_NATIVE="0")
    assert name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(tmp_path / name) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    expected = {f.replace("cc/", "tfconv/_cc/", 1) for f in cc_files(project)}
    tests = {f for f in expected if f.endswith("_test.cc")}
    assert expected - tests <= names and not tests & names
    assert {"tfconv/py.typed", "tfconv/layers/__init__.pyi", "tfconv_command.py"} <= names
    assert {p.relative_to(project).as_posix() for p in (project / "tfconv").rglob("*.py")} <= names
    assert not [n for n in names if "_native" in n or n.startswith(("tests/", "cc/"))]
    installed = load_build_module(tmp_path / "installed" / "tfconv")
    assert installed.sources_hash() == load_build_module(project / "tfconv").sources_hash()


def test_wheel_with_library(small_project, tmp_path):
    name, _ = run_hook(small_project, "build_wheel", str(tmp_path), TFCONV_REQUIRE_NATIVE="1")
    assert re.search(r"-py3-none-(?!any)\w+\.whl$", name)
    with zipfile.ZipFile(tmp_path / name) as archive:
        native = {n for n in archive.namelist() if n.startswith("tfconv/_native/")}
        archive.extractall(tmp_path / "installed")
    ops = {f"tfconv/_native/tf-9.9/{name}" for name in ("libtfconv_ops.so", "build_info.json")}
    assert native == ops | {"tfconv/_native/libtfconv_lite.so"}
    assert not (tmp_path / "installed" / "tfconv" / "removed.py").exists()
    module = load_build_module(tmp_path / "installed" / "tfconv")
    library, info = module.find_library("9.9.1")
    assert info["tf_version"] == "9.9.1" and not module.is_stale(info)
    assert module.built_versions() == ["9.9"]
    assert call(library, "tfconv_value") == 1

    # An editable installation takes the library into the source tree, from the same objects.
    _, log = run_hook(small_project, "build_editable", str(tmp_path), TFCONV_REQUIRE_NATIVE="1")
    assert not re.search(r"\[\d+/\d+\] cc/", log)
    in_tree = small_project / "tfconv"
    assert (in_tree / "_native" / "tf-9.9" / "libtfconv_ops.so").is_file()
    assert not (in_tree / "_cc").exists()


def test_wheel_of_libraries_that_are_ready(small_project, tmp_path):
    ready = {f"tf-9.{minor}/libtfconv_ops.so": "a library" for minor in (8, 9)}
    write(tmp_path / "ready", ready)
    name, _ = run_hook(
        small_project, "build_wheel", str(tmp_path), TFCONV_PREBUILT=str(tmp_path / "ready")
    )
    assert re.search(r"-py3-none-(?!any)\w+\.whl$", name)
    with zipfile.ZipFile(tmp_path / name) as archive:
        native = {n for n in archive.namelist() if n.startswith("tfconv/_native/")}
    assert native == {f"tfconv/_native/{path}" for path in ready}


def test_installation_without_a_compiler(small_project, tmp_path):
    bad = {"CXX": "no-such-compiler"}
    name, log = run_hook(small_project, "build_wheel", str(tmp_path), **bad)
    assert name.endswith("-py3-none-any.whl")
    assert "WITHOUT its native ops" in log and "Received: CXX=no-such-compiler" in log
    assert "python -m tfconv build" in log
    with pytest.raises(AssertionError, match="error: the native ops could not be built"):
        run_hook(small_project, "build_wheel", str(tmp_path), TFCONV_REQUIRE_NATIVE="1", **bad)
    with pytest.raises(AssertionError, match="TFCONV_NATIVE must be 0 or 1. Received: 'maybe'"):
        run_hook(small_project, "build_wheel", str(tmp_path), TFCONV_NATIVE="maybe")


def test_tensorflow_is_requested_only_for_wheels_and_only_where_it_is_missing(
    small_project, tmp_path
):
    def requirements(hook, **arguments):
        return run_hook(small_project, f"get_requires_for_build_{hook}", **arguments)[0]

    assert "tensorflow" not in requirements("wheel")

    # An environment without it, with setuptools in the PYTHONPATH as pip isolates a build.
    environment, overlay = tmp_path / "environment", tmp_path / "overlay"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", os.fspath(environment)], check=True
    )
    overlay.mkdir()
    for package in ("setuptools", "pkg_resources", "_distutils_hack", "wheel", "packaging"):
        spec = importlib.util.find_spec(package)
        if spec is not None:  # not every version of setuptools has all of them
            folder = Path(spec.origin).parent
            for path in (folder, *folder.parent.glob(f"{package}-*.dist-info")):
                (overlay / path.name).symlink_to(path)
    bare = {"python": environment / "bin" / "python", "PYTHONPATH": os.fspath(overlay)}
    assert "tensorflow-cpu>=2.15" in requirements("wheel", **bare)
    assert "tensorflow" not in requirements("sdist", **bare)
    assert "tensorflow" not in requirements("wheel", CXX="no-such-compiler", **bare)
