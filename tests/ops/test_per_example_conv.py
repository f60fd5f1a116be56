"""Convolution with a kernel of its own for every example: native and portable."""

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
    check_only_wanted_gradients,
    gradients,
    in_format,
    random_geometry,
    second_gradients,
    table,
)
from tfconv.ops import conv, per_example_conv

GROUPS = [(1, 1, 1), (1, 3, 5), (5, 1, 2), (2, 8, 1), (4, 5, 1), (3, 11, 2)]  # g, C / g, F / g
MODES = [
    Geometry((6,), 3, 2, "causal", 2),
    Geometry((5, 6), (3, 2), 2, "same", 2),
    Geometry((3, 4, 3), 2, 1, ((1, 0), (0, 2), (0, 0))),
]


def draw(rng, geometry, batch, sizes):
    """An input, and a kernel for each example."""
    groups, width, filters = sizes
    kernel = (*geometry.window.kernel_size, width, groups * filters)
    return (
        rng.standard_normal((batch, *geometry.sizes, groups * width)),
        rng.standard_normal((batch, *kernel)),
    )


def apply(geometry, data_format="channels_last"):
    return lambda x, kernels: per_example_conv(
        x, kernels, **geometry.arguments, data_format=data_format
    )


def assert_same_gradients(function, inputs):
    """Native and portable ops agree on the result and the gradients."""
    results = gradients(function, inputs)
    with tfconv.portable():
        expected = gradients(function, inputs)
    for actual, other in zip(results, expected):
        assert_close(actual, other)


@pytest.mark.parametrize("geometry, sizes, batch", table([1, 2, 3], GROUPS, [2, 1, 3]))
def test_matches_reference(geometry, sizes, batch, rng, implementation):
    x, kernels = draw(rng, geometry, batch, sizes)
    expected = reference.per_example_conv(x, kernels, geometry.window)
    assert_close(apply(geometry)(x, kernels), expected)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("geometry", MODES, ids=str)
def test_modes_and_data_formats(geometry, data_format, mode, rng, implementation):
    x, kernels = draw(rng, geometry, 2, (2, 3, 2))
    x, expected = in_format(data_format, x, reference.per_example_conv(x, kernels, geometry.window))
    assert_close(as_function(apply(geometry, data_format), mode)(x, kernels), expected)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
@pytest.mark.parametrize("geometry", MODES, ids=str)
def test_data_types(geometry, dtype, rng, implementation):
    x, kernels = (tf.cast(t, dtype) for t in draw(rng, geometry, 2, (2, 9, 2)))
    results = gradients(apply(geometry), [x, kernels])
    assert [t.dtype for t in results] == [dtype] * 3
    exact = [tf.cast(t, tf.float64) for t in (x, kernels)]
    expected = reference.per_example_conv(*(t.numpy() for t in exact), geometry.window)
    assert_close(results[0], expected, dtype)
    upstream = tf.cast(tf.cast(gradients(tf.identity, [results[0]])[1], dtype), tf.float64)
    with tfconv.portable():
        _, *expected = gradients(apply(geometry), exact, upstream)
    for actual, gradient in zip(results[1:], expected):
        assert_close(actual, gradient, dtype)


@pytest.mark.parametrize("batch", [0, 1, 33])
@pytest.mark.parametrize("sizes", [(3, 1, 2), (2, 3, 2)], ids=str)
def test_batches(batch, sizes, rng, implementation):
    geometry = Geometry((4, 3), 2, 2, "same", 2)
    inputs = draw(rng, geometry, batch, sizes)
    y, *grads = gradients(apply(geometry), inputs)
    assert [g.shape for g in grads] == [t.shape for t in inputs]
    assert_close(y, reference.per_example_conv(*inputs, geometry.window))


@pytest.mark.parametrize(
    "geometry, sizes",
    [
        (Geometry((5,), 3, 1, "causal", 2), (2, 2, 2)),
        (Geometry((3, 4), (3, 2), (2, 1), ((1, 0), (2, 1)), (1, 2)), (1, 2, 1)),
        (Geometry((4, 3), 2, 2, "full", 1), (2, 2, 1)),
        (Geometry((2, 3, 2), 2, (1, 2, 1), "same", (1, 1, 2)), (2, 2, 1)),
    ],
    ids=str,
)
def test_numeric_gradients(geometry, sizes, rng, implementation):
    assert_numeric_gradients(apply(geometry), draw(rng, geometry, 2, sizes))


@pytest.mark.parametrize("seed", range(24))
def test_native_equals_portable(seed, native_module):
    rng = np.random.default_rng(seed)
    geometry = random_geometry(rng, 1 + seed % 3)
    sizes = [int(rng.choice(choice)) for choice in ([1, 2, 3], [2, 3, 17, 40], [1, 3, 16, 33])]
    assert_same_gradients(apply(geometry), draw(rng, geometry, 1 + seed % 4, sizes))


@pytest.mark.parametrize(
    "geometry, batch, sizes",
    [
        (Geometry((31, 33), 3), 1, (1, 20, 18)),  # several tiles of rows, one example
        (Geometry((40, 41), 3, 1, "valid"), 2, (1, 3, 5)),  # several chunks of tiles
        (Geometry((9, 8), 3, 2), 2, (1, 420, 40)),  # channels of one tap in several blocks
        (Geometry((5, 6), (2, 3)), 2, (1, 24, 1100)),  # several blocks of filters
        (Geometry((6, 5), 3, (3, 2)), 2, (1, 1100, 8)),  # and of channels, in phases
        (Geometry((17, 19), 1), 3, (2, 130, 70)),
        (Geometry((3, 2), 1, 5, "valid"), 2, (1, 4, 4)),  # strides beyond the input
        (Geometry((11,), 2, 4, "valid"), 2, (1, 4, 4)),  # inputs that no tap meets
        (Geometry((23, 5), (11, 3), 1, "full", (2, 1)), 2, (1, 6, 7)),
        (Geometry((6, 6), 3), 3, (64, 2, 2)),  # many groups
    ],
    ids=str,
)
def test_divisions_of_the_work(geometry, batch, sizes, rng, native_module):
    """Sizes at which the native kernels cut rows, columns and depth in other ways."""
    assert_same_gradients(apply(geometry), draw(rng, geometry, batch, sizes))


@pytest.mark.parametrize(
    "geometry, sizes",
    [
        (Geometry((4,), 3, 2, "causal", 1), (1, 2, 3)),
        (Geometry((3, 4), 2, (1, 2)), (2, 2, 1)),
        (Geometry((2, 3, 2), 2, 1, "full"), (1, 2, 2)),
    ],
    ids=str,
)
def test_second_gradients(geometry, sizes, rng, native_module):
    inputs = draw(rng, geometry, 2, sizes)
    results = second_gradients(apply(geometry), inputs)
    with tfconv.portable():
        expected = second_gradients(apply(geometry), inputs)
    for actual, other in zip(results, expected):
        assert np.abs(other).max() > 1e-3
        assert_close(actual, other)


@pytest.mark.parametrize(
    "wanted, called", [([0], "input"), ([1], "filter"), ([0, 1], "input filter")]
)
def test_only_what_is_asked_for(wanted, called, rng, native_module, monkeypatch):
    geometry = Geometry((4, 5), 2)
    check_only_wanted_gradients(
        apply(geometry),
        draw(rng, geometry, 2, (1, 3, 2)),
        wanted,
        native_module,
        "per_example_conv",
        called,
        monkeypatch,
    )


@pytest.mark.parametrize("groups", [1, 2])
def test_equal_kernels_are_one_convolution(groups, rng, implementation):
    x = rng.standard_normal((3, 6, 5, 4))
    kernel = rng.standard_normal((3, 2, 4 // groups, 6))
    kernels = np.broadcast_to(kernel, (3, *kernel.shape))
    assert_close(per_example_conv(x, kernels), conv(x, kernel, padding="same", groups=groups))


def test_examples_do_not_meet(rng, implementation):
    """NaN in one example, in its pixels or its kernel, stays there."""
    x, kernels = draw(rng, Geometry((5, 4), 3), 3, (1, 3, 4))
    expected = per_example_conv(x, kernels)
    x[1, 2, 2, 0], kernels[2, 0, 0, 0, 0] = np.nan, np.inf
    y = per_example_conv(x, kernels)
    assert_close(y[0], expected[0])
    assert np.isnan(y[1, 2, 2]).all()
    assert np.isfinite(y[1, 0, 0]).all()  # its window does not reach the NaN
    assert not np.isfinite(y[2, 2, 2, 0])
    assert_close(y[2, ..., 1:], expected[2, ..., 1:])


@pytest.mark.parametrize(
    "x, kernels",
    [
        ([None, 6, 5, 4], [None, 3, 2, 4, 6]),
        ([None, None, None, 4], [None, 3, 2, 2, 6]),
        ([None, None, None, 4], [None, 3, 2, 1, 8]),
        ([None, None, None, 4], [None, 1, 1, 4, 6]),
    ],
    ids=str,
)
def test_unknown_sizes(x, kernels, rng, implementation):
    function = tf.function(
        lambda x, kernels: gradients(per_example_conv, [x, kernels]),
        input_signature=[tf.TensorSpec(x, tf.float64), tf.TensorSpec(kernels, tf.float64)],
    )
    for batch in (1, 5):
        inputs = rng.standard_normal((batch, 6, 5, 4)), rng.standard_normal((batch, *kernels[1:]))
        for actual, expected in zip(function(*inputs), gradients(per_example_conv, inputs)):
            assert_close(actual, expected)


@pytest.mark.parametrize(
    "x, kernels, arguments",
    [
        ([2, 6, 5, 4], [3, 3, 3, 4, 6], {}),  # a kernel too many
        ([2, 6, 5, 4], [2, 3, 3, 3, 6], {}),
        ([2, 6, 5, 4], [2, 3, 3, 2, 5], {}),
        ([2, 2, 5, 4], [2, 3, 3, 4, 6], {"padding": "valid"}),
    ],
    ids=str,
)
def test_bad_shapes(x, kernels, arguments, implementation):
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match="shape|size"):
        per_example_conv(tf.ones(x), tf.ones(kernels), **arguments)


@pytest.mark.parametrize("x, kernels", [([2, 6, 5, 4], [2, 3, 4, 6]), ([6, 5], [3, 3, 4])])
def test_bad_ranks(x, kernels, implementation):
    with pytest.raises(tf.errors.InvalidArgumentError, match="rank 3 to 5.*Received"):
        per_example_conv(tf.ones(x), tf.ones(kernels))


def test_bad_batch_known_only_at_run_time(native_module):
    function = tf.function(
        per_example_conv,
        input_signature=[tf.TensorSpec([None, 6, 5, 4]), tf.TensorSpec([None, 3, 3, 4, 6])],
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="one filter for each of the 2"):
        function(tf.ones([2, 6, 5, 4]), tf.ones([3, 3, 3, 4, 6]))


@pytest.mark.parametrize("count", [0, 3])
def test_depthwise_with_a_batch_that_is_not_known_before(rng, count):
    x = rng.standard_normal((count, 5, 6, 4)).astype(np.float32)
    kernels = rng.standard_normal((count, 3, 3, 1, 8)).astype(np.float32)
    signature = [tf.TensorSpec([None, *each.shape[1:]]) for each in (x, kernels)]

    @tf.function(input_signature=signature)
    def run(x, kernels):
        with tf.GradientTape() as tape:
            tape.watch([x, kernels])
            y = tfconv.ops.per_example_conv(x, kernels, padding="valid")
            loss = tf.reduce_sum(y**2)
        return y, tape.gradient(loss, [x, kernels])

    y, (dx, dkernels) = run(x, kernels)
    assert (y.shape, dx.shape, dkernels.shape) == ((count, 3, 4, 8), x.shape, kernels.shape)
    window = tfconv.ops.per_example_conv
    expected = [window(x[i : i + 1], kernels[i : i + 1], padding="valid")[0] for i in range(count)]
    np.testing.assert_allclose(y, np.reshape(expected, y.shape), rtol=1e-5, atol=1e-5)
