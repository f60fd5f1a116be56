"""fold_batchnorm: the same outputs with fewer layers, and what stays."""

from __future__ import annotations

import numpy as np
import pytest

import tfconv
from tfconv._compat import KERAS_3, all_layers, keras
from tfconv.surgery import Folded, fold_batchnorm

layers = keras.layers


def randomize(model, rng):
    """Gives a model's weights values as after training: normalizations that do something."""
    model.set_weights(
        [
            rng.uniform(0.5, 1.5, w.shape) if w.ndim == 1 else rng.normal(0, 0.3, w.shape)
            for w in model.get_weights()
        ]
    )


def norms(model):
    return [layer for layer in all_layers(model) if isinstance(layer, layers.BatchNormalization)]


def rows(model):
    """The folded model and what became of the normalizations."""
    found = []
    return fold_batchnorm(model, report=found.append), found


def difference(model, folded, *inputs):
    """The largest difference of the outputs, relative to the largest output."""
    x = inputs[0] if len(inputs) == 1 else list(inputs)
    expected, given = np.asarray(model(x)), np.asarray(folded(x))
    return np.max(np.abs(given - expected)) / np.max(np.abs(expected))


# A layer, the shape of its inputs, and the normalization's arguments.
FOLDED = {
    "Keras's Conv1D": (lambda **k: layers.Conv1D(6, 3, **k), (9, 4), {}),
    "Keras's Conv2D": (lambda **k: layers.Conv2D(6, (3, 2), **k), (6, 5, 4), {"scale": False}),
    "Keras's Conv3D": (lambda **k: layers.Conv3D(6, 2, **k), (4, 4, 4, 2), {"center": False}),
    "Keras's DepthwiseConv2D": (
        lambda **k: layers.DepthwiseConv2D(3, depth_multiplier=2, **k),
        (6, 5, 3),
        {},
    ),
    "Keras's SeparableConv2D": (lambda **k: layers.SeparableConv2D(6, 3, **k), (6, 5, 4), {}),
    "Keras's Conv2DTranspose": (
        lambda **k: layers.Conv2DTranspose(6, 3, strides=2, **k),
        (4, 5, 4),
        {"scale": False, "center": False},
    ),
    "Keras's Dense": (lambda **k: layers.Dense(6, **k), (5, 4), {}),
    "Conv2D": (lambda **k: tfconv.Conv2D(6, 3, padding="full", groups=2, **k), (6, 5, 4), {}),
    "Conv2D with bias": (lambda **k: layers.Conv2D(6, 2, **k), (6, 5, 4), {}),
    "channels first": (
        lambda **k: tfconv.Conv2D(6, 3, data_format="channels_first", **k),
        (4, 6, 5),
        {"axis": 1},
    ),
    "PointwiseConv2D": (lambda **k: tfconv.PointwiseConv2D(6, **k), (6, 5, 4), {"axis": 3}),
    "GroupConv2D": (lambda **k: tfconv.GroupConv2D(6, 3, groups=2, **k), (6, 5, 4), {}),
    "DepthwiseConv3D": (
        lambda **k: tfconv.DepthwiseConv3D(2, depth_multiplier=3, **k),
        (4, 4, 4, 2),
        {},
    ),
    "SeparableConv1D": (
        lambda **k: tfconv.SeparableConv1D(6, 3, depth_multiplier=2, **k),
        (8, 4),
        {},
    ),
    "Conv2DTranspose": (
        lambda **k: tfconv.Conv2DTranspose(6, 3, strides=2, groups=2, **k),
        (4, 5, 4),
        {},
    ),
    "FlattenedConv2D": (lambda **k: tfconv.FlattenedConv2D(6, 3, **k), (6, 5, 4), {}),
    "LowRankConv2D": (lambda **k: tfconv.LowRankConv2D(6, 3, kernel_rank=2, **k), (6, 5, 4), {}),
    "TuckerConv2D": (lambda **k: tfconv.TuckerConv2D(6, 3, ranks=2, **k), (6, 5, 4), {}),
    "LocallyConnected2D": (lambda **k: tfconv.LocallyConnected2D(6, 3, **k), (6, 5, 4), {}),
    "LocallyConnected1D": (lambda **k: tfconv.LocallyConnected1D(6, 3, **k), (8, 4), {}),
    "DeformableConv2D": (lambda **k: tfconv.DeformableConv2D(6, 3, **k), (6, 5, 4), {}),
    "DynamicConv1D": (lambda **k: tfconv.DynamicConv1D(6, 3, num_experts=3, **k), (8, 4), {}),
    "DynamicConv2D": (lambda **k: tfconv.DynamicConv2D(6, 3, num_experts=3, **k), (6, 5, 4), {}),
    "CondConv2D": (
        lambda **k: tfconv.CondConv2D(6, 3, num_experts=3, routing_activation="softmax", **k),
        (6, 5, 4),
        {},
    ),
    "DepthwiseCondConv2D": (
        lambda **k: tfconv.DepthwiseCondConv2D(
            3, depth_multiplier=2, num_experts=3, routing_activation="softmax", **k
        ),
        (6, 5, 3),
        {},
    ),
    "CondDense": (
        lambda **k: tfconv.CondDense(6, num_experts=3, routing_activation="softmax", **k),
        (4,),
        {},
    ),
}


# One for each shape of a bias, and each place among the weights: the others get one.
WITH_BIAS = {"Conv2D with bias", "SeparableConv1D", "LocallyConnected1D", "DynamicConv2D"}


@pytest.fixture(scope="module")
def folding():
    """All of them in one model: its outputs, the folded one's, that model, what was said."""
    rng = np.random.default_rng(1)
    inputs, outputs = [], []
    for name, (make, shape, arguments) in FOLDED.items():
        x = keras.Input(shape, dtype="float64")
        y = make(use_bias=name in WITH_BIAS, dtype="float64")(x)
        inputs.append(x)
        outputs.append(layers.BatchNormalization(**arguments, dtype="float64")(y))
    model = keras.Model(inputs, outputs)
    randomize(model, rng)
    before = model.get_weights()
    folded, found = rows(model)
    for given, expected in zip(model.get_weights(), before):
        np.testing.assert_array_equal(given, expected)
    values = [rng.standard_normal([2, *x.shape[1:]]) for x in inputs]
    return model(values), folded(values), folded, found


def test_outputs_are_the_same(folding):
    expected, given, *_ = folding
    errors = [np.max(np.abs(a - b)) / np.max(np.abs(a)) for a, b in zip(expected, given)]
    assert {name: e for name, e in zip(FOLDED, errors) if not e < 1e-12} == {}


def test_no_normalization_is_left(folding):
    *_, folded, found = folding
    assert len(found) == len(FOLDED)
    assert [str(row) for row in found if row.into is None] == []
    assert norms(folded) == []


def conv(name="c", **arguments):
    return layers.Conv2D(4, 3, padding="same", name=name, **arguments)


def norm(**arguments):
    return layers.BatchNormalization(name="n", **arguments)


def activated(x):
    return norm()(conv(activation="relu")(x))


def used_elsewhere(x):
    y = conv()(x)
    return norm()(y) + y


def output_too(x):
    y = conv()(x)
    return [norm()(y), y]


def shared_layer(x):
    layer = conv()
    return norm()(layer(layer(x)))


def shared_norm(x):
    layer = norm()
    return layer(conv("d")(layer(conv()(x))))


def other_axis(x):
    return norm(axis=1)(conv()(x))


def in_training(x):
    return norm()(conv()(x), training=True)


def in_model_in_training(x):
    inner = keras.Sequential([keras.Input((6, 6, 4)), conv(), norm()])
    return inner(x, training=True)


class Doubled(layers.BatchNormalization):
    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs, training=training)


class Doubling(layers.Conv2D):
    def call(self, inputs):
        return 2 * super().call(inputs)


STAYING = {
    "own normalization": (
        lambda x: Doubled(name="n")(conv()(x)),
        "its class Doubled may compute something else",
    ),
    "own layer": (
        lambda x: norm()(Doubling(4, 3, name="c")(x)),
        "c's class Doubling may compute something else",
    ),
    "another dtype": (
        lambda x: norm(dtype="float32")(conv(dtype="mixed_float16")(x)),
        "it computes in another dtype than c",
    ),
    "activation": (activated, "c has an activation"),
    "activity regularizer": (
        lambda x: norm()(conv(activity_regularizer="l2")(x)),
        "c has an activity regularizer",
    ),
    "used elsewhere": (used_elsewhere, "the outputs of c are used elsewhere too"),
    "output too": (output_too, "the outputs of c are used elsewhere too"),
    "shared layer": (shared_layer, "c is called several times"),
    "shared normalization": (shared_norm, "it is called several times"),
    "axis": (other_axis, "it normalizes other axes than the channels of c"),
    "training": (in_training, "it is called with training=True"),
    "a model in training": (in_model_in_training, "it is called with training=True"),
    "input": (lambda x: norm()(x), "an input before it has no kernel for it"),
    "no kernel": (
        lambda x: norm()(layers.ReLU(name="r")(x)),
        "r before it has no kernel for it",
    ),
    "gate": (
        lambda x: norm()(tfconv.GatedConv2D(4, 3, name="g")(x)),
        "g before it has no kernel for it",
    ),
    "shared kernel": (
        lambda x: norm()(tfconv.GroupConv2D(4, 3, groups=2, share_kernel=True, name="c")(x)),
        "the groups of c share a kernel",
    ),
    "sigmoid routing": (
        lambda x: norm()(tfconv.CondConv2D(4, 3, name="c")(x)),
        "the routing weights of c need not add up to 1",
    ),
}
if KERAS_3:
    STAYING["adapters"] = (
        lambda x: norm()(layers.Dense(4, lora_rank=2, name="c")(x)),
        "c has low-rank adapters",
    )


@pytest.mark.skipif(not KERAS_3, reason="Keras 2 does not quantize layers")
@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_quantized_layers_stay(mode, rng):
    """As they are: copies have their weights by name. What is in a layer counts, too."""
    inputs = keras.Input((6,))
    dense, gate = (
        layers.Dense(6, name="c"),
        tfconv.CondDense(6, num_experts=2, routing_activation="softmax"),
    )
    model = keras.Model(inputs, norm()(dense(layers.BatchNormalization()(gate(inputs)))))
    randomize(model, rng)
    for part in (dense, gate.routing):
        part.quantize(mode)
    folded, found = rows(model)
    assert found[-1] == Folded("n", None, "c is quantized")
    assert found[0].reason == f"{gate.name} is quantized"
    assert difference(model, folded, rng.standard_normal([2, 6]).astype(np.float32)) == 0


@pytest.mark.parametrize("name", list(STAYING))
def test_staying(name):
    make, reason = STAYING[name]
    inputs = keras.Input((6, 6, 4))
    model = keras.Model(inputs, make(inputs))
    folded, found = rows(model)
    assert set(found) == {Folded("n", None, reason)}
    assert len(norms(folded)) == 1
    for given, expected in zip(folded.get_weights(), model.get_weights()):
        np.testing.assert_array_equal(given, expected)


def test_models_inside(rng):
    inner = keras.Sequential([keras.Input((6, 6, 4)), conv(), norm(), layers.ReLU()])
    inputs = keras.Input((6, 6, 4))
    model = keras.Model(inputs, inner(inner(inputs)))
    randomize(model, rng)
    folded, found = rows(model)
    assert found == [Folded("n", "c")]
    assert [layer.name for layer in folded.layers[1].layers] == ["c", inner.layers[-1].name]
    assert difference(model, folded, rng.standard_normal([2, 6, 6, 4]).astype(np.float32)) < 1e-5


@pytest.mark.dear
def test_network(rng):
    """RedNet's convolutions take their normalizations in, its involutions cannot."""
    model = tfconv.models.RedNet26(include_top=False, input_shape=(32, 32, 3))
    for layer in norms(model):
        ranges = ((0.5, 1), (-0.1, 0.1), (-0.1, 0.1), (2, 4))  # gamma, beta, mean, variance
        layer.set_weights([rng.uniform(*r, w.shape) for r, w in zip(ranges, layer.get_weights())])
    folded, found = rows(model)
    involutions = [layer for layer in model.layers if isinstance(layer, tfconv.Involution2D)]
    staying = [row for row in found if row.into is None]
    assert len(found) == 31 and len(staying) == len(involutions) == 9
    inside = len(involutions)
    assert len(norms(folded)) == len(staying) + inside
    x = rng.standard_normal([2, 32, 32, 3]).astype(np.float32)
    assert difference(model, folded, x) < 1e-5
