"""DepthwiseConv1D, DepthwiseConv2D and DepthwiseConv3D."""

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests import reference
from tests.ops.geometries import Geometry, assert_close, assert_numeric_gradients, gradients, table
from tfconv._compat import keras
from tfconv.testing import randomize

LAYERS = {1: tfconv.DepthwiseConv1D, 2: tfconv.DepthwiseConv2D, 3: tfconv.DepthwiseConv3D}


@pytest.mark.parametrize("geometry, multiplier", table([1, 2, 3], [1, 2, 3]))
def test_by_hand(geometry, multiplier, rng):
    rank = len(geometry.sizes)
    layer = LAYERS[rank](
        geometry.kernel_size,
        depth_multiplier=multiplier,
        activation="relu",
        dtype="float64",
        **geometry.arguments,
    )
    x = rng.standard_normal((2, *geometry.sizes, 3))
    layer(x)
    randomize(layer)
    kernel, bias = layer.get_weights()
    assert kernel.shape[rank:] == (3, multiplier)
    as_groups = kernel.reshape(*kernel.shape[:rank], 1, 3 * multiplier)
    expected = reference.conv(x, as_groups, geometry.window, 3) + bias
    assert_close(layer(x), np.maximum(expected, 0))


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_is_kerass_layer(rank, padding, rng):
    """Keras has it for signals and images, with equal strides and no dilation beside them."""
    arguments = (4, 2, padding, 2, "channels_last", 1, "relu")  # in Keras's order
    ours = LAYERS[rank](*arguments)
    theirs = getattr(keras.layers, f"DepthwiseConv{rank}D")(*arguments)
    x = rng.standard_normal((2, *[7] * rank, 3)).astype(np.float32)
    ours(x)
    randomize(ours)
    theirs.build(x.shape)
    theirs.set_weights(ours.get_weights())
    assert_close(ours(x), theirs(x))


def test_channels_do_not_mix(rng):
    layer = tfconv.DepthwiseConv2D(3, depth_multiplier=2)
    x = rng.standard_normal((1, 5, 5, 4)).astype(np.float32)
    y = layer(x)
    x[..., 1] += 1
    changed = np.any(layer(x) != y, axis=(0, 1, 2))
    assert changed.tolist() == [False, False, True, True, False, False, False, False]


@pytest.mark.parametrize("rank, parameters", [(1, 3 * 4 * 2 + 8), (2, 80), (3, 224)])
def test_parameters(rank, parameters):
    """prod(k) * C * M + C * M."""
    layer = LAYERS[rank](3, depth_multiplier=2)
    layer.build((None, *[5] * rank, 4))
    assert layer.count_params() == parameters


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("batch", [0, 1, 33])
@pytest.mark.parametrize("rank", LAYERS)
def test_batches(rank, batch, channels, rng):
    x = rng.standard_normal((batch, *[3] * rank, channels))
    y, grad = gradients(LAYERS[rank](2, 2, depth_multiplier=2, dtype="float64"), [x])
    assert y.shape == (batch, *[1] * rank, 2 * channels) and grad.shape == x.shape


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry((5,), 3, 1, "same", 2),
        Geometry((3, 4), 2, 2, "full"),
        Geometry((3, 3), 2, (1, 2), "same", 2),
        Geometry((2, 3, 2), 2, 1, "same"),
    ],
    ids=str,
)
def test_numeric_gradients(geometry, rng):
    x = rng.standard_normal((1, *geometry.sizes, 2))
    kernel = rng.standard_normal((*geometry.window.kernel_size, 1, 4))
    assert_numeric_gradients(
        lambda x, kernel: tfconv.ops.conv(x, kernel, groups=2, **geometry.arguments), [x, kernel]
    )


def test_trains_under_xla(rng):
    layer = tfconv.DepthwiseConv3D(2, 2, "same", dilation_rate=2, dtype="float64")
    x = rng.standard_normal((2, 3, 3, 3, 2))
    layer(x)

    @tf.function(jit_compile=True)
    def compiled(x):
        return gradients(layer, [x])

    for actual, expected in zip(compiled(x), gradients(layer, [x])):
        assert_close(actual, expected)
