"""The fused batch normalization against Keras's own."""

import numpy as np
import pytest
import tensorflow as tf

from tfconv import _compat
from tfconv._compat import keras
from tfconv.blocks import BatchNormalization

SHAPE = (3, 5, 7, 6)


def pair(shape=SHAPE, **arguments):
    """Ours and Keras's with the same random weights."""
    rng = np.random.default_rng(0)
    layers = BatchNormalization(**arguments), keras.layers.BatchNormalization(**arguments)
    for layer in layers:
        layer.build(shape)
    weights = [rng.uniform(0.5, 1.5, weight.shape) for weight in layers[0].get_weights()]
    for layer in layers:
        layer.set_weights(weights)
    return layers


def images(shape=SHAPE, dtype=np.float32):
    return np.random.default_rng(1).standard_normal(shape).astype(dtype)


def operations(layer, x, **arguments):
    """Types of what a layer does in a graph."""
    graph = tf.function(lambda x: layer(x, **arguments)).get_concrete_function(x).graph
    return [operation.type for operation in graph.get_operations()]


@pytest.mark.parametrize(
    "arguments", [{}, {"scale": False}, {"center": False}, {"epsilon": 1e-7, "axis": 3}]
)
def test_is_keras_layer(arguments):
    ours, keras_own = pair(**arguments)
    x = tf.constant(images())
    assert "FusedBatchNormV3" in operations(ours, x)
    for training in (False, None):
        np.testing.assert_allclose(
            ours(x, training=training), keras_own(x, training=training), rtol=2e-6, atol=2e-6
        )


@pytest.mark.parametrize("training, rtol, atol", [(False, 1e-4, 1e-3), (True, 1e-3, 1e-2)])
def test_gradients_of_first_and_second_order(training, rtol, atol):
    results = []
    for layer in pair():
        x = tf.constant(images())
        with tf.GradientTape() as second:
            second.watch(x)
            with tf.GradientTape() as first:
                first.watch(x)
                y = tf.reduce_sum(layer(x, training=training) ** 3)
            dx, *dweights = first.gradient(y, [x, *layer.trainable_variables])
            norm = tf.reduce_sum(dx**2)
        results.append([dx, *dweights, second.gradient(norm, x)])
    for ours, expected in zip(*results):
        np.testing.assert_allclose(ours, expected, rtol=rtol, atol=atol)


def trained(layer, x, upstream):
    """What a layer gives in training: outputs, gradients, moving averages."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    weights = layer.trainable_variables
    return [y, *tape.gradient(y, [x, *weights], upstream), *layer.non_trainable_variables]


@pytest.mark.parametrize("shape", [SHAPE, (3, 9, 6), (2, 3, 4, 5, 6), (1, 1, 1, 6)], ids=str)
@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-5), ("mixed_bfloat16", 2e-2)])
def test_training_is_keras_own(shape, dtype, tolerance):
    """The moving variance included, which TensorFlow's op gives as that of a sample."""
    results = []
    for layer in pair(shape, momentum=0.7, dtype=dtype):
        x, upstream = (tf.cast(2 + images(shape), layer.compute_dtype) for _ in range(2))
        results.append(trained(layer, x, upstream))
    if _compat.KERAS_3:
        ours = pair(shape, dtype=dtype)[0]
        assert "FusedBatchNormV3" in operations(ours, x, training=True)
    for mine, expected in zip(*results):
        bound = tolerance if expected.dtype == "bfloat16" else 2e-5 if dtype == "float32" else 1e-3
        mine, expected = (np.asarray(tf.cast(tensor, tf.float64)) for tensor in (mine, expected))
        scale = max(1, np.abs(expected).max())
        np.testing.assert_allclose(mine, expected, atol=bound * scale, rtol=0)


@pytest.mark.skipif(not _compat.KERAS_3, reason="Keras 2 has rules of its own for the fused op")
@pytest.mark.parametrize(
    "arguments, masked",
    [
        ({"axis": 1}, False),
        ({"dtype": "mixed_float16"}, False),
        ({"dtype": "float64"}, False),
        ({"epsilon": 0.0}, False),
        ({"synchronized": True}, False),
        ({}, True),
    ],
    ids=str,
)
def test_training_that_is_computed_as_keras_does(arguments, masked):
    given = {"mask": tf.constant(images(SHAPE[:-1]) > 0)} if masked else {}
    ours, keras_own = pair(**arguments)
    x = tf.cast(images(), ours.compute_dtype)
    assert "FusedBatchNormV3" not in operations(ours, x, training=True, **given)
    ours, keras_own = pair(**arguments)
    results = [layer(x, training=True, **given) for layer in (ours, keras_own)]
    np.testing.assert_array_equal(*(tf.cast(y, tf.float64) for y in results))


@pytest.mark.parametrize("arguments", [{"scale": False}, {"center": False}], ids=str)
def test_training_without_a_weight(arguments):
    ours, keras_own = pair(**arguments)
    x = tf.constant(images())
    for mine, expected in zip(trained(ours, x, x), trained(keras_own, x, x)):
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_batches_of_unknown_size_in_training(rank):
    """Also of none, which leave the moving averages."""
    shape = (3, *range(4, 4 + rank), 6)
    ours, keras_own = pair(shape)
    call = tf.function(
        lambda x: ours(x, training=True),
        input_signature=[tf.TensorSpec([None] * (rank + 1) + [6])],
    )
    x = images(shape)
    np.testing.assert_allclose(call(x), keras_own(x, training=True), rtol=1e-5, atol=1e-5)
    before = ours.get_weights()
    assert call(x[:0]).shape == (0, *shape[1:])
    for now, then, expected in zip(ours.get_weights(), before, keras_own.get_weights()):
        np.testing.assert_array_equal(now, then)
        np.testing.assert_allclose(now, expected, rtol=1e-5, atol=1e-5)


def test_frozen_layers_use_the_moving_averages_in_training():
    ours, keras_own = pair()
    ours.trainable = keras_own.trainable = False
    x = tf.constant(images())
    expected = keras_own(x, training=False)
    np.testing.assert_allclose(ours(x, training=True), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    "shape, arguments",
    [
        ((3, 5, 6), {}),
        ((2, 3, 4, 5, 6), {}),
        ((3, 6), {}),
        ((3, 6, 5, 7), {"axis": 1}),
        (SHAPE, {"axis": 2}),
        (SHAPE, {"dtype": "float64"}),
        (SHAPE, {"dtype": "mixed_float16"}),
        (SHAPE, {"epsilon": 0.0}),
    ],
    ids=str,
)
def test_all_else_is_computed_as_keras_does(shape, arguments):
    ours, keras_own = pair(shape, **arguments)
    x = tf.constant(images(shape))
    if _compat.KERAS_3:  # Keras 2 has rules of its own for the fused op
        assert "FusedBatchNormV3" not in operations(ours, x)
    result, expected = ours(x), keras_own(x)
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(tf.cast(result, tf.float64), tf.cast(expected, tf.float64))


def test_bfloat16():
    ours, keras_own = pair(dtype="mixed_bfloat16")
    x = tf.cast(images(), tf.bfloat16)
    if _compat.KERAS_3:
        assert "FusedBatchNormV3" in operations(ours, x)
    result, expected = ours(x), keras_own(x)
    assert result.dtype == expected.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(result, "float32"), tf.cast(expected, "float32"), rtol=1e-2)


def test_no_images_and_unknown_sizes():
    ours, keras_own = pair()
    assert ours(images()[:0]).shape == (0, *SHAPE[1:])
    inputs = keras.Input((None, None, 6))
    model = keras.Model(inputs, ours(inputs))
    for size in (1, 4):
        x = images((2, size, size + 2, 6))
        np.testing.assert_allclose(model(x), keras_own(x), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("training", [False, True])
def test_compiled(training):
    ours, keras_own = pair()
    compiled = tf.function(ours, jit_compile=True)
    x = tf.constant(images())
    expected = keras_own(x, training=training)
    np.testing.assert_allclose(compiled(x, training=training), expected, rtol=1e-5, atol=1e-5)
    for mine, weight in zip(ours.get_weights(), keras_own.get_weights()):
        np.testing.assert_allclose(mine, weight, rtol=1e-5, atol=1e-5)


def test_values_that_are_not_finite_stay_in_their_channel():
    ours, keras_own = pair()
    x = images()
    x[0, 0, 0, 1], x[1, 2, 3, 4] = np.nan, -np.inf
    result, expected = np.asarray(ours(x)), np.asarray(keras_own(x))
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(result), np.isinf(expected))


def test_a_saved_model_has_it_again(tmp_path):
    ours, _ = pair(momentum=0.8, epsilon=1e-5)
    inputs = keras.Input(SHAPE[1:])
    model = keras.Model(inputs, ours(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    layer = loaded.layers[-1]
    assert type(layer) is BatchNormalization
    assert (layer.momentum, layer.epsilon) == (0.8, 1e-5)
    np.testing.assert_array_equal(loaded(images()), model(images()))


def test_training_may_be_a_tensor():
    """Under Keras 2; Keras 3 takes none."""
    if _compat.KERAS_3:
        pytest.skip("Keras 3 takes Python's own")
    ours, keras_own = pair()
    step = tf.function(lambda x, training: ours(x, training=training))
    x = tf.constant(images())
    for training in (True, False):
        expected = keras_own(x, training=training)
        np.testing.assert_allclose(step(x, tf.constant(training)), expected, rtol=1e-5, atol=1e-5)
