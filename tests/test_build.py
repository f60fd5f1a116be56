"""The build of the native library and the packages that carry it.

Most tests build a small tree of sources that needs no TensorFlow headers; one builds a real op.
"""

import ctypes
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
import tensorflow as tf

ROOT = Path(__file__).resolve().parent.parent

A_CPU = """#include "a/a.h"
namespace tfconv { namespace TFCONV_ISA { int A() { return A_VALUE; } } }
"""
B_CPU = """#include "b/b.h"
namespace tfconv { namespace TFCONV_ISA { int B() { return B_VALUE; } } }
"""
B_CUDA = """#include "b/b.h"
#if !defined(NVCC)
#error this is for nvcc
#endif
namespace tfconv { int BCuda() { return B_VALUE; } }
"""
B_GPU = """namespace tfconv { int BCuda(); }
extern "C" __attribute__((visibility("default"))) int tfconv_gpu() { return tfconv::BCuda(); }
"""
# Compiles with g++ and says what nvcc would.
NVCC = """#!/bin/sh
for word; do
  case $word in
    --version) echo "nvcc: the compiler"; echo "Build {build}"; exit ;;
    --list-gpu-code) printf "sm_75\\nsm_80\\nsm_86\\nsm_90\\nsm_91\\n"; exit ;;
    --dryrun) echo '#$ LIBRARIES=  "-L{libraries}"'; exit ;;
    -E) exit ;;
    -MF) deps=next ;;
    -o) object=next ;;
    *.cu.cc) source=$word ;;
    *) [ "$deps" = next ] && deps=$word; [ "$object" = next ] && object=$word ;;
  esac
done
exec g++ -DNVCC -Icc -fPIC -xc++ -c "$source" -o "$object" -MMD -MF "$deps"
"""
OP = """#include "a/a.h"
extern "C" __attribute__((visibility("default"))) int tfconv_value() { return A_VALUE; }
"""
REAL_OP = """#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
namespace tfconv {
REGISTER_OP("TfconvBuildTest>Double").Input("x: float").Output("y: float").SetShapeFn(
    [](tensorflow::shape_inference::InferenceContext* c) {
      return tensorflow::shape_inference::UnchangedShape(c);
    });
class DoubleOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;
  void Compute(tensorflow::OpKernelContext* ctx) override {
    const tensorflow::Tensor& x = ctx->input(0);
    tensorflow::Tensor* y = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, x.shape(), &y));
    for (int64_t i = 0; i < x.NumElements(); ++i) {
      y->flat<float>()(i) = 2 * x.flat<float>()(i);
    }
  }
};
REGISTER_KERNEL_BUILDER(Name("TfconvBuildTest>Double").Device(tensorflow::DEVICE_CPU), DoubleOp);
}  // namespace tfconv
"""


def load_build_module(package: Path):
    """`_build.py` of a package folder, loaded as setup.py does it."""
    name = f"_tfconv_build_{abs(hash(package))}"
    spec = importlib.util.spec_from_file_location(name, package / "_build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def build_module_in(package: Path):
    """The checkout's `_build.py` as if it lay in another package folder."""
    module = load_build_module(ROOT / "tfconv")
    module._PACKAGE = package
    return module


def write(root: Path, files: dict) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def copy_package(root: Path) -> Path:
    """The part of the package that builds, in a folder of its own."""
    package = root / "tfconv"
    package.mkdir(parents=True)
    for name in ("_build.py", "_version.py"):
        shutil.copy(ROOT / "tfconv" / name, package / name)
    return package


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch, tmp_path):
    """No settings of the caller's, and a cache of the test's own."""
    for name in list(os.environ):
        if name.startswith("TFCONV_") or name in ("CXX", "CUDA_HOME", "SOURCE_DATE_EPOCH"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TFCONV_CUDA", "0")  # whatever this machine has
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Tree:
    """A package with sources, and a stand-in for TensorFlow (no unit includes it)."""

    def __init__(self, root: Path):
        self.root = root
        self.package = copy_package(root / "lib")
        self.module = build_module_in(self.package)
        self.sources = root / "my sources" / "cc"
        self.output = root / "out"
        self.config = self.tensorflow("9.9.1", "/one/tensorflow/include")
        write(
            self.sources,
            {
                "a/a.h": "#pragma once\n#define A_VALUE 1\n",
                "a/a_cpu.cc": A_CPU,
                "a/a_op.cc": OP,
                "a/a_test.cc": "#error a test is no part of the library\n",
                "b/b.h": "#pragma once\n#define B_VALUE 2\n",
                "b/b_cpu.cc": B_CPU,
                "b/b.cu.cc": B_CUDA,
                "b/b_gpu.cc": B_GPU,
            },
        )

    def tensorflow(self, version: str, include: str):
        return self.module.TensorFlowConfig(version, (f"-I{include}", "-std=c++17"), (), include)

    def build(self, **kwargs):
        kwargs = {"source_dir": self.sources, "config": self.config, **kwargs}
        return self.module.build(self.output, self.root / "objects", **kwargs)

    def files(self):
        """What lies in the output and the object folders, hidden files included."""
        folders = (self.output, self.root / "objects")
        return {p.name for folder in folders for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def isa_labels(tree: Tree, name: str) -> set:
    return {f"cc/{name} [{isa}]" for isa in tree.module.find_compiler().isas}


# What is built.


def test_module_needs_the_standard_library_only():
    code = (
        "import importlib.util as u, sys; s = u.spec_from_file_location('b', sys.argv[1]); "
        "m = u.module_from_spec(s); sys.modules['b'] = m; s.loader.exec_module(m); "
        "print(m.package_version())"
    )
    command = [sys.executable, "-I", "-S", "-c", code, ROOT / "tfconv" / "_build.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", done.stdout.strip())


def test_sources_are_found_sorted_and_without_tests_and_cuda(tree):
    assert tree.module.library_sources(tree.sources) == ["a/a_cpu.cc", "a/a_op.cc", "b/b_cpu.cc"]


def test_sources_of_the_checkout_are_found():
    module = load_build_module(ROOT / "tfconv")
    assert module.find_sources() == ROOT / "cc"
    expected = {
        p.relative_to(ROOT / "cc").as_posix()
        for p in (ROOT / "cc").rglob("*.cc")
        if not p.name.endswith("_test.cc")
    }
    own, cuda = set(module.library_sources()), set(module.cuda_sources())
    lite = set(module.lite_sources())
    assert own and cuda and lite and own | cuda | lite == expected
    assert len(own) + len(cuda) + len(lite) == len(expected)
    assert all(name.endswith((".cu.cc", "_gpu.cc")) for name in cuda)


def test_sources_of_an_installed_package_go_first_and_missing_ones_are_an_error(tmp_path):
    package = copy_package(tmp_path / "site-packages")
    write(package.parent, {"cc/other.cc": "somebody else's folder of that name"})
    module = build_module_in(package)
    with pytest.raises(module.BuildError, match="C\\+\\+ sources of tfconv are missing"):
        module.find_sources()
    write(package, {"_cc/a.cc": ""})
    assert module.find_sources() == package / "_cc"


CPU_FLAGS = "-O3 -std=c++17 -fPIC -fvisibility=hidden -ffp-contract=fast -Wall -Wextra -Icc"
TF_FLAGS = "-O2 -fPIC -fvisibility=hidden -Wall -Wextra -Icc"
AVX2 = "-mavx2 -mfma -mf16c"
AVX512 = "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (
            "x86_64-linux-gnu",
            {"base": "", "avx2": AVX2, "avx512": f"{AVX512} {AVX2}"},
        ),
        ("aarch64-linux-gnu", {"base": ""}),
    ],
)
def test_flags_per_instruction_set(tree, target, expected):
    isas = tree.module.Compiler(("g++",), "g++ 12", target).isas
    assert isas == tuple(expected)
    units = tree.module.library_units(tree.sources, isas, ("-isystem", "/tf"), ("-DLAST",))
    for source in ("cc/a/a_cpu.cc", "cc/b/b_cpu.cc"):
        flags = {u.isa: u.flags for u in units if u.source == source}
        assert set(flags) == set(expected)
        for isa, special in expected.items():
            wanted = [*CPU_FLAGS.split(), f"-DTFCONV_ISA={isa}", *special.split(), "-DLAST"]
            assert sorted(flags[isa]) == sorted(wanted)
    (op,) = (u for u in units if u.isa is None)
    assert sorted(op.flags) == sorted([*TF_FLAGS.split(), "-isystem", "/tf", "-DLAST"])
    assert len({u.object_name for u in units}) == len(units)


def test_unknown_instruction_set(tree):
    with pytest.raises(ValueError, match=r"Received: \['sse9'\]"):
        tree.module.library_units(tree.sources, ["base", "sse9"])


def test_depfile_with_joined_lines_and_spaces(tree):
    text = "x.o: cc/a\\ b.cc \\\n cc/c.h cc/d\\#.h \\\n  cc/$$e.h\n"
    assert tree.module._parse_depfile(text) == ["cc/a b.cc", "cc/c.h", "cc/d#.h", "cc/$e.h"]


# Incremental builds.


def test_second_build_does_nothing_and_changes_rebuild_their_users_only(tree, monkeypatch):
    a_cpu, b_cpu = isa_labels(tree, "a/a_cpu.cc"), isa_labels(tree, "b/b_cpu.cc")
    steps = []
    first = tree.build(progress=lambda *step: steps.append(step))
    assert set(first.compiled) == a_cpu | b_cpu | {"cc/a/a_op.cc"} and first.linked
    total = len(first.compiled) + 1
    assert [step[:2] for step in steps] == [(done, total) for done in range(total + 1)]
    assert first.info["isas"] == list(tree.module.find_compiler().isas)
    assert first.info["tf_version"] == "9.9.1"
    assert first.info["sources_hash"] == tree.module.sources_hash(tree.sources)

    for path in tree.sources.rglob("*"):
        os.utime(path)  # new times, same contents
    before = first.library.stat().st_mtime_ns
    second = tree.build()
    assert second.compiled == () and not second.linked
    assert set(second.reused) == set(first.compiled)
    assert second.info == first.info and second.library.stat().st_mtime_ns == before

    write(tree.sources, {"a/a.h": "#pragma once\n#define A_VALUE 3\n"})
    third = tree.build()
    assert set(third.compiled) == a_cpu | {"cc/a/a_op.cc"} and third.linked
    assert third.info["sources_hash"] != first.info["sources_hash"]

    write(tree.sources, {"b/b_cpu.cc": B_CPU + "// a comment\n"})
    assert set(tree.build().compiled) == b_cpu

    # The same version of TensorFlow somewhere else, as under build isolation.
    tree.config = tree.tensorflow("9.9.1", "/another/tensorflow/include")
    assert tree.build().compiled == ()
    tree.config = tree.tensorflow("9.9.2", "/another/tensorflow/include")
    assert tree.build().compiled == ("cc/a/a_op.cc",)

    monkeypatch.setenv("TFCONV_CXXFLAGS", "-DMORE=1")
    assert set(tree.build().compiled) == set(first.compiled)


def test_kernels_are_compiled_once_for_all_versions_of_tensorflow(tree):
    def build(version):
        config = tree.tensorflow(f"{version}.0", "/one/tensorflow/include")
        folders = (tree.root / folder / f"tf-{version}" for folder in ("out", "objects"))
        return tree.module.build(*folders, source_dir=tree.sources, config=config)

    first, second = build("9.8"), build("9.9")
    assert set(second.compiled) == {"cc/a/a_op.cc"}
    assert set(second.reused) == isa_labels(tree, "a/a_cpu.cc") | isa_labels(tree, "b/b_cpu.cc")
    first.library.unlink()
    shutil.rmtree(tree.root / "objects" / "tf-9.8")
    assert build("9.9").compiled == () and second.library.is_file()

    write(tree.sources, {"b/b.h": "#pragma once\n#define B_VALUE 5\n"})
    assert set(build("9.8").compiled) == {
        "cc/a/a_op.cc",
        *isa_labels(tree, "b/b_cpu.cc"),
    }


def test_damaged_or_removed_files_are_made_again(tree):
    first = tree.build()
    good = first.library.read_bytes()
    first.library.write_bytes(b"damaged")
    again = tree.build()
    assert again.compiled == () and again.linked and again.library.read_bytes() == good
    (tree.root / "objects" / "b" / "b_cpu.base.o").unlink()
    assert tree.build().compiled == ("cc/b/b_cpu.cc [base]",)


def test_a_header_that_is_gone_rebuilds_its_users(tree):
    tree.build()
    (tree.sources / "b" / "b.h").unlink()
    with pytest.raises(tree.module.BuildError, match="b/b.h"):
        tree.build()
    write(tree.sources, {"b/b_cpu.cc": "// nothing\n"})
    assert set(tree.build().compiled) == isa_labels(tree, "b/b_cpu.cc")


def test_verbose_builds_show_commands_and_warnings(tree, capsys):
    write(tree.sources, {"a/a_op.cc": OP + "static int unused() { return 0; }\n"})
    tree.build()
    assert capsys.readouterr().err == ""
    write(tree.sources, {"a/a_op.cc": OP + "int more;\nstatic int unused() { return 0; }\n"})
    tree.build(verbose=True)
    said = capsys.readouterr().err
    assert "-c cc/a/a_op.cc" in said and "-shared" in said and "-Wunused-function" in said
    assert "-c cc/b/b_cpu.cc" not in said


def test_warnings_are_reported_and_fail_under_werror(tree, monkeypatch):
    write(tree.sources, {"b/b_cpu.cc": B_CPU + "static int unused() { return 0; }\n"})
    assert "unused" in tree.build().warnings
    assert tree.build().compiled == ()
    monkeypatch.setenv("TFCONV_WERROR", "1")
    with pytest.raises(tree.module.BuildError, match="b_cpu.cc.*\n(.*\n)*.*unused"):
        tree.build()
    write(tree.sources, {"b/b_cpu.cc": B_CPU})
    assert set(tree.build().compiled) == isa_labels(tree, "b/b_cpu.cc")


def test_builds_at_the_same_time_share_the_work(tree):
    results, errors = [], []

    def run():
        try:
            results.append(tree.build(jobs=1))
        except Exception as error:  # shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sorted(len(r.compiled) > 0 for r in results) == [False, False, True]
    assert len({r.info["library_sha256"] for r in results}) == 1
    assert not [name for name in tree.files() if "tmp" in name or name.startswith(".lib")]


# CUDA.


@pytest.fixture
def nvcc(tree, monkeypatch):
    """Makes a toolkit with a stand-in for nvcc; its `bin` is on the PATH."""
    home = tree.root / "cuda"
    libraries = home / "lib"

    def write_nvcc(build: str = "1"):
        write(home, {"bin/nvcc": NVCC.format(build=build, libraries=libraries)})
        (home / "bin" / "nvcc").chmod(0o755)

    write_nvcc()
    libraries.mkdir()
    subprocess.run(["ar", "rcs", libraries / "libcudart_static.a"], check=True)
    monkeypatch.setenv("PATH", f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("TFCONV_CUDA")
    return write_nvcc


def test_cuda_is_built_where_there_is_nvcc(tree, nvcc, monkeypatch):
    first = tree.build()
    assert {"cc/b/b.cu.cc [cuda]", "cc/b/b_gpu.cc"} < set(first.compiled)
    assert first.info["cuda_archs"] == ["75", "80", "90"]  # not 86, which runs the code for 80
    assert first.info["cuda_version"] == "Build 1"
    assert (
        "code=sm_90 " in first.info["flags"]["cuda"]
        and "code=compute_90" in first.info["flags"]["cuda"]
    )
    assert ctypes.CDLL(str(first.library)).tfconv_gpu() == 2
    assert tree.build().compiled == ()

    write(tree.sources, {"b/b.cu.cc": B_CUDA + "// a comment\n"})
    changed = tree.build()
    assert changed.compiled == ("cc/b/b.cu.cc [cuda]",)
    assert changed.info["sources_hash"] != first.info["sources_hash"]
    nvcc(build="2")
    assert tree.build().compiled == ("cc/b/b.cu.cc [cuda]",)
    monkeypatch.setenv("TFCONV_CUDA_ARCHS", "90,100a")
    other = tree.build()
    assert other.compiled == ("cc/b/b.cu.cc [cuda]",)
    assert other.info["cuda_archs"] == ["90", "100a"]

    monkeypatch.setenv("TFCONV_CUDA", "0")
    without = tree.build()
    assert without.compiled == () and without.linked and without.info["cuda_archs"] == []
    copy = shutil.copy(without.library, tree.root)  # the loader knows the other by its path
    assert not hasattr(ctypes.CDLL(str(copy)), "tfconv_gpu")


def test_cuda_home_goes_before_the_path(tree, nvcc, monkeypatch):
    other = tree.root / "other"
    shutil.copytree(tree.root / "cuda", other)
    assert tree.module.find_cuda().command == (str(tree.root / "cuda" / "bin" / "nvcc"),)
    monkeypatch.setenv("CUDA_HOME", str(other))
    assert tree.module.find_cuda().command == (str(other / "bin" / "nvcc"),)


def test_cuda_without_nvcc(tree, monkeypatch):
    compilers = tree.root / "bin"
    compilers.mkdir()
    (compilers / "g++").symlink_to(shutil.which("g++"))
    monkeypatch.setenv("PATH", str(compilers))
    monkeypatch.setenv("TFCONV_CUDA", "auto")
    assert tree.module.find_cuda() is None
    monkeypatch.setenv("TFCONV_CUDA", "1")
    with pytest.raises(tree.module.BuildError, match="no nvcc in CUDA_HOME or on the PATH"):
        tree.build()


@pytest.mark.parametrize(
    "old, new, match",
    [
        ("-E) exit", "-E) echo too new a g++; exit 3", "exit status 3(.*\n)*.*too new(.*\n)*.*=0"),
        ("sm_75\\nsm_80\\nsm_86\\nsm_90\\n", "", "none of the architectures 75, "),
    ],
)
def test_nvcc_that_does_not_work(tree, nvcc, monkeypatch, capsys, old, new, match):
    script = tree.root / "cuda" / "bin" / "nvcc"
    assert old in script.read_text()
    script.write_text(script.read_text().replace(old, new))
    assert tree.build().info["cuda_archs"] == []
    assert re.search(match, capsys.readouterr().err)
    monkeypatch.setenv("TFCONV_CUDA", "1")
    with pytest.raises(tree.module.BuildError, match=match):
        tree.build()


@pytest.mark.parametrize(
    "variable, value", [("TFCONV_CUDA", "yes"), ("TFCONV_CUDA_ARCHS", "sm_90")]
)
def test_bad_cuda_settings(tree, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(tree.module.BuildError, match=f"{variable}.*Received: '{value}'"):
        tree.build()


LITE = """#include "a/a.h"
namespace tfconv {
int Isa();
namespace base { int A(); }
}
extern "C" __attribute__((visibility("default"))) int tfconv_lite_value() {
  return 100 * tfconv::Isa() + 10 * tfconv::base::A() + A_VALUE;
}
extern "C" __attribute__((visibility("default"))) int tfconv_other() { return 0; }
"""
ISA = "namespace tfconv { int Isa() { return 7; } }\n"


@pytest.fixture
def with_lite(tree):
    """The tree with a library for TFLite."""
    write(tree.sources, {"lite/lite.cc": LITE, "common/isa.cc": ISA})
    shutil.copy(ROOT / "cc" / "lite" / "tfconv_lite.lds", tree.sources / "lite")
    return tree


def test_library_for_tflite(with_lite):
    """Of the kernels and its own sources, and linked anew when one of those has changed."""
    tree = with_lite
    first = tree.build()
    library = tree.output / "libtfconv_lite.so"
    assert ctypes.CDLL(str(library)).tfconv_lite_value() == 711
    assert not hasattr(ctypes.CDLL(str(library)), "tfconv_other")
    assert not hasattr(ctypes.CDLL(str(first.library)), "tfconv_lite_value")
    second = tree.build()
    assert not second.compiled and not second.linked and second.info == first.info

    ops = first.library.stat()
    write(tree.sources, {"lite/lite.cc": LITE.replace("return 0", "return 1")})
    third = tree.build()
    assert third.compiled == ("cc/lite/lite.cc [lite]",) and third.linked
    assert first.library.stat().st_mtime_ns == ops.st_mtime_ns
    library.unlink()
    assert tree.build().linked and library.is_file()

    exports = tree.sources / "lite" / "tfconv_lite.lds"
    exports.write_text(exports.read_text().replace("tfconv_lite_*", "tfconv_*"))
    fourth = tree.build()
    assert fourth.linked and not fourth.compiled
    loaded = subprocess.run(["nm", "-D", library], capture_output=True, text=True, check=True)
    assert "tfconv_other" in loaded.stdout


def test_library_for_tflite_without_static_libraries(with_lite, monkeypatch):
    monkeypatch.setattr(with_lite.module, "_LITE_STATIC_FLAGS", ("-lno_such_library_of_tfconv",))
    with_lite.build()
    library = ctypes.CDLL(str(with_lite.output / "libtfconv_lite.so"))
    assert library.tfconv_lite_value() == 711
    assert not hasattr(library, "tfconv_other")


# Errors.


def test_compile_error_is_readable_and_leaves_the_old_library(tree):
    first = tree.build()
    old = first.library.read_bytes()
    write(tree.sources, {"a/a_op.cc": OP + "int broken() { return no_such_name; }\n"})
    with pytest.raises(tree.module.BuildError) as caught:
        tree.build()
    message = str(caught.value)
    assert message.startswith("Compiling cc/a/a_op.cc failed (exit status 1):\n")
    assert "cc/a/a_op.cc:3:" in message and "no_such_name" in message
    assert f"Command, in {tree.sources.parent}:\n  g++ " in message
    assert first.library.read_bytes() == old
    assert tree.module.read_info(tree.output) == first.info
    assert not [name for name in tree.files() if "tmp" in name or name.startswith(".lib")]
    write(tree.sources, {"a/a_op.cc": OP})
    assert not tree.build().linked


def test_link_error_leaves_the_old_library(tree, monkeypatch):
    old = tree.build().library.read_bytes()
    monkeypatch.setenv("TFCONV_LDFLAGS", "-lno_such_library_of_tfconv")
    with pytest.raises(tree.module.BuildError, match="Linking(.*\n)*.*no_such_library"):
        tree.build()
    assert (tree.output / "libtfconv_ops.so").read_bytes() == old


def fail_as_compiler(tree: Tree, monkeypatch, script: str) -> str:
    """The error of a build with a compiler that does what the script says."""
    path = tree.root / "g++-that-fails"
    path.write_text(
        f'#!/bin/sh\n[ "$1" = -dumpmachine ] && echo x86_64-linux-gnu && exit\n{script}\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(path))
    with pytest.raises(tree.module.BuildError) as caught:
        tree.build(jobs=1)
    return str(caught.value)


def test_long_error_is_cut_behind_its_beginning(tree, monkeypatch):
    script = "echo In file included from x; echo a.cc:1: error: the first; seq 100 180; exit 1"
    message = fail_as_compiler(tree, monkeypatch, script)
    assert "error: the first" in message and "In file included" not in message
    assert "128\n" in message and "129\n" not in message
    assert "... 52 more lines" in message


def test_killed_compiler(tree, monkeypatch):
    message = fail_as_compiler(tree, monkeypatch, "kill -9 $$")
    assert "exit status -9" in message and "TFCONV_JOBS=1" in message


def test_folders_that_cannot_be_written(tree):
    tree.output.touch()
    with pytest.raises(tree.module.BuildError, match="Cannot write to the build folders: .*out"):
        tree.build()


def test_not_built_on_windows(tree, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(tree.module.BuildError, match="not built on Windows.*portable ops serve"):
        tree.build()


@pytest.mark.parametrize("name", ["_write_json", "_publish"])
def test_files_are_replaced_whole_or_not_at_all(tree, name):
    tree.root.joinpath("file").write_text("old")
    with pytest.raises((TypeError, FileNotFoundError)):
        if name == "_write_json":
            tree.module._write_json(tree.root / "file", {"first": 1, "second": object()})
        else:
            tree.module._publish(tree.root / "no such library", tree.root / "file")
    assert tree.root.joinpath("file").read_text() == "old"
    assert not list(tree.root.glob(".file*"))


@pytest.mark.parametrize("variable", ["CXX", "PATH"])
def test_missing_compiler(tree, monkeypatch, variable):
    monkeypatch.setenv(variable, str(tree.root / "nothing-here"))
    with pytest.raises(tree.module.CompilerNotFoundError) as caught:
        tree.build()
    assert "apt-get install g++" in str(caught.value)
    assert "portable ops serve" in str(caught.value)
    assert ("Received: CXX=" in str(caught.value)) == (variable == "CXX")


def test_no_sources(tree):
    empty = tree.root / "empty"
    empty.mkdir()
    with pytest.raises(tree.module.BuildError, match="no sources to build. Received: .*empty"):
        tree.build(source_dir=empty)


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_bad_number_of_jobs(tree, monkeypatch, value):
    monkeypatch.setenv("TFCONV_JOBS", value)
    with pytest.raises(tree.module.BuildError, match=f"TFCONV_JOBS.* Received: '{value}'"):
        tree.build()
    with pytest.raises(ValueError, match="jobs .* Received: 0"):
        tree.build(jobs=0)


def test_number_of_jobs(tree, monkeypatch):
    assert tree.module._default_jobs() >= 1
    monkeypatch.setenv("TFCONV_JOBS", "7")
    assert tree.module._default_jobs() == 7


@pytest.mark.parametrize(
    ("outcome", "status", "out", "err"),
    [
        (None, 0, "for TensorFlow 9.9.1: {units} compiled, 0 reused", ""),
        ("BuildError", 1, "", "tfconv: the native ops could not be built.\nout of luck\n"),
        ("KeyboardInterrupt", 130, "", ""),
    ],
)
def test_program(tree, monkeypatch, capsys, outcome, status, out, err):
    """`python tfconv/_build.py`."""
    build = tree.module.build

    def stand_in(progress):
        if outcome == "KeyboardInterrupt":
            raise KeyboardInterrupt
        if outcome == "BuildError":
            raise tree.module.BuildError("out of luck")
        arguments = {"source_dir": tree.sources, "config": tree.config, "progress": progress}
        return build(tree.output, tree.root / "objects", **arguments)

    monkeypatch.setattr(tree.module, "build", stand_in)
    assert tree.module.main() == status
    printed = capsys.readouterr()
    units = 2 * len(tree.module.find_compiler().isas) + 1
    assert out.format(units=units) in printed.out and printed.err == err
    assert (f"[{units + 1}/{units + 1}] linked" in printed.out) == (outcome is None)


def test_program_shows_warnings(tree, monkeypatch, capsys):
    write(tree.sources, {"a/a_op.cc": OP + "static int unused() { return 0; }\n"})
    result = tree.build()
    monkeypatch.setattr(tree.module, "build", lambda progress: result)
    assert tree.module.main() == 0
    assert "-Wunused-function" in capsys.readouterr().err


def test_installed_tensorflow(tree):
    config = tree.module.tensorflow_config()
    assert config.version == tf.__version__
    assert Path(config.include_dir).samefile(tf.sysconfig.get_include())
    assert list(config.compile_flags) == tf.sysconfig.get_compile_flags()
    assert list(config.link_flags) == tf.sysconfig.get_link_flags()


def test_missing_tensorflow(tree):
    python = tree.root / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(tree.module.TensorFlowNotFoundError, match="TensorFlow is not installed"):
        tree.module.tensorflow_config(python, env={"PATH": os.environ["PATH"]})
    with pytest.raises(tree.module.BuildError, match="Cannot run the Python interpreter"):
        tree.module.tensorflow_config(tree.root / "no-python")


def test_broken_tensorflow(tree):
    write(tree.root / "site", {"tensorflow/__init__.py": "raise ImportError('libx.so is gone')"})
    environment = dict(os.environ, PYTHONPATH=str(tree.root / "site"))
    with pytest.raises(tree.module.TensorFlowNotFoundError, match="libx.so is gone"):
        tree.module.tensorflow_config(env=environment)


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

    put_library(module, module.library_dirs("2.9.0")[0], tf_version="2.9.0")
    assert module.built_versions() == ["2.9", "2.21"]
    assert module.find_library("2.15.1") is None


def test_where_the_loader_finds_tensorflow(tree):
    """An installed library finds it beside itself, wherever it was for the build."""
    config = tree.module.TensorFlowConfig("2.21.0", (), ("-L/one/tensorflow", "-ltf"), "/one/inc")
    native, cache = tree.module.library_dirs("2.21.0")
    assert tree.module._rpath(native, config) == "$ORIGIN/../../../tensorflow"
    assert tree.module._rpath(cache, config) == "/one/tensorflow"
    write(tree.package.parent, {"setup.py": "", "cc/a.cc": ""})  # a checkout
    assert tree.module._rpath(native, config) == "/one/tensorflow"
    assert tree.module.default_build_dir("2.21.0") == (
        tree.package.parent / "build" / "native" / "tf-2.21"
    )


def test_stale_libraries(tree):
    module = tree.module
    version = {"tfconv_version": module.package_version()}
    assert not module.is_stale(version)  # there are no sources to be stale against
    shutil.copytree(tree.sources, tree.package / "_cc")
    good = {"tfconv_version": module.package_version(), "sources_hash": module.sources_hash()}
    assert not module.is_stale(good)
    assert module.is_stale({**good, "tfconv_version": "0.0.1"})
    assert module.sources_hash(tree.sources) == module.sources_hash()  # in `cc` as in `_cc`
    write(tree.package / "_cc", {"a/a_test.cc": "a test changes nothing"})
    assert not module.is_stale(good)
    write(tree.package / "_cc", {"a/a.h": "#define A_VALUE 4\n"})
    assert module.is_stale(good)


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
    assert module.default_build_dir("2.21.0") == cache.parent / "objects" / "tf-2.21"


@pytest.mark.parametrize(
    ("version", "key"), [("2.21.0", "tf-2.21"), ("2.15", "tf-2.15"), ("2.22.0rc1", "tf-2.22")]
)
def test_folder_name_of_a_tensorflow_version(tree, version, key):
    assert tree.module.tf_key(version) == key


def test_bad_tensorflow_version(tree):
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
    return copy


@pytest.fixture
def small_project(tmp_path):
    """The project's packaging around a package with a single op."""
    root = tmp_path / "small"
    copy_package(root)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE"):
        shutil.copy(ROOT / name, root / name)
    lite = {"cc/lite/lite.cc": "void tfconv_lite() {}\n", "cc/lite/tfconv_lite.lds": "{ *; };\n"}
    write(root, {"README.md": "# tfconv\n", "tfconv/__init__.py": "", "cc/double/op.cc": REAL_OP})
    write(root, lite)
    return root


def cc_files(root: Path) -> set:
    return {p.relative_to(root).as_posix() for p in (root / "cc").rglob("*") if p.is_file()}


def test_sdist_is_complete(project, tmp_path):
    write(project, {"tfconv/_native/tf-1.0/libtfconv_ops.so": "stale"})
    name, _ = run_hook(project, "build_sdist", str(tmp_path))
    with tarfile.open(tmp_path / name) as archive:
        names = {n.partition("/")[2] for n in archive.getnames()}
    assert cc_files(project) and cc_files(project) <= names
    assert {
        "setup.py",
        "pyproject.toml",
        "MANIFEST.in",
        "LICENSE",
        "README.md",
        "Makefile",
    } <= names
    assert {".ci/run", "tfconv/_build.py", "tests/test_build.py"} <= names
    assert not [n for n in names if "/_native/" in n or n.endswith((".so", ".pyc"))]


def test_wheel_without_library_is_pure_and_has_the_sources(project, tmp_path):
    write(project, {"tfconv/_native/tf-1.0/libtfconv_ops.so": "stale"})
    name, _ = run_hook(project, "build_wheel", str(tmp_path), TFCONV_NATIVE="0")
    assert name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(tmp_path / name) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    expected = {f.replace("cc/", "tfconv/_cc/", 1) for f in cc_files(project)}
    tests = {f for f in expected if f.endswith("_test.cc")}
    assert expected - tests <= names and not tests & names
    assert {p.relative_to(project).as_posix() for p in (project / "tfconv").rglob("*.py")} <= names
    assert not [n for n in names if "_native" in n or n.startswith(("tests/", "cc/"))]
    installed = load_build_module(tmp_path / "site" / "tfconv")
    original = load_build_module(project / "tfconv")
    assert installed.library_sources() == original.library_sources()
    assert installed.sources_hash() == original.sources_hash()


def test_wheel_with_library(small_project, tmp_path):
    """Compiles one real op, twice packaged: the second wheel reuses the object."""
    key = ".".join(tf.__version__.split(".")[:2])
    write(small_project, {"tfconv/_native/tf-1.0/libtfconv_ops.so": "stale"})
    write(small_project, {"build/lib/tfconv/removed.py": "", "build/lib/tfconv/_native/x.so": ""})
    name, _ = run_hook(
        small_project, "build_wheel", str(tmp_path), TFCONV_REQUIRE_NATIVE="1", TFCONV_WERROR="1"
    )
    assert re.search(r"-py3-none-(?!any)\w+\.whl$", name)
    with zipfile.ZipFile(tmp_path / name) as archive:
        native = {n for n in archive.namelist() if n.startswith("tfconv/_native/")}
        archive.extractall(tmp_path / "site")
    folder = f"tfconv/_native/tf-{key}"
    names = ("libtfconv_ops.so", "libtfconv_lite.so", "build_info.json")
    assert native == {f"{folder}/{name}" for name in names}
    assert not (tmp_path / "site" / "tfconv" / "removed.py").exists()

    module = load_build_module(tmp_path / "site" / "tfconv")
    library, info = module.find_library(tf.__version__)
    assert info["tf_version"] == tf.__version__ and not module.is_stale(info)
    assert module.built_versions() == [key]
    ops = tf.load_op_library(str(library))
    assert ops.tfconv_build_test_double([1.5, -2.0]).numpy().tolist() == [3.0, -4.0]

    # An editable installation takes the library into the source tree, from the same objects.
    _, log = run_hook(small_project, "build_editable", str(tmp_path), TFCONV_REQUIRE_NATIVE="1")
    assert "0 of 2 units to compile" in log
    in_tree = small_project / "tfconv"
    assert (in_tree / "_native" / f"tf-{key}" / "libtfconv_ops.so").is_file()
    assert not (in_tree / "_cc").exists()


def test_installation_without_a_compiler(small_project, tmp_path):
    name, log = run_hook(small_project, "build_wheel", str(tmp_path), CXX="no-such-compiler")
    assert name.endswith("-py3-none-any.whl")
    assert "WITHOUT its native ops" in log and "Received: CXX=no-such-compiler" in log
    assert "python -m tfconv build" in log
    with pytest.raises(AssertionError, match="error: the native ops could not be built"):
        run_hook(
            small_project,
            "build_wheel",
            str(tmp_path),
            CXX="no-such-compiler",
            TFCONV_REQUIRE_NATIVE="1",
        )


def test_bad_switch_is_named(small_project, tmp_path):
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
    assert "tensorflow-cpu>=2.15" in requirements("editable", **bare)
    assert "tensorflow" not in requirements("sdist", **bare)
    assert "tensorflow" not in requirements("wheel", TFCONV_NATIVE="0", **bare)
    assert "tensorflow" not in requirements("wheel", CXX="no-such-compiler", **bare)
