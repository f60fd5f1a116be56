"""Models that are more than a row of layers, and layers that compute something by themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv._compat import keras
from tfconv.analysis import compare, profile

L = keras.layers


@pytest.mark.parametrize(
    "function, shape, unknown",
    [
        (lambda x: tf.boolean_mask(x, x[..., 0] > 0) + 1.0, (4, 4, 3), "AddV2"),
        (lambda x: tf.nn.relu(tf.numpy_function(np.sin, [x], tf.float32)), (4, 4, 3), "Relu"),
    ],
)
def test_maps_of_unknown_size_are_named(function, shape, unknown):
    found = profile(L.Lambda(function), shape)
    assert len(found.unknown) == 1 and unknown in found.unknown[0]
    assert found.field is None


def named_inputs(first="z", dtype="float32"):
    image, more = keras.Input((6, 6, 3), name=first, dtype=dtype), keras.Input((4,), name="b")
    x = L.Flatten()(L.Rescaling(1 / 255)(image))
    return keras.Model({first: image, "b": more}, L.Dense(2)(L.Concatenate()([x, more])))


@pytest.mark.parametrize("first", ["a", "z"])
def test_inputs_by_name(first):
    """In the order of the model's own structure, where they are a list."""
    shapes = {first: (6, 6, 3), "b": (4,)}
    model = named_inputs(first, "uint8")
    found = profile(model)
    assert found.multiply_adds == (108 + 4) * 2
    for given in (shapes, dict(reversed(shapes.items()))):
        same = profile(model, given)
        assert [row.name for row in same.rows] == [row.name for row in found.rows]
        assert (same.memory, same.peak_memory) == (found.memory, found.peak_memory)


@pytest.mark.parametrize("shape", [{"a": 4}, [(3,), 4]])
def test_shapes_that_are_none(shape):
    with pytest.raises(ValueError, match="`input_shape` must be a shape.*Received"):
        profile(L.Add(), shape)


def test_a_model_that_was_not_built_serves_every_batch():
    model = keras.Sequential([tfconv.Conv2D(4, 3), L.Flatten(), L.Dense(2)])
    profile(model, (8, 8, 3))
    assert model.input_shape == (None, 8, 8, 3)


class Scale(L.Layer):
    """Weights of its own, and nothing else."""

    def build(self, input_shape):
        self.factors = self.add_weight(name="f", shape=(input_shape[-1],), initializer="ones")
        self.built = True

    def call(self, inputs):
        return inputs * tf.convert_to_tensor(self.factors)


def test_weights_of_a_layer_without_a_rule():
    """Moved once; the receptive field is that of what came before."""
    found = profile(keras.Sequential([tfconv.Conv2D(4, 3), Scale(name="scale")]), (8, 8, 3))
    maps = 2 * 36 * 4 * 4
    assert sum(row.bytes_moved for row in found.rows if row.name == "scale") == maps + 4 * 4
    assert sum(row.parameters for row in found.rows if row.name == "scale") == 4
    assert found.field.size == (3, 3)


class Queries(L.Layer):
    """A layer that is called on a weight."""

    def build(self, input_shape):
        self.queries = self.add_weight(name="queries", shape=(5, 4))
        self.dense = L.Dense(3)
        self.dense.build((None, 4))
        self.built = True

    def call(self, inputs):
        return inputs + self.dense(self.queries)


def test_a_layer_that_reads_weights():
    found = profile(Queries(), (5, 3))
    assert found.multiply_adds == 5 * 4 * 3
    assert found.parameters == 5 * 4 + 4 * 3 + 3


class Loop(keras.Model):
    """Python's loop over a tensor, which only a graph of its own has."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(4)

    @tf.function
    def call(self, inputs):
        for _ in tf.range(3):
            inputs = self.dense(inputs)
        return inputs


def test_loops_are_named():
    (unknown,) = profile(Loop(), (4,)).unknown
    assert "PartitionedCall" in unknown


def test_shared_weights_count_once():
    x, layer = keras.Input((6, 6, 4)), tfconv.Conv2D(4, 3, padding="same")
    found = profile(keras.Model(x, layer(layer(x))))
    assert found.weight_reuse == 2 * 36
    assert [row.weight_reuse for row in found.rows] == [36, 36]


def test_routing_and_offsets_that_are_given_after_the_layer_was_built():
    x = keras.Input((6, 6, 3))
    for make, name, shape in (
        (lambda: tfconv.CondConv2D(4, 3, num_experts=2), "routing_weights", (2,)),
        (lambda: tfconv.DeformableConv2D(4, 3), "offset", (4, 4, 18)),
    ):
        given, found = keras.Input(shape), []
        for built in (False, True):
            layer = make()
            if built:
                layer.build((None, 6, 6, 3))
            found.append(profile(keras.Model([x, given], layer(x, **{name: given}))))
        for number in ("multiply_adds", "gating", "elementwise"):
            assert getattr(found[0], number) == getattr(found[1], number), (name, number)


@pytest.mark.parametrize(
    "layer, shape, size",
    [
        (lambda: L.Softmax(axis=1), (8, 4), (8,)),
        (lambda: L.Softmax(), (8, 4), (1,)),
        (lambda: L.LayerNormalization(), (8, 9, 4), (1, 1)),
        (lambda: L.LayerNormalization(axis=[1, 2, 3]), (8, 9, 4), (8, 9)),
        (lambda: tfconv.Involution1D(1, strides=2, groups=1), (8, 1), (2,)),
        (lambda: tfconv.Involution1D(5, strides=3, groups=1, padding=2), (12, 1), (5,)),
        (lambda: tfconv.Involution1D(3, strides=4, groups=1), (12, 1), (4,)),
    ],
)
def test_fields_of_layers_that_mix(layer, shape, size):
    assert profile(layer(), shape).field.size == size


def test_field_of_flattened_channels_first():
    first = {"data_format": "channels_first"}
    layers = [keras.Input((2, 8, 9)), tfconv.Conv2D(3, 3, **first), L.Flatten(), L.Dense(2)]
    assert profile(keras.Sequential(layers)).field.size == (8, 9)


def test_field_of_a_gate_of_one_position():
    x = keras.Input((8, 8, 1))
    for gate in (tfconv.Conv2D(1, 8), L.AveragePooling2D(8)):
        field = profile(keras.Model(x, L.Multiply()([x, gate(x)]))).field
        assert field.axes[0].at(7) == (0, 7) and field.everything


def test_field_of_outputs_that_differ():
    x = keras.Input((16, 16, 3))
    y, z = tfconv.Conv2D(4, 5)(x), tfconv.Conv2D(4, 3)(x)
    assert profile(keras.Model(x, [y, z])).field is None
    assert profile(keras.Model(x, y)).field.size == (5, 5)


def test_interpolations_without_a_rule_are_named():
    (unknown,) = profile(L.UpSampling2D(2, interpolation="bicubic"), (4, 4, 3)).unknown
    assert "bicubic" in unknown
    assert not profile(L.UpSampling2D(2, interpolation="bilinear"), (4, 4, 3)).unknown


def test_operations_like_layers():
    def elementwise(layer):
        return profile(layer, (4, 4, 3)).elementwise

    pooled = L.Lambda(lambda x: tf.nn.max_pool2d(x, 2, 2, "VALID"))
    assert elementwise(pooled) == elementwise(L.MaxPooling2D(2)) == math.prod((2, 2, 3)) * 3
    moved = profile(L.Lambda(lambda x: tf.einsum("bhwc->bchw", x)), (4, 4, 3))
    assert (moved.multiply_adds, moved.elementwise) == (0, 0)


def test_two_layers_of_one_name():
    layers = [tfconv.Conv2D(n, 3, name="conv") for n in (2, 3)]
    compared = compare(layers, (6, 6, 2))
    assert compared.names == ["conv", "conv (2)"]
    assert compared["conv (2)"].parameters == 3 * 9 * 2 + 3
    with pytest.raises(KeyError, match="other"):
        compared["other"]


def test_pictures_of_little(tmp_path):
    profile(L.Dropout(0.5), (4,)).plot(tmp_path / "nothing.png")
    assert (tmp_path / "nothing.png").stat().st_size > 1000
    found = profile(L.Dense(2), (4,))
    for path in (tmp_path, tmp_path / "no suffix", tmp_path / "none" / "x.png"):
        with pytest.raises(ValueError, match="`path` must.*Received"):
            found.plot(path)
    assert [path.name for path in tmp_path.iterdir()] == ["nothing.png"]
