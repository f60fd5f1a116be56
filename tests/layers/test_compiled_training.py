"""Training compiled by XLA and not, in every precision, against float64."""

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv.ops import xla

pytestmark = pytest.mark.skipif(xla.missing() is not None, reason="TensorFlow has no XLA here")

LAYERS = {
    "CondConv2D": lambda dtype: tfconv.CondConv2D(4, 3, num_experts=3, dtype=dtype),
    "DynamicConv2D": lambda dtype: tfconv.DynamicConv2D(
        4, 3, num_experts=2, temperature=0.5, execution="mix_outputs", dtype=dtype
    ),
    "LocalSelfAttention2D": lambda dtype: tfconv.LocalSelfAttention2D(
        4, 3, num_heads=2, dtype=dtype
    ),
}
# Each policy rounds inputs and weights to a type. What that alone moves float64's outputs by is the
# unit of what may be lost: a layer of three stages (routing or attention, mixture, convolution)
# and its result are as many roundings again. float32 rounds its sums, of up to 60 terms, as well:
# about the root of that. Where XLA leaves out roundings that TensorFlow makes, and where not, it
# stays as near: the two differ from each other by as much as from float64.
PRECISIONS = {
    "float32": ("float32", 8),
    "mixed_float16": ("float16", 4),
    "mixed_bfloat16": ("bfloat16", 4),
}


def trained(name, policy, x, weights, target, compiled=False):
    """The outputs before each of three steps of gradient descent."""
    layer = LAYERS[name](policy)
    layer.build(x.shape)
    layer.set_weights(weights)
    variables = [getattr(v, "_value", v) for v in layer.trainable_variables]
    dtype = variables[0].dtype

    @tf.function(jit_compile=compiled)
    def step(x, target):
        with tf.GradientTape() as tape:
            y = tf.cast(layer(x), dtype)
            loss = tf.reduce_mean(tf.square(y - target))
        for variable, gradient in zip(variables, tape.gradient(loss, variables)):
            variable.assign_sub(0.1 * gradient)
        return y

    arguments = tf.cast(x, layer.compute_dtype), tf.cast(target, dtype)
    return [np.asarray(step(*arguments), np.float64) for _ in range(3)]


@pytest.mark.dear
@pytest.mark.parametrize("policy", PRECISIONS)
@pytest.mark.parametrize("name", LAYERS)
def test_training_loses_what_a_precision_does(name, policy, rng):
    x = rng.standard_normal((3, 6, 5, 4))
    layer = LAYERS[name]("float64")
    layer.build(x.shape)
    weights = [rng.normal(0, 0.3, w.shape) if w.ndim else w for w in layer.get_weights()]
    target = rng.standard_normal(layer(x).shape)
    dtype, most = PRECISIONS[policy]

    def rounded(values):
        return np.asarray(tf.cast(tf.cast(values, dtype), tf.float64))

    expected = trained(name, "float64", x, weights, target)
    of_rounded = trained(name, "float64", rounded(x), [rounded(w) for w in weights], target)
    assert np.linalg.norm(expected[-1] - expected[0]) > 0.01 * np.linalg.norm(expected[0])
    for compiled in (False, True):
        outputs = trained(name, policy, x, weights, target, compiled)
        for y, wanted, unit in zip(outputs, expected, of_rounded):
            lost = np.linalg.norm(y - wanted) / np.linalg.norm(unit - wanted)
            assert lost < most, f"{lost:.1f} times the rounding of inputs, {compiled=}"
