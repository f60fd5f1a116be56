"""Kernels, routing and effective fields, against the layers' own and known derivatives; plots."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv._compat import all_layers, keras
from tfconv.analysis import profile
from tfconv.visual import (
    LayerRouting,
    NoSuchLayer,
    RoutingWeights,
    effective_receptive_field,
    involution_kernels,
    routing_weights,
    sampling_points,
)

RNG = np.random.default_rng(0)
IMAGES = RNG.random((35, 16, 12, 3), np.float32) * np.linspace(0, 3, 35).reshape(-1, 1, 1, 1)


@pytest.fixture(scope="module")
def model():
    """A layer of each kind, with weights that make them look at the images: see `positive`."""
    inputs = keras.Input((16, 12, 3))
    x = tfconv.Conv2D(8, 3, strides=2, padding="same", name="stem")(inputs)
    x = tfconv.DeformableConv2D(8, 3, padding="same", name="deformable")(x)
    x = tfconv.Involution2D((3, 5), groups=2, name="involution")(x)
    x = tfconv.DynamicConv2D(8, 3, num_experts=3, temperature=1, name="dynamic")(x)
    routing = keras.layers.Dense(2, activation="softmax", name="router")(
        keras.layers.GlobalAveragePooling2D()(x)
    )
    x = tfconv.CondConv2D(8, 1, num_experts=2, name="given")(x, routing_weights=routing)
    x = tfconv.CondConv2D(8, 1, num_experts=4, name="own")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = tfconv.CondDense(5, num_experts=3, name="dense")(x)
    return positive(keras.Model(inputs, x, name="net"))


def positive(model):
    """A model whose layers give weighted means, so that nothing cancels, whatever is drawn.

    What makes routing weights has larger ones for each further expert: they follow the brightness.
    """
    for layer in all_layers(model):
        kernel = getattr(layer, "kernel", None)
        if kernel is None:
            continue
        shape = getattr(layer, "expert_shape", kernel.shape)
        value = np.abs(kernel.numpy()).reshape(-1, *shape)
        value /= value.sum(axis=tuple(range(1, len(shape))), keepdims=True)
        if isinstance(layer, keras.layers.Dense):
            value *= np.linspace(0.2, 0.4, shape[-1])
        kernel.assign(value.reshape(kernel.shape))
    return model


def input_of(model, name, images):
    return keras.Model(model.input, model.get_layer(name).input)(images)


def test_involution_kernels(model):
    found = involution_kernels(model, IMAGES[20], position=[(0, 0), (15, 11)])
    (layer,) = found.layers
    own = model.get_layer("involution").kernels(input_of(model, "involution", IMAGES[20:21]))
    np.testing.assert_allclose(layer.kernels, np.reshape(own, (8, 6, 2, 3, 5)), rtol=1e-5)
    np.testing.assert_allclose(layer.sums[2, 3, 1], layer.kernels[2, 3, 1].sum(), rtol=1e-5)
    np.testing.assert_array_equal(layer.chosen, layer.kernels[[0, 7], [0, 5]])
    assert np.ptp(layer.sums) > 0.1


def test_routing_weights(model):
    labels = np.arange(35) % 3
    found = routing_weights(model, IMAGES, labels=labels)
    rows = {layer.name: layer.weights for layer in found.layers}
    assert list(rows) == ["dynamic", "given", "own", "dense"]
    dynamic, own = model.get_layer("dynamic"), model.get_layer("own")
    expected = {
        "dynamic": dynamic.attention(input_of(model, "dynamic", IMAGES)),
        "given": keras.Model(model.input, model.get_layer("router").output)(IMAGES),
        "own": own.routing_weights(input_of(model, "own", IMAGES)),
        "dense": model.get_layer("dense").routing_weights(input_of(model, "dense", IMAGES)),
    }
    for name, weights in expected.items():
        np.testing.assert_allclose(rows[name], weights, rtol=1e-4)
        assert np.ptp(rows[name][:, 0]) > 1e-3
        means = [rows[name][labels == label].mean(0) for label in range(3)]
        np.testing.assert_allclose(found.by_class()[name], means)
    with pytest.raises(ValueError, match="`labels` must be given"):
        routing_weights(model, IMAGES[20], "own").by_class()
    with pytest.raises(ValueError, match="`labels` must have one class for each of 35"):
        routing_weights(model, IMAGES, labels=labels[1:])


def test_routing_weights_leave_out_what_is_masked():
    dense = tfconv.CondDense(4, num_experts=3, name="dense")
    conv = tfconv.DynamicConv1D(4, 3, temperature=1, name="conv")
    layers = [keras.Input((8, 4)), keras.layers.Masking(), dense, conv]
    x = RNG.random((3, 8, 4), np.float32)
    x[:, 5:] = 0
    found = routing_weights(keras.Sequential(layers), x)
    rows = {layer.name: layer.weights for layer in found.layers}
    np.testing.assert_allclose(rows["dense"], dense.routing_weights(x[:, :5]), rtol=1e-4)
    np.testing.assert_allclose(rows["conv"], conv.attention(dense(x[:, :5])), rtol=1e-4)


def test_field_of_one_convolution_is_its_kernel():
    layer = tfconv.Conv2D(1, (3, 5), padding=[(1, 1), (2, 2)])
    model = keras.Sequential([keras.Input((16, 12, 2)), layer])
    found = effective_receptive_field(model, IMAGES[:9, ..., :2], position=(4, 6), draws=2)
    kernel = np.abs(layer.kernel.numpy()).sum((2, 3))
    assert found.position == (4, 6) and found.bounds == ((3, 5), (4, 8))
    expected = np.zeros([16, 12])
    expected[3:6, 4:9] = kernel / kernel.max()
    np.testing.assert_allclose(found.influence / found.influence.max(), expected, rtol=1e-5)
    assert found.size == pytest.approx(np.sqrt((kernel > 0.0455 * kernel.max()).sum()))
    assert found.theoretical_size == pytest.approx(np.sqrt(15))


@pytest.mark.parametrize("first", [False, True])
def test_field_of_several_layers_lies_in_the_theoretical_one(first):
    place = "channels_first" if first else "channels_last"
    shape = (3, 33, 33) if first else (33, 33, 3)
    plain = tfconv.Conv2D(4, 3, strides=2, data_format=place)
    deformable = tfconv.DeformableConv2D(4, 3, padding="same", data_format=place)
    model = keras.Sequential(
        [keras.Input(shape), plain, deformable, keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    images = RNG.random((2, *shape), np.float32)
    found = effective_receptive_field(model, images, position=(15, 15))
    assert found.name == deformable.name and found.position == (7, 7)
    assert found.bounds == ((12, 18), (12, 18))
    inside = np.zeros([33, 33], bool)
    inside[12:19, 12:19] = True
    assert (found.influence[~inside] == 0).all() and (found.influence[inside] > 0).all()
    offsets = np.zeros(27)
    offsets[:18:2] = 3  # three positions down: six pixels
    deformable.offset_bias.assign(offsets)
    moved = effective_receptive_field(model, images, position=(15, 15))
    assert moved.bounds == found.bounds
    np.testing.assert_array_equal(np.roll(found.seen, 6, axis=0), moved.seen)


def test_field_of_strided_1x1_convolutions():
    """Keras's, whose gradient ends the process in TensorFlow 2.21 with oneDNN: several times."""
    layers = [
        *(keras.layers.Conv2D(16, 1, strides=2, name="strided"), tfconv.Conv2D(8, 3, name="last")),
    ]
    model = keras.Sequential([keras.Input((33, 33, 3)), *layers])
    expected = tfconv.Conv2D(16, 1, strides=2)
    ours = keras.Sequential([keras.Input((33, 33, 3)), expected, layers[1]])
    expected.set_weights(layers[0].get_weights())
    images = RNG.random((3, 33, 33, 3), np.float32)
    for _ in range(3):
        found = effective_receptive_field(model, images)
        same = effective_receptive_field(ours, images)
        np.testing.assert_allclose(found.influence, same.influence, rtol=1e-4, atol=1e-7)
    assert "convolution_op" not in vars(layers[0])
    np.testing.assert_allclose(model(images), ours(images), rtol=1e-4, atol=1e-5)


def test_field_of_a_layer(model):
    found = effective_receptive_field(model, IMAGES[20], "deformable", draws=1)
    field = next(row.field for row in profile(model).rows if row.name == "deformable")
    assert found.bounds == tuple(a.at(p) for a, p in zip(field.axes, found.position))


def test_layers_without_a_field():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), Rounded(name="rounded"), keras.layers.Flatten(name="flat")]
    )
    with pytest.raises(NoSuchLayer, match="one that makes a map.: rounded.* layer='flat'"):
        effective_receptive_field(model, np.ones([8, 8, 3]), "flat")
    with pytest.raises(ValueError, match="by derivatives. Received: layer='rounded'"):
        effective_receptive_field(model, np.ones([8, 8, 3]))


@pytest.mark.parametrize("weights", [[-2.0, -1.0], [-2.0, 1.0]])
def test_axes_hold_negative_routing_weights(weights):
    for rows in (1, 2):
        layer = LayerRouting("own", "CondConv2D", np.array([weights] * rows))
        axes = RoutingWeights("net", (layer,)).plot().axes[0]
        low, high = axes.images[0].get_clim() if rows > 1 else axes.get_ylim()
        assert low <= min(weights) and max(weights) <= high and low < high


class Rounded(keras.layers.Layer):
    def call(self, inputs):
        return tf.cast(tf.cast(inputs, "int32"), "float32")


@pytest.mark.parametrize(
    "draw",
    [
        lambda model: sampling_points(model, IMAGES[20]),
        lambda model: involution_kernels(model, IMAGES[20]),
        lambda model: routing_weights(model, IMAGES[20], "own"),
        lambda model: routing_weights(model, IMAGES, labels=np.arange(35) % 3),
        lambda model: effective_receptive_field(model, IMAGES[20]),
    ],
    ids=["sampling", "kernels", "routing", "classes", "field"],
)
def test_plots(model, draw, tmp_path, monkeypatch):
    found = draw(model)
    assert getattr(found, "name", "own") == "own"  # the last layer that makes a map
    figure = found.plot(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
    assert figure.get_suptitle().startswith("net: ")
    with pytest.raises(ValueError, match="`path` must lie in a folder that exists"):
        found.plot(tmp_path / "none" / "picture.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        found.plot(tmp_path / "other.png")
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
