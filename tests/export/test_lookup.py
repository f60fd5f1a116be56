"""Coordinates in models in integers: looked up, where TensorFlow Lite computes in real numbers."""

import numpy as np
import pytest

import tfconv
from tfconv._compat import keras
from tfconv.export import lookup, quantization, tflite_file, to_tflite
from tfconv.export.verification import Runner


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    offsets = keras.initializers.RandomNormal(stddev=0.3)
    layer = tfconv.DeformableConv1D(6, 3, padding="same", offset_initializer=offsets)
    return keras.Sequential([keras.Input((9, 4), name="x"), layer])


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(0).standard_normal((64, 9, 4)).astype(np.float32)


def test_coordinates(model, data, monkeypatch):
    """The same as in real numbers, whose parts of a pixel would be rounded once more."""
    found = to_tflite(model, None, "int8", data, io_dtype="int8", tolerance=0.2)
    assert "FLOAT32" not in found.operator_types and not found.float_layers
    file = tflite_file.read(found.content)
    assert not {"FLOOR", "DEQUANTIZE"} & set(file.operator_counts)
    monkeypatch.setattr(quantization, "with_tables", lambda content: content)
    real = to_tflite(model, None, "int8", data, io_dtype="int8", tolerance=0.2)
    assert real.operator_types["FLOAT32"] == 2  # DEQUANTIZE, FLOOR
    assert found.error < 1.01 * real.error
    (y,), (z,) = (Runner(report.content)({"x": data}).values() for report in (found, real))
    assert np.sqrt(np.mean((y - z) ** 2)) < real.error * np.sqrt(np.mean(z**2))


def test_what_stays(model, data):
    """Files without integers, or where a layer in floating point reads what would be looked up."""
    plain = to_tflite(model, verify=False).content
    assert lookup.with_tables(plain) is plain
    layers = [keras.layers.Conv3DTranspose(2, 2), keras.layers.ReLU(1.0)]
    volumes = keras.Sequential([keras.Input((3, 3, 3, 1)), *layers])
    x = np.random.default_rng(0).standard_normal((16, 3, 3, 3, 1)).astype(np.float32)
    report = to_tflite(volumes, None, "int8", x)
    assert report.float_layers
    assert lookup.with_tables(report.content) is report.content
