"""GatedConv1D, GatedConv2D and GatedConv3D."""

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests import reference
from tests.ops.geometries import Geometry, assert_close, gradients
from tfconv._compat import keras
from tfconv.testing import randomize

LAYERS = {1: tfconv.GatedConv1D, 2: tfconv.GatedConv2D, 3: tfconv.GatedConv3D}
GEOMETRIES = [
    Geometry((7,), 3, 2, "causal", 2),
    Geometry((5, 6), (3, 2), (2, 1), "same", (1, 2)),
    Geometry((6, 5), (2, 3), 2, ((1, 0), (2, 3)), 2),
    Geometry((3, 4, 3), (2, 1, 3), (1, 2, 1), "full"),
]
ACTIVATIONS = {
    "glu": ({}, lambda y: y),
    "elu": ({"gate": "feature"}, lambda y: np.where(y > 0, y, np.expm1(y))),
    "relu": ({"gate": "feature", "activation": "relu"}, lambda y: np.maximum(y, 0)),
}


def layer_of(geometry, groups=1, channels=4, **arguments):
    """A layer in float64 with the given geometry and random weights."""
    layer = LAYERS[len(geometry.sizes)](
        6,
        geometry.kernel_size,
        groups=groups,
        dtype="float64",
        **geometry.arguments,
        **arguments,
    )
    layer.build((None, *geometry.sizes, channels))
    randomize(layer)
    return layer


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("arguments, activation", ACTIVATIONS.values(), ids=list(ACTIVATIONS))
def test_by_hand(arguments, activation, geometry, groups, rng):
    layer = layer_of(geometry, groups, **arguments)
    x = rng.standard_normal((2, *geometry.sizes, 4))
    weights = {weight: getattr(layer, weight).numpy() for weight in ("kernel", "bias")}
    gate_kernel, gate_bias = layer.gate_kernel.numpy(), layer.gate_bias.numpy()
    features = reference.conv(x, weights["kernel"], geometry.window, groups) + weights["bias"]
    gates = sigmoid(reference.conv(x, gate_kernel, geometry.window, groups) + gate_bias)
    assert_close(layer.gates(x), gates)
    assert_close(layer(x), activation(features) * gates)


@pytest.mark.parametrize("gate", ["glu", "feature"])
def test_open_and_closed_gates(gate, rng):
    """Far from zero, the gates let everything through or nothing."""
    x = rng.standard_normal((2, 6, 5, 4)).astype(np.float32)
    layer = tfconv.GatedConv2D(3, 3, activation="linear", gate=gate)
    plain = keras.layers.Conv2D(3, 3)
    layer(x), plain.build(x.shape)
    plain.set_weights([layer.kernel.numpy(), layer.bias.numpy()])
    layer.gate_kernel.assign(tf.zeros_like(layer.gate_kernel))
    for bias, factor in ((100.0, 1), (-100.0, 0), (0.0, 0.5)):
        layer.gate_bias.assign(tf.fill([3], bias))
        np.testing.assert_allclose(layer(x), factor * plain(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changed", [0, 5, 11])
def test_causal_stacks_do_not_look_ahead(changed, rng):
    """Outputs depend on inputs up to their own time, and on those within reach."""
    model = keras.Sequential(
        [keras.Input((None, 3))]
        + [
            tfconv.GatedConv1D(4, 2, padding="causal", dilation_rate=rate, dtype="float64")
            for rate in (1, 2, 4)
        ]
    )
    x = rng.standard_normal((2, 12, 3))
    other = x.copy()
    other[:, changed] += 1
    differs = np.any(model(x).numpy() != model(other).numpy(), axis=(0, 2))
    reach = 8  # 1 + 1 + 2 + 4
    assert list(np.flatnonzero(differs)) == list(range(changed, min(changed + reach, 12)))


def test_causal_outputs_at_once_and_step_by_step(rng):
    layer = layer_of(Geometry((9,), 3, 1, "causal", 2))
    x = rng.standard_normal((1, 9, 4))
    for length in (1, 4, 9):
        assert_close(layer(x[:, :length]), layer(x)[:, :length])


def test_kernels_start_with_different_numbers():
    layer = tfconv.GatedConv2D(4, 3, kernel_initializer=keras.initializers.HeNormal(seed=1))
    layer.build((None, 5, 5, 4))
    assert not np.allclose(layer.kernel, layer.gate_kernel)
    assert layer.get_config()["kernel_initializer"]["config"]["seed"] == 1


@pytest.mark.parametrize("batch", [0, 1, 33])
def test_batches(batch, rng):
    x = rng.standard_normal((batch, 4, 3, 4))
    y, gradient = gradients(layer_of(Geometry((4, 3), 2)), [x])
    assert y.shape == (batch, 4, 3, 6)
    assert gradient.shape == x.shape


@pytest.mark.parametrize("arguments", [{}, {"gate": "feature", "activation": "tanh"}])
def test_numeric_gradients(arguments, rng):
    """For the input and, by differences, for every weight."""
    layer = layer_of(Geometry((3, 4), 2, 2, "same"), groups=2, **arguments)
    x = tf.constant(rng.standard_normal((1, 3, 4, 4)))
    theory, numeric = tf.test.compute_gradient(layer, [x])
    np.testing.assert_allclose(theory[0], numeric[0], rtol=1e-6, atol=1e-6)
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(tf.sin(layer(x)))
    slopes = tape.gradient(y, layer.trainable_weights)
    for variable, gradient in zip(layer.trainable_weights, slopes):
        value, direction = variable.numpy(), rng.standard_normal(variable.shape)
        sums = []
        for step in (1e-5, -1e-5):
            variable.assign(value + step * direction)
            sums.append(tf.reduce_sum(tf.sin(layer(x))))
        variable.assign(value)
        slope = np.sum(gradient * direction)
        assert abs(slope) > 1e-3
        np.testing.assert_allclose((sums[0] - sums[1]) / 2e-5, slope, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_data_types(dtype):
    layer = tfconv.GatedConv2D(4, 3, gate="feature", dtype=dtype)
    assert layer(tf.ones([2, 6, 6, 4], dtype)).dtype == tf.as_dtype(dtype)
