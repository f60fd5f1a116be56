"""PointwiseConv1D, PointwiseConv2D and PointwiseConv3D."""

import numpy as np
import pytest

import tfconv
from tests.ops.geometries import assert_close, gradients
from tfconv.testing import randomize

LAYERS = {1: tfconv.PointwiseConv1D, 2: tfconv.PointwiseConv2D, 3: tfconv.PointwiseConv3D}


@pytest.mark.parametrize("padding", ["valid", "same", "full"])
@pytest.mark.parametrize("rank", LAYERS)
def test_is_a_dense_layer_over_channels(rank, padding, rng):
    layer = LAYERS[rank](6, strides=2, padding=padding, activation="relu", dtype="float64")
    x = rng.standard_normal((2, *[5] * rank, 4))
    layer(x)
    randomize(layer)
    kernel, bias = layer.get_weights()
    strided = x[(slice(None), *[slice(None, None, 2)] * rank)]
    assert_close(layer(x), np.maximum(strided @ kernel.reshape(4, 6) + bias, 0))


def test_padding_shows_the_bias(rng):
    layer = tfconv.PointwiseConv2D(3, padding=((1, 0), (0, 2)), bias_initializer="ones")
    y = layer(rng.standard_normal((1, 4, 4, 2)).astype(np.float32)).numpy()
    assert y.shape == (1, 5, 6, 3)
    assert np.all(y[:, 0] == 1) and np.all(y[:, :, 4:] == 1) and not np.any(y[:, 1:, :4] == 1)


@pytest.mark.parametrize("groups, parameters", [(1, 4 * 6 + 6), (2, 2 * 6 + 6)])
@pytest.mark.parametrize("rank", LAYERS)
def test_parameters(rank, groups, parameters):
    """C / groups * filters + filters."""
    layer = LAYERS[rank](6, groups=groups)
    layer.build((None, *[5] * rank, 4))
    assert layer.count_params() == parameters


@pytest.mark.parametrize("batch", [0, 1, 33])
@pytest.mark.parametrize("rank", LAYERS)
def test_batches(rank, batch, rng):
    x = rng.standard_normal((batch, *[3] * rank, 4))
    y, grad = gradients(LAYERS[rank](2, groups=2, dtype="float64"), [x])
    assert y.shape == (batch, *[3] * rank, 2) and grad.shape == x.shape


def test_no_kernel_size():
    with pytest.raises(TypeError, match="kernel_size"):
        tfconv.PointwiseConv2D(6, kernel_size=3)
    assert "kernel_size" not in tfconv.PointwiseConv2D(6).get_config()
