"""SplitTransformMerge."""

import json

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests.ops.geometries import gradients
from tfconv import blocks
from tfconv._compat import keras
from tfconv.testing import randomize


def conv(filters, **arguments):
    return tfconv.GroupConv2D(filters, 3, padding="same", groups=1, **arguments)


MERGES = {
    "concat": lambda parts: np.concatenate(parts, axis=-1),
    "sum": lambda parts: sum(parts),
    "mean": lambda parts: sum(parts) / len(parts),
    "weighted_sum": lambda parts: sum(parts),  # the weights start at one
    "shuffle": lambda parts: np.stack(parts, axis=-1).reshape(*parts[0].shape[:-1], -1),
}


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("merge", list(MERGES))
def test_merges(merge, data_format, rng):
    """Against the copies on their own."""
    layer = tfconv.SplitTransformMerge(conv(2), 3, merge, data_format, dtype="float64")
    x = rng.standard_normal((2, 5, 4, 6))
    if data_format == "channels_first":
        x = np.moveaxis(x, -1, 1)
    y = layer(x)
    axis = -1 if data_format == "channels_last" else 1
    assert layer.compute_output_shape(x.shape) == y.shape
    parts = [
        np.moveaxis(np.asarray(copy(part)), axis, -1)
        for copy, part in zip(layer.transforms, np.split(x, 3, axis=axis))
    ]
    expected = np.moveaxis(MERGES[merge](parts), -1, axis)
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-12)


def test_copies_have_weights_of_their_own(rng):
    pattern = keras.layers.Dense(4)
    layer = tfconv.SplitTransformMerge(pattern, 2)
    x = rng.standard_normal((3, 6)).astype(np.float32)
    assert layer(x).shape == (3, 8)
    assert not pattern.built
    first, second = (copy.get_weights()[0] for copy in layer.transforms)
    assert first.shape == second.shape == (3, 4)
    assert not np.array_equal(first, second)
    assert len(layer.trainable_weights) == 4


@pytest.mark.parametrize("model", [False, True], ids=["layer", "model"])
def test_built_layers_as_transforms(model, rng):
    """A layer that has weights stays as it is; the copies are built for their groups."""
    pattern = conv(2)
    pattern = keras.Sequential([pattern]) if model else pattern
    pattern(tf.ones([1, 4, 4, 3]))
    before = pattern.get_weights()
    layer = tfconv.SplitTransformMerge(pattern, 2)
    assert layer(tf.ones([1, 4, 4, 6])).shape == (1, 4, 4, 4)
    assert [w.shape for w in layer.get_weights()] == [(3, 3, 3, 2), (2,)] * 2
    for old, new in zip(before, pattern.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_groups_see_only_their_channels(rng):
    layer = tfconv.SplitTransformMerge(conv(2), 2, dtype="float64")
    x = rng.standard_normal((1, 4, 4, 6))
    changed = x.copy()
    changed[..., 3:] += 1
    np.testing.assert_array_equal(layer(x)[..., :2], layer(changed)[..., :2])
    assert (layer(x)[..., 2:].numpy() != layer(changed)[..., 2:].numpy()).all()


def test_is_a_group_convolution(rng):
    """A plain convolution for each group, side by side, is one group convolution."""
    layer = tfconv.SplitTransformMerge(conv(2), 3, dtype="float64")
    groups = tfconv.GroupConv2D(6, 3, padding="same", groups=3, dtype="float64")
    x = rng.standard_normal((2, 5, 4, 6))
    layer(x), groups(x)
    randomize(layer)
    kernels, biases = zip(*(copy.get_weights() for copy in layer.transforms))
    groups.set_weights([np.concatenate(kernels, axis=-1), np.concatenate(biases)])
    np.testing.assert_allclose(layer(x), groups(x), rtol=1e-10, atol=1e-12)


def test_transforms_may_differ_in_channels():
    layer = tfconv.SplitTransformMerge([keras.layers.Dense(3), keras.layers.Dense(5)])
    assert layer(tf.ones([2, 4])).shape == (2, 8)
    assert layer.compute_output_shape((None, 4)) == (None, 8)


@pytest.mark.dear
def test_models_as_transforms(tmp_path, rng):
    """Several layers for each group, one of which knows whether it trains."""
    pattern = keras.Sequential([conv(4), keras.layers.BatchNormalization(), conv(2)])
    layer = tfconv.SplitTransformMerge(pattern, 2, "sum")
    model = keras.Sequential([keras.Input((5, 4, 6)), layer])
    x = rng.standard_normal((4, 5, 4, 6)).astype(np.float32)
    assert not np.allclose(model(x, training=True), model(x, training=False))
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((4, 5, 4, 2), np.float32), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-6)


def test_copies_take_data_type_and_data_format():
    pattern = keras.Sequential([conv(2)])
    layer = tfconv.SplitTransformMerge(
        [pattern, conv(2)], data_format="channels_first", dtype="mixed_bfloat16"
    )
    assert layer(tf.ones([2, 4, 5, 5])).dtype == tf.bfloat16
    for inner in (layer.transforms[0].layers[-1], layer.transforms[1]):
        assert inner.data_format == "channels_first"
        assert inner.compute_dtype == "bfloat16"
        assert inner.kernel.dtype == tf.float32


def test_configurations_as_transforms():
    """A configuration may stand for a layer, as it does in a saved one."""
    layer = tfconv.SplitTransformMerge(conv(2), 2)
    config = json.loads(json.dumps(layer.get_config()))
    assert tfconv.SplitTransformMerge(config["transform"], 2)(tf.ones([1, 4, 4, 4])).shape[-1] == 4


def by_hand(layer, x):
    """The layer's output from Keras's functions of masks: split, transformed, added."""
    parts = blocks.ChannelSplit(layer.groups)(x)
    return keras.layers.Add()([copy(part) for copy, part in zip(layer.transforms, parts)])


@pytest.mark.parametrize(
    "transforms",
    [
        [keras.layers.Dense(3), keras.layers.Dense(3)],
        [tfconv.CondDense(3, num_experts=2), keras.Sequential([keras.layers.Dense(3)])],
        [keras.layers.Dense(3), keras.layers.Conv1D(3, 1)],
        [keras.layers.LSTM(3, return_sequences=True), keras.layers.LSTM(3, return_sequences=True)],
    ],
    ids=["dense", "routing and a model", "convolution", "recurrent"],
)
def test_masks(transforms, rng):
    """Transforms see the mask of their inputs, and give theirs on, as on their own."""
    layer = tfconv.SplitTransformMerge(transforms, merge="sum")
    x = rng.standard_normal((2, 5, 4)).astype(np.float32)
    x[0, 3:] = x[1, :1] = 0
    inputs = keras.Input((5, 4))
    masked = keras.layers.Masking()(inputs)
    model = keras.Model(inputs, [layer(masked), by_hand(layer, masked)])
    y, expected = model(x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    traced = tf.function(lambda x: model(x), input_signature=[tf.TensorSpec([None, 5, 4])])
    for _ in range(2):
        np.testing.assert_allclose(traced(x)[0], expected, rtol=1e-5, atol=1e-6)
    x = keras.layers.Masking()(x)
    mask, expected = (getattr(each, "_keras_mask", None) for each in (layer(x), by_hand(layer, x)))
    assert (mask is None) == (expected is None)
    if mask is not None:
        np.testing.assert_array_equal(mask, expected)
        np.testing.assert_array_equal(layer.compute_mask(x, x._keras_mask), expected)
    assert getattr(layer(np.ones((2, 5, 4), np.float32)), "_keras_mask", None) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: [keras.layers.LSTM(3)],
        lambda: [keras.layers.Dense(3), keras.layers.GlobalAveragePooling1D()],
        lambda: [keras.layers.Masking(), keras.layers.Dense(3), keras.layers.LSTM(2)],
    ],
)
def test_masks_end_in_models(make, rng):
    """Where a model's layers end a mask its outputs have none; no example is no NaN."""
    layer = tfconv.SplitTransformMerge(keras.Sequential(make()), 2, merge="sum")
    x = rng.standard_normal((2, 5, 4)).astype(np.float32)
    mask = np.array([[True, True, False, False, False], [False, True, True, True, True]])
    run = tf.function(
        lambda x, mask: layer(x, mask=mask),
        input_signature=[tf.TensorSpec([None, 5, 4]), tf.TensorSpec([None, 5], tf.bool)],
    )
    y = run(x, mask)
    masked = tf.constant(x)
    masked._keras_mask = tf.constant(mask)
    found = layer(masked)
    assert getattr(found, "_keras_mask", None) is None
    np.testing.assert_allclose(y, found, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer(x, mask=mask), found, rtol=1e-5, atol=1e-6)
    with tf.GradientTape() as tape:
        nothing = tf.reduce_sum(run(x[:0], mask[:0]))
    for gradient in tape.gradient(nothing, layer.trainable_variables):
        assert not np.any(gradient)


class NotConfigured(keras.layers.Layer):
    """A layer without a configuration of its own: Keras keeps plain arguments only."""

    def __init__(self, units):
        super().__init__()


@pytest.mark.parametrize(
    "transform",
    [
        keras.layers.Lambda(lambda x: 2 * x),
        [keras.layers.Dense(2), keras.Sequential([keras.layers.Lambda(lambda x: 2 * x)])],
        NotConfigured(object()),
        {"class_name": "Dense"},
    ],
    ids=["lambda", "lambda in a model", "not configured", "no configuration"],
)
def test_what_cannot_be_copied(transform):
    with pytest.raises(ValueError, match="`transform` must be .*Received: transform="):
        tfconv.SplitTransformMerge(transform, 2)


def test_seeds_differ_between_the_groups_and_repeat_the_weights():
    """Of layers in layers, and of layers that count on from a seed, too."""
    initializer = keras.initializers.GlorotUniform(seed=1)
    gated = tfconv.GatedConv1D(2, 3, kernel_initializer=initializer, use_bias=False)
    pattern = tfconv.SplitTransformMerge(keras.Sequential([gated]), 2)
    layer = tfconv.SplitTransformMerge(pattern, 2)
    layers = [layer, tfconv.SplitTransformMerge.from_config(layer.get_config())]
    for each in layers:
        each.build((None, 6, 8))
    first, second = (each.get_weights() for each in layers)
    assert len({kernel.tobytes() for kernel in first}) == 8
    np.testing.assert_array_equal(first, second)


def test_each_group_drops_by_itself():
    """A layer's own seed is one of several, too; the same are dropped when it is made again."""
    layer = tfconv.SplitTransformMerge(keras.layers.Dropout(0.5, seed=3), 2)
    again = tfconv.SplitTransformMerge.from_config(layer.get_config())
    y = layer(np.ones([1, 64, 2], "float32"), training=True)
    assert not np.array_equal(y[..., 0], y[..., 1])
    assert [each.seed for each in again.transforms] == [each.seed for each in layer.transforms]


@pytest.mark.parametrize("batch", [0, 1, 33])
def test_batches(batch, rng):
    x = rng.standard_normal((batch, 4, 3, 4))
    layer = tfconv.SplitTransformMerge(conv(1), 2, "shuffle", dtype="float64")
    y, gradient = gradients(layer, [x])
    assert y.shape == (batch, 4, 3, 2)
    assert gradient.shape == x.shape


def test_numeric_gradients(rng):
    layer = tfconv.SplitTransformMerge(conv(2), 2, "shuffle", dtype="float64")
    x = tf.constant(rng.standard_normal((1, 3, 2, 4)))
    theory, numeric = tf.test.compute_gradient(layer, [x])
    np.testing.assert_allclose(theory[0], numeric[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "arguments, shape, message",
    [
        ({}, (None, 5), "`groups`"),
        ({}, (None, None), "channel axis"),
        (
            {"transform": [keras.layers.Dense(3), keras.layers.Dense(4)], "merge": "sum"},
            (None, 4),
            "`transform` cannot be merged by 'sum'",
        ),
        (
            {"transform": [keras.layers.Dense(3), keras.layers.Dense(4)], "merge": "shuffle"},
            (None, 4),
            "`transform` cannot be merged by 'shuffle'",
        ),
        (
            {"transform": [conv(2), conv(2, strides=2)]},
            (None, 6, 6, 4),
            "`transform` cannot be merged by 'concat'",
        ),
        (
            {"transform": tfconv.blocks.ChannelSplit(2)},
            (None, 8),
            "`transform` must be .*one output",
        ),
    ],
)
def test_bad_shapes(arguments, shape, message):
    arguments = {"transform": keras.layers.Dense(3), "groups": 2, **arguments}
    with pytest.raises(ValueError, match=f"{message}.*Received: "):
        tfconv.SplitTransformMerge(**arguments).build(shape)
