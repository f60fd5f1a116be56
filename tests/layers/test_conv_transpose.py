"""Conv1DTranspose, Conv2DTranspose and Conv3DTranspose."""

import numpy as np
import pytest

import tfconv
from tests.ops.geometries import assert_close, gradients
from tfconv._compat import keras
from tfconv.testing import randomize

LAYERS = {1: tfconv.Conv1DTranspose, 2: tfconv.Conv2DTranspose, 3: tfconv.Conv3DTranspose}


@pytest.mark.parametrize("rank", LAYERS)
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("strides, output_padding", [(1, None), (2, None), (3, 1)])
def test_without_groups_it_is_kerass_layer(rank, padding, strides, output_padding, rng):
    x = rng.standard_normal((2, *[4] * rank, 3)).astype(np.float32)
    arguments = {"output_padding": output_padding, "activation": "relu"}
    ours = LAYERS[rank](4, 3, strides, padding, **arguments)
    theirs = getattr(keras.layers, f"Conv{rank}DTranspose")(4, 3, strides, padding, **arguments)
    theirs.build(x.shape)
    ours.build(x.shape)
    randomize(ours)
    theirs.set_weights(ours.get_weights())
    assert_close(ours(x), theirs(x))
    assert ours.compute_output_shape((None, *x.shape[1:])) == tuple(
        theirs.compute_output_shape((None, *x.shape[1:]))
    )


@pytest.mark.parametrize("rank", LAYERS)
@pytest.mark.parametrize("padding", ["valid", "same", "full", 1])
def test_is_the_gradient_of_the_convolution(rank, padding, rng):
    """With the same configuration and kernel."""
    arguments = {"strides": 2, "padding": padding, "groups": 2, "use_bias": False}
    forward = getattr(tfconv, f"Conv{rank}D")(6, 3, **arguments, dtype="float64")
    x = rng.standard_normal((2, *[6] * rank, 4))
    y, gradient = gradients(forward, [x], upstream := rng.standard_normal(forward(x).shape))
    # Six pixels, of which the last is skipped by "valid" (outputs at 0 and 2) and by 1.
    more = None if padding == "same" else 1
    back = LAYERS[rank](4, 3, **arguments, output_padding=more, dtype="float64")
    back.build(y.shape)
    back.set_weights(forward.get_weights())
    assert_close(back(upstream), gradient)


def test_causal_outputs_see_no_future(rng):
    layer = tfconv.Conv1DTranspose(3, 4, 2, "causal", dilation_rate=2)
    x = rng.standard_normal((1, 6, 4)).astype(np.float32)
    y = layer(x)
    x[:, 4:] += 1
    changed = np.any(layer(x) != y, axis=(0, 2))
    assert changed.size == 12 and not changed[:8].any() and changed[8]


@pytest.mark.parametrize("rank, parameters", [(1, 3 * 3 * 4 + 6), (2, 114), (3, 330)])
def test_parameters(rank, parameters):
    """prod(k) * filters / groups * C + filters."""
    layer = LAYERS[rank](6, 3, groups=2)
    layer.build((None, *[5] * rank, 4))
    assert layer.count_params() == parameters


@pytest.mark.parametrize("batch", [0, 1, 33])
@pytest.mark.parametrize("rank", LAYERS)
def test_batches(rank, batch, rng):
    layer = LAYERS[rank](4, 2, 2, groups=2, dtype="float64")
    x = rng.standard_normal((batch, *[3] * rank, 4))
    y, grad = gradients(layer, [x])
    assert y.shape == (batch, *[6] * rank, 4) and grad.shape == x.shape
