"""Involution against its definition, recorded cases, numeric gradients, and other ops."""

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
    gradients,
    in_format,
    random_geometry,
    second_gradients,
    table,
)
from tfconv.ops import involution
from tfconv.ops.geometry import Geometry as OpGeometry
from tfconv.ops.involution import span_involution

GROUPS = [(1, 1), (3, 1), (1, 5), (2, 8), (4, 5), (3, 11)]  # groups, channels in each


def draw(rng, geometry, batch, groups, width, dtype=np.float64):
    """An input and a kernel."""
    taps = len(geometry.window.taps)
    x = rng.standard_normal((batch, *geometry.sizes, groups * width))
    kernel = rng.standard_normal((batch, *geometry.outputs, groups * taps))
    return x.astype(dtype), kernel.astype(dtype)


def apply(geometry, data_format="channels_last"):
    return lambda x, kernel: involution(
        x, kernel, geometry.kernel_size, **geometry.arguments, data_format=data_format
    )


@pytest.mark.parametrize("geometry, groups, batch", table([1, 2, 3], GROUPS, [2, 1, 3]))
def test_matches_reference(geometry, groups, batch, rng, implementation):
    x, kernel = draw(rng, geometry, batch, *groups)
    y = apply(geometry)(x, kernel)
    assert_close(y, reference.involution(x, kernel, geometry.window))


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
    x, kernel = draw(rng, geometry, 2, 2, 3)
    function = as_function(apply(geometry, data_format), mode)
    y = function(*in_format(data_format, x, kernel))
    expected = reference.involution(x, kernel, geometry.window)
    assert_close(y, in_format(data_format, expected)[0])


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
@pytest.mark.parametrize(
    "geometry", [Geometry((6, 5), 3), Geometry((7, 9), 7, 2, "same"), Geometry((9,), 5)], ids=str
)
def test_data_types(geometry, dtype, rng, implementation):
    x, kernel = (tf.cast(t, dtype) for t in draw(rng, geometry, 2, 2, 9))
    results = gradients(apply(geometry), [x, kernel])
    assert [t.dtype for t in results] == [dtype] * 3
    exact = [tf.cast(t, tf.float64) for t in (x, kernel)]
    assert_close(
        results[0], reference.involution(*(t.numpy() for t in exact), geometry.window), dtype
    )
    upstream = tf.cast(tf.cast(gradients(tf.identity, [results[0]])[1], dtype), tf.float64)
    with tfconv.portable():
        _, *expected = gradients(apply(geometry), exact, upstream)
    for actual, gradient in zip(results[1:], expected):
        assert_close(actual, gradient, dtype)


@pytest.mark.parametrize("batch", [0, 1, 33])
def test_batches(batch, rng, implementation):
    geometry = Geometry((4, 3), 3)
    x, kernel = draw(rng, geometry, batch, 1, 3)
    y, dx, dkernel = gradients(apply(geometry), [x, kernel])
    assert (dx.shape, dkernel.shape) == (x.shape, kernel.shape)
    assert_close(y, reference.involution(x, kernel, geometry.window))


@pytest.mark.parametrize("number", range(len(recorded.cases("involution"))))
def test_recorded_cases(number, implementation):
    case = recorded.cases("involution")[number]

    def function(x, kernel):
        return involution(
            x, kernel, case.kernel_size, case.stride, case.padding, case.dilation, "channels_last"
        )

    inputs = [case.x.astype(np.float64), case.kernel.astype(np.float64)]
    results = gradients(function, inputs, case.grad_out)
    for actual, expected in zip(results, (case.out, case.grad_x, case.grad_kernel)):
        assert_close(actual, expected)


@pytest.mark.parametrize(
    "geometry, groups, width",
    [
        (Geometry((5,), 3, 1, "causal", 2), 2, 1),
        (Geometry((3, 4), (3, 2), (2, 1), ((1, 0), (2, 1)), (1, 2)), 2, 2),
        (Geometry((4, 3), 3, 2), 1, 3),
        (Geometry((2, 3, 2), 2, (1, 2, 1), "same", (1, 1, 2)), 1, 2),
    ],
    ids=str,
)
def test_numeric_gradients(geometry, groups, width, rng, native_module):
    assert_numeric_gradients(apply(geometry), draw(rng, geometry, 1, groups, width))


def test_numeric_gradients_of_the_portable_twin(rng):
    geometry = Geometry((3, 2), 2, (2, 1), "same", (1, 2))
    with tfconv.portable():
        assert_numeric_gradients(apply(geometry), draw(rng, geometry, 1, 2, 2))


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


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_second_gradients(rank, rng, native_module):
    geometry = Geometry((4, 3, 2)[:rank], 2, (2, 1, 1)[:rank], "same", (1, 2, 1)[:rank])
    inputs = draw(rng, geometry, 2, 2, 2)
    results = second_gradients(apply(geometry), inputs)
    with tfconv.portable():
        expected = second_gradients(apply(geometry), inputs)
    for actual, other in zip(results, expected):
        assert np.abs(other).max() > 1e-3
        assert_close(actual, other)


@pytest.mark.parametrize("wanted", ["x", "kernel"])
@pytest.mark.parametrize("mode", ["eager", "graph", "compiled"])
def test_only_what_is_asked_for(mode, wanted, rng, native_module, monkeypatch):
    """The gradient of the other input is not computed: its op does not run."""
    geometry = Geometry((5, 6), 3)
    inputs = dict(zip(("x", "kernel"), map(tf.constant, draw(rng, geometry, 2, 2, 3))))

    def gradient(x, kernel):
        source = {"x": x, "kernel": kernel}[wanted]
        with tf.GradientTape() as tape:
            tape.watch(source)
            y = apply(geometry)(x, kernel)
        return tape.gradient(y, source)

    other = {"x": "kernel", "kernel": "input"}[wanted]
    if mode == "eager":
        monkeypatch.setattr(native_module, f"tfconv_involution_{other}_grad", None)
        actual = gradient(**inputs)
        with pytest.raises(TypeError):  # whoever asks for both needs it
            gradients(apply(geometry), list(inputs.values()))
        monkeypatch.undo()
    else:
        function = tf.function(gradient, jit_compile=mode == "compiled")
        actual = function(**inputs)
        graph = function.get_concrete_function(**inputs).graph
        kept = {"x": "Input", "kernel": "Kernel"}[wanted]
        pruned = tf.compat.v1.graph_util.extract_sub_graph(
            graph.as_graph_def(), [graph.outputs[0].op.name]
        )
        ran = {node.op for node in pruned.node if node.op.endswith("Grad")}
        assert ran == {f"Tfconv>Involution{kept}Grad"}
    both = gradients(apply(geometry), list(inputs.values()), tf.ones(inputs["x"].shape, tf.float64))
    np.testing.assert_array_equal(actual, both[{"x": 1, "kernel": 2}[wanted]])


def test_gradient_op_of_earlier_versions(rng, native_module):
    """Graphs that were saved have both gradients in one op."""
    geometry = Geometry((5, 6), 3, 2)
    x, kernel = draw(rng, geometry, 2, 2, 3)
    y, dx, dkernel = gradients(apply(geometry), [x, kernel], tf.ones([2, 3, 3, 6], tf.float64))
    attributes = OpGeometry.of(3, 2, "same", 1, 2).attributes()
    old = native_module.tfconv_involution_grad(x=x, kernel=kernel, dy=tf.ones_like(y), **attributes)
    np.testing.assert_array_equal(old[0], dx)
    np.testing.assert_array_equal(old[1], dkernel)


def draw_span(rng, geometry, batch, groups, width, features=3):
    """An input, features, a span and a bias."""
    columns = groups * len(geometry.window.taps)
    x, _ = draw(rng, geometry, batch, groups, width)
    made_from = rng.standard_normal((batch, *geometry.outputs, features))
    return x, made_from, rng.standard_normal((features, columns)), rng.standard_normal(columns)


def apply_span(geometry):
    arguments = {k: v for k, v in geometry.arguments.items() if k != "data_format"}
    return lambda *inputs: span_involution(*inputs, geometry.kernel_size, **arguments)


def by_kernels(geometry):
    """What `apply_span` gives, by the tensor of all kernels."""
    return lambda x, features, span, bias: apply(geometry)(
        x, tf.tensordot(features, span, 1) + bias
    )


@pytest.mark.parametrize("geometry, groups, batch", table([1, 2, 3], GROUPS, [2, 1, 0]))
def test_span(geometry, groups, batch, rng, implementation):
    inputs = draw_span(rng, geometry, batch, *groups)
    results = gradients(apply_span(geometry), inputs)
    for actual, expected in zip(results, gradients(by_kernels(geometry), inputs)):
        assert_close(actual, expected)


def test_span_of_no_features(rng, implementation):
    """The kernels are the bias then."""
    geometry = Geometry((6, 5), 3, 2)
    inputs = draw_span(rng, geometry, 2, 2, 3, features=0)
    results = gradients(apply_span(geometry), inputs)
    for actual, expected in zip(results, gradients(by_kernels(geometry), inputs)):
        assert_close(actual, expected)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32])
def test_data_types_of_span(dtype, rng, implementation):
    geometry = Geometry((6, 5), 3)
    inputs = [tf.cast(t, dtype) for t in draw_span(rng, geometry, 2, 2, 9)]
    upstream = tf.cast(rng.standard_normal((2, 6, 5, 18)), dtype)
    results = gradients(apply_span(geometry), inputs, upstream)
    exact = [tf.cast(t, tf.float64) for t in (*inputs, upstream)]
    expected = gradients(by_kernels(geometry), exact[:-1], exact[-1])
    for actual, value in zip(results, expected):
        assert actual.dtype == dtype
        assert_close(actual, value, dtype)


@pytest.mark.parametrize(
    "geometry", [Geometry((5,), 3, 1, "causal", 2), Geometry((3, 2, 2), 2, (1, 2, 1))], ids=str
)
def test_numeric_gradients_of_span(geometry, rng, native_module):
    assert_numeric_gradients(apply_span(geometry), draw_span(rng, geometry, 1, 2, 2, 2))


def test_second_gradients_of_span(rng, native_module):
    geometry = Geometry((4, 3), 2, (2, 1), "same", (1, 2))
    inputs = draw_span(rng, geometry, 2, 2, 2)
    results = second_gradients(apply_span(geometry), inputs)
    with tfconv.portable():
        expected = second_gradients(by_kernels(geometry), inputs)
    for actual, other in zip(results, expected):
        assert_close(actual, other)


@pytest.mark.parametrize(
    "shapes",
    [
        ([2, 4, 4, 6], [2, 4, 4, 3], [2, 9], [9]),  # other features
        ([2, 4, 4, 6], [2, 4, 4, 3], [3, 9], [18]),
        ([2, 4, 4, 6], [2, 4, 4, 3], [3, 10], [10]),  # not a multiple of the taps
        ([2, 4, 4, 6], [2, 4, 3, 3], [3, 9], [9]),  # another output size
        ([2, 4, 4, 6], [2, 4, 4, 3], [3, 36], [36]),  # four groups of six channels
        ([2, 4, 4, 6], [2, 4, 4, 3], [27], [9]),
    ],
)
def test_bad_shapes_of_span(shapes, implementation):
    with pytest.raises(tf.errors.InvalidArgumentError, match="involution"):
        span_involution(*map(tf.ones, shapes), 3)


def test_constant_kernel_is_depthwise_convolution(rng, implementation):
    x = rng.standard_normal((2, 6, 7, 4))
    one = rng.standard_normal((3, 3, 4))
    kernel = np.broadcast_to(one.reshape(9, 4).T.reshape(-1), (2, 6, 7, 36))
    expected = tf.nn.depthwise_conv2d(x, one[..., None], [1, 1, 1, 1], "SAME")
    assert_close(involution(x, kernel, 3), expected)


def test_one_tap_multiplies(rng, implementation):
    x, kernel = rng.standard_normal((2, 4, 6)), rng.standard_normal((2, 4, 2))
    assert_close(involution(x, kernel, 1), x * np.repeat(kernel, 3, axis=-1))


@pytest.mark.parametrize(
    "specs, static",
    [
        (([None, None, None, 6], [None, None, None, 18]), [None, None, None, 6]),
        (([None, 8, None, 6], [None, None, None, 18]), [None, 4, None, 6]),
        (([None, None, 9, 6], [2, None, None, 18]), [None, None, 5, 6]),
    ],
)
def test_unknown_sizes(specs, static, rng, implementation):
    traced = tf.function(
        lambda x, kernel: involution(x, kernel, 3, 2),
        input_signature=[tf.TensorSpec(shape, tf.float64) for shape in specs],
    )
    shape = traced.get_concrete_function().output_shapes.as_list()
    assert shape[1:] == static[1:]
    for sizes in ((8, 9), (8, 9)) if 8 in specs[0] or 9 in specs[0] else ((8, 9), (3, 1)):
        geometry = Geometry(sizes, 3, 2)
        x, kernel = draw(rng, geometry, 2, 2, 3)
        assert_close(traced(x, kernel), reference.involution(x, kernel, geometry.window))


BAD_SHAPES = [
    ([2, 4, 4, 6], [2, 4, 4, 10], {}),  # not a multiple of the taps
    ([2, 4, 4, 6], [2, 4, 4, 36], {}),  # four groups of six channels
    ([2, 4, 4, 6], [2, 4, 3, 9], {}),  # another output size
    ([2, 4, 4, 6], [2, 4, 4, 9], {"strides": 2}),
    ([2, 4, 4, 6], [3, 4, 4, 9], {}),  # another batch
    ([2, 4, 4, 6], [2, 4, 4, 0], {}),
    ([2, 4, 4, 6], [2, 16, 9], {}),  # another rank
]


@pytest.mark.parametrize("x, kernel, arguments", BAD_SHAPES)
def test_bad_shapes(x, kernel, arguments, implementation):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        involution(tf.ones(x), tf.ones(kernel), 3, **arguments)
    for shape in (x, kernel):
        assert ", ".join(map(str, shape)) in str(caught.value)


@pytest.mark.parametrize(
    "x, kernel, arguments",
    [
        *(row for row in BAD_SHAPES if row[1][-1] == 9 and len(row[1]) == 4),
        ([2, 2, 2, 6], [2, 1, 1, 9], {"padding": "valid"}),  # the image is too small
    ],
)
def test_bad_shapes_known_only_at_run_time(x, kernel, arguments, native_module):
    traced = tf.function(
        lambda x, kernel: involution(x, kernel, 3, **arguments),
        input_signature=[tf.TensorSpec([None, None, None, shape[-1]]) for shape in (x, kernel)],
    )
    with pytest.raises(tf.errors.InvalidArgumentError):
        traced(tf.ones(x), tf.ones(kernel))


def test_unknown_channels():
    traced = tf.function(lambda x, kernel: involution(x, kernel, 3))
    for x, kernel in (([1, 4, 4, None], [1, 4, 4, 9]), ([1, 4, 4, 2], [1, 4, 4, None])):
        with pytest.raises(tf.errors.InvalidArgumentError, match="involution"):
            traced.get_concrete_function(tf.TensorSpec(x), tf.TensorSpec(kernel))


@pytest.mark.parametrize("shape", [[4, 6], [2, 3, 3, 3, 3, 6]])
def test_bad_rank(shape):
    with pytest.raises(tf.errors.InvalidArgumentError, match="rank 3 to 5.*Received"):
        involution(tf.ones(shape), tf.ones(shape), 3)


BAD_ARGUMENTS = [
    ({"kernel_size": 0}, "kernel_size"),
    ({"kernel_size": (3, 3, 3)}, "kernel_size"),
    ({"kernel_size": 2.5}, "kernel_size"),
    ({"kernel_size": 3, "strides": 0}, "strides"),
    ({"kernel_size": 3, "strides": (1, -1)}, "strides"),
    ({"kernel_size": 3, "dilation_rate": (0, 1)}, "dilation_rate"),
    ({"kernel_size": 3, "padding": "middle"}, "padding"),
    ({"kernel_size": 3, "padding": "causal"}, "padding"),
    ({"kernel_size": 3, "padding": -1}, "padding"),
    ({"kernel_size": 3, "padding": ((1, 1),)}, "padding"),
    ({"kernel_size": 3, "data_format": "channels_middle"}, "data_format"),
    ({"kernel_size": 5, "padding": "valid"}, "kernel"),
]


@pytest.mark.parametrize("arguments, name", BAD_ARGUMENTS)
def test_bad_arguments(arguments, name):
    with pytest.raises(ValueError, match=rf"{name}.*Received: "):
        involution(tf.ones([1, 4, 4, 2]), tf.ones([1, 4, 4, 9]), **arguments)
