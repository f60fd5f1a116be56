"""WeightedSum."""

import numpy as np
import pytest
import tensorflow as tf

import tfconv

WEIGHTS = np.array([0.5, -1.0, 2.0])
NORMALIZED = {
    None: WEIGHTS,
    "softmax": np.exp(WEIGHTS) / np.exp(WEIGHTS).sum(),
    "fast": np.array([0.5, 0.0, 2.0]) / 2.75,
}


def layer_of(normalization, count=3, **arguments):
    """A layer in float64 with the weights `WEIGHTS`."""
    layer = tfconv.WeightedSum(normalization, epsilon=0.25, dtype="float64", **arguments)
    layer.build([(None, 4, 2)] * count)
    layer.set_weights([WEIGHTS[:count]])
    return layer


@pytest.mark.parametrize("normalization", list(NORMALIZED), ids=str)
def test_by_hand(normalization, rng):
    inputs = rng.standard_normal((3, 5, 4, 2))
    layer = layer_of(normalization)
    np.testing.assert_allclose(layer.normalized_weights(), NORMALIZED[normalization], rtol=1e-12)
    expected = np.tensordot(NORMALIZED[normalization], inputs, 1)
    np.testing.assert_allclose(layer(list(inputs)), expected, rtol=1e-12)


@pytest.mark.parametrize("normalization, sums", [(None, 3), ("softmax", 1), ("fast", 3 / 3.0001)])
def test_starts_with_equal_weights(normalization, sums):
    y = tfconv.WeightedSum(normalization)([tf.ones([2, 3])] * 3)
    np.testing.assert_allclose(y, np.full([2, 3], sums), rtol=1e-6)


def test_fast_stays_finite_without_positive_weights():
    layer = tfconv.WeightedSum("fast")
    inputs = [tf.ones([2, 3])] * 2
    layer(inputs)
    layer.set_weights([-np.ones(2)])
    np.testing.assert_array_equal(layer(inputs), np.zeros([2, 3]))


@pytest.mark.parametrize("normalization", list(NORMALIZED), ids=str)
def test_gradients(normalization, rng):
    """Those of the inputs are the normalized weights; those of the weights, differences."""
    layer = layer_of(normalization)
    inputs = [tf.constant(x) for x in rng.standard_normal((3, 1, 4, 2))]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = tf.reduce_sum(layer(inputs))
    *of_inputs, of_weights = tape.gradient(y, [*inputs, *layer.trainable_weights])
    for gradient, weight in zip(of_inputs, NORMALIZED[normalization]):
        np.testing.assert_allclose(gradient, np.full([1, 4, 2], weight), rtol=1e-12)
    for number, step in enumerate(np.eye(3) * 1e-5):
        values = []
        for sign in (1, -1):
            layer.set_weights([WEIGHTS + sign * step])
            values.append(tf.reduce_sum(layer(inputs)))
        np.testing.assert_allclose(of_weights[number], (values[0] - values[1]) / 2e-5, rtol=1e-6)


@pytest.mark.parametrize("batch", [0, 1, 33])
def test_batches(batch):
    assert tfconv.WeightedSum()([tf.ones([batch, 3])] * 2).shape == (batch, 3)


def test_one_input():
    np.testing.assert_array_equal(tfconv.WeightedSum("softmax")([tf.ones([1, 2])]), [[1, 1]])
