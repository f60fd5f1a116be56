"""Models that Keras has quantized: formats hold them, or errors name the layer and what to do."""

import importlib.util

import numpy as np
import pytest

from tfconv._compat import KERAS_3, keras
from tfconv.export import ExportError, to_onnx, to_tflite
from tfconv.testing import randomize

HELD = {("tflite", "int4"), ("onnx", "int8"), ("onnx", "int4")}  # by TensorFlow 2.21 and tf2onnx


@pytest.mark.skipif(not KERAS_3, reason="Keras 2 does not quantize layers")
@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_quantized_layers(kind, mode, tmp_path):
    if kind == "onnx" and not importlib.util.find_spec("tf2onnx"):
        pytest.skip("tf2onnx is not installed")
    layers = [keras.layers.Dense(6, name="first"), keras.layers.Dense(4, name="second")]
    model = keras.Sequential([keras.Input((8,)), *layers])
    randomize(model)
    model.quantize(mode)
    path = tmp_path / f"model.{kind}"
    convert = {"tflite": to_tflite, "onnx": to_onnx}[kind]
    data = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
    try:
        report = convert(model, path, representative_data=data)
    except ExportError as error:
        assert (kind, mode) not in HELD
        words = f"Keras has quantized the layer `first` and 1 more ({mode})"
        assert words in str(error) and "before `quantize` was called" in str(error)
        assert len(str(error)) < 400
        assert not list(tmp_path.iterdir())
    else:
        assert report.error <= 1e-4 and path.exists()
