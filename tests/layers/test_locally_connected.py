"""LocallyConnected1D and 2D."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests import reference
from tests.ops.geometries import Geometry, assert_numeric_gradients, table
from tfconv._compat import keras
from tfconv.testing import randomize

DATA = Path(__file__).parent.parent / "data"


CLASSES = {1: tfconv.LocallyConnected1D, 2: tfconv.LocallyConnected2D}


def built(x, geometry, groups=1, **arguments):
    """A layer in float64 with random weights."""
    layer = CLASSES[len(geometry.sizes)](
        4, geometry.kernel_size, **geometry.arguments, groups=groups, dtype="float64", **arguments
    )
    layer(x)
    randomize(layer)
    return layer


def by_hand(layer, x, window, groups):
    """A loop over positions, taps and groups."""
    kernel, bias = layer.get_weights()
    outputs = window.outputs(x.shape[1:-1])
    width = x.shape[-1] // groups
    y = np.zeros((len(x), *outputs, 4)) + bias
    for position in np.ndindex(*outputs):
        for number, tap in enumerate(window.taps):
            pixel = reference._pixel(x, window.pixel(position, tap))
            for f in range(4):
                group = f // (4 // groups)
                weights = kernel[position][number * width : (number + 1) * width, f]
                y[(slice(None), *position, f)] += (
                    pixel[:, group * width : (group + 1) * width] @ weights
                )
    return y


@pytest.mark.parametrize("geometry, groups", table([1, 2], [1, 2, 4]))
def test_by_hand(geometry, groups, rng):
    x = rng.standard_normal((2, *geometry.sizes, 4))
    layer = built(x, geometry, groups)
    expected = by_hand(layer, x, geometry.window, groups)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("groups", [1, 2])
def test_the_same_weights_everywhere_are_a_convolution(groups, rng):
    geometry = Geometry((5, 6), 3, 2, "same", 2)
    x, kernel = rng.standard_normal((2, 5, 6, 4)), rng.standard_normal((3, 3, 4 // groups, 4))
    layer = built(x, geometry, groups, use_bias=False)
    shape = layer.kernel.shape
    layer.set_weights([np.broadcast_to(kernel.reshape(-1, 4), shape)])
    expected = tfconv.ops.conv(x, kernel, **geometry.arguments, groups=groups)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", ["00", "01"])
def test_weights_and_outputs_are_those_of_keras_2(case):
    """Recorded, since Keras 3 has no such layers."""
    with np.load(DATA / "locally_connected_nd.npz") as data:
        x, rank, kernel, bias, out = (
            data[f"{case}/{name}"] for name in ("x", "nd", "kernel", "bias", "out")
        )
    layer = CLASSES[int(rank)](4, 3, strides=2)
    layer(x)
    # Keras 2 puts the output positions of an image into one axis.
    weights = zip((kernel, bias), layer.get_weights())
    layer.set_weights([theirs.reshape(own.shape) for theirs, own in weights])
    np.testing.assert_allclose(layer(x), out, rtol=1e-4, atol=1e-5)


def test_each_position_is_initialised_as_a_plain_kernel():
    layer = tfconv.LocallyConnected2D(32, 3)
    layer.build((None, 5, 5, 16))
    values = layer.get_weights()[0].reshape(9, -1)
    plain = np.asarray(keras.initializers.GlorotUniform()((3, 3, 16, 32)))
    for i, kernel in enumerate(values):
        assert abs(kernel.std() / plain.std() - 1) < 0.1
        for other in values[:i]:
            assert abs(np.corrcoef(kernel, other)[0, 1]) < 0.1


@pytest.mark.parametrize("groups", [1, 2])
def test_parameters(groups):
    layer = tfconv.LocallyConnected2D(6, (3, 2), groups=groups)
    layer.build((None, 5, 7, 4))
    assert layer.count_params() == (3 * 6) * (3 * 2 * 4 // groups * 6 + 6)


def test_numeric_gradients(rng):
    x = rng.standard_normal((2, 3, 4))
    assert_numeric_gradients(built(x, Geometry((3,), 2, 1, "same"), 2), [x])


def test_gradient_of_the_kernel(rng):
    """Linear in the kernel: its gradient is what the kernel is multiplied with."""
    geometry = Geometry((3, 4), 2, 1, "same")
    x = rng.standard_normal((2, 3, 4, 4))
    layer = built(x, geometry, use_bias=False)
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(layer(x))
    (gradient,) = tape.gradient(y, layer.trainable_weights)
    total = np.sum(np.asarray(gradient) * layer.get_weights()[0])
    np.testing.assert_allclose(total, y, rtol=1e-10)
    assert (np.abs(np.asarray(gradient)[:-1, :-1]) > 0).all()


@pytest.mark.parametrize("batch", [0, 1, 33])
def test_batches(batch, rng):
    x = rng.standard_normal((batch, 5, 4, 4))
    layer = built(x, Geometry((5, 4), 3, 1, "valid"), 2)
    assert layer(x).shape == (batch, 3, 2, 4)
    alone = [layer(x[n : n + 1]) for n in range(batch)]
    if alone:
        np.testing.assert_allclose(layer(x), tf.concat(alone, 0), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "data_format, shape",
    [
        ("channels_last", (None, None, 6, 4)),
        ("channels_last", (None, 6, None, 4)),
        ("channels_first", (None, 4, 6, None)),
    ],
)
def test_sizes_must_be_known(data_format, shape):
    with pytest.raises(ValueError, match="spatial sizes.*Received: input_shape"):
        tfconv.LocallyConnected2D(6, 3, data_format=data_format).build(shape)


def test_takes_no_other_size():
    layer = tfconv.LocallyConnected2D(6, 3)
    layer(tf.ones([1, 6, 5, 4]))
    with pytest.raises(ValueError):
        layer(tf.ones([1, 5, 6, 4]))
