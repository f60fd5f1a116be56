"""CondDense."""

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv._compat import keras
from tfconv.testing import randomize


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7)])
def test_by_hand(shape, rng):
    layer = tfconv.CondDense(4, num_experts=3, dtype="float64")
    x = rng.standard_normal((3, *shape))
    layer(x)
    randomize(layer)
    kernels, biases, routing_kernel, routing_bias = layer.get_weights()
    for n in range(3):
        mean = x[n].reshape(-1, 7).mean(axis=0)
        routing = 1 / (1 + np.exp(-(mean @ routing_kernel + routing_bias)))
        expected = x[n] @ (routing @ kernels).reshape(7, 4) + routing @ biases
        np.testing.assert_allclose(layer(x)[n], expected, rtol=1e-10, atol=1e-10)


def test_one_expert_is_plain_dense(rng):
    x = rng.standard_normal((3, 5, 7)).astype(np.float32)
    layer, plain = tfconv.CondDense(4, num_experts=1), keras.layers.Dense(4)
    layer(x, np.ones((3, 1)))
    plain.build(x.shape)
    kernel, bias = layer.get_weights()
    plain.set_weights([kernel.reshape(7, 4), bias[0]])
    np.testing.assert_allclose(layer(x, np.ones((3, 1))), plain(x), rtol=1e-4, atol=1e-5)


def test_experts_differ_and_are_initialised_as_a_plain_kernel():
    layer = tfconv.CondDense(64, num_experts=3)
    layer.build((None, 48))
    values = layer.get_weights()[0]
    np.testing.assert_allclose(values.std(axis=1), np.sqrt(2 / (64 + 48)), rtol=0.05)
    assert np.abs(np.corrcoef(values) - np.eye(3)).max() < 0.1


def test_given_routing_leaves_no_routing_weights():
    layer = tfconv.CondDense(4, num_experts=3)
    layer(tf.ones([2, 7]), tf.ones([2, 3]))
    assert [tuple(w.shape) for w in layer.weights] == [(3, 28), (3, 4)]
    with pytest.raises(ValueError, match="`routing_weights` given.*Received: routing_weights=None"):
        layer(tf.ones([2, 7]))
