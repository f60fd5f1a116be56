"""Transposed convolution, and the matrix of a convolution."""

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
    table,
)
from tfconv._compat import keras
from tfconv.ops import conv, conv_matrix, conv_transpose

GROUPS = [(1, 3, 2), (2, 2, 3), (4, 1, 1), (3, 2, 1)]  # groups, C / groups, filters / groups


def painted(x, kernel, strides, dilations, groups, before, output):
    """Every pixel paints the kernel onto an empty picture; a loop for every sum."""
    x, kernel = x.astype(np.float64), kernel.astype(np.float64)
    width, channels = kernel.shape[-2:]
    y = np.zeros((len(x), *output, width * groups))
    for p in np.ndindex(*x.shape[1:-1]):
        for t in np.ndindex(*kernel.shape[:-2]):
            i = tuple(
                n * s + tap * d - b for n, s, tap, d, b in zip(p, strides, t, dilations, before)
            )
            if not all(0 <= n < size for n, size in zip(i, output)):
                continue
            for c in range(channels):
                g = c // (channels // groups)
                y[(slice(None), *i, slice(g * width, (g + 1) * width))] += (
                    x[(slice(None), *p, c)][:, None] * kernel[(*t, slice(None), c)]
                )
    return y


def cut(geometry, output_padding=None):
    """What is cut off before, and the output sizes, by the table of the docstring."""
    window, pads, sizes = geometry.window, [], []
    rank = len(geometry.sizes)
    more = output_padding
    if more is None or isinstance(more, int):
        more = (more,) * rank
    for n, k, s, d, o, pair in zip(
        geometry.sizes, window.kernel_size, window.strides, window.dilations, more, window.pads
    ):
        e = (k - 1) * d + 1
        if geometry.padding == "valid":
            before, size = 0, (n - 1) * s + (max(e, s) if o is None else e + o)
        elif geometry.padding == "same":
            size = n * s if o is None else (n - 1) * s + e % 2 + o
            before = max((n - 1) * s + e - size, 0) // 2
        elif geometry.padding == "causal":
            before, size = 0, n * s if o is None else (n - 1) * s + 1 + o
        else:
            before, size = pair[0], (n - 1) * s + e - sum(pair) + (o or 0)
        pads.append(before)
        sizes.append(size)
    return pads, sizes


def draw(rng, geometry, batch, groups):
    count, width, filters = groups
    return (
        rng.standard_normal((batch, *geometry.sizes, count * width)),
        rng.standard_normal((*geometry.window.kernel_size, filters, count * width)),
    )


def transposed(geometry, groups=1, output_padding=None, data_format="channels_last"):
    return lambda x, kernel: conv_transpose(
        x,
        kernel,
        output_padding=output_padding,
        groups=groups,
        data_format=data_format,
        **geometry.arguments,
    )


def expected(x, kernel, geometry, groups=1, output_padding=None):
    before, sizes = cut(geometry, output_padding)
    window = geometry.window
    return painted(x, kernel, window.strides, window.dilations, groups, before, sizes)


@pytest.mark.parametrize("geometry, groups, batch", table([1, 2, 3], GROUPS, [2, 1, 3]))
def test_matches_reference(geometry, groups, batch, rng):
    if min(cut(geometry)[1]) < 1:
        with pytest.raises(ValueError, match="`padding` leaves no output.*Received: "):
            conv_transpose(*draw(rng, geometry, batch, groups), **geometry.arguments)
        return
    x, kernel = draw(rng, geometry, batch, groups)
    y = transposed(geometry, groups[0])(x, kernel)
    assert_close(y, expected(x, kernel, geometry, groups[0]))


@pytest.mark.parametrize("padding", ["valid", "same", "full", 1, ((2, 0), (0, 3))])
@pytest.mark.parametrize("output_padding", [0, 1, (2, 0)])
@pytest.mark.parametrize("kernel_size", [3, (2, 4)])
def test_output_padding(padding, output_padding, kernel_size, rng):
    geometry = Geometry((4, 5), kernel_size, (3, 2), padding)
    x, kernel = draw(rng, geometry, 2, (2, 2, 1))
    y = transposed(geometry, 2, output_padding)(x, kernel)
    assert_close(y, expected(x, kernel, geometry, 2, output_padding))


@pytest.mark.parametrize("padding", ["causal", ((9, 0),), ((0, 9),)], ids=str)
def test_one_axis(padding, rng):
    """Causal outputs; and more cut off than one pixel paints."""
    for output_padding in (None, 1):
        geometry = Geometry((5,), 3, 2, padding, 2)
        x, kernel = draw(rng, geometry, 2, (1, 2, 2))
        y = transposed(geometry, 1, output_padding)(x, kernel)
        assert_close(y, expected(x, kernel, geometry, 1, output_padding))


@pytest.mark.parametrize("number", range(len(recorded.cases("conv_transpose_nd"))))
def test_recorded_cases(number):
    case = recorded.cases("conv_transpose_nd")[number]

    def function(x, weight, bias):
        y = conv_transpose(
            x,
            weight,
            strides=case.stride,
            padding=case.padding,
            output_padding=case.output_padding,
            dilation_rate=case.dilation,
            groups=case.groups,
            data_format="channels_last",
        )
        return y + bias

    names = ["x", "weight", "bias"]
    inputs = [getattr(case, name).astype(np.float64) for name in names]
    results = gradients(function, inputs, case.grad_out)
    others = [case.out, *(getattr(case, f"grad_{name}") for name in names)]
    for name, actual, other in zip(["out", *names], results, others):
        np.testing.assert_allclose(actual, other, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    "kernel_size, strides, output_padding", [(3, 2, None), (2, 3, None), (4, 3, 1), (3, 2, 1)]
)
def test_is_kerass(rank, padding, kernel_size, strides, output_padding, rng):
    x = rng.standard_normal((2, *[4] * rank, 3)).astype(np.float32)
    theirs = getattr(keras.layers, f"Conv{rank}DTranspose")(
        2, kernel_size, strides, padding, output_padding=output_padding, use_bias=False
    )
    y = theirs(x)
    assert_close(
        conv_transpose(
            x,
            theirs.get_weights()[0],
            strides=strides,
            padding=padding,
            output_padding=output_padding,
        ),
        y,
    )


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_modes_and_data_formats(rank, mode, data_format, rng):
    geometry = Geometry((4, 3, 2)[:rank], 3, 2, "same", 2)
    x, kernel = draw(rng, geometry, 2, (2, 3, 2))
    moved, y = in_format(data_format, x, expected(x, kernel, geometry, 2))
    function = transposed(geometry, 2, data_format=data_format)
    assert_close(as_function(function, mode)(moved, kernel), y)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
def test_data_types(dtype, rng):
    geometry = Geometry((5, 4), 3, 2, "same", 2)
    inputs = [tf.cast(t, dtype) for t in draw(rng, geometry, 2, (2, 4, 2))]
    results = gradients(transposed(geometry, 2), inputs)
    assert [t.dtype for t in results] == [dtype] * 3
    exact = [tf.cast(t, tf.float64).numpy() for t in inputs]
    assert_close(results[0], expected(*exact, geometry, 2), dtype)


@pytest.mark.parametrize("batch", [0, 1, 33])
@pytest.mark.parametrize("groups", [(1, 2, 2), (3, 1, 2)])
def test_batches(batch, groups, rng):
    geometry = Geometry((4, 3), 2, 2, "same", 2)
    inputs = draw(rng, geometry, batch, groups)
    y, *grads = gradients(transposed(geometry, groups[0]), inputs)
    assert [g.shape for g in grads] == [t.shape for t in inputs]
    assert_close(y, expected(*inputs, geometry, groups[0]))


@pytest.mark.parametrize(
    "geometry, groups",
    [
        (Geometry((4,), 3, 2, "causal", 2), (2, 1, 2)),
        (Geometry((3, 2), (3, 2), (2, 3), ((1, 0), (1, 1)), (1, 2)), (1, 2, 1)),
        (Geometry((2, 2, 2), (2, 1, 2), (1, 2, 1), "same"), (2, 1, 1)),
    ],
    ids=str,
)
def test_numeric_gradients(geometry, groups, rng):
    assert_numeric_gradients(transposed(geometry, groups[0]), draw(rng, geometry, 1, groups))


@pytest.mark.parametrize("shape", [[None, None, None, 4], [2, None, 5, 4]])
def test_unknown_sizes(shape, rng):
    geometry = Geometry((4, 5), 3, (2, 3), "same")
    inputs = draw(rng, geometry, 2, (2, 2, 1))
    specs = [tf.TensorSpec(shape, tf.float64), tf.TensorSpec(inputs[1].shape, tf.float64)]
    traced = tf.function(transposed(geometry, 2), input_signature=specs)
    static = [shape[0], *(None if n is None else 3 * n for n in shape[1:3]), 2]
    assert traced.get_concrete_function().output_shapes.as_list() == static
    assert_close(traced(*inputs), expected(*inputs, geometry, 2))


def test_trains_under_xla(rng):
    geometry = Geometry((4, 5), 3, 2, "same", 2)
    inputs = draw(rng, geometry, 2, (2, 2, 1))
    function = transposed(geometry, 2)
    compiled = tf.function(lambda *inputs: gradients(function, inputs), jit_compile=True)
    for actual, other in zip(compiled(*inputs), gradients(function, inputs)):
        np.testing.assert_allclose(actual, other, rtol=1e-9, atol=1e-9)


# The transposed convolution is the transposed matrix of a convolution.

MATRICES = [
    (Geometry((7,), 3, 2, "valid", 2), (1, 2, 3)),
    (Geometry((6,), 4, 2, "same"), (2, 1, 2)),
    (Geometry((5, 4), 3, 1, "full"), (1, 1, 2)),
    (Geometry((7, 5), (3, 2), (2, 3), 1), (2, 2, 1)),
    (Geometry((5, 4), 3, 2, ((1, 0), (2, 2)), (1, 2)), (1, 2, 2)),
    (Geometry((4, 3, 3), 2, (2, 1, 1), "same"), (2, 1, 1)),
]


@pytest.mark.parametrize("geometry, groups", MATRICES, ids=str)
def test_matrix(geometry, groups, rng):
    """``y = C x``, and ``x' = C^T y`` is `conv_transpose` and the gradient of `conv`."""
    count, width, filters = groups
    x = rng.standard_normal((*geometry.sizes, count * width))
    kernel = rng.standard_normal((*geometry.window.kernel_size, width, count * filters))
    matrix = conv_matrix(kernel, x.shape, groups=count, **geometry.arguments).numpy()
    y = conv(x[None], kernel, groups=count, **geometry.arguments)[0].numpy()
    assert_close(matrix @ x.ravel(), y.ravel())
    assert_close(y, reference.conv(x[None], kernel, geometry.window, count)[0])

    upstream = rng.standard_normal(y.shape)
    back = (matrix.T @ upstream.ravel()).reshape(x.shape)
    _, gradient, _ = gradients(
        lambda x, kernel: conv(x, kernel, groups=count, **geometry.arguments),
        [x[None], kernel],
        upstream[None],
    )
    assert_close(gradient[0], back)
    # The kernel's layout is the same: the transposed convolution has the filters for channels.
    # What a stride skipped at the end comes back as output padding.
    more = None
    if geometry.padding != "same":
        smallest = cut(geometry._replace(sizes=y.shape[:-1]), 0)[1]
        more = [n - least for n, least in zip(geometry.sizes, smallest)]
    actual = conv_transpose(
        upstream[None], kernel, output_padding=more, groups=count, **geometry.arguments
    )
    assert_close(actual[0], back)


def test_matrix_has_the_kernels_values_on_diagonals():
    matrix = conv_matrix(tf.reshape([1.0, 2.0, 3.0], [3, 1, 1]), (4, 1), padding="same")
    assert_close(matrix, np.array([[2, 3, 0, 0], [1, 2, 3, 0], [0, 1, 2, 3], [0, 0, 1, 2]]))


# Errors.


@pytest.mark.parametrize(
    "x, kernel, groups",
    [
        ([2, 4, 4, 6], [3, 3, 2, 4], 1),
        ([2, 4, 4, 6], [3, 3, 2, 6], 4),
        ([2, 4, 4, 6], [3, 3, 2, 6], 0),
        ([2, 4, 4, 6], [3, 2, 6], 1),
        ([4, 6], [3, 6], 1),
        ([2, 4, 4, 6], [3, 3, 0, 6], 1),
        ([2, 4, 4, 0], [3, 3, 2, 0], 1),
    ],
)
def test_bad_shapes(x, kernel, groups):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        conv_transpose(tf.ones(x), tf.ones(kernel), groups=groups)
    for shape in (x, kernel):
        assert ", ".join(map(str, shape)) in str(caught.value)


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"strides": 0}, "strides"),
        ({"dilation_rate": 0}, "dilation_rate"),
        ({"padding": "causal"}, "padding"),
        ({"padding": 9}, "padding"),
        ({"output_padding": 1}, "output_padding"),
        ({"strides": 2, "output_padding": (1, -1)}, "output_padding"),
        ({"strides": 2, "output_padding": (1, 2)}, "output_padding"),
        ({"data_format": "NHWC"}, "data_format"),
    ],
)
def test_bad_arguments(arguments, name):
    with pytest.raises(ValueError, match=rf"{name}.*Received: "):
        conv_transpose(tf.ones([2, 4, 4, 6]), tf.ones([3, 3, 2, 6]), **arguments)
