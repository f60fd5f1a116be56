"""ONNX: every layer converts, and gives in ONNX Runtime what it gives in Keras."""

import doctest
import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests.conftest import cases_by_family
from tfconv._compat import keras
from tfconv.catalog import family_name
from tfconv.export import ExportError, onnx, to_onnx
from tfconv.testing import layer_cases

DOCS = Path(__file__).resolve().parents[2] / "docs"

installed = all(map(importlib.util.find_spec, ("onnx", "tf2onnx", "onnxruntime")))
needs_onnx = pytest.mark.skipif(not installed, reason="tf2onnx, onnx, onnxruntime: not installed")


def load_table():
    spec = importlib.util.spec_from_file_location("_onnx_table", DOCS / "onnx_table.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


table = load_table()


def rows():
    """The statuses that the page has for one size and for any size, by configuration."""
    found = re.findall(r"^\| `(.*)` \| (.*) \| (.*) \|$", table.PAGE.read_text(), re.MULTILINE)
    return {name: tuple(map(without_error, cells)) for name, *cells in found}


def without_error(cell):
    return re.sub(r"^equal, \S+$", "equal", cell)


def test_every_configuration_is_in_the_table():
    assert sorted(rows()) == sorted(map(table.label, layer_cases()))


@needs_onnx
@pytest.mark.dear
@pytest.mark.parametrize("case", cases_by_family())
def test_layers(case):
    assert table.status(case).text == rows()[table.label(case)][0]


# A configuration of each family, with two spatial axes where it has that.
ANY_SIZE = {
    family_name(case.layer_class.__name__): case
    for case in sorted(layer_cases(), key=lambda case: "2D" in case.layer_class.__name__)
    if table.has_any_size(case)
}


@needs_onnx
@pytest.mark.dear
@pytest.mark.parametrize("case", ANY_SIZE.values(), ids=list(ANY_SIZE))
def test_layers_for_any_size(case):
    assert table.status(case, any_size=True).text == rows()[table.label(case)][1]


@pytest.fixture(scope="module")
def model():
    x = keras.Input((6, 5, 4), name="image")
    scale = keras.Input((4,), name="scale")
    factor = keras.layers.Normalization(mean=[0.1, 0.2, 0.3, 0.4], variance=[1, 2, 3, 4])(scale)
    y = tfconv.Involution2D(3, group_channels=2)(x) * keras.layers.Reshape((1, 1, 4))(factor)
    y = keras.layers.Conv2D(3, 3, activation="relu", name="map")(y)
    pooled = keras.layers.GlobalAveragePooling2D()(y)
    return keras.Model([x, scale], [y, keras.layers.Dense(2, name="head")(pooled)])


@needs_onnx
def test_file(model, tmp_path):
    import onnxruntime

    path = tmp_path / "model.onnx"
    report = to_onnx(model, path, opset=13)
    assert path.read_bytes() == report.content
    assert list(tmp_path.iterdir()) == [path]
    assert report.opset == 13
    assert report.inputs == {"image": "float32 [?, 6, 5, 4]", "scale": "float32 [?, 4]"}
    rng = np.random.default_rng(0)
    arrays = {
        "image": rng.standard_normal((2, 6, 5, 4), np.float32),
        "scale": rng.standard_normal((2, 4), np.float32),
    }
    by_name = dict(zip(model.output_names, model(list(arrays.values()))))
    assert list(report.outputs) == model.output_names == ["map", "head"]  # not by the alphabet
    for name, text in report.outputs.items():
        assert text.startswith("float32 [?, ") and text.endswith(f" {by_name[name].shape[-1]}]")
    assert report.operators["Conv"] == 3
    assert report.error <= onnx.BOUND
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for actual, expected in zip(session.run(None, arrays), by_name.values()):
        np.testing.assert_allclose(actual, expected, atol=1e-5)


@needs_onnx
def test_report(model):
    with tfconv.keep_native():  # of which ONNX has no ops
        report = to_onnx(model, verify=False)
    assert report.error is None
    facts = report.as_json()
    assert facts["size"] == report.size == len(report.content)
    assert "content" not in facts
    printed = str(report)
    assert "in memory" in printed
    assert "image: float32 [?, 6, 5, 4]" in printed
    assert re.search(r"^ *Conv +3 *$", printed, re.MULTILINE)
    assert re.search(r"^error", str(to_onnx(model)), re.MULTILINE)


class Subclassed(keras.Model):
    """A model that does not say what it takes."""

    def __init__(self, function):
        super().__init__()
        self.dense = keras.layers.Dense(3)
        self.function = function

    def call(self, x):
        return self.function(self.dense(x))


DATA = np.ones([2, 4], np.float32)


@needs_onnx
def test_subclassed_model():
    model = Subclassed(tf.nn.relu)
    with pytest.raises(ValueError, match="`representative_data` is needed"):
        to_onnx(model)
    report = to_onnx(model, representative_data=DATA)
    assert list(report.inputs.values()) == ["float32 [?, 4]"]


@needs_onnx
def test_inputs_that_are_given_back():
    """In ONNX a name is that of one tensor."""
    x, y = keras.Input([4], name="x"), keras.Input([4], name="y")
    model = keras.Model([x, y], [y, keras.layers.Add(name="sum")([x, y])])
    report = to_onnx(model)
    assert list(report.inputs) == ["x", "y"] and list(report.outputs) == ["y_output", "sum"]
    assert report.error == 0


@needs_onnx
@pytest.mark.parametrize("batch", [1, 4, 9])
def test_a_batch_of_one_size(batch):
    x = keras.Input([5, 4], batch_size=batch, name="x")
    model = keras.Model(x, tfconv.Involution1D(3, groups=2)(x))
    report = to_onnx(model)
    assert report.inputs == {"x": f"float32 [{batch}, 5, 4]"} and report.error < 1e-5


@needs_onnx
def test_gelu():
    """Keras's has erfc, which ONNX has not."""
    model = keras.Sequential([keras.Input([4]), keras.layers.Dense(3, activation="gelu")])
    assert to_onnx(model).operators["Erf"] == 1


@needs_onnx
def test_what_onnx_lacks(tmp_path):
    model = Subclassed(lambda x: tf.strings.length(tf.strings.as_string(x)))
    with pytest.raises(ExportError, match="has no operator for: StringLength"):
        to_onnx(model, tmp_path / "model.onnx", representative_data=DATA)
    assert not list(tmp_path.iterdir())


@needs_onnx
def test_other_results(tmp_path):
    """Remainders of negative integers: positive in TensorFlow, negative as tf2onnx has them."""
    model = Subclassed(lambda x: tf.cast(tf.cast(-tf.abs(x), tf.int32) % 7, tf.float32))
    with pytest.raises(ExportError, match="gives other results .* is right"):
        to_onnx(model, tmp_path / "model.onnx", representative_data=100 * DATA)
    assert not list(tmp_path.iterdir())
    assert to_onnx(model, verify=False, representative_data=DATA).error is None


@pytest.mark.parametrize("opset", [8, 19, True, "13"])
def test_bad_opset(model, opset):
    with pytest.raises(ValueError, match=f"`opset` .* Received: opset={opset!r}"):
        to_onnx(model, opset=opset)


def test_bad_path(model, tmp_path):
    with pytest.raises(ValueError, match="`path` must lie in a folder that exists. Received: "):
        to_onnx(model, tmp_path / "missing" / "model.onnx")


@pytest.mark.parametrize("name", ["onnx", "tf2onnx", "onnxruntime"])
def test_missing_packages(model, monkeypatch, name):
    for package in ("onnx", "tf2onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, tf)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"needs {name}, .* install tf2onnx onnx onnxruntime"):
        to_onnx(model)


@needs_onnx
def test_example():
    assert doctest.testmod(onnx, extraglobs={"tf": tf, "tfconv": tfconv}) == (0, 3)


SIZES = {
    "masks of another batch": (
        lambda x, offset, mask: tfconv.DeformableConv2D(4, 3, padding="same")(x, offset, mask),
        [(5, 5, 4), (5, 5, 18), (5, 5, 9)],
        [(2, 5, 5, 4), (2, 5, 5, 18), (1, 5, 5, 9)],
    ),
    "offsets of another image": (
        lambda x, offset: tfconv.DeformableConv2D(4, 3, padding="same")(x, offset),
        [(None, None, 4), (None, None, 18)],
        [(2, 5, 5, 4), (2, 1, 1, 18)],
    ),
    "routing weights of another batch": (
        lambda x, routing: tfconv.CondConv2D(4, 3, num_experts=2)(x, routing),
        [(5, 5, 4), (2,)],
        [(2, 5, 5, 4), (1, 2)],
    ),
    "an image below the kernel": (
        lambda x: tfconv.Involution2D(5, groups=2, padding="valid")(x),
        [(None, None, 8)],
        [(2, 4, 4, 8)],
    ),
}


@needs_onnx
@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_checked(name):
    """When the model runs: slices that are too large, which fail elsewhere, do not in ONNX."""
    import onnxruntime

    function, shapes, wrong = SIZES[name]
    inputs = [keras.Input(shape) for shape in shapes]
    content = to_onnx(keras.Model(inputs, function(*inputs))).content
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    right = [[2, *(n or 5 for n in shape)] for shape in shapes]
    session.run(None, {n: np.ones(shape, np.float32) for n, shape in zip(names, right)})
    with pytest.raises(Exception, match="cannot be reshaped"):
        session.run(None, {n: np.ones(shape, np.float32) for n, shape in zip(names, wrong)})
