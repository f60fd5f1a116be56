"""SqueezeExcite."""

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv.testing import randomize


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("sizes", [(7,), (5, 6), (2, 3, 4), (2, 2, 3, 2)])
def test_by_hand(sizes, data_format, rng):
    layer = tfconv.SqueezeExcite(reduction_ratio=2, data_format=data_format, dtype="float64")
    x = rng.standard_normal((3, *sizes, 8))
    moved = x if data_format == "channels_last" else np.moveaxis(x, -1, 1)
    layer(moved)
    randomize(layer)
    w1, b1, w2, b2 = layer.get_weights()
    mean = x.reshape(3, -1, 8).mean(axis=1)
    gate = 1 / (1 + np.exp(-(np.maximum(mean @ w1 + b1, 0) @ w2 + b2)))
    expected = x * gate.reshape(3, *[1] * len(sizes), 8)
    if data_format == "channels_first":
        expected = np.moveaxis(expected, -1, 1)
    np.testing.assert_allclose(layer(moved), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "arguments, squeezed", [({}, 1), ({"reduction_ratio": 3}, 2), ({"squeeze_channels": 5}, 5)]
)
def test_squeezed_channels(arguments, squeezed):
    layer = tfconv.SqueezeExcite(**arguments)
    layer.build((None, 6, 6, 8))
    shapes = [w.shape for w in layer.get_weights()]
    assert shapes == [(8, squeezed), (squeezed,), (squeezed, 8), (8,)]


@pytest.mark.parametrize("first", [False, True])
def test_unknown_channels(first):
    layer = tfconv.SqueezeExcite(
        reduction_ratio=2, data_format="channels_first" if first else "channels_last"
    )
    layer(tf.ones([1, 4, 4, 4]))
    with pytest.raises(ValueError, match="SqueezeExcite needs the channel axis .*Received: "):
        tf.function(lambda x: layer(x)).get_concrete_function(tf.TensorSpec([None] * 4))
