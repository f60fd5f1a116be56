"""FlattenedConv, LowRankConv and TuckerConv: convolutions whose kernel is a product."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests import reference
from tests.ops.geometries import Geometry, assert_close, gradients
from tfconv._compat import keras
from tfconv.testing import randomize

FAMILIES = {
    "Flattened": {},
    "LowRank": {"kernel_rank": 4},
    "Tucker": {"ranks": (2, 4)},
}
# Of one axis, two, and three.
CLASSES = {
    "Flattened": [tfconv.FlattenedConv1D, tfconv.FlattenedConv2D, tfconv.FlattenedConv3D],
    "LowRank": [tfconv.LowRankConv1D, tfconv.LowRankConv2D, tfconv.LowRankConv3D],
    "Tucker": [tfconv.TuckerConv1D, tfconv.TuckerConv2D, tfconv.TuckerConv3D],
}
GEOMETRIES = [
    Geometry((7,), 3, 2, "causal", 2),
    Geometry((5, 6), (3, 2), (2, 1), "same", (1, 2)),
    Geometry((6, 5), (2, 3), 2, ((1, 0), (2, 3)), 2),
    Geometry((4, 5), 1, 1, "valid"),
    Geometry((3, 4, 3), (2, 1, 3), (1, 2, 1), "full"),
]


def layer_of(family, geometry, filters=6, groups=1, channels=4, **arguments):
    """A built layer in float64 with the given geometry."""
    layer = CLASSES[family][len(geometry.sizes) - 1](
        filters,
        geometry.kernel_size,
        groups=groups,
        dtype="float64",
        **geometry.arguments,
        **{**FAMILIES[family], **arguments},
    )
    layer.build((None, *geometry.sizes, channels))
    return layer


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_is_the_dense_convolution_with_the_effective_kernel(family, geometry, groups, rng):
    layer = layer_of(family, geometry, groups=groups)
    randomize(layer)
    x = rng.standard_normal((2, *geometry.sizes, 4))
    kernel = layer.effective_kernel().numpy()
    assert kernel.shape == (*geometry.window.kernel_size, 4 // groups, 6)
    expected = reference.conv(x, kernel, geometry.window, groups) + layer.bias.numpy()
    assert_close(layer(x), expected)


def product(*vectors):
    """The outer product of vectors."""
    result = np.ones(())
    for vector in vectors:
        result = np.multiply.outer(result, vector)
    return result


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_effective_kernels_by_hand(rank):
    """The formulas in the docstrings, term by term."""
    geometry = Geometry((4,) * rank, tuple(range(2, 2 + rank)))
    flattened, low_rank, tucker = (layer_of(f, geometry, channels=3) for f in FAMILIES)
    for layer in (flattened, low_rank, tucker):
        randomize(layer)
    across, *axes = (np.squeeze(w) for w in flattened.get_weights()[:-1])
    expected = [product(*(a[:, f] for a in axes), across[:, f]) for f in range(6)]
    assert_close(flattened.effective_kernel(), np.stack(expected, axis=-1))
    inner, *axes, outer = (w.reshape(-1, w.shape[-1]) for w in low_rank.get_weights()[:-1])
    expected = sum(product(*(a[:, r] for a in axes), inner[:, r], outer[r]) for r in range(4))
    assert_close(low_rank.effective_kernel(), expected)
    inner, core, outer, _ = tucker.get_weights()
    inner, outer = inner.reshape(3, 2), outer.reshape(4, 6)
    expected = sum(
        product(core[..., i, o], inner[:, i], outer[o]) for i in range(2) for o in range(4)
    )
    assert_close(tucker.effective_kernel(), expected)


@pytest.mark.parametrize("groups, use_bias", [(1, True), (2, False), (4, True)])
@pytest.mark.parametrize("kernel_size", [(3,), (5, 3), (3, 3, 3)], ids=str)
def test_parameter_counts(kernel_size, groups, use_bias):
    """The formulas in the docstrings; fewer than a dense kernel has."""
    channels, filters, kernel_rank, ranks = 32, 48, 8, (8, 16)
    taps, rank = math.prod(kernel_size), len(kernel_size)
    counts = {
        "Flattened": filters * (channels // groups + sum(kernel_size)),
        "LowRank": kernel_rank * (channels // groups + sum(kernel_size) + filters // groups),
        "Tucker": (channels * ranks[0] + taps * ranks[0] * ranks[1] + ranks[1] * filters) // groups,
    }
    dense = filters * channels // groups * taps
    arguments = {"LowRank": {"kernel_rank": kernel_rank}, "Tucker": {"ranks": ranks}}
    for family, count in counts.items():
        layer = CLASSES[family][rank - 1](
            filters, kernel_size, groups=groups, use_bias=use_bias, **arguments.get(family, {})
        )
        count += filters * use_bias
        assert layer.parameter_count(channels) == count
        layer.build((None, *[None] * rank, channels))
        assert layer.count_params() == count
        assert count - filters * use_bias < dense


@pytest.mark.parametrize("channels", [0, 3, "a", 2.5])
@pytest.mark.parametrize("family", FAMILIES)
def test_channels_that_parameters_cannot_be_counted_for(family, channels):
    layer = CLASSES[family][1](4, 3, groups=2, **FAMILIES[family])
    with pytest.raises(ValueError, match="`channels` must be .*Received: channels="):
        layer.parameter_count(channels)


@pytest.mark.parametrize("family", FAMILIES)
def test_factors_start_with_different_numbers(family):
    layer = layer_of(family, Geometry((9, 9), 3), filters=8, channels=8)
    for first, second in itertools.combinations(layer.get_weights()[:-1], 2):
        size = min(first.size, second.size)
        assert not np.allclose(first.ravel()[:size], second.ravel()[:size])


@pytest.mark.parametrize("family", ["Flattened", "LowRank"])
def test_filters_along_the_axes_start_as_kernels_of_one_channel(family):
    """Their scale doesn't fall with the number of channels, so that signals do not fade."""
    arguments = {"kernel_rank": 256} if family == "LowRank" else {}
    layer = layer_of(family, Geometry((9, 9), 3), filters=256, **arguments)
    for kernel in (layer.axis_kernel_0, layer.axis_kernel_1):
        assert kernel.shape == (3, 256)
        np.testing.assert_allclose(np.square(kernel).sum(axis=0).mean(), 1, rtol=0.1)
        assert len(np.unique(kernel)) > 700


@pytest.mark.parametrize("family", FAMILIES)
def test_seeds_repeat_the_weights(family):
    def weights():
        initializer = keras.initializers.GlorotUniform(seed=3)
        return layer_of(family, Geometry((5, 5), 3), kernel_initializer=initializer).get_weights()

    for first, second in zip(weights(), weights()):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("batch", [0, 1, 33])
@pytest.mark.parametrize("family", FAMILIES)
def test_batches(family, batch, rng):
    x = rng.standard_normal((batch, 4, 3, 4))
    y, gradient = gradients(layer_of(family, Geometry((4, 3), 2), groups=2), [x])
    assert y.shape == (batch, 4, 3, 6)
    assert gradient.shape == x.shape


@pytest.mark.parametrize("family", FAMILIES)
def test_numeric_gradients(family, rng):
    """For the input and, by differences, for every factor."""
    layer = layer_of(family, Geometry((3, 4), 2, 2, "same", 2), groups=2)
    randomize(layer)
    x = tf.constant(rng.standard_normal((1, 3, 4, 4)))
    theory, numeric = tf.test.compute_gradient(layer, [x])
    np.testing.assert_allclose(theory[0], numeric[0], rtol=1e-6, atol=1e-6)
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(tf.sin(layer(x)))
    weights = layer.get_weights()
    for number, gradient in enumerate(tape.gradient(y, layer.trainable_weights)):
        direction = rng.standard_normal(weights[number].shape)
        values = []
        for step in (1e-5, -1e-5):
            moved = weights[number] + step * direction
            layer.set_weights([*weights[:number], moved, *weights[number + 1 :]])
            values.append(tf.reduce_sum(tf.sin(layer(x))))
        layer.set_weights(weights)
        slope = np.sum(gradient * direction)
        assert abs(slope) > 1e-3
        np.testing.assert_allclose((values[0] - values[1]) / 2e-5, slope, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("family", FAMILIES)
def test_data_types(family, dtype):
    arguments = {"strides": 2, "padding": "same", "dtype": dtype, **FAMILIES[family]}
    layer = CLASSES[family][1](6, 3, **arguments)
    assert layer(tf.ones([2, 6, 6, 4], dtype)).dtype == tf.as_dtype(dtype)
    assert layer.effective_kernel().dtype == tf.as_dtype(dtype)


@pytest.mark.parametrize("name", ("FlattenedConv1D", "SeparableConv1D"))
def test_no_kernel_by_that_name(name):
    """Before and after it is built: the error does not send one to build it again."""
    layer = getattr(tfconv, name)(2, 3)
    with pytest.raises(AttributeError, match="build" if name[0] == "F" else "depthwise_kernel"):
        layer.kernel  # noqa: B018
    layer.build((None, 5, 4))
    with pytest.raises(AttributeError, match="several kernels|depthwise_kernel"):
        layer.kernel  # noqa: B018
