"""What a model takes and what its layers give: traced, read from examples, put back."""

import types

import numpy as np
import pytest
import tensorflow as tf

from tfconv._compat import keras
from tfconv.export import quantization, signatures, tflite, tflite_file, to_tflite, tracing
from tfconv.export.samples import given_samples, repeatable


def test_layers_are_as_they_were():
    """One that two blocks share, and one with a `call` of its own beside its class's."""
    shared, own = keras.layers.Dense(3, name="shared"), keras.layers.Dense(3, name="own")
    x = keras.Input((3,))
    blocks = [keras.Sequential([keras.Input((3,)), shared], name=name) for name in "ab"]
    model = keras.Model(x, own(blocks[1](blocks[0](x))))

    def call(inputs, training=None):
        return 2 * keras.layers.Dense.call(own, inputs)

    object.__setattr__(own, "call", call)
    traced = tracing.trace(model, tracing.model_inputs(model, None), of_layers=True)
    assert list(traced.layers.values()) == ["a/shared", "a/shared", "own"]
    assert "call" not in vars(shared)
    assert vars(own)["call"] is call

    def broken(inputs, training=None):
        raise KeyError

    object.__setattr__(own, "call", broken)
    with pytest.raises((KeyError, RuntimeError)):  # AutoGraph may wrap it
        tracing.trace(model, tracing.model_inputs(model, None), of_layers=True)
    assert "call" not in vars(shared)
    assert vars(own)["call"] is broken


def test_names_with_spaces():
    """Keys of outputs may have them, layers may not."""
    x = keras.Input((3,), name="x")
    model = keras.Model(x, {"my output": keras.layers.Dense(2)(x)})
    report = to_tflite(model)
    assert report.outputs == ["my output"]
    spaced = keras.Input((3,), name="my input")
    model = keras.Model([x, spaced], keras.layers.Add(name="sum")([x, spaced]))
    with pytest.raises(ValueError, match="`model` must have layers.*Received: 'my input'"):
        to_tflite(model)
    with pytest.raises(ValueError, match="`signatures.*without spaces. Received: .*'my input'"):
        signatures.trace({"serving_default": model}, keep_native=False)


def test_examples_that_come_once():
    """The first batch says what the model takes, and is there for the comparison nevertheless."""

    class Doubled(keras.Model):
        def call(self, x):
            return 2 * x

    batches = [np.full((2, 3), i, np.float32) for i in range(3)]
    data = repeatable(iter(batches))
    spec = tracing.model_inputs(Doubled(), data)
    assert spec.shape.as_list() == [None, 3]
    for _ in range(2):
        examples = given_samples(data, [spec]).calibration
        assert [e[spec.name][0, 0] for e in examples] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("dtype, value", [(np.int32, 0.5), (np.uint8, -1), (np.bool_, 2)])
def test_integers_stay_what_they_are(dtype, value):
    spec = tf.TensorSpec([None, 3], dtype, "x")
    with pytest.raises(ValueError, match="needs values of .* for input `x`. Received: others of"):
        given_samples(np.full((2, 3), value), [spec])
    assert given_samples(np.ones((2, 3)), [spec]).held_out[0]["x"].dtype == dtype


def test_every_input_fills_the_batch():
    """Where only one of them has a size of its batch."""
    specs = [tf.TensorSpec([2, 3], name="fixed"), tf.TensorSpec([None, 3], name="any")]
    example = {spec.name: np.ones([1, 3], np.float32) for spec in specs}
    (call,) = quantization._calls(types.SimpleNamespace(inputs=specs, fixed_batch=2), [example])
    assert [x.shape for x in call.values()] == [(2, 3), (2, 3)]


def test_bound_of_a_model():
    assert quantization.model_bound("int8", 1) == 0.05
    assert quantization.model_bound("int8", 3) == pytest.approx(0.05 * 3**0.5)
    assert quantization.model_bound("int8", 100) == 0.1


def test_operators_without_outputs():
    operators = [tflite_file.Operator("CALL_ONCE", False, (), (), "")]
    file = types.SimpleNamespace(operators=operators)
    assert quantization._names(operators) == []
    assert tflite._types(file) == {}
