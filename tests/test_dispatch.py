"""Which implementation serves, when, and what is said about it."""

import _ctypes
import dataclasses
import functools
import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests.ops.geometries import assert_gradients_in_graphs
from tfconv import _build, _compat, cli
from tfconv.ops import native

ROOT = pathlib.Path(__file__).parents[1]
RUNNING = _compat.tensorflow_version()
KEY = _build.tf_key(RUNNING)


def operations():
    """Types of the operations that an involution is traced to."""
    traced = tf.function(lambda x, k: tfconv.ops.involution(x, k, 3))
    graph = traced.get_concrete_function(tf.ones([1, 4, 4, 2]), tf.ones([1, 4, 4, 9])).graph
    return {op.type for op in graph.get_operations()}


def serves():
    """ "native" or "portable": what an operation really uses."""
    return "native" if "Tfconv>Involution" in operations() else "portable"


# Scopes.


def test_native_is_in_force(native_module):
    status = tfconv.native_status()
    assert serves() == status.in_force == "native"
    assert status.reason == "the native library is loaded"
    assert pathlib.Path(status.library).name == _build.LIBRARY_NAME
    assert status.tensorflow == RUNNING == tf.__version__
    own = os.environ.get("TFCONV_LIBRARY")  # without build info
    assert own or status.built_with.split(".")[:2] == RUNNING.split(".")[:2]
    assert status.isa in status.isas
    assert set(status.isas) <= {"base", "avx2", "avx512", "avx512bf16"}


@pytest.mark.parametrize("cuda, expected", [(True, "native"), (False, "portable")])
def test_on_a_gpu(cuda, expected, native_module, monkeypatch):
    """Native ops serve there too if the library has kernels for it."""
    library = dataclasses.replace(native.library(), cuda=cuda)
    monkeypatch.setattr(native, "library", lambda: library)
    gpu = [tf.config.LogicalDevice("/device:GPU:0", "GPU")]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpu * (kind == "GPU"))
    assert serves() == expected
    assert tfconv.native_status().cuda == cuda


def test_gpu_kernels_are_those_of_the_build(native_module):
    """The library loads here with and without them, and its build info says which.

    Bazel leaves no build info, and builds without them.
    """
    library = native.library()
    info = _build.read_info(library.path.parent)
    assert library.cuda == bool(info and info["cuda_archs"])
    needed = subprocess.run(["ldd", library.path], capture_output=True, text=True, check=True)
    assert "libc.so" in needed.stdout and "cuda" not in needed.stdout.replace(str(ROOT), "")


def test_portable_scope(native_module):
    with tfconv.portable():
        assert serves() == tfconv.native_status().in_force == "portable"
        assert tfconv.native_status().reason == "inside tfconv.portable()"
    assert serves() == tfconv.native_status().in_force == "native"


def test_the_innermost_scope_holds(native_module):
    with tfconv.portable():
        with tfconv.keep_native():
            assert serves() == "native"
            with tfconv.portable():
                assert serves() == "portable"
            assert serves() == "native"
        assert serves() == "portable"
    assert serves() == "native"


def test_scope_ends_with_an_error(native_module):
    with pytest.raises(RuntimeError, match="on purpose"), tfconv.portable():
        raise RuntimeError("on purpose")
    assert serves() == "native"


def test_scopes_belong_to_their_thread(native_module):
    seen = []
    with tfconv.portable():
        other = threading.Thread(target=lambda: seen.append(serves()))
        other.start()
        other.join()
        assert serves() == "portable"
    assert seen == ["native"]


@pytest.mark.parametrize("keep", [False, True])
def test_saving_traces_portable_operations(keep, tmp_path, native_module):
    module = tf.Module()
    reasons = []

    @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 2]), tf.TensorSpec([None, 4, 4, 9])])
    def serve(x, kernel):
        reasons.append(tfconv.native_status().reason)
        return tfconv.ops.involution(x, kernel, 3)

    module.serve = serve
    if keep:
        with tfconv.keep_native():
            tf.saved_model.save(module, str(tmp_path))
    else:
        tf.saved_model.save(module, str(tmp_path))
    assert any("saving or conversion" in reason for reason in reasons) != keep
    loaded = tf.saved_model.load(str(tmp_path))
    definition = loaded.serve.concrete_functions[0].graph.as_graph_def()
    used = {node.op for f in definition.library.function for node in f.node_def}
    used |= {node.op for node in definition.node}
    assert ("Tfconv>Involution" in used) == keep
    y = loaded.serve(tf.ones([3, 4, 4, 2]), tf.ones([3, 4, 4, 9]))
    np.testing.assert_array_equal(y[:, 1, 1], np.full((3, 2), 9.0))


# Libraries that cannot serve.


@pytest.fixture
def library_folder(tmp_path, monkeypatch):
    """A package folder without a library; the library is looked for anew."""
    package = tmp_path / "package"
    package.mkdir()
    shutil.copy(ROOT / "tfconv" / "_version.py", package)
    monkeypatch.setattr(_build, "_PACKAGE", package)
    monkeypatch.delenv("TFCONV_LIBRARY", raising=False)
    monkeypatch.setenv("TFCONV_XLA", "0")  # tests/test_compiled_twins.py has it
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(
        native, "library", functools.lru_cache(maxsize=1)(native.library.__wrapped__)
    )
    monkeypatch.setattr(native, "_warned", threading.Event())
    return package / "_native"


def put(folder, built_with, content=b"no library at all"):
    """Puts a library and its build info into ``folder``."""
    folder.mkdir(parents=True)
    (folder / _build.LIBRARY_NAME).write_bytes(content)
    info = {"tf_version": built_with, "tfconv_version": tfconv.__version__}
    (folder / _build.INFO_NAME).write_text(json.dumps(info))


def nothing(folder):
    return "has not been built"


def other_version(folder):
    put(folder / "tf-1.99", "1.99.0")
    return rf"built for TensorFlow 1\.99, and {RUNNING} is running"


def other_version_in_this_ones_place(folder):
    put(folder / KEY, "1.99.0")
    return rf"built with TensorFlow 1\.99\.0, and {RUNNING} is running"


def corrupt(folder):
    put(folder / KEY, RUNNING)
    return "cannot be loaded"


def truncated(folder):
    put(folder / KEY, RUNNING, b"\x7fELF\x02\x01\x01")
    return "cannot be loaded"


def other_ops(folder):
    shutil.copytree(ROOT / "cc", folder.parent / "_cc")
    put(folder / KEY, RUNNING)
    return "built from other sources, with other ops"


def without_instruction_set(folder):
    """For AVX2 and AVX-512, on a processor that has neither."""
    compiled = compile_choice(folder.parent / "choice.so", "-D__builtin_cpu_supports(x)=false")
    put(folder / KEY, RUNNING, compiled.read_bytes())
    return rf"{_build.LIBRARY_NAME} cannot serve here .*none of .*\(avx2, avx512\)"


def compile_choice(output, *flags):
    """A library that has no ops, and says that it has kernels for AVX2 and AVX-512."""
    sources = ROOT / "cc"
    if not (sources / "common/isa.cc").is_file():
        pytest.skip("needs the sources, which Bazel keeps from the tests")
    command = ["g++", "-std=c++17", "-shared", "-fPIC", f"-I{sources}", "-DTFCONV_ISA_BITS=6"]
    subprocess.run([*command, *flags, sources / "common/isa.cc", "-o", output], check=True)
    return output


@pytest.mark.parametrize(
    "break_library",
    [
        nothing,
        other_version,
        other_version_in_this_ones_place,
        corrupt,
        truncated,
        other_ops,
        without_instruction_set,
    ],
)
def test_library_that_cannot_serve(break_library, library_folder, rng):
    reason = break_library(library_folder)
    x, kernel = rng.standard_normal((1, 4, 4, 2)), rng.standard_normal((1, 4, 4, 9))
    offset, weights = rng.standard_normal((1, 4, 4, 18)), rng.standard_normal((3, 3, 2, 3))

    def results():
        return (
            tfconv.ops.involution(x, kernel, 3),
            tfconv.ops.deformable_conv2d(x, offset, weights),
        )

    with pytest.warns(RuntimeWarning, match=reason) as caught:
        found = [results(), results()]
    said = [w for w in caught if w.category is RuntimeWarning]
    assert len(said) == 1
    assert "several times slower" in str(said[0].message)
    assert "python -m tfconv build" in str(said[0].message)
    with tfconv.portable():
        expected = results()
    for both in found:
        for actual, other in zip(both, expected):
            np.testing.assert_array_equal(actual, other)
    status = tfconv.native_status()
    assert status.in_force == serves() == "portable"
    assert status.isa is None
    with tfconv.keep_native():
        assert serves() == "portable"


def test_instruction_set_that_the_library_lacks(library_folder, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("TFCONV_LIBRARY", str(compile_choice(tmp_path / "choice.so")))
    monkeypatch.setenv("TFCONV_ISA", "base")
    for _ in "12":
        with pytest.raises(ValueError, match=r"\(avx2, avx512\). Received: base"):
            tfconv.ops.involution(tf.ones([1, 4, 4, 2]), tf.ones([1, 4, 4, 9]), 3)
    assert cli.main(["status"]) == 1
    assert "TFCONV_ISA must be one of" in capsys.readouterr().err


@pytest.mark.late
def test_ops_where_no_instruction_set_fits(native_module):
    """In a server, say, which loads the library without asking it: an error, not a crash."""
    program = """
import tensorflow as tf
from tfconv.ops import native
module = tf.load_op_library(%r)
x, kernel = tf.ones([1, 4, 4, 2]), tf.ones([1, 4, 4, 9])
def run():
    ones = [1, 1]
    return module.tfconv_involution(
        x=x, kernel=kernel, kernel_size=[3, 3], strides=ones, dilations=ones, padding="SAME")
for function in (run, tf.function(run, jit_compile=True)):
    try:
        function()
    except tf.errors.OpError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program % tfconv.native_status().library],
        env={**os.environ, "TFCONV_ISA": "sse"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("TFCONV_ISA must be one of the library's instruction sets") == 2


def test_switched_off(library_folder, monkeypatch):
    monkeypatch.setenv("TFCONV_NATIVE", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert serves() == tfconv.native_status().in_force == "portable"
    assert "TFCONV_NATIVE=0" in tfconv.native_status().reason


@pytest.mark.late
def test_library_of_ones_own(tmp_path, native_module):
    library = tmp_path / "mine.so"
    shutil.copy(tfconv.native_status().library, library)
    program = "import tfconv; s = tfconv.native_status(); print(s.in_force, s.library)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TFCONV_LIBRARY": "mine.so", "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["native", str(library)], done.stderr


@pytest.mark.parametrize("there_is", ["none", "another"])
def test_no_library_of_ones_own(there_is, library_folder, monkeypatch):
    mine = library_folder / "mine.so"
    if there_is == "another":
        library_folder.mkdir()
        shutil.copy(_ctypes.__file__, mine)
    monkeypatch.setenv("TFCONV_LIBRARY", str(mine))
    with pytest.warns(RuntimeWarning, match="mine.so cannot be loaded"):
        assert serves() == "portable"


@pytest.mark.late
def test_import_without_a_library(tmp_path):
    """A package without a library imports silently and warns once, at the first use."""
    package = tmp_path / "tfconv"
    ignore = shutil.ignore_patterns("_native", "__pycache__")
    shutil.copytree(ROOT / "tfconv", package, ignore=ignore)
    put(package / "_native" / "tf-1.99", "1.99.0")
    program = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import tensorflow as tf, tfconv
    at_import = [w for w in caught if "tfconv" in str(w.message)]
    layer = tfconv.Involution2D(3, groups=2)
    for _ in range(2):
        layer(tf.ones([1, 4, 4, 8]))
    said = [w for w in caught if "tfconv" in str(w.message)]
print(len(at_import), len(said), said[0].category.__name__, tfconv.__file__, said[0].message)
"""
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    environment.pop("TFCONV_LIBRARY", None)
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    words = done.stdout.decode().split(maxsplit=4)
    assert words[:4] == ["0", "1", "RuntimeWarning", str(package / "__init__.py")]
    assert "built for TensorFlow 1.99" in words[4]


# Keras's backend.


def test_the_backend_here_is_tensorflow():
    _compat.require_tensorflow_backend()


if _compat.KERAS_3:

    @pytest.mark.parametrize("backend", ["jax", "torch"])
    def test_other_backends(backend, monkeypatch):
        monkeypatch.setattr(_compat.keras.config, "backend", lambda: backend)
        with pytest.raises(ImportError, match=f"KERAS_BACKEND=tensorflow.*Received.*{backend}"):
            importlib.reload(tfconv)


def test_convolutions_that_an_op_joins(rng):
    """In a graph of known sizes each bias gets its own gradient.

    Without `apart`, TensorFlow 2.21 gives the last one another's, on native ops too.
    """
    x = tf.constant(rng.standard_normal((2, 5, 4, 6)), tf.float32)
    layer = tfconv.LocalSelfAttention2D(4, (3, 2), num_heads=2, use_bias=True)
    layer(x)
    assert_gradients_in_graphs(layer, x)
