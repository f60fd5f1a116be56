"""Conv1D, Conv2D and Conv3D."""

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests import recorded, reference
from tests.ops.geometries import assert_close, assert_numeric_gradients, gradients
from tfconv._compat import keras
from tfconv.testing import randomize

LAYERS = {1: tfconv.Conv1D, 2: tfconv.Conv2D, 3: tfconv.Conv3D}


@pytest.mark.parametrize("number", range(len(recorded.cases("conv_nd"))))
def test_recorded_cases(number):
    case = recorded.cases("conv_nd")[number]
    layer = LAYERS[case.nd](
        len(case.bias),
        case.weight.shape[: case.nd],
        strides=case.stride,
        padding=case.padding,
        dilation_rate=case.dilation,
        groups=case.groups,
        data_format="channels_last",
        dtype="float64",
    )
    x = tf.constant(case.x, tf.float64)
    layer.build(x.shape)
    layer.set_weights([case.weight, case.bias])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    actual = [
        y,
        *tape.gradient(y, [x, *layer.trainable_weights], tf.constant(case.grad_out, y.dtype)),
    ]
    for name, value in zip(["out", "grad_x", "grad_weight", "grad_bias"], actual):
        np.testing.assert_allclose(value, getattr(case, name), rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("rank", LAYERS)
def test_by_hand(rank, rng):
    layer = LAYERS[rank](
        6, 3, 2, "same", "channels_last", 2, 2, "relu", dtype="float64"
    )  # the order of Keras's arguments
    x = rng.standard_normal((2, 7, 6, 5, 4)[: rank + 1] + (4,))
    layer(x)
    randomize(layer)
    kernel, bias = layer.get_weights()
    window = reference.window(x.shape[1:-1], 3, 2, "same", 2)
    assert_close(layer(x), np.maximum(reference.conv(x, kernel, window, 2) + bias, 0))


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4])
@pytest.mark.parametrize("dilation_rate", [1, 2])
@pytest.mark.parametrize("rank", LAYERS)
def test_valid_and_same_are_crops_of_full(rank, dilation_rate, kernel_size, rng):
    """Where the kernel reaches r pixels, "full" gives n + r outputs. The n of "same" begin at
    its output r - floor(r / 2), the n - r of "valid" at its output r."""
    size, reach = 7, (kernel_size - 1) * dilation_rate
    x = rng.standard_normal((2, *[size] * rank, 3))
    full = LAYERS[rank](2, kernel_size, 1, "full", dilation_rate=dilation_rate, dtype="float64")
    y = full(x)
    assert y.shape[1:-1] == (size + reach,) * rank
    for padding, first, count in (
        ("same", reach - reach // 2, size),
        ("valid", reach, size - reach),
    ):
        layer = LAYERS[rank].from_config({**full.get_config(), "padding": padding})
        layer.build(x.shape)
        layer.set_weights(full.get_weights())
        crop = (slice(None), *[slice(first, first + count)] * rank)
        assert_close(layer(x), y[crop])


@pytest.mark.parametrize("kernel_size", [2, 3, 4, 5])
def test_anchor_of_even_kernels(kernel_size):
    """A kernel whose only tap is (k - 1) // 2 gives its input back."""
    layer = tfconv.Conv1D(1, kernel_size, padding="same", use_bias=False)
    x = tf.reshape(tf.range(6.0), [1, 6, 1])
    layer.build(x.shape)
    layer.set_weights([np.eye(kernel_size)[(kernel_size - 1) // 2].reshape(-1, 1, 1)])
    assert_close(layer(x), x)


def test_causal_outputs_see_no_future(rng):
    layer = tfconv.Conv1D(3, 4, padding="causal", dilation_rate=2, use_bias=False)
    x = rng.standard_normal((1, 9, 4)).astype(np.float32)
    y = layer(x)
    x[:, 5:] += 1
    changed = np.any(layer(x) != y, axis=(0, 2))
    assert changed.tolist() == [False] * 5 + [True] * 4


@pytest.mark.parametrize("rank", LAYERS)
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_without_groups_it_is_kerass_layer(rank, padding, rng):
    x = rng.standard_normal((2, *[6] * rank, 3)).astype(np.float32)
    ours = LAYERS[rank](4, 3, strides=2, padding=padding, activation="relu")
    theirs = getattr(keras.layers, f"Conv{rank}D").from_config(
        {**ours.get_config(), "name": "theirs"}
    )
    y = ours(x)
    theirs.build(x.shape)
    theirs.set_weights(ours.get_weights())
    assert_close(y, theirs(x))


def test_is_not_mistaken_for_kerass_layer():
    model = keras.Sequential([keras.Input((5, 5, 2)), tfconv.Conv2D(2, 3, padding="full")])
    copy = keras.models.clone_model(model)
    assert [type(layer) for layer in copy.layers] == [tfconv.Conv2D]
    loaded = keras.layers.deserialize(keras.layers.serialize(model.layers[-1]))
    assert type(loaded) is tfconv.Conv2D


@pytest.mark.parametrize("rank, parameters", [(1, 3 * 2 * 6 + 6), (2, 114), (3, 330)])
def test_parameters(rank, parameters):
    """prod(k) * C / groups * filters + filters."""
    layer = LAYERS[rank](6, 3, groups=2)
    layer.build((None, *[5] * rank, 4))
    assert layer.count_params() == parameters


@pytest.mark.parametrize("batch", [0, 1, 33])
@pytest.mark.parametrize("rank", LAYERS)
def test_batches(rank, batch, rng):
    layer = LAYERS[rank](4, 2, groups=2, dtype="float64")
    x = rng.standard_normal((batch, *[3] * rank, 4))
    y, grad = gradients(layer, [x])
    assert y.shape == (batch, *[2] * rank, 4) and grad.shape == x.shape


@pytest.mark.parametrize("rank", LAYERS)
def test_numeric_gradients(rank, rng):
    layer = LAYERS[rank](2, 2, strides=2, padding="same", groups=2, dtype="float64")
    x = rng.standard_normal((1, *[2 if rank == 3 else 3] * rank, 2))
    layer(x)
    assert_numeric_gradients(
        lambda x, kernel: layer.convolved(x, kernel), [x, layer.get_weights()[0]]
    )
