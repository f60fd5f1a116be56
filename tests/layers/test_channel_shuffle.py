"""ChannelShuffle and the function under it."""

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests.ops.geometries import as_function
from tfconv.ops import channel_shuffle

SIZES = [(), (5,), (4, 3), (2, 3, 2), (2, 1, 2, 2)]


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_by_hand(sizes, data_format, mode, rng):
    x = rng.standard_normal((3, *sizes, 12))
    expected = np.stack([x[..., (j % 4) * 3 + j // 4] for j in range(12)], axis=-1)
    if data_format == "channels_first":
        x, expected = np.moveaxis(x, -1, 1), np.moveaxis(expected, -1, 1)

    def function(x):
        return channel_shuffle(x, 4, data_format=data_format)

    np.testing.assert_array_equal(as_function(function, mode)(tf.constant(x)), expected)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("groups", [1, 2, 3, 4, 6, 12])
def test_undone(groups, data_format, rng):
    """By a shuffle with as many groups as each group had channels, and by the inverse."""
    x = rng.standard_normal((2, 12, 5, 12))
    y = channel_shuffle(x, groups, data_format=data_format)
    np.testing.assert_array_equal(channel_shuffle(y, 12 // groups, data_format=data_format), x)
    arguments = {"data_format": data_format, "dtype": "float64"}
    layer = tfconv.ChannelShuffle(groups, **arguments)
    inverse = tfconv.ChannelShuffle(groups, inverse=True, **arguments)
    np.testing.assert_array_equal(layer(x), y)
    np.testing.assert_array_equal(inverse(layer(x)), x)


def test_every_output_group_holds_a_channel_of_every_input_group():
    y = channel_shuffle(tf.range(12)[None], 3).numpy()[0]
    for group in y.reshape(4, 3):
        assert sorted(group // 4) == [0, 1, 2]


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_unknown_sizes(data_format):
    x = np.arange(2 * 6 * 4 * 6, dtype=np.float32).reshape(2, 6, 4, 6)
    shape = [None, None, None, 6] if data_format == "channels_last" else [None, 6, None, None]
    traced = tf.function(
        lambda x: channel_shuffle(x, 3, data_format=data_format),
        input_signature=[tf.TensorSpec(shape)],
    )
    assert traced.get_concrete_function().output_shapes.as_list() == shape
    np.testing.assert_array_equal(traced(x), channel_shuffle(x, 3, data_format=data_format))
    assert traced(x[:0]).shape == (0, *x.shape[1:])


@pytest.mark.parametrize("batch", [0, 1, 33])
def test_batches(batch):
    x = tf.ones([batch, 4, 6])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tfconv.ChannelShuffle(3)(x) ** 2
    assert y.shape == x.shape
    np.testing.assert_array_equal(tape.gradient(y, x), 2 * x)


def test_numeric_gradients(rng):
    x = rng.standard_normal((2, 2, 6))
    theory, numeric = tf.test.compute_gradient(lambda x: channel_shuffle(x, 2), [tf.constant(x)])
    np.testing.assert_allclose(theory[0], numeric[0], atol=1e-6)


@pytest.mark.parametrize("shape, groups", [([2, 4], 3), ([2, 4], 0), ([4], 2)])
def test_bad_shapes(shape, groups):
    with pytest.raises(tf.errors.InvalidArgumentError, match="channel_shuffle.*shape"):
        channel_shuffle(tf.ones(shape), groups)
