"""DeformableConv1D, DeformableConv2D and DeformableConv3D."""

import warnings

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests import recorded, reference
from tfconv._compat import keras
from tfconv.testing import check_keeps_native, randomize


def test_native_ops_are_kept_on_demand():
    check_keeps_native(tfconv.DeformableConv2D, (6, 5, 4), filters=3, kernel_size=3)


@pytest.mark.parametrize("number", range(len(recorded.cases("deform_conv2d"))))
def test_recorded_cases(number, implementation):
    case = recorded.cases("deform_conv2d")[number]
    layer = tfconv.DeformableConv2D(
        case.weight.shape[-1],
        case.weight.shape[:2],
        strides=case.stride,
        padding=recorded.pairs(case.padding),
        dilation_rate=case.dilation,
        groups=case.groups,
        offset_groups=case.offset_groups,
        data_format="channels_last",
        dtype="float64",
    )
    inputs = [tf.constant(t, tf.float64) for t in (case.x, case.offset)]
    mask = None if case.mask is None else tf.constant(case.mask, tf.float64)
    layer(*inputs, mask)
    layer.set_weights([case.weight, case.bias])
    np.testing.assert_allclose(layer(*inputs, mask), case.out, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("modulated", [True, False], ids=["v2", "v1"])
def test_by_hand(modulated, rng, implementation):
    layer = tfconv.DeformableConv2D(
        4,
        3,
        strides=2,
        padding="same",
        groups=2,
        offset_groups=2,
        modulated=modulated,
        mask_scale=1.5,
        activation="relu",
        dtype="float64",
    )
    x = rng.standard_normal((2, 7, 6, 4))
    layer(x)
    randomize(layer)
    kernel, bias, offset_kernel, offset_bias = layer.get_weights()
    window = reference.window((7, 6), 3, 2, "same")
    made = reference.conv(x, offset_kernel, window) + offset_bias
    offset, mask = made[..., :36], 1.5 / (1 + np.exp(-made[..., 36:]))
    expected = reference.deformable_conv(
        x, offset, kernel, mask if modulated else None, bias, window
    )
    np.testing.assert_allclose(layer(x), np.maximum(expected, 0), rtol=1e-10, atol=1e-10)


RANKS = {1: tfconv.DeformableConv1D, 3: tfconv.DeformableConv3D}


@pytest.mark.parametrize("modulated", [True, False], ids=["v2", "v1"])
@pytest.mark.parametrize("rank", RANKS)
def test_other_ranks_by_hand(rank, modulated, rng, implementation):
    layer = RANKS[rank](
        4, 2, strides=2, padding="same", groups=2, offset_groups=2, modulated=modulated,
        activation="tanh", dtype="float64",
    )  # fmt: skip
    sizes, taps = (5, 4, 3)[:rank], 2**rank
    x = rng.standard_normal((2, *sizes, 4))
    layer(x)
    randomize(layer)
    kernel, bias, offset_kernel, offset_bias = layer.get_weights()
    window = reference.window(sizes, 2, 2, "same")
    made = reference.conv(x, offset_kernel, window) + offset_bias
    offset, mask = made[..., : 2 * taps * rank], made[..., 2 * taps * rank :]
    assert mask.shape[-1] == (2 * taps if modulated else 0)
    mask = 2 / (1 + np.exp(-mask)) if modulated else None
    expected = np.tanh(reference.deformable_conv(x, offset, kernel, mask, bias, window))
    np.testing.assert_allclose(layer(x), expected, rtol=1e-10, atol=1e-10)
    for made, shown in zip((offset, mask), layer.offsets_and_mask(x)):
        assert (made is None) == (shown is None)
        if made is not None:
            np.testing.assert_allclose(shown, made, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(layer(x, *layer.offsets_and_mask(x)), expected, atol=1e-10)


@pytest.mark.parametrize("arguments", [{}, {"padding": "same", "groups": 2, "strides": 2}], ids=str)
@pytest.mark.parametrize("rank", RANKS)
def test_other_ranks_start_as_plain_convolution(rank, arguments, rng, implementation):
    x = rng.standard_normal((2, *(7, 5, 4)[:rank], 4))
    layer = RANKS[rank](6, 3, **arguments, dtype="float64")
    plain = getattr(tfconv, f"Conv{rank}D")(6, 3, **arguments, dtype="float64")
    layer(x)
    plain.build(x.shape)
    plain.set_weights(layer.get_weights()[:2])
    np.testing.assert_allclose(layer(x), plain(x), rtol=1e-12, atol=1e-12)


def test_causal_layers_start_causal(rng):
    layer = tfconv.DeformableConv1D(3, 3, padding="causal", dilation_rate=2)
    x = rng.standard_normal((1, 9, 2)).astype(np.float32)
    y = layer(x).numpy()
    x[:, 5:] = 0
    np.testing.assert_array_equal(layer(x)[:, :5], y[:, :5])


STARTS = [(True, 2.0, 1.0), (True, 1.0, 0.5), (False, 1.0, 1.0)]


@pytest.mark.parametrize("modulated, mask_scale, factor", STARTS, ids=["v2", "paper's v2", "v1"])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"padding": "same", "groups": 2, "offset_groups": 4}, {"strides": 2, "padding": "same"}],
    ids=str,
)
def test_starts_as_plain_convolution(arguments, modulated, mask_scale, factor, rng, implementation):
    x = rng.standard_normal((2, 7, 6, 4))
    layer = tfconv.DeformableConv2D(
        6, 3, **arguments, modulated=modulated, mask_scale=mask_scale, dtype="float64"
    )
    arguments.pop("offset_groups", None)
    plain = tfconv.Conv2D(6, 3, **arguments, dtype="float64")
    layer(x)
    plain.build(x.shape)
    plain.set_weights(layer.get_weights()[:2])
    np.testing.assert_allclose(layer(x), factor * plain(x), rtol=1e-12, atol=1e-12)


def test_by_default_it_stands_in_for_keras_convolution(rng):
    x = rng.standard_normal((2, 7, 6, 4)).astype(np.float32)
    plain = keras.layers.Conv2D(5, 3, dilation_rate=2)
    expected = plain(x)
    layer = tfconv.DeformableConv2D(5, 3, dilation_rate=2)
    layer(x)
    layer.set_weights(plain.get_weights() + layer.get_weights()[2:])
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("multiplier", [0.1, 0, 3])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_learning_rate_of_offsets(multiplier, momentum, rng):
    """With SGD, the multiplier is a learning rate: for the weights of the offsets alone."""
    x = rng.standard_normal((2, 7, 6, 4))

    def steps_of(multiplier):
        layer = tfconv.DeformableConv2D(
            5, 3, offset_learning_rate_multiplier=multiplier, dtype="float64"
        )
        layer(x)
        randomize(layer)
        before = layer.get_weights()
        optimizer = keras.optimizers.SGD(1e-7, momentum)
        for _ in range(2):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(x) ** 2)
            gradients = tape.gradient(loss, layer.trainable_variables)
            optimizer.apply_gradients(zip(gradients, layer.trainable_variables))
        return [new - old for new, old in zip(layer.get_weights(), before)]

    factors = (1, 1, multiplier, multiplier)
    for step, expected, factor in zip(steps_of(multiplier), steps_of(1.0), factors):
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(
            step, factor * expected, rtol=0, atol=1e-3 * np.abs(factor * expected).max()
        )


def test_given_offsets_leave_no_offset_weights():
    layer = tfconv.DeformableConv2D(5, 3, padding="same")
    x, offset = tf.ones([2, 6, 6, 4]), tf.zeros([2, 6, 6, 18])
    layer(x, offset)
    assert [tuple(w.shape) for w in layer.weights] == [(3, 3, 4, 5), (5,)]
    with pytest.raises(ValueError, match="`offset` given.*Received: offset=None"):
        layer(x)


def test_own_offsets_can_be_overruled(rng):
    layer = tfconv.DeformableConv2D(5, 3, padding="same", modulated=False)
    x = rng.standard_normal((2, 6, 6, 4)).astype(np.float32)
    own = layer(x)
    np.testing.assert_allclose(layer(x, np.zeros((2, 6, 6, 18))), own, rtol=1e-4, atol=1e-5)
    assert not np.allclose(layer(x, np.full((2, 6, 6, 18), 0.5)), own, atol=1e-3)


@pytest.mark.parametrize("mode", ("reflect", "circular"))
def test_offsets_and_masks_are_those_of_the_call(mode, rng):
    """Also where they are made from pixels around the input."""
    layer = tfconv.DeformableConv2D(5, 3, padding="same", padding_mode=mode)
    x = rng.standard_normal((2, 6, 5, 4)).astype(np.float32)
    layer(x)
    randomize(layer)
    np.testing.assert_allclose(layer(x, *layer.offsets_and_mask(x)), layer(x), rtol=0, atol=1e-5)


def test_modulation_is_no_mask_of_keras():
    """Keras knows an argument `mask` that says which timesteps to skip; this is another."""
    x, offset, mask = tf.ones([2, 6, 6, 4]), tf.zeros([2, 4, 4, 18]), tf.ones([2, 4, 4, 9])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        y = tfconv.DeformableConv2D(5, 3)(x, offset, mask)
    assert getattr(y, "_keras_mask", None) is None


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("given", [False, True], ids=["own", "given"])
def test_convolution_op(given, data_format, rng):
    """The hook of the other convolutions: one subclass suits them all."""

    class Standardized(tfconv.DeformableConv2D):
        def convolution_op(self, inputs, kernel):
            assert isinstance(inputs, tuple) == given
            kernel -= tf.reduce_mean(kernel, axis=[0, 1, 2])
            return 2 * super().convolution_op(inputs, kernel)

    def moved(x):
        return np.moveaxis(x, -1, 1) if data_format == "channels_first" else x

    x = moved(rng.standard_normal((2, 6, 6, 4)).astype(np.float32))
    offset = moved(rng.standard_normal((2, 4, 4, 18)).astype(np.float32))
    arguments = (x, offset) if given else (x,)
    standardized = Standardized(5, 3, data_format=data_format, activation="tanh")
    plain = tfconv.DeformableConv2D(5, 3, data_format=data_format)
    for layer in (standardized, plain):
        layer(*arguments)
    randomize(standardized)
    weights = [np.array(w) for w in standardized.get_weights()]
    mean = weights[0].mean((0, 1, 2))
    assert np.abs(mean).max() > 0.01
    plain.set_weights([weights[0] - mean, 0 * weights[1], *weights[2:]])
    bias = weights[1].reshape([-1, 1, 1] if data_format == "channels_first" else [-1])
    expected = np.tanh(2 * np.asarray(plain(*arguments)) + bias)
    np.testing.assert_allclose(standardized(*arguments), expected, rtol=1e-4, atol=1e-5)
