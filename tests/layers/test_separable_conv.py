"""SeparableConv1D, SeparableConv2D and SeparableConv3D."""

import numpy as np
import pytest

import tfconv
from tests import reference
from tests.ops.geometries import Geometry, assert_close, gradients
from tfconv._compat import keras
from tfconv.testing import randomize

LAYERS = {1: tfconv.SeparableConv1D, 2: tfconv.SeparableConv2D, 3: tfconv.SeparableConv3D}


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry((10,), 4, 3, "causal", 2),
        Geometry((9, 10), (3, 2), (2, 3), ((2, 1), (0, 3)), (2, 1)),
        Geometry((7, 6), 3, 2, "same", 2),
        Geometry((4, 3, 5), 2, (2, 1, 2), "full"),
    ],
    ids=str,
)
def test_is_a_convolution_with_a_product_for_kernel(geometry, rng):
    layer = LAYERS[len(geometry.sizes)](
        5,
        geometry.kernel_size,
        depth_multiplier=2,
        activation="relu",
        dtype="float64",
        **geometry.arguments,
    )
    x = rng.standard_normal((2, *geometry.sizes, 3))
    layer(x)
    randomize(layer)
    depthwise, pointwise, bias = layer.get_weights()
    kernel = np.einsum("...cm,cmf->...cf", depthwise, pointwise.reshape(3, 2, 5))
    expected = reference.conv(x, kernel, geometry.window) + bias
    assert_close(layer(x), np.maximum(expected, 0))


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_is_kerass_layer(rank, padding, rng):
    """Keras has it for signals and images, with equal strides and no dilation beside them."""
    arguments = (5, 3, 2, padding, "channels_last", 1, 2, "relu")  # in Keras's order
    ours = LAYERS[rank](*arguments)
    theirs = getattr(keras.layers, f"SeparableConv{rank}D")(*arguments)
    x = rng.standard_normal((2, *[7] * rank, 3)).astype(np.float32)
    ours(x)
    randomize(ours)
    theirs.build(x.shape)
    theirs.set_weights(ours.get_weights())
    assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("rank, parameters", [(1, 3 * 4 * 2 + 8 * 5 + 5), (2, 117), (3, 261)])
def test_parameters(rank, parameters):
    """prod(k) * C * M + C * M * filters + filters."""
    layer = LAYERS[rank](5, 3, depth_multiplier=2)
    layer.build((None, *[5] * rank, 4))
    assert layer.count_params() == parameters


def test_each_weight_has_its_own_initializer():
    layer = tfconv.SeparableConv2D(
        5,
        3,
        depthwise_initializer="ones",
        pointwise_initializer="zeros",
        bias_initializer=keras.initializers.Constant(2),
    )
    layer.build((None, 5, 5, 4))
    assert [np.unique(w).tolist() for w in layer.get_weights()] == [[1], [0], [2]]


@pytest.mark.parametrize("batch", [0, 1, 33])
@pytest.mark.parametrize("rank", LAYERS)
def test_batches(rank, batch, rng):
    x = rng.standard_normal((batch, *[3] * rank, 3))
    y, grad = gradients(LAYERS[rank](5, 2, 2, "same", dtype="float64"), [x])
    assert y.shape == (batch, *[2] * rank, 5) and grad.shape == x.shape
