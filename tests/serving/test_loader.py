"""TF Serving's loader, in C++, takes what `to_saved_model` writes."""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests.conftest import require_native
from tfconv import _build
from tfconv._compat import keras
from tfconv.export import to_saved_model

pytestmark = pytest.mark.late

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("loader.cc")
LIBRARIES = ("libtensorflow_cc.so.2", "libtensorflow_framework.so.2")
# A program made elsewhere that has the native ops linked in: Bazel's (tests/BUILD).
LINKED = os.environ.get("TFCONV_LOADER")
IMAGES = np.random.default_rng(0).normal(size=(6, 8, 8, 4)).astype(np.float32)
BATCHES = (1, 6, 2)


@pytest.fixture(scope="module")
def loader():
    """The program, compiled once for the installed TensorFlow: build/serving/."""
    if LINKED:
        return Path(LINKED).resolve()
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    folder = Path(tf.sysconfig.get_lib())
    for needed in (shutil.which(compiler[0]), *((folder / name).exists() for name in LIBRARIES)):
        if not needed:
            pytest.skip(f"needs {compiler[0]} and TensorFlow's {' and '.join(LIBRARIES)}")
    flags = [f.replace("-I", "-isystem", 1) for f in tf.sysconfig.get_compile_flags()]
    includes = [f"-isystem{tf.sysconfig.get_include()}/{f}" for f in _build._TF_EXTERNAL_INCLUDES]
    command = [*compiler, "-O1", "-Wall", "-Wextra", "-Werror", *flags, *includes, str(SOURCE)]
    command += [f"-L{folder}", *(f"-l:{name}" for name in LIBRARIES), f"-Wl,-rpath,{folder}"]
    key = hashlib.sha256(f"{command} {tf.__version__}".encode() + SOURCE.read_bytes())
    cache = ROOT / "build" / "serving"
    program = cache / f"loader-{key.hexdigest()[:16]}"
    cache.mkdir(parents=True, exist_ok=True)
    with _build.build_lock(cache, lambda: None):
        if not program.exists():
            made = program.with_suffix(".new")
            done = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            os.replace(made, program)
    return program


def run(program, *arguments):
    # No tfconv, no Python: only what the wheel of TensorFlow brings for C++.
    return subprocess.run(
        [program, *map(str, arguments)],
        env={"PATH": os.environ["PATH"], "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def network():
    inputs = keras.Input((8, 8, 4))
    x = tfconv.Involution2D(3, group_channels=2)(inputs)
    x = tfconv.DeformableConv2D(4, 3, offset_initializer="glorot_uniform")(x)
    x = tfconv.CondConv2D(4, 3, num_experts=2)(x)
    x = tfconv.LocalSelfAttention2D(4, kernel_size=3, num_heads=2)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(3)(x))


@pytest.fixture(scope="module")
def models():
    """Two versions of a model: other weights."""
    pytest.importorskip("tensorflow_serving")
    return network(), network()


def exported(models, folder, **arguments):
    """Both versions, with requests of all sizes of the batch."""
    warmup = [IMAGES[:batch] for batch in BATCHES]
    batching = {"max_batch_size": max(BATCHES), "allowed_batch_sizes": sorted(BATCHES)}
    return [
        to_saved_model(model, folder, warmup=warmup, batching=batching, **arguments)
        for model in models
    ]


@pytest.mark.parametrize("ops", ["stock", "native", "compiled"])
def test_loads_and_answers(loader, models, tmp_path, ops):
    native, jit_compile = ops == "native", ops == "compiled"
    if native:
        require_native()
    library = [tfconv.native_status().library] if native and not LINKED else []
    reports = exported(models, tmp_path / "net", keep_native=native, jit_compile=jit_compile)
    assert bool(reports[0].native_ops) == native
    assert bool(reports[0].compiled) == jit_compile
    answers = tmp_path / "answers"
    done = run(loader, *(report.path for report in reports), answers, *library)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["threads"], said["requests"]) == (8, len(BATCHES))
    assert said["old_answers"] >= 200 <= said["new_answers"]
    assert said["while_loading"] > 0
    assert said["users_of_old"] == 1

    protos = (
        tf.io.parse_tensor(record, tf.float32) for record in tf.data.TFRecordDataset(str(answers))
    )
    for model in models:
        expected = model.predict(IMAGES, verbose=0)
        for batch in BATCHES:
            np.testing.assert_allclose(next(protos), expected[:batch], atol=1e-5)
    assert not list(protos)


def test_what_is_to_be_compiled_needs_the_flag(loader, models, tmp_path):
    """A server compiles nothing without it: the first request tells."""
    report, _ = exported(models, tmp_path, jit_compile=True)
    done = run(loader, report.path, report.path, tmp_path / "answers", "--without-xla")
    assert done.returncode == 1
    assert "XLA compilation disabled" in done.stderr


@pytest.mark.skipif(bool(LINKED), reason="the program has the native ops")
def test_native_ops_need_their_library(loader, models, tmp_path):
    require_native()
    report = to_saved_model(models[0], tmp_path, warmup=IMAGES, keep_native=True)
    done = run(loader, report.path, report.path, tmp_path / "answers")
    assert done.returncode == 1
    assert "Op type not registered 'Tfconv>" in done.stderr
