"""Involution1D, Involution2D and Involution3D."""

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests import reference
from tfconv.testing import check_keeps_native, randomize

LAYERS = {1: tfconv.Involution1D, 2: tfconv.Involution2D, 3: tfconv.Involution3D}


def test_native_ops_are_kept_on_demand():
    check_keeps_native(tfconv.Involution2D, (7, 6, 8), kernel_size=3, group_channels=4)


def pooled(x, strides):
    """The mean over each stride's pixels; of those there are, at the border.

    The cells are put as TensorFlow's "same" puts windows: half of what is missing lies before.
    """
    sizes = x.shape[1:-1]
    outputs = [-(-n // s) for n, s in zip(sizes, strides)]
    y = np.zeros((x.shape[0], *outputs, x.shape[-1]))
    for position in np.ndindex(*outputs):
        cell = [slice(None)]
        for p, s, n, out in zip(position, strides, sizes, outputs):
            start = p * s - (out * s - n) // 2
            cell.append(slice(max(start, 0), start + s))
        y[(slice(None), *position)] = x[tuple(cell)].mean(axis=tuple(range(1, x.ndim - 1)))
    return y


def generated(layer, x):
    """The kernels that a layer makes from x, in inference."""
    reduce, gamma, beta, mean, variance, span, bias = _weights(layer)
    y = (x @ reduce - mean) / np.sqrt(variance + layer.batch_norm_epsilon) * gamma + beta
    return np.maximum(y, 0) @ span + bias


def _weights(layer):
    parts = (layer.reduce, layer.normalization, layer.span)
    return [
        w.reshape(w.shape[-2:]) if w.ndim > 1 else w for part in parts for w in part.get_weights()
    ]


@pytest.mark.parametrize(
    "sizes, arguments",
    [
        ((9,), {"kernel_size": 3}),
        ((9,), {"kernel_size": 3, "strides": 2}),
        ((6, 7), {"kernel_size": 3}),
        ((6, 7), {"kernel_size": (3, 2), "dilation_rate": (1, 2)}),
        ((6, 8), {"kernel_size": 3, "strides": 2}),
        ((7, 8), {"kernel_size": 3, "strides": 3}),
        ((3, 4, 4), {"kernel_size": 2, "strides": (1, 2, 2)}),
    ],
)
def test_by_hand(sizes, arguments, rng, implementation):
    layer = LAYERS[len(sizes)](**arguments, groups=2, dtype="float64")
    x = rng.standard_normal((2, *sizes, 6))
    layer(x)
    randomize(layer)
    window = reference.window(
        sizes,
        arguments["kernel_size"],
        arguments.get("strides", 1),
        "same",
        arguments.get("dilation_rate", 1),
    )
    kernel = generated(layer, pooled(x, window.strides))
    expected = reference.involution(x, kernel, window)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-10, atol=1e-10)


def step(layer, x, **arguments):
    """The layer's output in training, and the gradients of all that it depends on."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True, **arguments)
        y = y[0] if arguments else y
        loss = tf.reduce_sum(y * tf.sin(tf.reshape(tf.range(tf.size(y), dtype=y.dtype), y.shape)))
    return [y, *tape.gradient(loss, [x, *layer.trainable_variables])]


@pytest.mark.parametrize(
    "sizes, arguments",
    [
        ((9,), {"kernel_size": 3, "padding": "causal"}),
        ((6, 7), {"kernel_size": 3, "strides": 2}),
        ((6, 7), {"kernel_size": 3, "data_format": "channels_first"}),
        ((6, 7), {"kernel_size": (3, 2), "padding": "valid", "activation": "tanh"}),
        ((3, 4, 4), {"kernel_size": 2, "dilation_rate": (1, 2, 2)}),
    ],
)
def test_kernels_that_are_never_written(sizes, arguments, rng, native_module, monkeypatch):
    """What the layer gives does not depend on whether the tensor of all kernels is made."""
    layer = LAYERS[len(sizes)](**arguments, groups=2, dtype="float64")
    shape = (*sizes, 6) if layer.data_format == "channels_last" else (6, *sizes)
    x = tf.constant(rng.standard_normal((2, *shape)))
    layer(x)
    randomize(layer)
    expected = step(layer, x, return_kernels=True)
    monkeypatch.setattr(native_module, "tfconv_involution", None)
    for actual, other in zip(step(layer, x), expected, strict=True):
        np.testing.assert_allclose(actual, other, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(layer(x[:0]), tf.zeros([0, *expected[0].shape[1:]]))


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(dtype, rng, implementation):
    x = rng.standard_normal((2, 6, 7, 32)).astype(np.float32)
    layer, exact = (tfconv.Involution2D(3, groups=2, dtype=d) for d in (dtype, "float32"))
    for made in (layer, exact):
        made(x)
    randomize(exact)
    layer.set_weights(exact.get_weights())
    expected = exact(x)
    tolerance = {"mixed_float16": 0.01, "mixed_bfloat16": 0.05}[dtype]
    np.testing.assert_allclose(
        tf.cast(layer(x), tf.float32), expected, atol=tolerance * np.abs(expected).max()
    )


def test_span_that_was_changed_makes_the_kernels(rng, native_module):
    """Another layer, or one with adapters or in integers, is called as it is."""
    layer = tfconv.Involution2D(3, groups=2)
    x = tf.constant(rng.standard_normal((2, 6, 7, 8)), tf.float32)
    layer(x)
    randomize(layer)
    layer.span.activation = tf.nn.relu
    y, kernels = layer(x, return_kernels=True)
    assert np.min(kernels) == 0
    np.testing.assert_allclose(layer(x), y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("padding, crop", [("valid", 1), (0, 1), (2, -1), ("full", -1)])
def test_kernels_come_from_the_centres_of_the_windows(rank, padding, crop, rng):
    layer = LAYERS[rank](3, padding=padding, groups=2, dtype="float64")
    x = rng.standard_normal((2, *(5, 6, 4)[:rank], 4))
    layer(x)
    randomize(layer)
    if crop > 0:
        centres = x[(slice(None), *[slice(1, -1)] * rank)]
    else:
        centres = np.pad(x, [(0, 0), *[(1, 1)] * rank, (0, 0)])
    window = reference.window(x.shape[1:-1], 3, 1, padding)
    expected = reference.involution(x, generated(layer, centres), window)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-10, atol=1e-10)


def test_training_normalizes_by_the_batch(rng):
    layer = tfconv.Involution2D(3, groups=2, dtype="float64")
    x = rng.standard_normal((4, 6, 5, 8))
    layer(x)
    randomize(layer)
    before = layer.normalization.get_weights()[2]
    y = layer(x, training=True)
    after = layer.normalization.get_weights()[2]
    mean = (x @ _weights(layer)[0]).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(after, 0.9 * before + 0.1 * mean, rtol=1e-6)
    assert not np.allclose(y, layer(x, training=False))


def test_a_batch_without_examples_leaves_the_moving_averages(rng):
    """Known to be empty, or only when a function runs; others move them as Keras does."""
    layer = tfconv.Involution2D(3, group_channels=2)
    x = 5 + rng.standard_normal((3, 6, 6, 4)).astype(np.float32)
    layer(x)
    randomize(layer)
    norm = layer.normalization
    before = [np.array(w) for w in (norm.moving_mean, norm.moving_variance)]
    run = tf.function(
        lambda x: layer(x, training=True), input_signature=[tf.TensorSpec([None, 6, 6, 4])]
    )
    for empty in (lambda: layer(x[:0], training=True), lambda: run(x[:0])):
        assert empty().shape == (0, 6, 6, 4)
        for weight, value in zip((norm.moving_mean, norm.moving_variance), before):
            np.testing.assert_array_equal(weight, value)
    layer(x, training=True)
    expected = [np.array(w) for w in (norm.moving_mean, norm.moving_variance)]
    assert np.abs(expected[0] - before[0]).max() > 1e-3
    norm.moving_mean.assign(before[0])
    norm.moving_variance.assign(before[1])
    run(x)
    for weight, value in zip((norm.moving_mean, norm.moving_variance), expected):
        np.testing.assert_allclose(weight, value, rtol=1e-5)


def test_layers_inside_have_the_initializers(rng):
    layer = tfconv.Involution2D(3, groups=2, kernel_initializer="ones", bias_initializer="ones")
    layer.build((None, 6, 6, 8))
    reduce, _, _, _, _, span, bias = _weights(layer)
    assert reduce.shape == (8, 2) and span.shape == (2, 18)
    for weight in (reduce, span, bias):
        np.testing.assert_array_equal(weight, np.ones_like(weight))


def test_reduction_leaves_at_least_one_channel():
    layer = tfconv.Involution2D(3, groups=1, reduction_ratio=16)
    layer.build((None, 6, 6, 4))
    assert _weights(layer)[0].shape == (4, 1)


def test_regularizer_acts_on_both_convolutions():
    layer = tfconv.Involution2D(3, groups=2, kernel_regularizer="l2", bias_regularizer="l2")
    layer(tf.ones([1, 6, 6, 8]))
    assert len(layer.losses) == 3


@pytest.mark.parametrize("arguments", [{"groups": 3}, {"group_channels": 3}, {}])
def test_channels_that_make_no_groups(arguments):
    with pytest.raises(ValueError, match="group.*must divide.*Received: "):
        tfconv.Involution2D(3, **arguments).build((None, 6, 6, 8))
