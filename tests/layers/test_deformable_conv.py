"""DeformableConv2D."""

import warnings

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests import recorded, reference
from tests.layer_check import check_keeps_native, check_layer, randomize
from tfconv._compat import keras

LAYER_CASES = [
    (
        tfconv.DeformableConv2D,
        (7, 6, 4),
        {
            "filters": 6,
            "kernel_size": 3,
            "strides": 2,
            "padding": "same",
            "groups": 2,
            "offset_groups": 2,
            "activation": "tanh",
        },
    ),
    (
        tfconv.DeformableConv2D,
        (5, 6, 3),
        {
            "filters": 4,
            "kernel_size": (2, 3),
            "padding": "full",
            "dilation_rate": 2,
            "strides": (2, 1),
            "modulated": False,
            "use_bias": False,
            "offset_regularizer": "l2",
        },
    ),
    (
        tfconv.DeformableConv2D,
        (6, 7, 4),
        {
            "filters": 5,
            "kernel_size": 3,
            "padding": ((1, 0), (2, 1)),
            "offset_groups": 2,
            "extra": {"offset": (5, 8, 36), "mask": (5, 8, 18)},
        },
    ),
    (
        tfconv.DeformableConv2D,
        (5, 5, 3),
        {"filters": 2, "kernel_size": 3, "padding": 1, "extra": {"offset": (5, 5, 18)}},
    ),
]


@pytest.mark.parametrize("layer_class, input_shape, arguments", LAYER_CASES)
def test_layer(layer_class, input_shape, arguments):
    check_layer(layer_class, input_shape, **arguments)


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
        2,
        "same",
        groups=2,
        offset_groups=2,
        modulated=modulated,
        activation="relu",
        dtype="float64",
    )
    x = rng.standard_normal((2, 7, 6, 4))
    layer(x)
    randomize(layer)
    kernel, bias, offset_kernel, offset_bias = layer.get_weights()
    window = reference.window((7, 6), 3, 2, "same")
    made = reference.conv(x, offset_kernel, window) + offset_bias
    offset, mask = made[..., :36], 1 / (1 + np.exp(-made[..., 36:]))
    expected = reference.deformable_conv2d(
        x, offset, kernel, mask if modulated else None, bias, window
    )
    np.testing.assert_allclose(layer(x), np.maximum(expected, 0), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("modulated, factor", [(True, 0.5), (False, 1.0)], ids=["v2", "v1"])
def test_starts_as_plain_convolution(modulated, factor, rng):
    x = rng.standard_normal((2, 7, 6, 4)).astype(np.float32)
    layer = tfconv.DeformableConv2D(5, 3, dilation_rate=2, modulated=modulated, use_bias=False)
    plain = keras.layers.Conv2D(5, 3, dilation_rate=2, use_bias=False)
    layer(x)
    plain.build(x.shape)
    plain.set_weights(layer.get_weights()[:1])
    np.testing.assert_allclose(layer(x), factor * plain(x), rtol=1e-4, atol=1e-5)


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


def test_mask_without_offset():
    with pytest.raises(ValueError, match="`mask`.*`offset`.*Received: "):
        tfconv.DeformableConv2D(5, 3)(tf.ones([2, 6, 6, 4]), mask=tf.ones([2, 4, 4, 9]))


def test_modulation_is_no_mask_of_keras():
    """Keras knows an argument `mask` that says which timesteps to skip; this is another."""
    x, offset, mask = tf.ones([2, 6, 6, 4]), tf.zeros([2, 4, 4, 18]), tf.ones([2, 4, 4, 9])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        y = tfconv.DeformableConv2D(5, 3)(x, offset, mask)
    assert getattr(y, "_keras_mask", None) is None


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"filters": 0}, "filters"),
        ({"kernel_size": (3, 0)}, "kernel_size"),
        ({"strides": (1, 2, 3)}, "strides"),
        ({"padding": "causal"}, "padding"),
        ({"dilation_rate": 0}, "dilation_rate"),
        ({"groups": 4}, "groups"),
        ({"offset_groups": 0}, "offset_groups"),
        ({"data_format": "last"}, "data_format"),
    ],
)
def test_bad_arguments(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}.*Received: "):
        tfconv.DeformableConv2D(**{"filters": 6, "kernel_size": 3, **arguments})


@pytest.mark.parametrize("name", ["groups", "offset_groups"])
def test_channels_that_make_no_groups(name):
    with pytest.raises(ValueError, match=f"`{name}`.*Received: "):
        tfconv.DeformableConv2D(6, 3, **{name: 3}).build((None, 6, 6, 4))
