"""Deformable sampling and convolution: definitions, recorded cases, gradients, odd offsets."""

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests import recorded, reference
from tests.ops.geometries import (
    Geometry,
    as_function,
    assert_close,
    assert_numeric_gradients,
    check_only_wanted_gradients,
    gradients,
    in_format,
    random_geometry,
    rounding_of_samples,
    second_gradients,
    table,
)
from tfconv.ops import deformable_conv, deformable_conv2d, deformable_sample

# Offset groups, channels in each.
OFFSET_GROUPS = [(1, 1), (3, 1), (1, 5), (2, 8), (4, 5), (3, 11)]
# Offset groups, groups, channels, filters.
GROUPS = [
    (1, 1, 1, 1),
    (1, 3, 3, 6),
    (5, 1, 5, 3),
    (2, 4, 16, 8),
    (4, 2, 20, 2),
    (3, 1, 33, 17),
]
SMALL = [
    Geometry((2, 4), 2, 1, "valid"),
    Geometry((3, 3), (2, 1), 2, ((1, 0), (0, 1)), (2, 1)),
    Geometry((4,), 2, 1, "causal", 2),
    Geometry((2, 2, 3), (2, 1, 2), (1, 1, 2)),
]


def draw(rng, geometry, batch, offset_groups, channels, masked=True, spread=2.0):
    """An input, offsets and, unless ``masked`` is false, a mask."""
    count = offset_groups * len(geometry.window.taps)
    outputs = (batch, *geometry.outputs)
    x = rng.standard_normal((batch, *geometry.sizes, channels))
    offset = rng.standard_normal((*outputs, len(geometry.sizes) * count)) * spread
    return [x, offset, *([rng.uniform(0.1, 1, (*outputs, count))] if masked else [])]


def draw_kernel(rng, geometry, channels, groups, filters):
    return rng.standard_normal((*geometry.window.kernel_size, channels // groups, filters))


def smooth(offset):
    """Offsets 0.25 to 0.75 beyond an integer: there linear interpolation has gradients."""
    return np.floor(offset) + 0.25 + 0.5 * (offset - np.floor(offset))


def sample(geometry, data_format="channels_last"):
    return lambda x, offset, mask=None: deformable_sample(
        x,
        offset,
        mask,
        kernel_size=geometry.kernel_size,
        **geometry.arguments,
        data_format=data_format,
    )


def convolve(geometry, data_format="channels_last"):
    return lambda x, offset, kernel, mask=None, bias=None: deformable_conv(
        x, offset, kernel, mask, bias, **geometry.arguments, data_format=data_format
    )


# Against the definition.


@pytest.mark.parametrize(
    "geometry, groups, masked, batch", table([1, 2, 3], OFFSET_GROUPS, [True, False], [2, 1])
)
def test_sample_matches_reference(geometry, groups, masked, batch, rng, implementation):
    x, offset, *mask = draw(rng, geometry, batch, groups[0], groups[0] * groups[1], masked)
    expected = reference.deformable_sample(x, offset, mask[0] if mask else None, geometry.window)
    assert_close(sample(geometry)(x, offset, *mask), expected)


@pytest.mark.parametrize("geometry, sizes, masked", table([1, 2, 3], GROUPS, [False, True]))
def test_conv_matches_reference(geometry, sizes, masked, rng, implementation):
    offset_groups, groups, channels, filters = sizes
    x, offset, *mask = draw(rng, geometry, 2, offset_groups, channels, masked)
    mask = mask[0] if mask else None
    kernel = draw_kernel(rng, geometry, channels, groups, filters)
    bias = rng.standard_normal(filters)
    y = convolve(geometry)(x, offset, kernel, mask, bias)
    expected = reference.deformable_conv(x, offset, kernel, mask, bias, geometry.window)
    assert_close(y, expected)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("masked", [False, True], ids=["v1", "v2"])
def test_modes_and_data_formats(masked, data_format, mode, rng, implementation):
    geometry = Geometry((5, 6), (3, 2), 2, "same", 2)
    x, offset, *mask = draw(rng, geometry, 2, 2, 6, masked)
    mask = mask[0] if mask else None
    kernel = draw_kernel(rng, geometry, 6, 2, 4)
    moved = in_format(data_format, x, offset, mask)
    samples = as_function(sample(geometry, data_format), mode)(*moved)
    assert_close(samples, reference.deformable_sample(x, offset, mask, geometry.window))
    y = as_function(convolve(geometry, data_format), mode)(*moved[:2], kernel, moved[2])
    expected = reference.deformable_conv(x, offset, kernel, mask, None, geometry.window)
    assert_close(y, in_format(data_format, expected)[0])


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
@pytest.mark.parametrize("op", ["sample", "conv"])
@pytest.mark.parametrize("sizes", [(9,), (6, 5), (3, 4, 3)], ids=["1D", "2D", "3D"])
def test_data_types(sizes, op, dtype, rng, implementation):
    geometry = Geometry(sizes, 3 if len(sizes) < 3 else 2, 1, "same", 2)
    x, offset, mask = draw(rng, geometry, 2, 2, 18)
    inputs = [x, smooth(offset), mask]
    function = sample(geometry)
    if op == "conv":
        inputs.insert(2, draw_kernel(rng, geometry, 18, 1, 5) / 10)
        function = convolve(geometry)
    inputs = [tf.cast(t, dtype) for t in inputs]
    results = gradients(function, inputs)
    assert [t.dtype for t in results] == [dtype] * (1 + len(inputs))
    exact = [tf.cast(t, tf.float64) for t in inputs]
    upstream = tf.cast(gradients(tf.identity, [results[0]])[1], tf.float64)
    with tfconv.portable():
        expected = gradients(function, exact, upstream)
    further = [0.0] * len(results)
    if op == "conv" and implementation == "native":
        further = rounding_of_samples(function, inputs, upstream)
    for actual, other, moved in zip(results, expected, further):
        assert_close(actual, other, dtype, moved)


@pytest.mark.parametrize("batch", [0, 1, 33])
@pytest.mark.parametrize("sizes", [(4,), (4, 3), (2, 3, 2)], ids=["1D", "2D", "3D"])
def test_batches(batch, sizes, rng, implementation):
    geometry = Geometry(sizes, 2)
    inputs = draw(rng, geometry, batch, 1, 3)
    inputs.insert(2, draw_kernel(rng, geometry, 3, 1, 4))
    y, *grads = gradients(convolve(geometry), inputs)
    assert [g.shape for g in grads] == [t.shape for t in inputs]
    assert_close(y, reference.deformable_conv(*inputs, None, geometry.window))
    del inputs[2]
    samples, *grads = gradients(sample(geometry), inputs)
    assert [g.shape for g in grads] == [t.shape for t in inputs]
    assert_close(samples, reference.deformable_sample(*inputs, geometry.window))


@pytest.mark.parametrize("number", range(len(recorded.cases("deform_conv2d"))))
def test_recorded_cases(number, implementation):
    case = recorded.cases("deform_conv2d")[number]

    def function(x, offset, kernel, bias, mask=None):
        return deformable_conv2d(
            x,
            offset,
            kernel,
            mask,
            bias,
            strides=case.stride,
            padding=recorded.pairs(case.padding),
            dilation_rate=case.dilation,
            data_format="channels_last",
        )

    names = ["x", "offset", "weight", "bias", *([] if case.mask is None else ["mask"])]
    inputs = [getattr(case, name).astype(np.float64) for name in names]
    results = gradients(function, inputs, case.grad_out)
    expected = [case.out, *(getattr(case, f"grad_{name}") for name in names)]
    for name, actual, other in zip(["out", *names], results, expected):
        np.testing.assert_allclose(actual, other, rtol=1e-9, atol=1e-9, err_msg=name)


# Gradients.


@pytest.mark.parametrize("masked", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("geometry", SMALL, ids=str)
def test_sample_numeric_gradients(geometry, masked, rng, native_module):
    x, offset, *mask = draw(rng, geometry, 1, 2, 2, masked, spread=1.0)
    assert_numeric_gradients(sample(geometry), [x, smooth(offset), *mask])


@pytest.mark.parametrize("masked", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("geometry", SMALL, ids=str)
@pytest.mark.parametrize("offset_groups, groups", [(1, 1), (2, 2)])
def test_conv_numeric_gradients(geometry, masked, offset_groups, groups, rng, native_module):
    x, offset, *mask = draw(rng, geometry, 1, offset_groups, 2, masked, spread=1.0)
    kernel, bias = draw_kernel(rng, geometry, 2, groups, 2), rng.standard_normal(2)
    inputs = [x, smooth(offset), kernel, bias, *mask]
    assert_numeric_gradients(with_bias(geometry), inputs)


def with_bias(geometry):
    def function(x, offset, kernel, bias, mask=None):
        return convolve(geometry)(x, offset, kernel, mask, bias)

    return function


def test_numeric_gradients_of_the_portable_twin(rng):
    geometry = Geometry((2, 3), 2, 1, "valid")
    x, offset, mask = draw(rng, geometry, 1, 1, 2, spread=1.0)
    kernel, bias = draw_kernel(rng, geometry, 2, 2, 2), rng.standard_normal(2)
    with tfconv.portable():
        assert_numeric_gradients(with_bias(geometry), [x, smooth(offset), kernel, bias, mask])


@pytest.mark.parametrize("seed", range(24))
def test_native_equals_portable(seed, native_module):
    rng = np.random.default_rng(seed)
    geometry = random_geometry(rng, rank=1 + seed % 3)
    offset_groups, groups, width, filters = (int(n) for n in rng.integers(1, 4, 4))
    channels = offset_groups * groups * width
    x, offset, *mask = draw(rng, geometry, 2, offset_groups, channels, seed % 2)
    kernel = draw_kernel(rng, geometry, channels, groups, groups * filters)
    for function, inputs in (
        (sample(geometry), [x, offset, *mask]),
        (convolve(geometry), [x, offset, kernel, *mask]),
    ):
        results = gradients(function, inputs)
        with tfconv.portable():
            expected = gradients(function, inputs)
        for actual, other in zip(results, expected):
            assert_close(actual, other)


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry((4, 5), 2, (2, 1), "same", (1, 2)),
        Geometry((6,), 2, 2, "same", 2),
        Geometry((3, 2, 3), 2, (2, 1, 1), "same", (1, 2, 1)),
    ],
    ids=["2D", "1D", "3D"],
)
@pytest.mark.parametrize("masked", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("op", ["sample", "conv"])
def test_second_gradients(op, masked, geometry, rng, native_module):
    inputs = draw(rng, geometry, 2, 2, 4, masked)
    function = sample(geometry)
    if op == "conv":
        inputs.insert(2, draw_kernel(rng, geometry, 4, 2, 2))
        function = convolve(geometry)
    results = second_gradients(function, inputs)
    with tfconv.portable():
        expected = second_gradients(function, inputs)
    for actual, other in zip(results, expected):
        assert np.abs(other).max() > 1e-3
        assert_close(actual, other)


@pytest.mark.parametrize(
    "wanted, called", [([0], "input"), ([1], "input"), ([2], "filter"), ([2, 3], "input filter")]
)
def test_only_what_is_asked_for(wanted, called, rng, native_module, monkeypatch):
    geometry = Geometry((4, 5), 2)
    inputs = draw(rng, geometry, 1, 1, 4)
    inputs.insert(2, draw_kernel(rng, geometry, 4, 1, 3))
    check_only_wanted_gradients(
        convolve(geometry), inputs, wanted, native_module, "deformable_conv", called, monkeypatch
    )


# Properties.


@pytest.mark.parametrize("strides, dilation_rate", [((2, 1), 1), (1, (2, 3))])
def test_no_offsets_is_convolution(strides, dilation_rate, rng, implementation):
    x, kernel = rng.standard_normal((2, 7, 6, 4)), rng.standard_normal((3, 2, 4, 5))
    expected = tf.nn.convolution(x, kernel, strides, "SAME", dilations=dilation_rate)
    outputs = expected.shape[:3].as_list()
    y = deformable_conv2d(
        x,
        np.zeros([*outputs, 12]),
        kernel,
        np.ones([*outputs, 6]),
        strides=strides,
        dilation_rate=dilation_rate,
    )
    assert_close(y, expected)


def test_no_offsets_is_convolution_of_any_rank(rng, implementation):
    for rank in (1, 3):
        sizes = (7, 6, 5)[:rank]
        x, kernel = rng.standard_normal((2, *sizes, 4)), rng.standard_normal((*[3] * rank, 2, 6))
        y = deformable_conv(x, np.zeros([2, *sizes, 3**rank * rank]), kernel)
        assert_close(y, tfconv.ops.conv(x, kernel, padding="same", groups=2))


def test_fewer_axes_are_axes_of_one_pixel(rng, implementation):
    """A sequence is an image of one row, an image a volume of one plane."""
    x, kernel = rng.standard_normal((2, 4, 5, 6)), rng.standard_normal((3, 2, 3, 4))
    offset, mask = rng.standard_normal((2, 4, 5, 24)), rng.standard_normal((2, 4, 5, 12))
    y = deformable_conv(x, offset, kernel, mask)
    moved = offset.reshape(2, 1, 4, 5, 12, 2)
    moved = np.concatenate([np.zeros_like(moved[..., :1]), moved], -1).reshape(2, 1, 4, 5, 36)
    volume = deformable_conv(x[:, None], moved, kernel[None], mask[:, None])
    assert_close(volume[:, 0], y)
    assert_close(deformable_conv2d(x, offset, kernel, mask), y)


def test_integer_offsets_shift_the_image(rng, implementation):
    x = rng.standard_normal((1, 5, 6, 2))
    offset = np.broadcast_to([2.0, -1.0], (1, 5, 6, 2))
    shifted = np.zeros_like(x)
    shifted[:, :3, 1:] = x[:, 2:, :-1]
    samples = deformable_sample(x, offset, kernel_size=1)
    np.testing.assert_array_equal(samples[..., 0, :], shifted)


# Offsets that no image has.

ODD = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "1e30": 1e30, "-1e30": -1e30}
TAP = (0, 1, 2, 4)  # image, row, column and tap of the odd offset


def with_odd(rng, value, axis):
    geometry = Geometry((5, 6), 3)
    x, offset, mask = draw(rng, geometry, 2, 1, 3)
    ordinary = offset.copy()
    offset[(*TAP[:3], 2 * TAP[3] + axis)] = value
    return geometry, x, ordinary, offset, mask


@pytest.mark.parametrize("dtype", [tf.float16, tf.float32, tf.float64])
@pytest.mark.parametrize("axis", [0, 1], ids=["dy", "dx"])
@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
def test_odd_offset(value, axis, dtype, rng, implementation):
    geometry, *inputs = with_odd(rng, value, axis)
    x, ordinary, offset, mask = (tf.cast(t, dtype) for t in inputs)
    expected, *expected_grads = gradients(sample(geometry), [x, ordinary, mask])
    samples, dx, *grads = gradients(sample(geometry), [x, offset, mask])
    expected = expected.numpy()
    expected[TAP] = np.nan if np.isnan(value) else 0
    np.testing.assert_array_equal(samples, expected)
    assert np.isfinite(tf.cast(dx, tf.float64)).all()
    # The tap's own gradients are NaN or zero; no others are touched.
    for actual, other in zip(grads, expected_grads[1:]):
        actual, other = actual.numpy(), other.numpy()
        taps = [*actual.shape[:3], 9, -1]
        actual, other = actual.reshape(taps), other.reshape(taps)
        np.testing.assert_array_equal(actual[TAP], np.full_like(actual[TAP], expected[TAP][0]))
        actual[TAP] = other[TAP] = 0
        np.testing.assert_array_equal(actual, other)


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
def test_odd_offset_in_convolution(value, rng, implementation):
    geometry, x, ordinary, offset, mask = with_odd(rng, value, 0)
    kernel = rng.standard_normal((3, 3, 3, 4))
    expected = convolve(geometry)(x, ordinary, kernel, mask).numpy()
    y, dx, doffset, *_ = gradients(convolve(geometry), [x, offset, kernel, mask])
    other = np.ones(expected.shape[:3], bool)
    other[TAP[:3]] = False
    assert_close(y[other], expected[other])
    assert np.isnan(y[~other]).all() == np.isnan(value)
    assert np.isfinite(dx).all()
    assert np.isfinite(doffset[other]).all()


@pytest.mark.parametrize("position", [-1.5, -7.0, -1e9, 3.0, 3.5, 1e9, np.inf, -np.inf])
@pytest.mark.parametrize("axis", [0, 1], ids=["row", "column"])
def test_nan_pixels_do_not_leak_from_outside(axis, position, implementation):
    x = np.full((1, 3, 3, 2), np.nan)
    offset = np.zeros((1, 3, 3, 2))
    along = np.arange(3.0).reshape((3, 1) if axis == 0 else (1, 3))
    offset[..., axis] = position - along  # all samples fall outside, wherever they start
    samples = deformable_sample(x, offset, kernel_size=1)
    np.testing.assert_array_equal(samples, np.zeros((1, 3, 3, 1, 2)))


# Shapes.


@pytest.mark.parametrize(
    "x, offset, static",
    [
        ([None, None, None, 4], [None, None, None, 16], [None, None]),
        ([None, 8, None, 4], [None, None, None, 16], [4, None]),
        ([None, None, 9, 4], [2, None, None, 16], [None, 5]),
    ],
)
def test_unknown_sizes(x, offset, static, rng, implementation):
    geometry = Geometry((8, 9), 2, 2)
    inputs = draw(rng, geometry, 2, 2, 4, masked=False)
    kernel = draw_kernel(rng, geometry, 4, 2, 6)
    specs = [tf.TensorSpec(shape, tf.float64) for shape in (x, offset)]
    traced = tf.function(sample(geometry), input_signature=specs)
    shape = traced.get_concrete_function().output_shapes.as_list()
    assert shape[1:] == [*static, 4, 4]
    assert_close(traced(*inputs), reference.deformable_sample(*inputs, None, geometry.window))
    traced = tf.function(
        lambda x, offset: convolve(geometry)(x, offset, kernel), input_signature=specs
    )
    shape = traced.get_concrete_function().output_shapes.as_list()
    assert shape[1:] == [*static, 6]
    expected = reference.deformable_conv(*inputs, kernel, None, None, geometry.window)
    assert_close(traced(*inputs), expected)


@pytest.mark.parametrize("sizes", [(9,), (3, 4, 5)], ids=["1D", "3D"])
def test_unknown_sizes_of_other_ranks(sizes, rng, implementation):
    geometry = Geometry(sizes, 2, 2)
    x, offset, mask = draw(rng, geometry, 2, 2, 4)
    kernel = draw_kernel(rng, geometry, 4, 2, 6)
    unknown = [None] * (1 + len(sizes))
    specs = [tf.TensorSpec([*unknown, t.shape[-1]], tf.float64) for t in (x, offset, mask)]
    traced = tf.function(
        lambda x, offset, mask: convolve(geometry)(x, offset, kernel, mask), input_signature=specs
    )
    assert traced.get_concrete_function().output_shapes.as_list() == [*unknown, 6]
    expected = reference.deformable_conv(x, offset, kernel, mask, None, geometry.window)
    assert_close(traced(x, offset, mask), expected)
    with pytest.raises(tf.errors.InvalidArgumentError):
        traced(x, offset[:, :-1], mask)


BAD_SHAPES = [
    ([2, 4, 4, 6], [2, 4, 4, 17], None, {}),  # no multiple of two coordinates a tap
    ([2, 4, 4, 6], [2, 4, 4, 72], None, {}),  # four offset groups of six channels
    ([2, 4, 4, 6], [2, 4, 3, 18], None, {}),  # another output size
    ([2, 4, 4, 6], [2, 4, 4, 18], None, {"strides": 2}),
    ([2, 4, 4, 6], [3, 4, 4, 18], None, {}),  # another batch
    ([2, 4, 4, 6], [2, 4, 4, 0], None, {}),
    ([2, 4, 4, 6], [2, 16, 18], None, {}),  # another rank
    ([2, 4, 4, 6], [2, 4, 4, 18], [2, 4, 4, 18], {}),  # a mask of two groups
    ([2, 4, 4, 6], [2, 4, 4, 18], [2, 4, 5, 9], {}),
    ([2, 4, 4, 6], [2, 4, 4, 18], [1, 4, 4, 9], {}),
]


def ones(shape):
    return None if shape is None else tf.ones(shape)


@pytest.mark.parametrize("x, offset, mask, arguments", BAD_SHAPES)
def test_bad_shapes(x, offset, mask, arguments, implementation):
    named = [offset, mask or x]
    for call in (
        lambda: deformable_sample(ones(x), ones(offset), ones(mask), kernel_size=3, **arguments),
        lambda: deformable_conv2d(
            ones(x), ones(offset), tf.ones([3, 3, 6, 2]), ones(mask), **arguments
        ),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            call()
        for shape in named:
            assert ", ".join(map(str, shape)) in str(caught.value)


@pytest.mark.parametrize("kernel", [[3, 3, 4, 2], [3, 3, 3, 5], [3, 3, 0, 2], [3, 3, 6]])
def test_bad_kernel(kernel, implementation):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        deformable_conv2d(tf.ones([2, 4, 4, 6]), tf.ones([2, 4, 4, 18]), tf.ones(kernel))
    assert ", ".join(map(str, kernel)) in str(caught.value)


@pytest.mark.parametrize("bias", [[3], [2, 1], [0]])
def test_bad_bias(bias, implementation):
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        deformable_conv2d(
            tf.ones([2, 4, 4, 6]),
            tf.ones([2, 4, 4, 18]),
            tf.ones([3, 3, 6, 2]),
            bias=tf.ones(bias),
        )


@pytest.mark.parametrize("shape", [[4], [4, 6], [2, 3, 3, 3, 3, 6]])
def test_bad_rank(shape):
    with pytest.raises(tf.errors.InvalidArgumentError, match="rank 3 to 5.*Received"):
        deformable_sample(tf.ones(shape), tf.ones(shape), kernel_size=1)


@pytest.mark.parametrize("shape", [[2, 4, 6], [2, 3, 3, 3, 6]])
def test_rank_of_the_kernel(shape):
    """It is x's; `deformable_conv2d` takes images only."""
    for function in (deformable_conv, deformable_conv2d):
        with pytest.raises(tf.errors.InvalidArgumentError, match="rank 4.*Received"):
            function(tf.ones(shape), tf.ones(shape), tf.ones([1, 1, 6, 2]))
    kernel = tf.ones([*[1] * (len(shape) - 2), 6, 2])
    with pytest.raises(tf.errors.InvalidArgumentError, match="deformable_conv2d.*kh, kw.*Received"):
        deformable_conv2d(tf.ones(shape), tf.ones(shape), kernel)


@pytest.mark.parametrize(
    "x, offset, mask",
    [
        ([2, 5, 6], [2, 5, 4], None),  # no multiple of three taps
        ([2, 5, 6], [2, 4, 3], None),
        ([2, 5, 6], [2, 5, 3], [2, 5, 6]),
        ([1, 2, 3, 4, 6], [1, 2, 3, 4, 54], None),  # two coordinates a tap
        ([1, 2, 3, 4, 6], [1, 2, 4, 4, 81], None),
        ([1, 2, 3, 4, 6], [1, 2, 3, 4, 81], [1, 2, 3, 4, 81]),
    ],
)
def test_bad_shapes_of_other_ranks(x, offset, mask, implementation):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        deformable_sample(ones(x), ones(offset), ones(mask), kernel_size=3)
    for shape in (offset, mask or x):
        assert ", ".join(map(str, shape)) in str(caught.value)


@pytest.mark.parametrize("op", ["sample", "conv"])
@pytest.mark.parametrize(
    "x, offset, mask, arguments",
    [
        *(row for row in BAD_SHAPES if row[1][3:] == [18] and (row[2] or [9])[-1] == 9),
        ([2, 2, 2, 6], [2, 1, 1, 18], None, {"padding": "valid"}),  # the image is too small
    ],
)
def test_bad_shapes_known_only_at_run_time(x, offset, mask, arguments, op, native_module):
    def function(x, offset, mask=None):
        if op == "sample":
            return deformable_sample(x, offset, mask, kernel_size=3, **arguments)
        return deformable_conv2d(x, offset, tf.ones([3, 3, 6, 2]), mask, **arguments)

    shapes = [shape for shape in (x, offset, mask) if shape is not None]
    specs = [tf.TensorSpec([None, None, None, shape[-1]]) for shape in shapes]
    traced = tf.function(function, input_signature=specs)
    with pytest.raises(tf.errors.InvalidArgumentError):
        traced(*(tf.ones(shape) for shape in shapes))


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"kernel_size": 0}, "kernel_size"),
        ({"kernel_size": (3,)}, "kernel_size"),
        ({"kernel_size": 3, "strides": 0}, "strides"),
        ({"kernel_size": 3, "dilation_rate": -1}, "dilation_rate"),
        ({"kernel_size": 3, "padding": "causal"}, "padding"),
        ({"kernel_size": 3, "padding": (1, 1)}, "padding"),
        ({"kernel_size": 3, "data_format": "last"}, "data_format"),
        ({"kernel_size": 5, "padding": "valid"}, "kernel"),
    ],
)
def test_bad_arguments(arguments, name):
    with pytest.raises(ValueError, match=rf"{name}.*Received: "):
        deformable_sample(tf.ones([1, 4, 4, 2]), tf.ones([1, 4, 4, 18]), **arguments)
