"""What a SavedModel answers is compared with the model before it appears."""

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests.export.test_saved_model import content, served
from tfconv import cli
from tfconv._compat import keras
from tfconv.export import ExportError, signatures, to_saved_model


def test_functions_and_batches(tmp_path):
    """Python's `if` over tensors, outputs of one name, a batch of one size."""

    def positive(x):
        if tf.reduce_sum(x) > 0:
            return x
        return -x

    model = keras.Sequential([keras.Input((2,), batch_size=3), keras.layers.Dense(1)])
    specs = {"x": tf.TensorSpec([None, 2])}
    report = to_saved_model(model, tmp_path, signatures={"positive": (positive, specs)})
    plain = report.signatures["serving_default"]
    assert str(plain) == "(inputs: float32 [3, 2]) -> (outputs: float32 [3, 1])"
    assert not (tmp_path / "batching.config").exists()
    for x in ([[1.0, 2.0]], [[-1.0, -2.0]]):
        np.testing.assert_array_equal(served(report, "positive", x=x)["outputs"], [[1, 2]])
    twice = [tf.constant(1.0), tf.constant(2.0)]
    named = signatures._named("twice", twice, ["same", "same"])
    assert named == {"output_0": twice[0], "output_1": twice[1]}


class Wrong(keras.layers.Layer):
    """Gives something else in a graph."""

    def call(self, inputs):
        return inputs if tf.executing_eagerly() else 1.01 * inputs


def test_comparison(tmp_path):
    x = keras.Input((2,))
    model = keras.Model(x, Wrong(name="wrong")(x))
    with pytest.raises(ExportError, match="other results.*output `outputs` is 0.01 .*`verify"):
        to_saved_model(model, tmp_path / "net")
    assert not content(tmp_path)
    assert to_saved_model(model, tmp_path / "net", verify=False).error is None
    words = keras.Input((), dtype="string")
    model = keras.Model(words, keras.layers.StringLookup(vocabulary=["a"])(words))
    assert to_saved_model(model, tmp_path / "words").error is None


def test_convert_to_a_saved_model(capsys, tmp_path):
    inputs = keras.Input((6, 5, 4))
    layer = tfconv.Involution2D(3, groups=2)
    keras.Model(inputs, layer(inputs)).save(tmp_path / "net.keras")
    command = ["convert", str(tmp_path / "net.keras"), "--to", "saved_model", "--output"]
    assert cli.main([*command, str(tmp_path / "net")]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("serving_default", "Conv2D", "native ops  none"))
    (error,) = (line.split()[1] for line in printed.splitlines() if line.startswith("error"))
    assert float(error) < 1e-5
    assert cli.main(["inspect", str(tmp_path / "net")]) == 0
    assert "serving_default" in capsys.readouterr().out
