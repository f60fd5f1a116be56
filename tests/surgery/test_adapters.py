"""Layers with low-rank adapters of their own: surgery takes the kernel in force, or refuses."""

import functools

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv._compat import KERAS_3, keras
from tfconv.surgery import Folded, factorize, fold_batchnorm, load_torch_weights, replace
from tfconv.testing import randomize

pytestmark = pytest.mark.skipif(not KERAS_3, reason="Keras 2 has no adapters")
experts = functools.partial(functools.partial, num_experts=2)
# Layers, and what can stand in their places with the same kernel.
LAYERS = {
    "Conv2D": (
        lambda: tfconv.Conv2D(4, 3, name="c"),
        [tfconv.Conv2D, tfconv.DeformableConv2D, experts(tfconv.CondConv2D)],
    ),
    "Conv2DTranspose": (
        lambda: tfconv.Conv2DTranspose(4, 3, name="c"),
        [tfconv.Conv2DTranspose],
    ),
    "DepthwiseConv2D": (
        lambda: tfconv.DepthwiseConv2D(3, name="c"),
        [tfconv.DepthwiseConv2D, experts(tfconv.DepthwiseCondConv2D)],
    ),
    "PointwiseConv2D": (lambda: tfconv.PointwiseConv2D(4, name="c"), [tfconv.PointwiseConv2D]),
    "GroupConv2D": (lambda: tfconv.GroupConv2D(4, 3, groups=2, name="c"), [tfconv.GroupConv2D]),
    "LocallyConnected2D": (
        lambda: tfconv.LocallyConnected2D(4, 3, name="c"),
        [tfconv.LocallyConnected2D],
    ),
    "DeformableConv2D": (
        lambda: tfconv.DeformableConv2D(4, 3, name="c"),
        [tfconv.DeformableConv2D],
    ),
    "CondConv2D": (lambda: tfconv.CondConv2D(4, 3, num_experts=2, name="c"), []),
    "CondDense": (lambda: tfconv.CondDense(4, num_experts=2, name="c"), []),
}
over_layers = pytest.mark.parametrize("name", LAYERS)


def adapted(layer, *after, shape=(6, 6, 4)):
    """A model with a layer whose adapters have been trained, and the input of its outputs."""
    model = keras.Sequential([keras.Input(shape), layer, *after])
    layer.enable_lora(2)
    randomize(model)
    assert np.abs(np.asarray(layer.lora_kernel_b)).max() > 0.1
    x = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    return model, x


def assert_same(found, expected):
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@over_layers
def test_fold_batchnorm(name):
    found = []
    norm = keras.layers.BatchNormalization(name="n")
    model, x = adapted(LAYERS[name][0](), norm)
    folded = fold_batchnorm(model, report=found.append)
    assert found == [Folded("n", None, "c has low-rank adapters")]
    np.testing.assert_array_equal(folded(x), model(x))


@pytest.mark.parametrize("name", [name for name, (_, classes) in LAYERS.items() if classes])
def test_replace(name):
    make, classes = LAYERS[name]
    model, x = adapted(make())
    for rule in classes:
        said = []
        made = replace(model, {"c": rule}, report=said.append)
        assert said[0].kept
        assert_same(made(x), model(x))


@over_layers
def test_copies(name):
    """In the new models of surgery: with their adapters, which are trained on."""
    model, x = adapted(LAYERS[name][0](), keras.layers.Conv2D(2, 1, name="head"))
    made = replace(model, {"head": tfconv.Conv2D})
    assert made.get_layer("c").lora_enabled
    assert len(made.trainable_weights) == len(model.trainable_weights)
    assert_same(made(x), model(x))


def test_factorize():
    layer = tfconv.Conv2D(32, 3, name="c")
    model, x = adapted(layer)
    merged = tfconv.Conv2D(32, 3, name="c")
    plain = keras.Sequential([keras.Input(x.shape[1:]), merged])
    merged.set_weights([np.asarray(layer.kernel), np.asarray(layer.bias)])
    made, expected = (factorize(each, "separable", rank=2) for each in (model, plain))
    assert type(made.get_layer("c")) is tfconv.SeparableConv2D
    assert_same(made(x), expected(x))


@over_layers
def test_load_torch_weights(name):
    model, _ = adapted(LAYERS[name][0]())
    before = model.get_weights()
    with pytest.raises(ValueError, match="The layer 'c' of `model` .*adapters.*Received: "):
        load_torch_weights(model, {"c.bias": np.zeros(4, np.float32)})
    for value, old in zip(model.get_weights(), before):
        np.testing.assert_array_equal(value, old)


def test_in_a_layer():
    """An adapter of a layer inside counts as its own."""
    layer = tfconv.SqueezeExcite(reduction_ratio=2, name="c")
    model = keras.Sequential([keras.Input((6, 6, 4)), layer])
    layer.excite.enable_lora(1)
    randomize(model)
    with pytest.raises(ValueError, match="The layer 'c' of `model` .*adapters"):
        load_torch_weights(model, {"c.conv_reduce.bias": np.zeros(2, np.float32)})
    x = tf.random.normal([2, 6, 6, 4])
    inputs = keras.Input((6, 6, 4))
    longer = keras.Model(inputs, keras.layers.ReLU(name="r")(model(inputs)))
    made = replace(longer, {"r": lambda old: keras.layers.Activation("linear", name="r")})
    assert_same(made(x), model(x))
