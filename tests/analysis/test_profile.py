"""Whole models: branches, nesting, sharing, memory, and what is not known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv._compat import keras
from tfconv.analysis import Cost, compare, cost, profile, rule

L = keras.layers


def totals(found):
    return (found.parameters, found.multiply_adds, found.gating, found.elementwise, found.memory)


class Block(keras.layers.Layer):
    """A layer made of layers, with a weight of its own."""

    def build(self, input_shape):
        self.first = tfconv.Conv2D(4, 3, padding="same", name="first")
        self.second = tfconv.Involution2D(3, group_channels=4, name="second")
        self.scale = self.add_weight(name="scale", shape=(4,), initializer="ones")
        self.built = True

    def call(self, inputs):
        y = tf.convert_to_tensor(self.second(self.first(inputs)))
        return inputs + y * tf.convert_to_tensor(self.scale)


class Network(keras.Model):
    """A subclassed model."""

    def __init__(self):
        super().__init__(name="network")
        self.stem = tfconv.Conv2D(4, 3, 2, name="stem")
        self.block = Block(name="block")
        self.head = L.Dense(3, name="head")

    def call(self, inputs, training=None):
        y = self.block(self.stem(inputs))
        return self.head(tf.reduce_mean(y, [1, 2]))


def test_layers_made_of_layers():
    """A subclassed model that was never built, with a block that adds and multiplies itself."""
    model = Network()
    found = profile(model, (11, 9, 3))
    assert [row.name for row in found.rows[:3]] == ["stem", "block/first", "block/second"]
    assert found.parameters == model.count_params()
    own = [row for row in found.rows if row.kind in ("Mul+AddV2", "AddV2+Mul")]
    assert [row.elementwise for row in own] == [2 * 5 * 4 * 4]
    means = [row for row in found.rows if row.kind == "Mean"]
    assert [row.elementwise for row in means] == [5 * 4 * 4]
    places = 5 * 4
    assert found.multiply_adds == places * (27 * 4 + 36 * 4 + 4 + 9 + 9 * 4) + 12
    assert not found.unknown
    assert found.rows[2].field.size == (11, 11) and found.field.everything
    assert profile(model, (11, 9, 3)).as_dict() == found.as_dict()  # now built


def stack():
    return [L.Conv2D(4, 3), L.BatchNormalization(), L.ReLU(), tfconv.GroupConv2D(4, 3, groups=2)]


def test_all_kinds_of_models_are_alike():
    """Sequential, functional, nested, subclassed; and functions made with `tf.function`."""

    class Called(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = stack()

        @tf.function
        def call(self, inputs):
            for part in self.parts:
                inputs = part(inputs)
            return inputs

    def functional(parts):
        x = y = keras.Input((9, 8, 3))
        for part in parts:
            y = part(y)
        return keras.Model(x, y)

    models = [
        keras.Sequential(stack()),
        functional(stack()),
        functional([keras.Sequential(stack()[:3]), stack()[3]]),
        keras.Sequential([functional(stack())]),
        Called(),
    ]
    found = compare(models, (9, 8, 3)).profiles
    assert len({(totals(each), each.peak_memory) for each in found}) == 1
    assert {tuple(row.kind for row in each.rows) for each in found} == {
        ("Conv2D", "BatchNormalization", "ReLU", "GroupConv2D")
    }
    assert {each.field for each in found} == {found[0].field}
    assert found[0].trainable == found[0].parameters - 8


def test_shared_layers():
    """Weights are counted once, products as often as they are made."""
    x = keras.Input((6, 6, 4))
    shared = tfconv.Conv2D(4, 3, padding="same", name="shared")
    found = profile(keras.Model(x, shared(shared(x))))
    assert [row.parameters for row in found.rows] == [148, 0]
    assert [row.multiply_adds for row in found.rows] == [36 * 144] * 2
    assert [row.weight_reuse for row in found.rows] == [36, 36]


def test_frozen_layers():
    layer = tfconv.Conv2D(4, 3)
    layer.trainable = False
    found = profile(layer, (5, 5, 2))
    assert (found.trainable, found.non_trainable) == (0, 76)


def test_peak_memory():
    """What lives at once: a map as long as it is needed, by hand."""
    x = keras.Input((8, 8, 2))  # 512 bytes
    wide = tfconv.PointwiseConv2D(8, name="wide")(x)  # 2,048
    half = tfconv.PointwiseConv2D(4, strides=2, name="half")(wide)  # 256
    more = tfconv.PointwiseConv2D(4, name="more")(half)  # 256
    up = L.UpSampling2D(2, name="up")(more)  # 1,024
    same = L.Dropout(0.5)(up)
    joined = L.Concatenate(name="joined")([same, x])  # 1,536
    found = profile(keras.Model(x, joined))
    assert found.memory == 2048 + 256 + 256 + 1024 + 1536
    # The input waits for "joined".
    assert (found.peak_memory, found.peak_at) == (1024 + 512 + 1536, "joined")
    part = keras.Model(x, up)
    assert profile(part).peak_memory == 2048 + 512
    assert profile(part).peak_at == "wide"


def test_maps_inside_layers():
    """A separable convolution's map between its two halves lives while it runs."""
    found = profile(tfconv.SeparableConv2D(3, 3, padding="same"), (8, 8, 2))
    assert found.memory == 4 * 64 * (2 + 3)
    assert found.peak_memory == 4 * 64 * (2 + 2 + 3)


def test_half_precision():
    """Maps are as large as their type."""
    layer = tfconv.Conv2D(4, 3, dtype="mixed_float16")
    row = profile(layer, (6, 6, 2)).rows[0]
    assert row.memory == 2 * 16 * 4
    assert row.bytes_moved == 4 * 72 + 2 * 64 + 4 * 76


def test_intensity():
    row = profile(tfconv.Conv2D(4, 3, use_bias=False), (6, 6, 2)).rows[0]
    assert row.intensity == 16 * 72 / (4 * (72 + 64 + 72))


def test_several_inputs():
    """In a list and in a dictionary."""
    a, b = keras.Input((6, 6, 3), name="a"), keras.Input((4,), name="b")
    y = L.GlobalAveragePooling2D()(tfconv.Conv2D(4, 3)(a))
    model = keras.Model({"a": a, "b": b}, L.Dense(2)(L.Concatenate()([y, b])))
    found = profile(model, {"a": (6, 6, 3), "b": (4,)})
    assert found.multiply_adds == 16 * 27 * 4 + 16
    assert sorted(found.input_shapes) == [(4,), (6, 6, 3)]
    added = profile(L.Add(), [(None, 4, 4, 2), (None, 4, 4, 2)])
    assert added.elementwise == 32


def test_several_examples_in_a_layer():
    """A layer that gives another one several examples for each of its own."""

    class Tiles(L.Layer):
        def build(self, input_shape):
            self.conv = L.Conv2D(2, 3)
            self.conv.build((None, 4, 4, 3))
            self.built = True

        def call(self, inputs):
            return self.conv(tf.reshape(inputs, [-1, 4, 4, 3]))

    found = profile(Tiles(), (8, 4, 3))
    assert found.multiply_adds == 2 * 4 * 27 * 2


# What is not known.


class Spectrum(L.Layer):
    """Operations without a rule."""

    def call(self, inputs):
        return tf.abs(tf.signal.fft(tf.cast(inputs, tf.complex64))) + 1.0


def test_unknown_layers_are_named():
    model = keras.Sequential([tfconv.Conv1D(4, 3), Spectrum(name="spectrum"), L.Dense(2)])
    found = profile(model, (9, 2))
    assert found.unknown == ["spectrum (Spectrum): FFT, ComplexAbs"]
    (row,) = [row for row in found.rows if row.unknown]
    assert row.elementwise == 7 * 4  # what is known of it is counted
    assert row.field is None
    assert found.unknown[0] in str(found)
    assert json.loads(found.to_json())["total"]["unknown"] == found.unknown


def test_recurrent_layers_are_named():
    found = profile(L.LSTM(3), (9, 2))
    assert found.parameters == 72
    assert any("lstm" in each and "While" in each for each in found.unknown)


def test_products_of_operations():
    """A layer with a rule for nothing: its products are counted by TensorFlow's operations."""

    class Own(L.Layer):
        def build(self, input_shape):
            self.kernel = self.add_weight(name="kernel", shape=(3, 3, 2, 4))
            self.deep = self.add_weight(name="deep", shape=(3, 3, 4, 1))
            self.up = self.add_weight(name="up", shape=(2, 2, 3, 4))
            self.built = True

        def call(self, inputs):
            y = tf.nn.conv2d(inputs, tf.convert_to_tensor(self.kernel), 1, "VALID")
            y = tf.nn.depthwise_conv2d(y, tf.convert_to_tensor(self.deep), [1] * 4, "SAME")
            y = tf.nn.conv2d_transpose(y, tf.convert_to_tensor(self.up), [1, 8, 8, 3], 2)
            y = tf.reshape(y, [-1, 64, 3])
            return tf.einsum("npc,nqc->npq", y, y) + tf.matmul(y, y, transpose_b=True)

    found = profile(Own(), (6, 6, 2))
    own = [row for row in found.rows if row.multiply_adds]
    assert [row.multiply_adds for row in own] == [16 * 72 + 16 * 36 + 16 * 48 + 2 * 64 * 64 * 3]
    assert own[0].weights == 72 + 36 + 48
    assert found.parameters == 72 + 36 + 48
    assert not found.unknown


# Rules of one's own.


@pytest.fixture
def own_rules(monkeypatch):
    monkeypatch.setattr(cost, "_RULES", dict(cost._RULES))


def test_own_rule(own_rules):
    @rule(Spectrum)
    def spectrum(layer, inputs, outputs):
        return Cost(multiply_adds=10 * inputs[0][1], field=lambda field: field.whole([9]))

    found = profile(Spectrum(), (9, 2))
    assert found.multiply_adds == 90 and not found.unknown
    assert found.field.size == (9,)


def test_rules_are_not_for_what_computes_something_else():
    """A subclass with a call of its own is looked into; others have the rule of their base."""

    class Twice(tfconv.Conv2D):
        def call(self, inputs):
            return tf.signal.fft(tf.cast(super().call(inputs), tf.complex64))

    class Renamed(tfconv.Conv2D):
        pass

    plain, renamed = compare([tfconv.Conv2D(4, 3), Renamed(4, 3)], (6, 6, 2)).profiles
    assert totals(plain) == totals(renamed)
    assert profile(Twice(4, 3), (6, 6, 2)).unknown


# Errors, and what is left behind.


@pytest.mark.parametrize(
    "model, shape, message",
    [
        (3, (4, 4, 2), "`model` must be a Keras model or layer. Received: model=3"),
        (lambda: L.Conv2D(2, 3), None, "`input_shape` must be given"),
        (lambda: L.Conv2D(2, 3), 3, "`input_shape` must be given.*Received: 3"),
        (lambda: L.Conv2D(2, 3), (None, None, 4, 2), "all sizes.*Received: input_shape=.None, Non"),
        (lambda: L.Conv2D(2, 3), (4, 0, 2), r"all sizes.*Received: input_shape=\(4, 0, 2\)"),
    ],
)
def test_errors(model, shape, message):
    with pytest.raises(ValueError, match=message):
        profile(model() if callable(model) else model, shape)


@pytest.mark.parametrize("layers", [[], {}, 3])
def test_nothing_to_compare(layers):
    with pytest.raises(ValueError, match="`layers` must be .* Received: layers="):
        compare(layers, (4, 4, 2))


def test_a_layer_that_fails_leaves_keras_as_it_was():
    before = L.Layer.__call__

    class Broken(L.Layer):
        def call(self, inputs):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        profile(Broken(), (3,))
    assert L.Layer.__call__ is before
    assert not tf.config.functions_run_eagerly()


def test_the_model_is_as_before():
    model = keras.Sequential([keras.Input((6, 6, 2)), *stack()[:3]])
    x = np.ones([2, 6, 6, 2], np.float32)
    before, weights = model(x).numpy(), [w.numpy() for w in model.weights]
    profile(model)
    np.testing.assert_array_equal(model(x).numpy(), before)
    for old, new in zip(weights, model.weights):
        np.testing.assert_array_equal(old, new.numpy())


# Forms.


def test_forms(tmp_path):
    found = profile(keras.Sequential(stack()), (9, 8, 3))
    loaded = json.loads(found.to_json(tmp_path / "a.json"))
    assert loaded == json.loads((tmp_path / "a.json").read_text()) == found.as_dict()
    assert loaded["total"]["flops"] == sum(row["flops"] for row in loaded["rows"])
    lines = found.to_csv(tmp_path / "a.csv").splitlines()
    assert len(lines) == 5 and lines[0].startswith("name,kind,input_shapes")
    assert ",9x8x3,7x6x4," in lines[1]
    compared = compare({"a": tfconv.Conv2D(2, 3), "b": tfconv.DepthwiseConv2D(3)}, (6, 6, 2))
    rows = json.loads(compared.to_json())["compared"]
    assert [row["products_of_first"] for row in rows] == [1, 0.5]
    assert "(0.5)" in str(compared)
    assert compared.to_csv().splitlines()[2].startswith("b,")
    assert compared["b"].parameters == 20


TABLE = """
  net
  multiply- per
  layer kind output weights adds FLOPs maps reuse rank sees stride offset byte
  conv Conv2D 4x5x4 76 1,440 2,960 320 B 20 4 3 1 0 1.5
  flat Flatten 80 0 0 0 0 B 6,7 0 0 0
  total 76 1,440 2,960 320 B 20 6,7 0 0 0.9
  76 weights are trained, 0 are not. 1,440 multiply-adds, 2,960 FLOPs for one example.
  Feature maps: 320 B in all, at most 656 B at once (conv).
"""


def test_table():
    """Every column; words stand to the left, shapes and numbers to the right."""
    model = keras.Sequential([tfconv.Conv2D(4, 3, name="conv"), L.Flatten(name="flat")], name="net")
    lines = [line for line in str(profile(model, (6, 7, 2))).splitlines() if "─" not in line]
    expected = [line.split() for line in TABLE.splitlines()]
    assert list(filter(None, map(str.split, lines))) == list(filter(None, expected))
    titles, conv = (next(line for line in lines if word in line) for word in ("layer", "Conv2D"))
    assert [titles.index(word) for word in ("layer", "kind")] == [
        conv.index(word) for word in ("conv", "Conv2D")
    ]
    assert [titles.index(word) + len(word) for word in ("output", "byte")] == [
        conv.index(word) + len(word) for word in ("4x5x4", "1.5")
    ]


def test_pictures(tmp_path):
    """They are drawn for models, layers, and layers without products or places."""
    for name, drawn in (
        ("model", profile(keras.Sequential(stack()), (9, 8, 3))),
        ("relu", profile(L.ReLU(), (4,))),
        ("compared", compare([tfconv.Conv2D(2, 3), L.ReLU()], (6, 6, 2))),
    ):
        drawn.plot(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="format"):
        drawn.plot(tmp_path / "compared.text")
    assert len(list(tmp_path.iterdir())) == 3  # nothing partial
