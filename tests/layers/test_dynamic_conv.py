"""DynamicConv1D, 2D, 3D and the annealing of their temperature."""

import doctest

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests import reference
from tests.ops.geometries import assert_numeric_gradients
from tfconv._compat import keras
from tfconv.callbacks import TemperatureAnnealing
from tfconv.testing import randomize


def built(x, **arguments):
    """A layer in float64 with random weights and temperature 2."""
    layer = tfconv.DynamicConv2D(
        6, 3, **{"num_experts": 3, "reduction_ratio": 2, "dtype": "float64", **arguments}
    )
    layer(x)
    randomize(layer)
    layer.set_temperature(2)
    return layer


def attention_by_hand(layer, x, temperature):
    w1, b1, w2, b2 = (np.asarray(w) for d in (layer.squeeze, layer.attend) for w in d.get_weights())
    logits = np.maximum(x.mean(axis=(1, 2)) @ w1 + b1, 0) @ w2 + b2
    powers = np.exp(logits / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def test_weights_have_the_documented_names():
    layer = tfconv.DynamicConv2D(5, 3, num_experts=2, use_bias=False)
    layer(tf.ones([1, 4, 4, 3]))
    assert tuple(layer.kernel.shape) == (2, 3 * 3 * 3 * 5)
    assert layer.bias is None


@pytest.mark.parametrize("execution", ["auto", "mix_kernels", "mix_outputs"])
@pytest.mark.parametrize("groups", [1, 2])
def test_by_hand(groups, execution, rng):
    x = rng.standard_normal((3, 6, 5, 4))
    layer = built(x, groups=groups, execution=execution)
    attention = attention_by_hand(layer, x, 2)
    kernels, biases = layer.get_weights()[:2]
    mixed = (attention @ kernels).reshape(3, 3, 3, 4 // groups, 6)
    expected = reference.per_example_conv(x, mixed, reference.window((6, 5), 3))
    expected += (attention @ biases)[:, None, None]
    np.testing.assert_allclose(layer(x), expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(layer.attention(x), attention, rtol=1e-10, atol=1e-10)


def test_attention_of_channels_first(rng):
    x = rng.standard_normal((2, 5, 4, 4))
    layer = built(x)
    first = tfconv.DynamicConv2D.from_config(
        {**layer.get_config(), "data_format": "channels_first"}
    )
    moved = np.moveaxis(x, -1, 1)
    first.build(moved.shape)
    first.set_weights(layer.get_weights())
    np.testing.assert_allclose(first.attention(moved), layer.attention(x), rtol=1e-10)


@pytest.mark.parametrize("temperature, spread", [(1e6, (0, 1e-5)), (1e-3, (0.99, 1))])
def test_extreme_temperatures(temperature, spread, rng):
    """A high one makes all kernels equal, a low one chooses one of them."""
    x = rng.standard_normal((4, 5, 5, 4))
    layer = built(x)
    layer.set_temperature(temperature)
    attention = layer.attention(x).numpy()
    np.testing.assert_allclose(attention.sum(axis=1), 1, rtol=1e-12)
    gaps = attention.max(axis=1) - attention.min(axis=1)
    assert (gaps >= spread[0]).all() and (gaps <= spread[1]).all()


def test_parameters():
    layer = tfconv.DynamicConv2D(32, 3, groups=2, num_experts=4, reduction_ratio=4)
    layer.build((None, 8, 8, 16))
    attention = 16 * 4 + 4 + 4 * 4 + 4
    assert layer.count_params() == 4 * (9 * 8 * 32 + 32) + attention + 1
    assert [w.shape == () for w in layer.non_trainable_weights] == [True]


def test_numeric_gradients(rng):
    x = rng.standard_normal((1, 2, 3, 4))
    layer = built(x, padding="same", groups=2)
    assert_numeric_gradients(layer, [x])


@pytest.mark.parametrize("execution", ["mix_kernels", "mix_outputs"])
@pytest.mark.parametrize("batch", [0, 1, 33])
def test_batches(batch, execution, rng):
    x = rng.standard_normal((batch, 5, 4, 4))
    layer = built(x, execution=execution)
    assert layer(x).shape == (batch, 3, 2, 6)
    alone = [layer(x[n : n + 1]) for n in range(batch)]
    if alone:
        np.testing.assert_allclose(layer(x), tf.concat(alone, 0), rtol=1e-10, atol=1e-10)


# The temperature.


def network(layer):
    """The layer inside a model inside a model."""
    inner = keras.Sequential([keras.Input((5, 4, 4)), layer])
    model = keras.Sequential([keras.Input((5, 4, 4)), inner, keras.layers.GlobalAveragePooling2D()])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


class Recorder(keras.callbacks.Callback):
    """What the compiled training step gives, which depends on the temperature."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.temperatures, self.losses = layer, [], []

    def on_epoch_end(self, epoch, logs=None):
        self.temperatures.append(float(self.layer.temperature))
        self.losses.append(logs["loss"])


def test_annealing(rng):
    layer = tfconv.DynamicConv2D(3, 3, num_experts=2, reduction_ratio=1)
    model = network(layer)
    randomize(model)
    recorder = Recorder(layer)
    x = rng.standard_normal((4, 5, 4, 4)).astype(np.float32)
    y = np.ones((4, 3), np.float32)
    callbacks = [TemperatureAnnealing(start=9, end=1, epochs=4), recorder]
    model.fit(x, y, epochs=6, batch_size=4, verbose=0, callbacks=callbacks)
    assert recorder.temperatures == [9, 7, 5, 3, 1, 1]
    # The learning rate is zero: only the temperature changes the loss of the compiled step.
    assert len({round(loss, 5) for loss in recorder.losses[:5]}) == 5
    assert recorder.losses[4] == pytest.approx(recorder.losses[5])
    for temperature, loss in zip((9, 1), (recorder.losses[0], recorder.losses[5])):
        layer.set_temperature(temperature)
        assert loss == pytest.approx(float(np.mean((model(x) - y) ** 2)), rel=1e-4)


def test_annealing_goes_on_where_training_does(rng):
    layer = tfconv.DynamicConv2D(3, 3)
    model = network(layer)
    x, y = np.ones((2, 5, 4, 4), np.float32), np.ones((2, 3), np.float32)
    annealing = TemperatureAnnealing(start=9, end=1, epochs=4)
    model.fit(x, y, initial_epoch=3, epochs=4, verbose=0, callbacks=[annealing])
    assert float(layer.temperature) == 3


def test_temperature_is_saved(tmp_path):
    layer = tfconv.DynamicConv2D(3, 3, temperature=30)
    model = network(layer)
    layer.set_temperature(2.5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").layers[0].layers[0]
    assert float(loaded.temperature) == 2.5
    assert layer.get_config()["temperature"] == 2.5


def test_configuration_has_the_temperature_of_loaded_weights():
    layers = [tfconv.DynamicConv2D(3, 3, temperature=value) for value in (2.5, 0.1)]
    for layer in layers:
        layer.build((None, 5, 5, 4))
    assert layers[1].get_config()["temperature"] == 0.1
    layers[1].set_weights(layers[0].get_weights())
    assert layers[1].get_config()["temperature"] == 2.5


def test_temperature_before_the_layer_is_built():
    layer = tfconv.DynamicConv2D(3, 3)
    layer.set_temperature(5)
    layer.build((None, 5, 5, 4))
    assert float(layer.temperature) == 5


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"start": 0}, "start"),
        ({"end": -1}, "end"),
        ({"end": None}, "end"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": 2.5}, "epochs"),
    ],
)
def test_bad_annealing(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}.*Received: "):
        TemperatureAnnealing(**arguments)


def test_annealing_needs_a_dynamic_convolution():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((2, 4)), np.ones((2, 1))
    with pytest.raises(ValueError, match="DynamicConv.*Received: "):
        model.fit(x, y, verbose=0, callbacks=[TemperatureAnnealing()])


def test_example_of_annealing():
    names = {"tf": tf, "tfconv": tfconv}
    test = doctest.DocTestParser().get_doctest(
        TemperatureAnnealing.__doc__, names, "TemperatureAnnealing", None, None
    )
    runner = doctest.DocTestRunner()
    runner.run(test)
    assert runner.tries and not runner.failures
