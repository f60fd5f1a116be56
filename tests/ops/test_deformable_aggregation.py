"""Deformable aggregation: its definition, gradients, odd coordinates, and ops that it contains."""

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests import reference
from tests.ops.geometries import (
    Geometry,
    as_function,
    assert_close,
    assert_numeric_gradients,
    gradients,
    in_format,
    random_geometry,
    second_gradients,
    table,
)
from tfconv.ops import deformable_aggregation, deformable_sample, involution

GROUPS = [(1, 1), (3, 1), (1, 5), (2, 8), (4, 5), (3, 11)]  # groups, channels in each
SMALL = [
    (Geometry((5,), 3, 1, "causal", 2), 2, 1),
    (Geometry((3, 3), (2, 1), 2, ((1, 0), (0, 1)), (2, 1)), 2, 2),
    (Geometry((2, 3, 2), 2, (1, 2, 1), "same", (1, 1, 2)), 1, 2),
]


def draw(rng, geometry, batch, groups, width, spread=2.0):
    """An input, offsets and weights."""
    samples = groups * len(geometry.window.taps)
    outputs = (batch, *geometry.outputs)
    x = rng.standard_normal((batch, *geometry.sizes, groups * width))
    offset = rng.standard_normal((*outputs, samples * len(geometry.sizes))) * spread
    return [x, offset, rng.standard_normal((*outputs, samples))]


def smooth(inputs):
    """Offsets 0.25 to 0.75 beyond an integer: there linear interpolation has gradients."""
    x, offset, weights = inputs
    floor = np.floor(offset)
    return [x, floor + 0.25 + 0.5 * (offset - floor), weights]


def apply(geometry, data_format="channels_last"):
    return lambda x, offset, weights: deformable_aggregation(
        x, offset, weights, geometry.kernel_size, **geometry.arguments, data_format=data_format
    )


@pytest.mark.parametrize("geometry, groups, batch", table([1, 2, 3], GROUPS, [2, 1]))
def test_matches_reference(geometry, groups, batch, rng, implementation):
    inputs = draw(rng, geometry, batch, *groups)
    expected = reference.deformable_aggregation(*inputs, geometry.window)
    assert_close(apply(geometry)(*inputs), expected)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(
    "geometry",
    [
        Geometry((6,), 3, 2, "causal", 2),
        Geometry((5, 6), (3, 2), 2, "same", 2),
        Geometry((3, 4, 3), 2, 1, 1),
    ],
    ids=str,
)
def test_modes_and_data_formats(geometry, data_format, mode, rng, implementation):
    inputs = draw(rng, geometry, 2, 2, 3)
    function = as_function(apply(geometry, data_format), mode)
    y = function(*in_format(data_format, *inputs))
    expected = reference.deformable_aggregation(*inputs, geometry.window)
    assert_close(y, in_format(data_format, expected)[0])


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
@pytest.mark.parametrize(
    "geometry", [Geometry((9,), 5), Geometry((6, 5), 3, 1, "same", 2), Geometry((3, 4, 3), 2)]
)
def test_data_types(geometry, dtype, rng, implementation):
    inputs = [tf.cast(t, dtype) for t in smooth(draw(rng, geometry, 2, 2, 9))]
    results = gradients(apply(geometry), inputs)
    assert [t.dtype for t in results] == [dtype] * 4
    exact = [tf.cast(t, tf.float64) for t in inputs]
    upstream = tf.cast(gradients(tf.identity, [results[0]])[1], tf.float64)
    with tfconv.portable():
        expected = gradients(apply(geometry), exact, upstream)
    for actual, other in zip(results, expected):
        assert_close(actual, other, dtype)


@pytest.mark.parametrize("batch", [0, 1, 33])
def test_batches(batch, rng, implementation):
    geometry = Geometry((4, 3), 2)
    inputs = draw(rng, geometry, batch, 1, 3)
    y, *grads = gradients(apply(geometry), inputs)
    assert [g.shape for g in grads] == [t.shape for t in inputs]
    assert_close(y, reference.deformable_aggregation(*inputs, geometry.window))


@pytest.mark.parametrize("geometry, groups, width", SMALL, ids=str)
def test_numeric_gradients(geometry, groups, width, rng, native_module):
    inputs = smooth(draw(rng, geometry, 1, groups, width, spread=1.0))
    assert_numeric_gradients(apply(geometry), inputs)


def test_numeric_gradients_of_the_portable_twin(rng):
    geometry, *sizes = SMALL[1]
    with tfconv.portable():
        assert_numeric_gradients(apply(geometry), smooth(draw(rng, geometry, 1, *sizes, 1.0)))


@pytest.mark.parametrize("seed", range(12))
def test_native_equals_portable(seed, native_module):
    rng = np.random.default_rng(seed)
    geometry = random_geometry(rng, rank=1 + seed % 3)
    groups, width = (int(n) for n in rng.integers(1, 6, 2))
    inputs = draw(rng, geometry, 2, groups, width)
    results = gradients(apply(geometry), inputs)
    with tfconv.portable():
        expected = gradients(apply(geometry), inputs)
    for actual, other in zip(results, expected):
        assert_close(actual, other)


@pytest.mark.parametrize("geometry, groups, width", SMALL, ids=str)
def test_second_gradients(geometry, groups, width, rng, native_module):
    inputs = smooth(draw(rng, geometry, 2, groups, width, spread=1.0))
    results = second_gradients(apply(geometry), inputs)
    with tfconv.portable():
        expected = second_gradients(apply(geometry), inputs)
    for actual, other in zip(results, expected):
        assert np.abs(other).max() > 1e-3
        assert_close(actual, other)


@pytest.mark.dear
def test_second_gradients_are_numeric_gradients_of_the_first(rng, implementation):
    geometry, *sizes = Geometry((3, 2), (2, 1), 2, ((1, 0), (0, 1)), (2, 1)), 2, 1
    inputs = smooth(draw(rng, geometry, 1, *sizes, spread=1.0))

    @tf.function  # it is called for every number
    def first(*inputs):
        return tf.concat([tf.reshape(g, [-1]) for g in gradients(apply(geometry), inputs)[1:]], 0)

    assert_numeric_gradients(first, inputs)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_without_offsets_it_is_an_involution(rank, rng, implementation):
    geometry = Geometry((6, 5, 4)[:rank], 3, 2, "same", 2)
    x, offset, weights = draw(rng, geometry, 2, 2, 3)
    expected = involution(x, weights, 3, **geometry.arguments)
    assert_close(apply(geometry)(x, 0 * offset, weights), expected)


def test_it_sums_weighted_samples(rng, implementation):
    geometry = Geometry((6, 7), (3, 2), 1, "valid")
    x, offset, weights = draw(rng, geometry, 2, 2, 3)
    samples = deformable_sample(x, offset, weights, kernel_size=(3, 2), padding="valid")
    assert_close(apply(geometry)(x, offset, weights), tf.reduce_sum(samples, axis=-2))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_odd_coordinates(rank, rng, implementation):
    """Infinite and huge positions read zero; NaN gives NaN, to its group's channels only."""
    geometry = Geometry((4, 3, 2)[:rank], 2, 1, "valid")
    inputs = draw(rng, geometry, 1, 2, 3, spread=0.3)
    x, offset, weights = inputs
    corner = (0,) * (rank + 1)
    for value in (np.inf, -np.inf, 1e30, -1e30, 2.0**31, -(2.0**31), 2.0**63):
        offset[(*corner, rank - 1)] = value
        y, dx, doffset, dweights = gradients(apply(geometry), inputs)
        far = offset.copy()
        far[(*corner, rank - 1)] = np.sign(value) * 1e6
        expected = reference.deformable_aggregation(x, far, weights, geometry.window)
        assert_close(y, expected)
        assert np.isfinite(dx).all()
        assert (doffset[corner][rank - 1], dweights[corner][0]) == (0, 0)
    offset[(*corner, rank - 1)] = np.nan
    y = apply(geometry)(*inputs).numpy()
    assert np.isnan(y[corner][:3]).all() and np.isnan(y).sum() == 3


@pytest.mark.parametrize("sizes", [(1, 1, 2**30), (2**16, 2**15)])
def test_pixels_that_cannot_be_counted(sizes, implementation):
    """Their numbers, and those of pixels before the first, would not fit into 32 bits."""
    ones = [1] * len(sizes)
    specs = [
        tf.TensorSpec([1, *output, channels])
        for output, channels in ((sizes, 1), (ones, len(sizes)), (ones, 1))
    ]

    def call(*inputs):
        return deformable_aggregation(*inputs, 1, strides=sizes)

    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=r"32 bits|2\^31"):
        tf.function(call, input_signature=specs).get_concrete_function()


@pytest.mark.parametrize("position", [-1.0, 0.0, 1.0, 2.0, 3.0])
def test_integer_positions(position, rng, implementation):
    """The gradient there is that of the pixels beyond, as in the kernels of deformable sampling."""
    x = rng.standard_normal((1, 3, 1))
    offset, weights = np.full((1, 1, 1), position), np.full((1, 1, 1), 2.0)
    function = lambda *t: deformable_aggregation(*t, 1, strides=3, padding="valid")  # noqa: E731
    y, _, doffset, _ = gradients(function, [x, offset, weights], tf.ones([1, 1, 1]))
    around = np.pad(x.reshape(-1), [[1, 2]])
    at = int(position) + 1
    assert_close(y, np.reshape(2 * around[at], [1, 1, 1]))
    assert_close(doffset, np.reshape(2 * (around[at + 1] - around[at]), [1, 1, 1]))


@pytest.mark.parametrize("sizes", [(8, 9), (3, 1)])
def test_unknown_sizes(sizes, rng, implementation):
    geometry = Geometry(sizes, 3, 2)
    inputs = draw(rng, geometry, 2, 2, 3)
    traced = tf.function(
        apply(geometry),
        input_signature=[
            tf.TensorSpec([None, None, None, t.shape[-1]], tf.float64) for t in inputs
        ],
    )
    assert_close(traced(*inputs), reference.deformable_aggregation(*inputs, geometry.window))


BAD_SHAPES = [
    ([2, 4, 4, 6], [2, 4, 4, 20], [2, 4, 4, 10]),  # not a multiple of the taps
    ([2, 4, 4, 6], [2, 4, 4, 72], [2, 4, 4, 36]),  # four groups of six channels
    ([2, 4, 4, 6], [2, 4, 3, 18], [2, 4, 3, 9]),  # another output size
    ([2, 4, 4, 6], [3, 4, 4, 18], [3, 4, 4, 9]),  # another batch
    ([2, 4, 4, 6], [2, 4, 4, 18], [2, 4, 4, 18]),  # weights for two groups
    ([2, 4, 4, 6], [2, 4, 4, 18], [2, 4, 3, 9]),
    ([2, 4, 4, 6], [2, 4, 4, 0], [2, 4, 4, 0]),
    ([2, 4, 4, 6], [2, 16, 18], [2, 16, 9]),  # another rank
    ([2, 4, 4, 6], [2, 4, 4, 18], [2, 16, 9]),
]


@pytest.mark.parametrize("shapes", BAD_SHAPES)
def test_bad_shapes(shapes, implementation):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        deformable_aggregation(*map(tf.ones, shapes), 3)
    for shape in shapes[:2]:
        assert ", ".join(map(str, shape)) in str(caught.value)


@pytest.mark.parametrize("shapes", [row for row in BAD_SHAPES[2:6]])
def test_bad_shapes_known_only_at_run_time(shapes, implementation):
    traced = tf.function(
        lambda *t: deformable_aggregation(*t, 3),
        input_signature=[tf.TensorSpec([None, None, None, shape[-1]]) for shape in shapes]
        if shapes[2][-1] == 9
        else [tf.TensorSpec([None] * 3 + [n]) for n in (6, 18)] + [tf.TensorSpec([None] * 4)],
    )
    with pytest.raises(tf.errors.InvalidArgumentError):
        traced(*map(tf.ones, shapes))


@pytest.mark.parametrize("shape", [[4, 6], [2, 3, 3, 3, 3, 6]])
def test_bad_rank(shape):
    with pytest.raises(tf.errors.InvalidArgumentError, match="rank 3 to 5.*Received"):
        deformable_aggregation(*[tf.ones(shape)] * 3, 3)


BAD_ARGUMENTS = [
    ({"kernel_size": 0}, "kernel_size"),
    ({"kernel_size": (3, 3, 3)}, "kernel_size"),
    ({"kernel_size": 3, "strides": 0}, "strides"),
    ({"kernel_size": 3, "dilation_rate": (0, 1)}, "dilation_rate"),
    ({"kernel_size": 3, "padding": "causal"}, "padding"),
    ({"kernel_size": 3, "data_format": "channels_middle"}, "data_format"),
    ({"kernel_size": 5, "padding": "valid"}, "kernel"),
]


@pytest.mark.parametrize("arguments, name", BAD_ARGUMENTS)
def test_bad_arguments(arguments, name):
    inputs = (tf.ones([1, 4, 4, 2]), tf.ones([1, 4, 4, 18]), tf.ones([1, 4, 4, 9]))
    with pytest.raises(ValueError, match=rf"{name}.*Received: "):
        deformable_aggregation(*inputs, **arguments)
