"""Convolution with every padding, strides with dilation, and groups; and one kernel an example."""

import functools
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests import recorded, reference
from tests.ops.geometries import (
    Geometry,
    as_function,
    assert_close,
    assert_numeric_gradients,
    gradients,
    in_format,
    second_gradients,
    table,
)
from tfconv import portable
from tfconv.ops import conv, conv_transpose, per_example_conv

GROUPS = [(1, 1, 1), (1, 3, 5), (5, 1, 2), (2, 8, 1), (4, 5, 1), (3, 11, 2)]  # g, C / g, F / g
MODES = [
    Geometry((6,), 3, 2, "causal", 2),
    Geometry((5, 6), (3, 2), 2, "same", 2),
    Geometry((3, 4, 3), 2, 1, ((1, 0), (0, 2), (0, 0))),
]


def draw(rng, geometry, batch, sizes, each=False):
    """An input and a kernel, or one kernel for each example."""
    groups, width, filters = sizes
    kernel = (*geometry.window.kernel_size, width, groups * filters)
    return (
        rng.standard_normal((batch, *geometry.sizes, groups * width)),
        rng.standard_normal((batch, *kernel) if each else kernel),
    )


def plain(geometry, groups=1, data_format="channels_last"):
    return lambda x, kernel: conv(
        x, kernel, groups=groups, **geometry.arguments, data_format=data_format
    )


def per_example(geometry, data_format="channels_last"):
    return lambda x, kernels: per_example_conv(
        x, kernels, **geometry.arguments, data_format=data_format
    )


@pytest.mark.parametrize("geometry, sizes, batch", table([1, 2, 3], GROUPS, [2, 1, 3]))
def test_conv_matches_reference(geometry, sizes, batch, rng):
    x, kernel = draw(rng, geometry, batch, sizes)
    y = plain(geometry, sizes[0])(x, kernel)
    assert_close(y, reference.conv(x, kernel, geometry.window, sizes[0]))


@pytest.mark.parametrize("geometry, sizes, batch", table([1, 2, 3], GROUPS, [2, 1, 3]))
def test_per_example_conv_matches_reference(geometry, sizes, batch, rng):
    x, kernels = draw(rng, geometry, batch, sizes, each=True)
    y = per_example(geometry)(x, kernels)
    assert_close(y, reference.per_example_conv(x, kernels, geometry.window))


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("geometry", MODES, ids=str)
def test_modes_and_data_formats(geometry, data_format, mode, rng):
    x, kernel = draw(rng, geometry, 2, (2, 3, 2))
    moved, expected = in_format(
        data_format, x, reference.conv(x, kernel, geometry.window, groups=2)
    )
    assert_close(as_function(plain(geometry, 2, data_format), mode)(moved, kernel), expected)
    x, kernels = draw(rng, geometry, 2, (2, 3, 2), each=True)
    moved, expected = in_format(
        data_format, x, reference.per_example_conv(x, kernels, geometry.window)
    )
    assert_close(as_function(per_example(geometry, data_format), mode)(moved, kernels), expected)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
@pytest.mark.parametrize("geometry", MODES, ids=str)
def test_data_types(geometry, dtype, rng):
    window = geometry.window
    for each, function in ((False, plain(geometry, 2)), (True, per_example(geometry))):
        x, kernel = (tf.cast(t, dtype) for t in draw(rng, geometry, 2, (2, 9, 2), each))
        results = gradients(function, [x, kernel])
        assert [t.dtype for t in results] == [dtype] * 3
        exact = [tf.cast(t, tf.float64).numpy() for t in (x, kernel)]
        expected = reference.per_example_conv if each else reference.conv
        assert_close(results[0], expected(*exact, window, 2), dtype)


@pytest.mark.parametrize("batch", [0, 1, 33])
def test_batches(batch, rng):
    geometry = Geometry((4, 3), 2, 2, "same", 2)
    for each, function in ((False, plain(geometry, 3)), (True, per_example(geometry))):
        inputs = draw(rng, geometry, batch, (3, 1, 2), each)
        y, *grads = gradients(function, inputs)
        assert [g.shape for g in grads] == [t.shape for t in inputs]
        expected = reference.per_example_conv if each else reference.conv
        assert_close(y, expected(*inputs, geometry.window, 3))


@pytest.mark.parametrize("number", range(len(recorded.cases("condconv2d"))))
def test_recorded_cases(number):
    case = recorded.cases("condconv2d")[number]

    def function(x, routing, weight, bias):
        kernels = tf.tensordot(routing, weight, 1)
        y = per_example_conv(
            x,
            kernels,
            strides=case.stride,
            padding=case.padding,
            dilation_rate=case.dilation,
            data_format="channels_last",
        )
        return y + tf.matmul(routing, bias)[:, None, None]

    names = ["x", "routing", "weight", "bias"]
    inputs = [getattr(case, name).astype(np.float64) for name in names]
    results = gradients(function, inputs, case.grad_out)
    expected = [case.out, *(getattr(case, f"grad_{name}") for name in names)]
    for name, actual, other in zip(["out", *names], results, expected):
        np.testing.assert_allclose(actual, other, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize(
    "geometry, sizes",
    [
        (Geometry((5,), 3, 1, "causal", 2), (2, 1, 2)),
        (Geometry((3, 4), (3, 2), (2, 1), ((1, 0), (2, 1)), (1, 2)), (1, 2, 1)),
        (Geometry((4, 3), 2, 2, "full", 1), (2, 2, 1)),
        (Geometry((2, 3, 2), 2, (1, 2, 1), "same", (1, 1, 2)), (2, 1, 1)),
    ],
    ids=str,
)
def test_numeric_gradients(geometry, sizes, rng):
    assert_numeric_gradients(plain(geometry, sizes[0]), draw(rng, geometry, 1, sizes))
    assert_numeric_gradients(per_example(geometry), draw(rng, geometry, 1, sizes, each=True))


# Formulations: which one serves depends on ranks, groups, strides and dilations.

FORMS = [
    (geometry, sizes)
    for sizes in [(1, 3, 2), (2, 3, 2), (3, 1, 2), (33, 2, 1), (3, 2, 2)]
    for geometry in [
        Geometry((7,), 3, 2),
        Geometry((7,), 3, 1, "causal", 2),
        Geometry((5, 6), (3, 2), 2, 1),
        Geometry((6, 5), 3, 1, "full", (2, 1)),
        Geometry((5, 6), 2, (2, 1), "same", 2),
        Geometry((3, 4, 3), 2, 2),
        Geometry((3, 4, 3), 2, 1, ((1, 0), (0, 2), (0, 0)), (1, 2, 1)),
    ]
]


def form_results(forms=FORMS, jit_compile=False, dtype="float32"):
    """Outputs and gradients of `FORMS`, eagerly or compiled by XLA."""
    rng, results = np.random.default_rng(0), []
    for geometry, sizes in forms:
        inputs = [tf.cast(t, dtype) for t in draw(rng, geometry, 2, sizes)]

        function = functools.partial(gradients, plain(geometry, sizes[0]))
        if jit_compile:
            function = tf.function(function, jit_compile=True)
        results += function(inputs)
    return [np.asarray(t) for t in results]


def test_forms_match_reference(implementation):
    rng, results = np.random.default_rng(0), form_results(dtype="float64")
    for (geometry, sizes), y in zip(FORMS, results[::3]):
        x, kernel = draw(rng, geometry, 2, sizes)
        expected = reference.conv(x, kernel, geometry.window, sizes[0])
        np.testing.assert_allclose(y, expected, rtol=1e-11, atol=1e-11, err_msg=str(geometry))


# Strides and dilations that have steps in common, of all axes or of some; volumes along one axis.
STEPS = [
    Geometry((9,), 2, 4, "same", 6),
    Geometry((5, 6), (2, 3), 2, "same", 2),
    Geometry((6, 7), 2, (4, 3), ((1, 2), (0, 3)), (2, 3)),
    Geometry((5, 4, 5), 2, (2, 2, 1), "full", (2, 4, 2)),
    Geometry((5, 2, 3), (3, 1, 1), (2, 1, 1), "same"),
    Geometry((6, 2, 2), (2, 1, 1), 1, ((2, 0), (0, 0), (0, 0)), (3, 1, 1)),
    Geometry((7, 1, 2), (3, 1, 1), (3, 1, 1), ((1, 0), (0, 1), (0, 0)), (2, 1, 1)),
    Geometry((7, 3, 2), (3, 2, 2), (3, 1, 1), "same"),
]


@pytest.mark.parametrize("sizes", [(1, 2, 3), (2, 2, 1), (3, 1, 2), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("geometry", STEPS, ids=str)
def test_steps(geometry, sizes, rng, implementation):
    """With sizes that are known and with sizes that are not."""
    inputs = draw(rng, geometry, 2, sizes)
    function = plain(geometry, sizes[0])
    results = gradients(function, inputs)
    assert_close(results[0], reference.conv(*inputs, geometry.window, sizes[0]))
    kernel = tf.TensorSpec(inputs[1].shape, tf.float64)
    x = tf.TensorSpec([None] * (inputs[0].ndim - 1) + [inputs[0].shape[-1]], tf.float64)
    traced = tf.function(lambda *given: gradients(function, given), input_signature=[x, kernel])
    for actual, expected in zip(traced(*map(tf.constant, inputs)), results):
        assert_close(actual, expected)


@pytest.mark.dear
@pytest.mark.parametrize("sizes", [(1, 2, 1), (2, 1, 2), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("geometry", [STEPS[0], STEPS[2], STEPS[3], STEPS[6]], ids=str)
def test_numeric_gradients_of_steps(geometry, sizes, rng):
    assert_numeric_gradients(plain(geometry, sizes[0]), draw(rng, geometry, 1, sizes))


@pytest.mark.parametrize("sizes", [(2, 3, 2), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("geometry", MODES, ids=str)
def test_native_groups_are_portable_ones(geometry, sizes, rng, native_module):
    """First and second gradients."""
    inputs = draw(rng, geometry, 2, sizes)
    graph = tf.function(plain(geometry, 2)).get_concrete_function(*inputs).graph
    assert "Tfconv>PerExampleConv" in [op.type for op in graph.get_operations()]
    for of in (gradients, second_gradients):
        results = of(plain(geometry, 2), inputs)
        with portable():
            expected = of(plain(geometry, 2), inputs)
        for actual, other in zip(results, expected):
            assert np.abs(other).max() > 1e-3
            assert_close(actual, other)


@pytest.mark.parametrize("sizes", [(2, 2, 1), (3, 1, 2), (2, 2, 2)], ids=str)
def test_tapes_and_hessians(sizes, rng, implementation):
    """A tape that is asked twice, and a graph's second derivatives."""
    geometry = Geometry((3, 4), 2, (1, 2))
    x, kernel = map(tf.constant, draw(rng, geometry, 1, sizes))
    function = plain(geometry, sizes[0])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, kernel])
        y = tf.reduce_sum(function(x, kernel) ** 2)
    for value, other in ((x, kernel), (kernel, x)):
        again = tape.gradient(y, value), tape.gradient(y, [value, other])[0]
        np.testing.assert_array_equal(*again)

    @tf.function
    def hessian(kernel):
        (found,) = tf.hessians(tf.reduce_sum(function(x, kernel) ** 2), [kernel])
        return tf.reshape(found, [tf.size(kernel)] * 2)

    # Of a sum of squares of linear functions: y is half of kernel * hessian * kernel.
    flat = tf.reshape(kernel, [1, -1])
    assert_close(2 * y, tf.reshape(flat @ hessian(kernel) @ tf.transpose(flat), []))


def test_trains_under_xla():
    forms = FORMS[7:21]  # few groups: XLA takes its time
    for actual, expected in zip(form_results(forms, jit_compile=True), form_results(forms)):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.late
def test_trains_without_onednn(tmp_path):
    program = (
        "import sys, numpy\n"
        "from tests.ops.test_conv import form_results\n"
        "numpy.savez(sys.argv[1], *form_results(), *form_results(dtype='float64'))"
    )
    root = pathlib.Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "results.npz")],
        cwd=root,
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"},
        check=True,
        timeout=300,
    )
    expected = form_results() + form_results(dtype="float64")
    with np.load(tmp_path / "results.npz") as actual:
        assert len(actual.files) == len(expected)
        for name, other in zip(actual.files, expected):
            np.testing.assert_allclose(actual[name], other, rtol=1e-4, atol=1e-4)


# Properties.


@pytest.mark.parametrize("groups", [1, 2])
def test_one_kernel_for_all_examples_is_convolution(groups, rng):
    geometry = Geometry((5, 6), 3)
    x, kernel = draw(rng, geometry, 3, (groups, 2, 2))
    kernels = np.broadcast_to(kernel, (3, *kernel.shape))
    assert_close(per_example_conv(x, kernels), conv(x, kernel, padding="same", groups=groups))


def test_examples_do_not_mix(rng):
    geometry = Geometry((5, 4), 3)
    x, kernels = draw(rng, geometry, 3, (1, 3, 2), each=True)
    for n in range(3):
        expected = conv(x[n : n + 1], kernels[n], padding="same")
        assert_close(per_example_conv(x, kernels)[n : n + 1], expected)


def test_linear_in_the_kernels(rng):
    geometry = Geometry((5, 4), 3)
    x, first = draw(rng, geometry, 2, (1, 3, 2), each=True)
    second = rng.standard_normal(first.shape)
    mixed = per_example_conv(x, 2 * first - 3 * second)
    assert_close(mixed, 2 * per_example_conv(x, first) - 3 * per_example_conv(x, second))


def test_groups_see_only_their_channels(rng):
    x, kernel = draw(rng, Geometry((5, 4), 3), 1, (2, 3, 2))
    parts = [conv(x[..., 3 * g :][..., :3], kernel[..., 2 * g :][..., :2]) for g in range(2)]
    assert_close(conv(x, kernel, groups=2), tf.concat(parts, axis=-1))


def test_nan_stays_in_its_group(rng, implementation):
    for sizes in [(3, 2, 2), (3, 3, 2), (6, 1, 1)]:
        x, kernel = draw(rng, Geometry((5, 4), 3), 1, sizes)
        x[..., 0], kernel[..., -1] = np.nan, np.inf
        y = conv(x, kernel, padding="same", groups=sizes[0]).numpy()
        assert np.isnan(y[..., 0]).all() and not np.isfinite(y[..., -1]).any()
        assert np.isfinite(y[..., sizes[2] : -sizes[2]]).all()


# Shapes.


@pytest.mark.parametrize("strides, dilation_rate, groups", [(2, 1, 1), (2, 2, 1), (2, 1, 2)])
@pytest.mark.parametrize(
    "x, static",
    [
        ([None, None, None, 4], [None, None]),
        ([None, 8, None, 4], [4, None]),
        ([2, None, 9, 4], [None, 5]),
    ],
)
def test_unknown_sizes(x, static, strides, dilation_rate, groups, rng):
    geometry = Geometry((8, 9), 3, strides, "same", dilation_rate)
    sizes = (groups, 4 // groups, 2)
    inputs = draw(rng, geometry, 2, sizes)
    specs = [tf.TensorSpec(x, tf.float64), tf.TensorSpec(inputs[1].shape, tf.float64)]
    traced = tf.function(plain(geometry, groups), input_signature=specs)
    shape = traced.get_concrete_function().output_shapes.as_list()
    assert shape == [x[0], *static, 2 * groups]
    assert_close(traced(*inputs), reference.conv(*inputs, geometry.window, groups))
    inputs = draw(rng, geometry, 2, sizes, each=True)
    specs[1] = tf.TensorSpec([None, *inputs[1].shape[1:]], tf.float64)
    traced = tf.function(per_example(geometry), input_signature=specs)
    shape = traced.get_concrete_function().output_shapes.as_list()
    assert shape == [x[0], *static, 2 * groups]
    assert_close(traced(*inputs), reference.per_example_conv(*inputs, geometry.window))


@pytest.mark.parametrize(
    "x, kernel, groups",
    [
        ([2, 4, 4, 6], [3, 3, 4, 2], 1),
        ([2, 4, 4, 6], [3, 3, 3, 5], 2),
        ([2, 4, 4, 6], [3, 3, 6, 4], 2),
        ([2, 4, 4, 6], [3, 3, 0, 4], 1),
        ([2, 4, 4, 6], [3, 6, 4], 1),
        ([4, 6], [3, 6], 1),
        ([2, 3, 3, 3, 3, 6], [1, 1, 1, 1, 6, 1], 1),
    ],
)
def test_bad_shapes(x, kernel, groups):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        conv(tf.ones(x), tf.ones(kernel), groups=groups)
    for shape in (x, kernel):
        assert ", ".join(map(str, shape)) in str(caught.value)


@pytest.mark.parametrize("function", [conv, conv_transpose])
@pytest.mark.parametrize("kernel", [[3, 3, None, 4], [3, 3, 4, None]])
def test_kernels_of_unknown_shape(function, kernel):
    traced = tf.function(function, [tf.TensorSpec([2, 5, 5, 4]), tf.TensorSpec(kernel)])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"kernel of shape \(3, 3, .*None"):
        traced.get_concrete_function()


@pytest.mark.parametrize(
    "x, kernels",
    [
        ([2, 4, 4, 6], [2, 3, 3, 4, 2]),
        ([2, 4, 4, 6], [2, 3, 3, 3, 5]),
        ([2, 4, 4, 6], [2, 3, 3, 0, 4]),
        ([2, 4, 4, 6], [3, 3, 3, 6, 2]),  # another batch
        ([2, 4, 4, 6], [3, 3, 6, 4]),
    ],
)
def test_bad_shapes_per_example(x, kernels):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        per_example_conv(tf.ones(x), tf.ones(kernels))
    for shape in (x, kernels):
        assert ", ".join(map(str, shape)) in str(caught.value)


def test_batches_that_differ_at_run_time():
    """Three kernels for two examples."""
    traced = tf.function(
        per_example_conv,
        input_signature=[tf.TensorSpec([None, 4, 4, 6]), tf.TensorSpec([None, 3, 3, 6, 2])],
    )
    with pytest.raises(tf.errors.InvalidArgumentError):
        traced(tf.ones([2, 4, 4, 6]), tf.ones([3, 3, 3, 6, 2]))


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"strides": 0}, "strides"),
        ({"strides": (1, 2, 3)}, "strides"),
        ({"dilation_rate": 0}, "dilation_rate"),
        ({"padding": "causal"}, "padding"),
        ({"padding": "most"}, "padding"),
        ({"padding": ((1, 1), (1, -1))}, "padding"),
        ({"data_format": "NHWC"}, "data_format"),
        ({"padding": "valid", "dilation_rate": 3}, "kernel"),
    ],
)
def test_bad_arguments(arguments, name):
    x, kernel = tf.ones([2, 4, 4, 6]), tf.ones([3, 3, 6, 2])
    with pytest.raises(ValueError, match=rf"{name}.*Received: "):
        conv(x, kernel, **arguments)
    with pytest.raises(ValueError, match=rf"{name}.*Received: "):
        per_example_conv(x, tf.stack([kernel, kernel]), **arguments)
