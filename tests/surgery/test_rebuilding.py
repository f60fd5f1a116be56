"""rebuild: models of all kinds made anew, with the same outputs and nothing in common."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv._compat import KERAS_3, all_layers, keras, tree
from tfconv.surgery.rebuilding import rebuild

layers = keras.layers
IMAGES = np.random.default_rng(0).standard_normal([2, 6, 6, 3]).astype(np.float32)
TOKENS = np.array([[1, 2, 0, 3, 0], [4, 0, 0, 0, 0]])


def images(name=None):
    return keras.Input((6, 6, 3), name=name)


def several_inputs():
    """A shared layer, a shared model with a flag, operations between them, a dict of outputs."""
    first, second = images("first"), images("second")
    conv = layers.Conv2D(3, 3, padding="same", name="conv")
    inner = keras.Sequential([images(), conv, layers.BatchNormalization()], name="inner")
    x, y = inner(conv(first)), inner(second, training=False)
    x = (layers.Add()([x, y]) * 2.0 + 1.0)[:, 1:, :, :2]
    x = layers.Lambda(lambda t, factor: t * factor + len(IMAGES), arguments={"factor": 3.0})(x)
    return keras.Model([first, second], {"x": x, "y": y}), [IMAGES, IMAGES[::-1]]


def masks():
    """A mask, layers with several outputs and several inputs."""
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(10, 4, mask_zero=True)(inputs)
    x, h, c = layers.LSTM(4, return_state=True, return_sequences=True)(x)
    x = layers.MultiHeadAttention(2, 4)(x, x)
    return keras.Model(inputs, [x, h, c]), TOKENS


def built_late():
    model = keras.Sequential([layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(2)])
    model(IMAGES)
    return model, IMAGES


def adapted():
    """A layer that makes of its weights what it computes with."""
    normalization = layers.Normalization()
    normalization.adapt(IMAGES * 2 + 1)
    return keras.Sequential([images(), normalization]), IMAGES


def mixed_precision():
    inputs = images()
    x = layers.Conv2D(4, 3, dtype="mixed_bfloat16", kernel_regularizer="l2")(inputs)
    return keras.Model(inputs, layers.Activation("relu", dtype="float32")(x)), IMAGES


def doubled(x):
    return 2 * x


def own_functions():
    """Functions that Keras cannot find by their names."""
    conv = layers.Conv2D(4, 3, activation=doubled, kernel_regularizer=tf.nn.l2_loss)
    return keras.Sequential([images(), conv, layers.Activation(doubled)]), IMAGES


def dict_of_inputs():
    inputs = {"b": images("b"), "a": images("a")}
    x = layers.Concatenate()([inputs["a"], inputs["b"]])
    return keras.Model(inputs, layers.Dense(2)(x)), {"a": IMAGES, "b": -IMAGES}


def weights_of(model):
    return {id(weight) for weight in model.weights}


MODELS = [
    several_inputs,
    masks,
    built_late,
    adapted,
    mixed_precision,
    own_functions,
    dict_of_inputs,
]


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_copies(make):
    model, inputs = make()
    made = rebuild(model, lambda layer: None)
    for given, expected in zip(tree.flatten(made(inputs)), tree.flatten(model(inputs))):
        np.testing.assert_array_equal(given, expected)
    assert type(made) is type(model) and made.name == model.name
    assert [layer.name for layer in made.layers] == [layer.name for layer in model.layers]
    assert len(made.losses) == len(model.losses)
    assert not weights_of(made) & weights_of(model)
    assert not set(map(id, all_layers(made))) & set(map(id, all_layers(model)))


def test_trainable_flags():
    inner = keras.Sequential([images(), layers.Dense(2, name="a"), layers.Dense(2, name="b")])
    inputs = images()
    model = keras.Model(inputs, layers.Dense(2)(inner(inputs)))
    inner.trainable = False
    inner.layers[0].trainable = True
    made = rebuild(model, lambda layer: None)
    flags = [[layer.trainable for layer in all_layers(each)] for each in (model, made)]
    assert flags[0] == flags[1] and set(flags[0]) == {True, False}
    assert len(made.trainable_weights) == len(model.trainable_weights)


def test_a_subclass_keeps_what_it_changes():
    class Changed(keras.Model):
        def train_step(self, data):
            return {"loss": tf.constant(7.0)}

    inputs = images()
    made = rebuild(Changed(inputs, layers.Dense(2)(inputs)), lambda layer: None)
    made.compile()
    assert made.train_on_batch(IMAGES, IMAGES) == 7.0


def test_subclasses_of_sequential_models():
    class Changed(keras.Sequential):
        def train_step(self, data):
            return {"loss": tf.constant(7.0)}

    class Own(keras.Sequential):
        def __init__(self):
            super().__init__([images(), layers.Dense(2)])

    assert type(rebuild(Changed([images(), layers.Dense(2)]), lambda layer: None)) is Changed
    assert type(rebuild(Own(), lambda layer: None)) is keras.Sequential


def test_a_subclass_with_arguments_of_its_own_becomes_a_plain_model():
    class Scaled(keras.Model):
        def __init__(self, inputs, outputs, factor, **kwargs):
            super().__init__(inputs, outputs, **kwargs)

    inputs = images()
    made = rebuild(Scaled(inputs, layers.Dense(2)(inputs), 3.0), lambda layer: None)
    assert not isinstance(made, Scaled)
    assert made(IMAGES).shape == (2, 6, 6, 2)


def test_trainable_flags_inside_a_replaced_layer():
    layer = tfconv.CondConv2D(3, 1, num_experts=2, use_bias=False, name="conv")
    model = keras.Sequential([images(), layer])
    layer.routing.trainable = False
    made = rebuild(model, lambda old: type(old).from_config(old.get_config()))
    assert len(made.trainable_weights) == len(model.trainable_weights) == 1


def test_vocabularies():
    lookup = layers.StringLookup(name="lookup")
    lookup.adapt(["a", "b", "c", "a"])
    inputs = keras.Input((1,), dtype="string")
    model = keras.Model(inputs, lookup(inputs))
    made = rebuild(model, lambda layer: None)
    words = tf.constant([["a"], ["c"], ["never seen"]])
    np.testing.assert_array_equal(made(words), model(words))


def chain():
    inputs = images()
    x = layers.BatchNormalization(name="norm")(inputs, training=False)
    return keras.Model(inputs, layers.Dense(2, name="dense")(x))


def in_a_row():
    return keras.Sequential([images(), *chain().layers[1:]])


def nested():
    inputs = images()
    return keras.Model(inputs, in_a_row()(inputs))


@pytest.mark.parametrize("make", [chain, in_a_row, nested], ids=lambda make: make.__name__)
def test_layers_are_removed_and_put_in_a_row(make):
    finished = {}

    def new_layer(layer):
        if layer.name == "norm":
            return []
        if layer.name == "dense":
            return [layers.Dense(5, name="first"), layers.Dense(2, name="dense")]
        return None

    made = rebuild(make(), new_layer, lambda old, new: finished.update({old.name: len(new)}))
    assert finished == {"norm": 0, "dense": 2}
    names = {layer.name for layer in all_layers(made)}
    assert {"first", "dense"} <= names and "norm" not in names
    assert made(IMAGES).shape == (2, 6, 6, 2)


def test_flags_of_calls_that_a_new_layer_does_not_take():
    made = rebuild(chain(), lambda layer: layers.ReLU() if layer.name == "norm" else None)
    assert [type(layer) for layer in made.layers[1:]] == [layers.ReLU, layers.Dense]


def test_a_shared_layer_is_replaced_once():
    shared = layers.Dense(3, name="shared")
    inputs = images()
    inner = keras.Sequential([images(), shared])
    asked = []

    def new_layer(layer):
        asked.append(layer.name)
        return layers.Dense(3, use_bias=False, name="new") if layer is shared else None

    made = rebuild(keras.Model(inputs, inner(shared(shared(inputs)))), new_layer)
    assert asked.count("shared") == 1
    assert [weight.shape for weight in made.weights] == [(3, 3)]


class Subclassed(keras.Model):
    def call(self, x):
        return x


class OwnCall(keras.Model):
    def __init__(self):
        inputs = images()
        super().__init__(inputs, layers.Dense(2)(inputs))

    def call(self, inputs, training=None, mask=None):
        return -super().call(inputs)


def with_added_loss():
    model = chain()
    model.add_loss(tf.reduce_mean(model.output))
    return model


REFUSED = [
    lambda: Subclassed(),
    lambda: OwnCall(),
    lambda: keras.Sequential([layers.Dense(2)]),
    lambda: layers.Dense(2),
    *([] if KERAS_3 else [with_added_loss]),  # Keras 3 has no such losses
]


@pytest.mark.parametrize("make", REFUSED)
def test_refused(make):
    with pytest.raises(ValueError, match="must be a functional model.*Received: model="):
        rebuild(make(), lambda layer: None)


def test_an_error_names_the_layer():
    for model in (chain(), in_a_row()):
        with pytest.raises(ValueError, match=r"'dense' \(Dense\) cannot be replaced with Conv1D"):
            rebuild(model, lambda old: layers.Conv1D(2, 9) if old.name == "dense" else None)


class NoConfig(layers.Layer):
    def __init__(self, width):
        super().__init__(name="mine")

    def get_config(self):
        return {"name": "mine"}

    def call(self, inputs):
        return inputs


def test_an_error_names_a_layer_that_cannot_be_copied():
    model = keras.Sequential([images(), layers.Dense(2, name="dense"), NoConfig(3)])

    def new_layer(layer):
        return layers.Dense(2, name="dense") if layer.name == "dense" else None

    expected = r"(?s)has the layer 'mine' \(NoConfig\), which cannot be made .*Received: model with"
    with pytest.raises(ValueError, match=expected):
        rebuild(model, new_layer)
