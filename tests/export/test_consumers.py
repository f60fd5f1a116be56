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
    y = tfconv.SqueezeExcite(2)(keras.layers.BatchNormalization()(y))
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
