"""Exported models where tfconv is not: they hold stock ops and give what they gave here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests.conftest import require_native
from tfconv import _compat
from tfconv._compat import KERAS_3, keras
from tfconv.catalog import family_name
from tfconv.testing import assert_same, layer_cases, randomize

OPS = Path(__file__).resolve().parents[1] / "data" / "tensorflowjs_ops.txt"

# Cuts windows with strides; missing in TensorFlow.js.
MISSING = "SpaceToDepth"


@pytest.fixture(scope="module")
def model():
    """Every way of computing that needs native ops for speed, and some of Keras's layers."""
    x = keras.Input((9, 8, 4), name="image")
    y = tfconv.Involution2D(3, group_channels=2, activation="relu")(x)
    y = tfconv.DeformableConv2D(6, 3, padding="same", groups=2)(y)
    y = tfconv.CondConv2D(8, 3, strides=2, padding="same", num_experts=2)(y)
    y = tfconv.SqueezeExcite(reduction_ratio=2)(keras.layers.BatchNormalization()(y))
    y = tfconv.Conv2D(4, 3, padding="full", dilation_rate=2, groups=2)(y)
    model = keras.Model(x, keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(y)))
    randomize(model)
    return model


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A SavedModel of it; beside it inputs, and what the model makes of them."""
    folder = tmp_path_factory.mktemp("consumers")
    model.export(folder / "saved")
    for batch in (1, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 9, 8, 4), np.float32)
        np.savez(folder / f"{batch}.npz", x=x, y=np.asarray(model(x, training=False)))
    return folder


def samples(folder):
    for batch in (1, 3):
        with np.load(folder / f"{batch}.npz") as sample:
            yield sample["x"], sample["y"]


CONSUMER = """
import json, sys
import numpy as np
import tensorflow as tf

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tfconv":
            raise ImportError("tfconv is not here")

sys.meta_path.insert(0, Missing())
folder = sys.argv[1]
signature = tf.saved_model.load(f"{folder}/saved").signatures["serving_default"]
(name,) = signature.structured_input_signature[1]
calls = {"load": lambda x: signature(**{name: x})}
if hasattr(tf.keras.layers, "TFSMLayer"):
    layer = tf.keras.layers.TFSMLayer(f"{folder}/saved", call_endpoint="serving_default")
    calls["layer"] = layer
    inputs = tf.keras.Input((9, 8, 4))
    calls["model"] = tf.keras.Model(inputs, layer(inputs))
errors = {}
for what, call in calls.items():
    for batch in (1, 3):
        with np.load(f"{folder}/{batch}.npz") as sample:
            (y,) = call(tf.constant(sample["x"])).values()
            errors[f"{what} {batch}"] = float(np.abs(y - sample["y"]).max())
print("@@" + json.dumps(errors))
"""


@pytest.mark.late
def test_without_tfconv(folder):
    """`tf.saved_model.load`, and Keras's layer that runs a SavedModel."""
    done = subprocess.run(
        [sys.executable, "-c", CONSUMER, folder],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout.rpartition("@@")[2])
    assert len(errors) == (6 if KERAS_3 else 2)
    assert max(errors.values()) < 1e-5, errors


@pytest.fixture(scope="module")
def function(folder):
    """Its signature, loaded and without variables and functions."""
    loaded = tf.saved_model.load(str(folder / "saved"))
    return _compat.frozen(loaded.signatures["serving_default"])


def test_frozen_function(function, folder):
    assert not function.captured_inputs
    assert not any(node.op.startswith("Tfconv>") for node in function.graph.as_graph_def().node)
    for x, expected in samples(folder):
        (y,) = tf.nest.flatten(function(tf.constant(x)))
        assert_same(y, expected, 1e-5)


def test_graph_interpreters(function, folder):
    """What reads the nodes of a flat graph, as TensorFlow.js does, knows every op."""
    definition = function.graph.as_graph_def()
    assert not definition.library.function
    assert {node.op for node in definition.node} <= supported() | {MISSING}
    with tf.Graph().as_default():
        tf.import_graph_def(definition, name="")
        with tf.compat.v1.Session() as session:
            for x, expected in samples(folder):
                y = session.run(function.outputs[0].name, {function.inputs[0].name: x})
                assert_same(y, expected, 1e-5)


def supported():
    lines = OPS.read_text().splitlines()
    return {op for line in lines if not line.startswith("#") for op in line.split()}


# One configuration of each family: with two spatial axes where it has that.
FAMILIES = {
    family_name(case.layer_class.__name__): case
    for case in sorted(layer_cases(), key=lambda case: "2D" in case.layer_class.__name__)
}


@pytest.mark.parametrize("name", FAMILIES)
def test_ops_of_layers(name):
    """TensorFlow.js lacks one op: strided windows need it, and nothing else."""
    case = FAMILIES[name]
    model = case.model()
    specs = [tf.TensorSpec([None, *shape]) for shape in case.shapes.values()]
    with _compat.export_scope():
        function = tf.function(
            lambda *x: model(list(x) if len(x) > 1 else x[0], training=False)
        ).get_concrete_function(*specs)
    ops = {node.op for node in _compat.frozen(function).graph.as_graph_def().node}
    strides = case.kwargs.get("strides", 1)
    assert ops - supported() <= ({MISSING} if strides == 2 else set())


# Ways out of Keras that are not tfconv's.


@pytest.fixture(scope="module")
def small():
    x = keras.Input((4, 4, 2))
    return keras.Model(x, tfconv.Involution2D(1, groups=2)(x))


def traced(model):
    """A function that was traced to be run: with native ops, outside of `portable`."""
    function = tf.function(model, input_signature=[tf.TensorSpec([1, 4, 4, 2])])
    function(tf.ones([1, 4, 4, 2]))
    return function


def by_keras(model, folder):
    archive = (keras.export if KERAS_3 else tf.keras.export).ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", traced(model))
    archive.write_out(str(folder))


def by_tensorflow(model, folder):
    concrete = traced(model).get_concrete_function()
    tf.saved_model.save(model, str(folder), signatures=concrete)


def in_a_function(model, folder):
    """The native ops are in a function inside the one that is saved."""
    inner = traced(model)

    @tf.function(input_signature=[tf.TensorSpec([1, 4, 4, 2])])
    def outer(x):
        return 2 * inner(x)

    tf.saved_model.save(model, str(folder), signatures=outer.get_concrete_function())


def in_a_branch(model, folder):
    @tf.function(input_signature=[tf.TensorSpec([1, 4, 4, 2])])
    def outer(x):
        return tf.cond(tf.reduce_sum(x) > 0, lambda: model(x), lambda: x)

    tf.saved_model.save(model, str(folder), signatures=outer.get_concrete_function())


def by_the_converter(model, folder):
    holder = tf.Module()
    holder.variables_of_model = [_compat.tensorflow_variable(v) for v in model.variables]
    concrete = traced(model).get_concrete_function()
    tf.lite.TFLiteConverter.from_concrete_functions([concrete], holder).convert()


def by_tf2onnx(model, folder):
    tf2onnx = pytest.importorskip("tf2onnx")
    tf2onnx.convert.from_function(traced(model), [tf.TensorSpec([1, 4, 4, 2])])


@pytest.mark.parametrize(
    "route", [by_keras, by_tensorflow, in_a_function, in_a_branch, by_the_converter, by_tf2onnx]
)
def test_traced_functions_are_refused(small, tmp_path, route):
    """They keep their native ops: the error says how to have stock ones, and no file is left."""
    require_native()
    with pytest.raises(ValueError, match=r"`tfconv.portable\(\)`") as raised:
        route(small, tmp_path / "saved")
    assert len(str(raised.value)) < 500
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scope", [tfconv.portable, tfconv.keep_native])
def test_functions_traced_in_scopes(small, scope):
    with scope():
        function = _compat.frozen(traced(small).get_concrete_function())
    native = any(node.op.startswith("Tfconv>") for node in function.graph.as_graph_def().node)
    assert native == (scope is tfconv.keep_native)


def test_exporters_that_trace(small, monkeypatch):
    """Their modules are on the stack then."""
    require_native()

    def ops(exporter):
        monkeypatch.setitem(globals(), "__name__", exporter)
        function = tf.function(lambda x: small(x)).get_concrete_function(tf.ones([1, 4, 4, 2]))
        return {op.type for op in function.graph.get_operations()}

    for exporter in ("tf2onnx.convert", "openvino.tools.ovc", "keras.src.export.onnx"):
        assert not any(op.startswith("Tfconv>") for op in ops(exporter))
    assert "Tfconv>SpanInvolution" in ops("somewhere.else")


@pytest.mark.skipif(not KERAS_3, reason="Keras 2 exports SavedModels only")
def test_keras_exports_to_onnx(small, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("tf2onnx")
    small.export(tmp_path / "small.onnx", format="onnx", verbose=False)
    assert {node.domain for node in onnx.load(tmp_path / "small.onnx").graph.node} == {""}
