"""No layer is left out, and each goes through every check."""

import inspect

import pytest
import tensorflow as tf

import tfconv
from tfconv._compat import keras
from tfconv.catalog import family_name
from tfconv.testing import CHECKS, check_layer, layer_case, layer_cases

OF_OTHERS = {"tensorflow lite"}  # tests/export/test_tflite_formats.py has it for every family

RUNS = [
    pytest.param(
        case,
        check,
        id=f"{number}-{case.layer_class.__name__}-{check.run.__name__}",
        marks=()
        if check.name in OF_OTHERS
        else pytest.mark.kind(family_name(case.layer_class.__name__), check.name),
    )
    for number, case in enumerate(layer_cases())
    for check in CHECKS
]


@pytest.mark.dear
@pytest.mark.parametrize("case, check", RUNS)
def test_checks(case, check):
    if check.applies(case):
        check(case)


@pytest.mark.parametrize("name", tfconv.layers.__all__)
def test_is_checked(name):
    assert getattr(tfconv.layers, name) in {case.layer_class for case in layer_cases()}


@pytest.mark.parametrize("name", tfconv.layers.__all__)
def test_stands_at_top_level(name):
    assert getattr(tfconv, name) is getattr(tfconv.layers, name)
    assert name in tfconv.__all__


@pytest.mark.parametrize("name", tfconv.layers.__all__)
def test_arguments_of_calls_are_described(name):
    layer_class = getattr(tfconv, name)
    _, section = f"{layer_class.__doc__}\nCall arguments:".split("\nCall arguments:", 1)
    _, inputs, *others = inspect.signature(layer_class.call).parameters
    assert f"\n    {inputs}: " in section or "\nInput shape: " in layer_class.__doc__
    for argument in others:
        assert f"\n    {argument}: " in section, argument


@keras.utils.register_keras_serializable("own")
class Scale(keras.layers.Layer):
    """A layer of a user's own."""

    def build(self, input_shape):
        self.scale = self.add_weight(name="scale", shape=(input_shape[-1],), initializer="ones")
        self.built = True

    def call(self, inputs):
        return inputs * tf.cast(tf.convert_to_tensor(self.scale), inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape


def test_layers_of_users_without_native_ops():
    """All but the comparison with them, which the layers of these tests do go through."""
    (compared,) = [check for check in CHECKS if check.name == "implementations"]
    case = layer_case(Scale, (2, 3))
    assert compared.applies(case)
    with tfconv.portable():
        assert not compared.applies(case)
        for layer_class in (Scale, keras.layers.LayerNormalization):  # the other is in float32
            check_layer(layer_class, (2, 3))
