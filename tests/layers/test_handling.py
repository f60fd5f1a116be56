"""What users and Keras do with layers beside calling and saving them: every layer takes it."""

import copy

import numpy as np
import pytest
import tensorflow as tf

from tfconv._compat import KERAS_3, keras
from tfconv.testing import assert_same, layer_cases, randomize

# The first case of each layer, and of each that is given more than one input.
CASES = {
    f"{case.layer_class.__name__}{'-given' * bool(case.extra)}": case
    for case in reversed(layer_cases())
}
over_cases = pytest.mark.parametrize("name", sorted(CASES))
keras_3 = pytest.mark.skipif(not KERAS_3, reason="Keras 2 has none of it")


def tensors(case, batch=2):
    return {name: tf.constant(array) for name, array in case.arrays(batch).items()}


def built(case):
    layer = case.built(case.layer())
    randomize(layer)
    return layer


@over_cases
def test_without_its_activation(name):
    """None is taken for none, as in Keras's layers: so one looks at logits."""
    case = CASES[name]
    layer = built(case)
    if not hasattr(layer, "activation"):
        return
    layer.activation = keras.activations.linear
    expected = case.called(layer, tensors(case))
    layer.activation = None
    assert_same(case.called(layer, tensors(case)), expected, 1e-6)


@pytest.mark.parametrize("name", ["Conv2D", "CondConv2D", "DeformableConv2D", "SelfAttention2D"])
def test_attributes_of_subclasses(name):
    """Names that users are likely to take are none of ours."""
    case = CASES[name]

    class Own(case.layer_class):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.add, self.norm = keras.layers.Add(), keras.layers.LayerNormalization()
            self.scale, self.mask, self.conv = 2.0, None, None

        def build(self, input_shape):
            super().build(input_shape)
            self.weight = self.add_weight(name="weight", shape=(), initializer="ones")

        def call(self, inputs):
            return super().call(inputs) * tf.cast(tf.convert_to_tensor(self.weight), inputs.dtype)

    layer = Own(**case.kwargs)
    plain = built(case)
    case.built(layer)
    others = [weight for weight in layer.weights if weight is not layer.weight]
    for weight, value in zip(others, plain.weights):
        weight.assign(value)
    assert_same(case.called(layer, tensors(case)), case.called(plain, tensors(case)), 1e-6)


@over_cases
def test_copied(name):
    case = CASES[name]
    new, layer = case.layer(), built(case)
    assert copy.deepcopy(new).get_config() == new.get_config()
    twin = copy.deepcopy(layer)
    assert_same(case.called(twin, tensors(case)), case.called(layer, tensors(case)), 1e-6)
    for weight in twin.weights:
        weight.assign(tf.zeros_like(weight))
    assert all(np.any(weight) for weight in layer.weights)


@keras_3
@over_cases
def test_stateless(name):
    """With the weights as arguments: outputs and losses by those, and nothing else changes."""
    case = CASES[name]
    layer = built(case)
    before = [weight.numpy() for weight in layer.variables]
    weights = [weight.value + 0.1 for weight in layer.trainable_variables]
    others = [weight.value for weight in layer.non_trainable_variables]
    given = tensors(case)
    arguments = [list(given.values())] if case.as_list else [given.pop("x")]
    arguments = [weights, others, *arguments]
    more = {} if case.as_list else given
    y, _, losses = layer.stateless_call(*arguments, return_losses=True, **more)
    if "training" in layer.call_signature_parameters:
        layer.stateless_call(*arguments, training=True, **more)
    for weight, old in zip(layer.variables, before):
        np.testing.assert_array_equal(weight, old)
    for weight, value in zip(layer.trainable_variables, weights):
        weight.assign(value)
    assert_same(y, case.called(layer, tensors(case)), 1e-5)
    assert_same(np.sum(list(map(float, losses))), np.sum(list(map(float, layer.losses))), 1e-5)
