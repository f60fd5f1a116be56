"""What a model takes and what its layers give: traced, read from examples, put back."""

import itertools
import types

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv import _compat
from tfconv._compat import KERAS_3, keras
from tfconv.export import quantization, signatures, tflite_file, to_tflite, tracing, verification
from tfconv.export.samples import given_samples, repeatable
from tfconv.testing import assert_same


def test_names_of_outputs_that_have_none():
    """A model of one's own says none: one output is the output, several have numbers."""
    one, two = tracing.named_outputs(None, tf.ones([2])), tracing.named_outputs(None, [1.0, 2.0])
    assert list(one) == ["output"] and list(two) == ["output_0", "output_1"]


def test_the_layer_where_errors_grow_most():
    """The first of those that are alike, and none where nothing grows."""

    def worst(*errors):
        """Of layers whose outputs are 1, with these errors."""
        names = [f"y{number}" for number, _ in enumerate(errors)]
        traced = types.SimpleNamespace(
            fixed_batch=None,
            inputs=[types.SimpleNamespace(name="x")],
            layers={name: f"layer {name}" for name in names},
            function=lambda x: dict.fromkeys(names, tf.ones([4])),
        )
        samples = types.SimpleNamespace(batch=lambda count: {"x": np.ones([count, 4])})
        found = {name: np.full([4], 1 + error) for name, error in zip(names, errors)}
        return verification.worst_layer(lambda arrays: found, traced, samples)

    assert worst(0.0, 0.0) is None
    assert worst(0.0, 0.25, 0.5) == ("layer y1", 0.25)
    assert worst(0.25, 0.125, 0.75) == ("layer y2", 0.75)
    assert worst(0.5, 0.25, 0.75) == ("layer y0", 0.5)  # errors that shrink in between are none


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


class Several(keras.Model):
    """Layers with weights, layers in layers, constants: as a subclass, without a graph."""

    def __init__(self, dtypes):
        super().__init__(dtype=policy("float32"))
        make = [
            lambda **k: keras.layers.Normalization(mean=0.25, variance=2.25, **k),
            lambda **k: tfconv.CondConv2D(4, 2, num_experts=2, **k),
            lambda **k: tfconv.Involution2D(3, group_channels=2, **k),
            keras.layers.BatchNormalization,
            keras.layers.Flatten,
            lambda **k: keras.layers.Dense(2, **k),
        ]
        kinds = zip(make, itertools.cycle(dtypes), "abcdef")
        self.parts = [layer(dtype=dtype, name=name) for layer, dtype, name in kinds]

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


def policy(name):
    return name if KERAS_3 else keras.mixed_precision.Policy(name)


POLICIES = {
    "mixed_float16": ["mixed_float16"],
    "mixed_bfloat16": ["mixed_bfloat16"],
    "float16": ["float16"],
    "float64": ["float64"],
    "of each layer": ["mixed_bfloat16", "float64", "float32", "mixed_float16", "float16"],
}


def by_map():
    """A policy for layers by their paths."""
    found = keras.dtype_policies.DTypePolicyMap(default_policy="mixed_bfloat16")
    found["several/b"] = keras.DTypePolicy("float64")
    found["several/f"] = keras.DTypePolicy("float32")
    return found


@pytest.mark.parametrize("graph", [True, False], ids=["functional", "subclass"])
@pytest.mark.parametrize("name", [*POLICIES, *(["map"] if KERAS_3 else [])])
def test_any_policy_becomes_float32(name, graph, rng):
    """While it is traced and compared; afterwards the model is what it was."""
    dtypes = [by_map()] if name == "map" else list(map(policy, POLICIES[name]))
    inputs = keras.Input((4, 5, 3), dtype="float64" if name == "float64" else "float32")
    x = rng.standard_normal((2, 4, 5, 3)).astype(np.float32)
    model, plain = Several(dtypes), Several([policy("float32")])
    for each in (model, plain):
        each.call(x)  # builds the layers, which Keras 3's Normalization cannot in a graph
        each(x)
    plain.set_weights(model.get_weights())
    if graph:
        model = keras.Model(inputs, model.call(inputs))
    layers = _compat.all_layers(model)
    before = [(layer.compute_dtype, [w.dtype for w in layer.weights]) for layer in layers]
    y = model(x)
    specs = tracing.model_inputs(model, x)
    traced = tracing.trace(model, specs)
    real = {t.dtype for op in traced.function.graph.get_operations() for t in op.outputs}
    assert {t for t in real if t.is_floating} == {tf.float32}
    (given,) = traced.function(tf.constant(x)).values()
    assert_same(given, plain(x), 1e-5)
    (expected,) = traced.expected({traced.inputs[0].name: x}).values()
    assert_same(given, expected, 1e-6)
    assert before == [(layer.compute_dtype, [w.dtype for w in layer.weights]) for layer in layers]
    assert model(x).dtype == y.dtype
    np.testing.assert_array_equal(model(x), y)


def test_sizes_that_do_not_suit():
    """Random examples are 32 pixels long, of which the model cuts off more."""
    x = keras.Input((None, 4), name="x")
    model = keras.Model(x, keras.layers.Cropping1D(20)(x))
    spec = tracing.model_inputs(model, None)
    words = r"`representative_data` is needed: .*\(1, 32, 4\).*ropping.*Received: "
    with pytest.raises(ValueError, match=words) as raised:
        to_tflite(model)
    assert "\x1b" not in str(raised.value) and len(str(raised.value)) < 1000
    assert tracing.samples_of(model, spec, None, run=False).are_random
    data = np.ones([1, 41, 4], np.float32)
    samples = tracing.samples_of(model, spec, data, run=True)
    assert samples.batch(2)["x"].shape == (2, 41, 4)


def test_names_with_spaces():
    """Keys of outputs may have them, layers may not."""
    x = keras.Input((3,), name="x")
    keys = ["_scores", "my output", "\u00fcber"]
    model = keras.Model(x, {key: keras.layers.Dense(2)(x) for key in keys})
    report = to_tflite(model)
    assert report.outputs == keys
    spaced = keras.Input((3,), name="my input")
    model = keras.Model([x, spaced], keras.layers.Add(name="sum")([x, spaced]))
    with pytest.raises(ValueError, match="`model` must have layers.*Received: 'my input'"):
        to_tflite(model)
    with pytest.raises(ValueError, match="`signatures.*without spaces. Received: .*'my input'"):
        signatures.trace({"serving_default": model}, keep_native=False)
    model = keras.Model(x, keras.layers.Dense(2)(x), name="my net")
    for export in (to_tflite, lambda model: signatures.trace({"a": model}, keep_native=False)):
        with pytest.raises(ValueError, match="`model` must have layers.*Received: 'my net'"):
            export(model)
    with pytest.raises(ValueError, match="no _ .* at their start. Received: '_in'"):
        tracing.check_names(["_in"])
    tracing.check_names(["_in"], outermost=False)


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
    assert quantization.model_bound("mixed", 1) == 0.04
    assert quantization.model_bound("mixed", 3) == pytest.approx(0.04 * 3**0.5)
    assert quantization.model_bound("mixed", 100) == 0.1
    assert quantization.model_bound("int8", 1) == 0.1


def test_operators_without_outputs():
    operators = [tflite_file.Operator("CALL_ONCE", False, (), (), "")]
    file = tflite_file.TFLiteFile(0, tuple(operators), (), (), (), {})
    assert quantization._names(operators) == []
    assert file.operator_types == {}
