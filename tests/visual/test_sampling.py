"""`sampling_points`: where taps land on the image, against places computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

import tfconv
from tfconv._compat import keras
from tfconv.visual import NoSuchLayer, sampling_points

IMAGE = np.random.default_rng(0).random((24, 20, 3), np.float32)
WINDOW = {"strides": 2, "padding": [(2, 1), (0, 1)], "dilation_rate": (2, 1)}


def model_of(*layers, shape=(24, 20, 3)):
    return keras.Sequential([keras.Input(shape), *layers])


def by_hand(position, kernel_size, strides, pads, dilation_rate):
    """[taps, 2]: p * strides - pad + t * dilation."""
    rows, columns = (
        p * s - before + np.arange(k) * d
        for p, k, s, (before, _), d in zip(position, kernel_size, strides, pads, dilation_rate)
    )
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)


@pytest.fixture(scope="module")
def deep():
    """A deformable convolution behind one with stride 2: middles of pixels 2 p to 2 p + 2."""
    stem = tfconv.Conv2D(4, 3, 2, padding="same")
    layer = tfconv.DeformableConv2D(4, (3, 2), offset_groups=2, name="deformable", **WINDOW)
    return model_of(stem, layer)


def test_without_offsets_samples_are_the_taps(deep):
    (found,) = sampling_points(deep, IMAGE, position=[(12, 9), (0, 0), (23, 19)]).layers
    assert found.name == "deformable"
    # Middles: output p sees positions 2 p - 2 to 2 p + 2 down and 2 p to 2 p + 1 across.
    assert found.positions.tolist() == [[3, 2], [0, 0], [5, 4]]
    for position, regular, points in zip(found.positions, found.regular, found.points):
        taps = by_hand(position, (3, 2), (2, 2), WINDOW["padding"], (2, 1))
        np.testing.assert_allclose(regular, 2 * taps + 1)
        np.testing.assert_allclose(points, np.tile(2 * taps + 1, (2, 1)))
    np.testing.assert_allclose(found.weights, 1)


def test_offsets_move_samples_by_pixels_of_the_image(deep):
    layer = deep.get_layer("deformable")
    before = layer.offset_bias.numpy()
    rng = np.random.default_rng(1)
    offsets, masks = rng.normal(size=(2, 6, 2)), rng.normal(size=(2, 6))
    layer.offset_bias.assign(np.concatenate([offsets.ravel(), masks.ravel()]))
    try:
        (found,) = sampling_points(deep, IMAGE, "deformable", (12, 9)).layers
    finally:
        layer.offset_bias.assign(before)
    moved = found.regular[0] + 2 * offsets
    np.testing.assert_allclose(found.points[0], moved.reshape(-1, 2), rtol=1e-6)
    np.testing.assert_allclose(found.weights[0], 2 / (1 + np.exp(-masks.ravel())), rtol=1e-6)
    np.testing.assert_allclose(found.offsets[1, 3], offsets, rtol=1e-6)


@pytest.mark.parametrize("by_name", [True, False])
def test_offsets_that_the_layer_is_given(by_name):
    inputs = keras.Input((8, 8, 2))
    offset = keras.layers.Conv2D(18, 3, padding="same", use_bias=False)(inputs)
    mask = keras.layers.Conv2D(9, 3, padding="same", activation="sigmoid")(inputs)
    layer = tfconv.DeformableConv2D(2, 3, padding="same")
    given = {"offset": offset, "modulation": mask} if by_name else {}
    model = keras.Model(inputs, layer(inputs, *([] if by_name else [offset, mask]), **given))
    image = np.random.default_rng(0).random((1, 8, 8, 2), np.float32)
    (found,) = sampling_points(model, image, layer).layers
    made = [np.asarray(each)[0] for each in keras.Model(inputs, [offset, mask])(image)]
    np.testing.assert_allclose(found.offsets, made[0].reshape(8, 8, 1, 9, 2), rtol=1e-6)
    np.testing.assert_allclose(found.masks, made[1].reshape(8, 8, 1, 9), rtol=1e-6)


def test_samples_through_two_layers():
    first = tfconv.DeformableConv2D(3, 3, padding="same", mask_scale=1)
    second = tfconv.DeformableConv2D(3, 3, padding="same", mask_scale=1, modulated=True)
    model = model_of(first, keras.layers.ReLU(), second)
    one, two = sampling_points(model, IMAGE, position=(10, 7), levels=2).layers
    assert one.points.shape == (1, 9, 2) and two.points.shape == (1, 81, 2)
    steps = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), -1).reshape(-1, 2)
    expected = np.array([10, 7]) + steps[:, np.newaxis] + steps
    np.testing.assert_allclose(two.points[0], expected.reshape(-1, 2))
    np.testing.assert_allclose(two.weights, 0.25)


def test_map_is_spread_over_the_image_where_all_see_all():
    layer = tfconv.DeformableConv2D(3, 1, modulated=False)
    model = model_of(
        keras.layers.AveragePooling2D(4), tfconv.SqueezeExcite(reduction_ratio=1), layer
    )
    (found,) = sampling_points(model, IMAGE, position=(13, 6)).layers
    assert found.positions.tolist() == [[3, 1]]
    np.testing.assert_allclose(found.points, [[[13.5, 5.5]]])
    np.testing.assert_allclose(found.masks, 1)


def test_channels_first():
    arguments = {"strides": 2, "padding": "same", "offset_initializer": "glorot_uniform"}
    layers = [
        tfconv.DeformableConv2D(4, 3, data_format=f"channels_{place}", **arguments)
        for place in ("last", "first")
    ]
    models = [model_of(layers[0]), model_of(layers[1], shape=(3, 24, 20))]
    layers[1].set_weights(layers[0].get_weights())
    last, first = (
        sampling_points(model, image).layers[0]
        for model, image in zip(models, (IMAGE, IMAGE.transpose(2, 0, 1)))
    )
    assert np.abs(last.offsets).max() > 0.1
    np.testing.assert_allclose(last.points, first.points, rtol=1e-4)


class Subclassed(keras.Model):
    """A model in a model, and a layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.inner = keras.Sequential(
            [tfconv.DeformableConv2D(3, 3, name="deformable", padding="same")], name="inner"
        )
        self.shared = tfconv.DeformableConv2D(3, 3, strides=2, name="shared", padding="same")

    def call(self, inputs):
        return self.shared(self.shared(self.inner(inputs)))


def test_subclassed_models_and_shared_layers():
    model = Subclassed()
    found = sampling_points(model, IMAGE).layers
    assert [each.name for each in found] == ["inner/deformable", "shared"]
    assert found[1].offsets.shape[:2] == (12, 10)  # of the first call
    (same,) = sampling_points(model, IMAGE, "deformable").layers
    assert same.name == "inner/deformable"
    with pytest.raises(NoSuchLayer, match="inner/deformable, shared. Received: layer='none'"):
        sampling_points(model, IMAGE, "none")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"image": np.zeros([20, 24, 3])}, "`image` must be .* Received: image of shape .20, 24"),
        ({"image": np.zeros([24, 20])}, "`image` must be"),
        ({"image": np.array([["a"]])}, "`image` must be"),
        ({"position": (24, 0)}, "`position` must be .* 24 x 20 .* Received: position=.24, 0."),
        ({"position": (0, -1)}, "`position` must be"),
        ({"position": (0.5, 1)}, "`position` must be"),
        ({"position": 3}, "`position` must be"),
        ({"levels": 0}, "`levels` must be"),
        ({"layer": "conv"}, "`layer` must be one of"),
        ({"model": tfconv.Conv2D(1, 1)}, "`model` must be a Keras model"),
    ],
)
def test_arguments_that_are_wrong(deep, arguments, message):
    with pytest.raises(ValueError, match=message):
        sampling_points(**{"model": deep, "image": IMAGE, **arguments})


def test_model_without_such_layers():
    model = model_of(tfconv.Conv2D(2, 3), tfconv.Conv2D(2, 3), keras.layers.ReLU())
    with pytest.raises(NoSuchLayer, match="a deformable convolution. .*2 Conv2D, 1 ReLU"):
        sampling_points(model, IMAGE)
