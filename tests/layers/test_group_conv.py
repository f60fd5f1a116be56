"""GroupConv1D, GroupConv2D and GroupConv3D."""

import math

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests import reference
from tests.ops.geometries import Geometry, assert_close, assert_numeric_gradients, gradients
from tfconv.testing import randomize

LAYERS = {1: tfconv.GroupConv1D, 2: tfconv.GroupConv2D, 3: tfconv.GroupConv3D}
GEOMETRIES = [
    Geometry((7,), 3, 2, "causal", 2),
    Geometry((5, 6), (3, 2), (2, 1), "same", (1, 2)),
    Geometry((4, 5), 1, 1, "valid"),
    Geometry((3, 4, 3), 2, 2, ((1, 0), (0, 2), (0, 0))),
]


def layer_of(geometry, *, filters=6, groups=3, **arguments):
    """A layer in float64 with the given geometry."""
    return LAYERS[len(geometry.sizes)](
        filters,
        geometry.kernel_size,
        groups=groups,
        dtype="float64",
        **geometry.arguments,
        **arguments,
    )


@pytest.mark.parametrize("share_kernel", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_is_a_convolution_of_each_group(geometry, share_kernel, rng):
    layer = layer_of(geometry, share_kernel=share_kernel)
    x = rng.standard_normal((2, *geometry.sizes, 6))
    layer(x)
    randomize(layer)
    kernel, bias = layer.get_weights()
    assert kernel.shape[-2:] == (2, 2 if share_kernel else 6)
    parts = []
    for group in range(3):
        own = kernel if share_kernel else kernel[..., group * 2 :][..., :2]
        parts.append(reference.conv(x[..., group * 2 :][..., :2], own, geometry.window))
    assert_close(layer(x), np.concatenate(parts, axis=-1) + bias)


@pytest.mark.parametrize("share_kernel", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("batch", [0, 1, 33])
def test_batches(batch, share_kernel, rng):
    x = rng.standard_normal((batch, 4, 3, 6))
    layer = layer_of(Geometry((4, 3), 2), share_kernel=share_kernel)
    y, gradient = gradients(layer, [x])
    assert y.shape == (batch, 4, 3, 6)
    assert gradient.shape == x.shape


@pytest.mark.parametrize("share_kernel", [False, True], ids=["own", "shared"])
def test_numeric_gradients(share_kernel, rng):
    geometry = Geometry((4, 3), 2, 2, "same", 2)
    layer = layer_of(geometry, groups=2, filters=2, share_kernel=share_kernel)
    x = rng.standard_normal((1, 4, 3, 4))
    layer(x)
    randomize(layer)

    def function(x, kernel):
        layer.computed = lambda value: kernel if value is layer.kernel else value
        return layer.call(x)

    assert_numeric_gradients(function, [x, layer.get_weights()[0]])


@pytest.mark.parametrize("share_kernel", [False, True], ids=["own", "shared"])
def test_groups_see_only_their_channels(share_kernel, rng):
    layer = layer_of(Geometry((5, 6), 3), groups=2, share_kernel=share_kernel)
    x = rng.standard_normal((1, 5, 6, 4))
    changed = x.copy()
    changed[..., 2:] += 1
    before, after = layer(x).numpy(), layer(changed).numpy()
    np.testing.assert_array_equal(before[..., :3], after[..., :3])
    assert (before[..., 3:] != after[..., 3:]).all()


def test_shared_kernel_gives_equal_groups_the_same(rng):
    layer = layer_of(Geometry((5, 6), 3), share_kernel=True)
    part = rng.standard_normal((2, 5, 6, 2))
    y = layer(np.concatenate([part] * 3, axis=-1))
    for group in (1, 2):
        np.testing.assert_allclose(y[..., group * 2 :][..., :2], y[..., :2], rtol=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_parameters(rank):
    """One of ``groups`` of a dense kernel's weights, and with a shared one that squared."""
    dense = math.prod([3] * rank) * 8 * 12
    for share_kernel, count in ((False, dense // 4), (True, dense // 16)):
        layer = LAYERS[rank](12, 3, groups=4, share_kernel=share_kernel)
        layer.build((None, *[None] * rank, 8))
        assert layer.count_params() == count + 12


def test_groups_have_to_be_given():
    with pytest.raises(TypeError, match="groups"):
        tfconv.GroupConv2D(6, 3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_data_types(dtype):
    layer = tfconv.GroupConv1D(4, 3, groups=2, share_kernel=True, dtype=dtype)
    assert layer(tf.ones([2, 6, 4], dtype)).dtype == tf.as_dtype(dtype)
