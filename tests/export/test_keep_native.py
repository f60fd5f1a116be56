"""`to_tflite` with `keep_native`: the custom operators, their errors, and what is refused."""

import numpy as np
import pytest
import tensorflow as tf

import tfconv
import tfconv.lite
from tests.conftest import require_native
from tfconv._compat import keras
from tfconv.export import ExportError, tflite_file, to_tflite, verification
from tfconv.export.verification import Runner

SIZE = (8, 8, 16)
INVOLUTION = "Tfconv>Involution"
DEFORMABLE = "Tfconv>DeformableConv"
PER_EXAMPLE = "Tfconv>PerExampleConv"


def deformable(**arguments):
    offsets = keras.initializers.RandomNormal(stddev=0.3, seed=1)
    return tfconv.DeformableConv2D(16, 3, padding="same", offset_initializer=offsets, **arguments)


# A layer, the custom operator that it has, and whether it has coordinates.
LAYERS = [
    (lambda: tfconv.Involution2D(3, groups=8, reduction_ratio=1), INVOLUTION, False),
    (lambda: deformable(), DEFORMABLE, True),
    (lambda: deformable(modulated=False), DEFORMABLE, True),
    (lambda: deformable(groups=2, offset_groups=2), DEFORMABLE, True),
    (lambda: tfconv.CondConv2D(16, 3, num_experts=2), PER_EXAMPLE, False),
]


def network():
    x = inputs = keras.Input(SIZE, name="image")
    x = deformable(name="deformable")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="middle")(x)
    x = tfconv.Involution2D(3, groups=4, name="involution")(x)
    x = tfconv.Involution2D(5, groups=2, strides=2, name="halving")(x)
    x = tfconv.CondConv2D(16, 3, num_experts=2, activation="relu", name="experts")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(5, name="head")(x))


CUSTOM_OPERATORS = {INVOLUTION: 2, DEFORMABLE: 1, PER_EXAMPLE: 1}


@pytest.fixture(scope="module")
def model():
    require_native()
    keras.utils.set_random_seed(0)
    return network()


def single(batch=None):
    """One layer with a custom operator."""
    require_native()
    inputs = keras.Input((4, 4, 4), batch_size=batch, name="image")
    return keras.Model(inputs, tfconv.Involution2D(3, groups=2)(inputs))


def draw(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def error_of(content, model, x):
    (y,) = Runner(content, native=True)({"image": x}).values()
    return verification.relative_error(y, np.asarray(model(x)))


@pytest.mark.parametrize("make, operator, has_coordinates", LAYERS)
def test_layers(make, operator, has_coordinates):
    """In every format; coordinates are made with the weights that they had."""
    require_native()
    inputs = keras.Input(SIZE, name="image")
    model = keras.Model(inputs, make()(inputs))
    for quantize, bound in ((None, 1e-5), ("float16", 3e-3), ("dynamic", 2e-2)):
        report = to_tflite(model, quantize=quantize, keep_native=True)
        assert report.custom_operators == {operator: 1}
        assert report.operators[operator] == 1
        assert report.operators.keys().isdisjoint({"GATHER", "SLICE", "BATCH_MATMUL"})
        assert report.error < report.bound == bound
        for batch in (1, 3):
            assert error_of(report.content, model, draw(batch, *SIZE)) < bound
    (path,) = report.layer_errors
    assert report.layer_errors[path] < bound
    assert report.float_layers == ([path] if has_coordinates else [])
    products = [
        op.inputs[1].type
        for op in tflite_file.read(report.content).operators
        if op.name in ("CONV_2D", "FULLY_CONNECTED")
    ]
    assert ("INT8" in products) != has_coordinates


@pytest.mark.parametrize("quantize", [None, "float16", "dynamic"])
def test_network(model, quantize, tmp_path):
    path = tmp_path / "model.tflite"
    report = to_tflite(model, path, quantize, keep_native=True)
    assert path.read_bytes() == report.content
    assert report.custom_operators == CUSTOM_OPERATORS
    assert report.error < report.bound
    assert report.milliseconds > 0
    for name in report.custom_operators:
        assert f"{name} (custom)" in str(report)
    if quantize == "dynamic":
        assert report.float_layers == ["deformable"]
        assert max(report.layer_errors.values()) < 0.02
        middle = next(op for op in tflite_file.read(path, model).operators if op.origin == "middle")
        assert middle.inputs[1].type == "INT8"


def test_xnnpack_has_no_custom_operators(model):
    """Its share is of the built-in operators around them. The scope is as good as the argument."""
    with tfconv.keep_native():
        report = to_tflite(model)
    assert report.custom_operators == CUSTOM_OPERATORS
    most = sum(report.operators.values()) - sum(CUSTOM_OPERATORS.values())
    assert report.operators["CONV_2D"] <= report.delegated <= most


def test_fixed_batch():
    model = single(batch=3)
    report = to_tflite(model, quantize="dynamic", keep_native=True)
    assert tflite_file.read(report.content).inputs[0].shape == (3, 4, 4, 4)
    assert report.custom_operators == {INVOLUTION: 1}
    assert error_of(report.content, model, draw(3, 4, 4, 4)) < report.bound


def test_sabotage_is_found(monkeypatch, tmp_path):
    """What the delegate computes is compared: here, a layer was traced wrong."""
    right = tfconv.Involution2D.call

    def wrong(self, inputs, training=None):
        y = right(self, inputs, training)
        return y if tf.executing_eagerly() else 1.1 * y

    monkeypatch.setattr(tfconv.Involution2D, "call", wrong)
    with pytest.raises(ExportError, match="gives other results"):
        to_tflite(single(), tmp_path / "model.tflite", keep_native=True)
    assert not list(tmp_path.iterdir())


def test_delegate_that_was_not_built(monkeypatch, tmp_path):
    """Only what is not run can be converted, and what has no custom operators."""

    def missing():
        raise RuntimeError("The delegate has not been built; `python -m tfconv build` builds it")

    monkeypatch.setattr(tfconv.lite, "delegate_path", missing)
    model, path = single(), tmp_path / "model.tflite"
    for quantize in (None, "dynamic"):
        with pytest.raises(ExportError, match="has not been built; `python -m tfconv build`"):
            to_tflite(model, path, quantize, keep_native=True)
        assert not list(tmp_path.iterdir())
    report = to_tflite(model, path, keep_native=True, verify=False)
    assert report.custom_operators == {INVOLUTION: 1}
    assert report.error is report.delegated is None
    plain = keras.Sequential([keras.Input(SIZE), keras.layers.Conv2D(4, 3)])
    assert to_tflite(plain, keep_native=True).custom_operators == {}


@pytest.mark.parametrize("data", [None, [0]])
@pytest.mark.parametrize("quantize", ["int8", "mixed"])
def test_integers_are_refused(model, quantize, data):
    words = f"`keep_native` works with .*floating point. Received: quantize='{quantize}'"
    with pytest.raises(ValueError, match=words):
        to_tflite(model, quantize=quantize, representative_data=data, keep_native=True)
    with tfconv.keep_native(), pytest.raises(ValueError, match=words):
        to_tflite(model, quantize=quantize, representative_data=data)
