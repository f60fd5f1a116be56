"""Local attention against its definition, numeric gradients, and other ops."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests import record_natten, reference
from tests.ops.geometries import (
    as_function,
    assert_close,
    assert_numeric_gradients,
    gradients,
    in_format,
    second_gradients,
)
from tfconv.ops import involution, local_attention


class Case:
    """Sizes and arguments of a call."""

    def __init__(self, sizes, kernel_size, pooled=False, heads=2, width=3, depth=None, **arguments):
        self.sizes, self.heads, self.width, self.depth = sizes, heads, width, depth or width
        self.arguments = {"kernel_size": kernel_size, "num_heads": heads, **arguments}
        rank = len(sizes)

        def each(name, default):
            given = self.arguments.get(name, default)
            return (given,) * rank if isinstance(given, (int, bool)) else given

        kernel, strides, dilation, causal = (
            each(*pair)
            for pair in (
                ("kernel_size", None),
                ("strides", 1),
                ("dilation_rate", 1),
                ("causal", False),
            )
        )
        self.queries = tuple(-(-n // s) if pooled else n for n, s in zip(sizes, strides))
        shifted = [arguments.get("edges") == "shifted"] * rank
        self.axes = [
            reference.Neighbourhood(*axis)
            for axis in zip(sizes, self.queries, kernel, strides, dilation, shifted, causal)
        ]
        self.taps = int(np.prod(kernel))
        self.scale = arguments.get("scale", self.width**-0.5)

    def draw(self, rng, batch=2, bias=None):
        """Query, key, value; a bias "by tap" or "by position", and None without."""
        shapes = [
            (batch, *self.queries, self.heads * self.width),
            (batch, *self.sizes, self.heads * self.width),
            (batch, *self.sizes, self.heads * self.depth),
        ]
        columns = {"by tap": (self.heads, self.taps)}
        columns["by position"] = (batch, *self.queries, self.heads * self.taps)
        if bias is not None:
            shapes.append(columns[bias])
        return [rng.standard_normal(shape) for shape in shapes]

    def apply(self, data_format="channels_last", **more):
        def function(query, key, value, bias=None):
            return local_attention(
                query, key, value, bias=bias, data_format=data_format, **self.arguments, **more
            )

        return function

    def expected(self, query, key, value, bias=None):
        return reference.local_attention(query, key, value, bias, self.axes, self.heads, self.scale)

    def __str__(self):
        words = [str(self.sizes), "->", str(self.queries)]
        words += [f"{name}={value}" for name, value in self.arguments.items()]
        return " ".join(words).replace(", ", ",")


CASES = [
    Case((9,), 3),
    Case((10,), 4, dilation_rate=2, heads=1, width=5),
    Case((12,), 5, edges="shifted", dilation_rate=2, depth=1),
    Case((8,), 3, causal=True, scale=1.3),
    Case((9,), 4, causal=True, edges="shifted", dilation_rate=2, heads=3, width=1),
    Case((11,), 5, strides=2, edges="shifted"),
    Case((11,), 5, strides=2, edges="shifted", dilation_rate=2),
    Case((11,), 5, strides=3, pooled=True, edges="shifted", dilation_rate=2),
    Case((10,), 5, strides=3, pooled=True),
    Case((11,), 4, strides=3, causal=True),
    Case((11,), 4, strides=4, causal=True, pooled=True, dilation_rate=2),
    Case((3,), 2, dilation_rate=5),  # some see nothing
    Case((1,), 7),
    Case((6,), 1, heads=1, width=2, depth=7),
    Case((7, 6), 3),
    Case((7, 6), (3, 5), edges="shifted", heads=1, width=4, depth=2),
    Case((6, 9), (2, 3), dilation_rate=(1, 2), width=8),
    Case((6, 7), 3, dilation_rate=2, edges="shifted", width=2),
    Case((5, 6), 3, causal=(True, False), edges="shifted"),
    Case((5, 6), (3, 4), causal=(False, True), strides=(2, 1), scale=0.5),
    Case((7, 8), 3, strides=2, pooled=True, heads=3, width=1),
    Case((5, 7), (3, 4), strides=(2, 3), edges="shifted"),
    Case((3, 2), 7, heads=1),
    Case((4, 3, 5), 3),
    Case((4, 3, 5), (3, 2, 3), edges="shifted", heads=1, width=2, depth=5),
    Case((4, 4, 5), 2, dilation_rate=(2, 1, 2), edges="shifted", causal=(False, True, False)),
    Case((3, 4, 4), (1, 3, 2), strides=(1, 2, 2), pooled=True, causal=(True, False, False)),
]
BIASES = itertools.cycle([None, "by tap", "by position"])
TABLE = [pytest.param(case, bias, id=f"{case} {bias}") for case, bias in zip(CASES, BIASES)]


@pytest.mark.parametrize("case, bias", TABLE)
def test_matches_reference(case, bias, rng, implementation):
    inputs = case.draw(rng, bias=bias)
    assert_close(case.apply()(*inputs), case.expected(*inputs)[0])


@pytest.mark.parametrize("number", range(len(record_natten.CASES)))
def test_shifted_windows_are_those_of_natten(number, implementation):
    """As NATTEN itself computed them, and the gradients where it has them on CPUs."""
    with np.load(record_natten.FILE) as data:
        expected = [data[f"{number:02}/out"], *data.get(f"{number:02}/grads", [])]
    *tensors, upstream = (t.reshape(*t.shape[:-2], -1) for t in record_natten.inputs(number))
    arguments = record_natten.CASES[number]._asdict()
    del arguments["sizes"]

    def function(*tensors):
        return local_attention(
            *tensors, num_heads=record_natten.HEADS, edges="shifted", **arguments
        )

    for actual, recorded in zip(gradients(function, tensors, upstream), expected):
        actual = np.reshape(actual, recorded.shape)
        np.testing.assert_allclose(actual, recorded, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("case, bias", TABLE[2::4])
def test_weights(case, bias, rng):
    inputs = case.draw(rng, bias=bias)
    y, weights = case.apply(return_weights=True)(*inputs)
    expected = case.expected(*inputs)
    assert_close(y, expected[0])
    assert_close(weights, expected[1])


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("case, bias", TABLE[7::9])
def test_modes_and_data_formats(case, bias, data_format, mode, rng, implementation):
    inputs = case.draw(rng, bias=bias)
    given = in_format(data_format, *inputs[:3])
    if bias:
        given += inputs[3:] if bias == "by tap" else in_format(data_format, *inputs[3:])
    y = as_function(case.apply(data_format), mode)(*given)
    assert_close(y, in_format(data_format, case.expected(*inputs)[0])[0])


@pytest.mark.parametrize("case, bias", TABLE[1::4])
def test_sizes_known_at_run_time(case, bias, rng, implementation):
    inputs = case.draw(rng, bias=bias)
    specs = [tf.TensorSpec([None] * (t.ndim - 1) + [t.shape[-1]], tf.float64) for t in inputs]
    traced = tf.function(case.apply(), input_signature=specs)
    assert_close(traced(*inputs), case.expected(*inputs)[0])


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32])
@pytest.mark.parametrize("case, bias", TABLE[15::3])
def test_data_types(case, bias, dtype, rng, implementation):
    inputs = [tf.cast(t, dtype) for t in case.draw(rng, bias=bias)]
    upstream = tf.cast(rng.standard_normal((2, *case.queries, case.heads * case.depth)), dtype)
    results = gradients(case.apply(), inputs, upstream)
    assert {t.dtype for t in results} == {dtype}
    with tfconv.portable():
        exact = [tf.cast(t, tf.float64) for t in (*inputs, upstream)]
        expected = gradients(case.apply(), exact[:-1], exact[-1])
    for actual, other in zip(results, expected):
        assert_close(actual, other, dtype)


@pytest.mark.parametrize("case, bias", TABLE[::2])
def test_native_equals_portable(case, bias, rng, native_module):
    inputs = case.draw(rng, bias=bias)
    results = gradients(case.apply(), inputs)
    with tfconv.portable():
        expected = gradients(case.apply(), inputs)
    for actual, other in zip(results, expected):
        assert_close(actual, other)


@pytest.mark.parametrize(
    "case, bias",
    [
        (Case((5,), 3, dilation_rate=2, heads=2, width=1, depth=2), "by tap"),
        (Case((4, 3), (2, 3), edges="shifted", heads=1, width=2), "by position"),
        (Case((3, 4), 2, strides=2, pooled=True, causal=(False, True), width=1), None),
    ],
    ids=str,
)
def test_numeric_gradients(case, bias, rng, implementation):
    assert_numeric_gradients(case.apply(), case.draw(rng, 1, bias))


@pytest.mark.parametrize("bias", [None, "by tap", "by position"])
def test_second_gradients(bias, rng, native_module):
    case = Case((4, 3), 3, edges="shifted", heads=2, width=1, depth=2)
    inputs = case.draw(rng, 1, bias)
    results = second_gradients(case.apply(), inputs)
    with tfconv.portable():
        expected = second_gradients(case.apply(), inputs)
    for actual, other in zip(results, expected):
        assert np.abs(other).max() > 1e-3
        assert_close(actual, other)


@pytest.mark.parametrize("batch", [0, 1, 33])
def test_batches(batch, rng, implementation):
    case = Case((4, 3), 3)
    inputs = case.draw(rng, batch)
    results = gradients(case.apply(), inputs)
    assert [t.shape for t in results[1:]] == [t.shape for t in inputs]
    assert_close(results[0], case.expected(*inputs)[0])


def test_equal_keys_give_the_mean_of_the_window(rng, implementation):
    value = rng.standard_normal((2, 6, 7, 4))
    same = np.ones((2, 6, 7, 6))
    y = local_attention(same, same, value, 3, num_heads=2)
    assert_close(y, tf.nn.avg_pool2d(value, 3, 1, "SAME"))


def test_weights_are_kernels_of_an_involution(rng):
    case = Case((6, 5), 3, heads=2, width=3)
    inputs = case.draw(rng)
    y, weights = case.apply(return_weights=True)(*inputs)
    assert_close(y, involution(inputs[2], weights, 3))


def test_windows_of_all_pixels_are_global_attention(rng, implementation):
    case = Case((5,), 5, edges="shifted", heads=1, width=4)
    query, key, value = inputs = case.draw(rng)
    weights = tf.nn.softmax(tf.matmul(query, key, transpose_b=True) / 2)
    assert_close(case.apply()(*inputs), tf.matmul(weights, value))


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_large_logits(shift, rng, implementation):
    """What is added to all logits of a window changes nothing, however large it is."""
    case = Case((6,), 3, heads=1, width=2)
    *inputs, bias = case.draw(rng, bias="by tap")
    y = case.apply()(*inputs, bias + shift)
    np.testing.assert_allclose(y, case.expected(*inputs, bias)[0], rtol=1e-9, atol=1e-9)


BAD_SHAPES = [
    ([2, 4, 4, 6], [2, 4, 4, 4], [2, 4, 4, 6]),  # other channels
    ([2, 4, 4, 6], [2, 4, 4, 6], [2, 4, 3, 6]),
    ([2, 4, 4, 6], [2, 4, 4, 6], [3, 4, 4, 6]),
    ([2, 4, 3, 6], [2, 4, 4, 6], [2, 4, 4, 6]),
    ([3, 4, 4, 6], [2, 4, 4, 6], [2, 4, 4, 6]),
    ([2, 4, 4, 5], [2, 4, 4, 5], [2, 4, 4, 6]),  # no multiple of the heads
    ([2, 4, 4, 6], [2, 4, 4, 6], [2, 4, 4, 5]),
    ([2, 4, 4, 6], [2, 16, 6], [2, 4, 4, 6]),  # another rank
    ([2, 4, 4, 6], [2, 4, 4, 6], [2, 4, 4, 6], [2, 8]),
    ([2, 4, 4, 6], [2, 4, 4, 6], [2, 4, 4, 6], [2, 4, 4, 9]),
    ([2, 4, 4, 6], [2, 4, 4, 6], [2, 4, 4, 6], [2, 4, 3, 18]),
]


@pytest.mark.parametrize("shapes", BAD_SHAPES)
def test_bad_shapes(shapes, implementation):
    query, key, value, *bias = (tf.ones(shape) for shape in shapes)
    with pytest.raises(tf.errors.InvalidArgumentError, match="local_attention"):
        local_attention(query, key, value, 3, num_heads=2, bias=bias[0] if bias else None)


@pytest.mark.parametrize(
    "shapes, arguments",
    [
        *((row, {}) for row in BAD_SHAPES[1:5]),
        ([[2, 3, 4, 6], [2, 4, 4, 6], [2, 4, 4, 6]], {"strides": 2}),
        ([[2, 2, 2, 6]] * 3, {"edges": "shifted"}),
        ([[2, 5, 5, 6]] * 3, {"edges": "shifted", "dilation_rate": 2}),
    ],
)
def test_bad_shapes_known_only_at_run_time(shapes, arguments, implementation):
    traced = tf.function(
        lambda *inputs: local_attention(*inputs, 3, num_heads=2, **arguments),
        input_signature=[tf.TensorSpec([None, None, None, shape[-1]]) for shape in shapes],
    )
    with pytest.raises(tf.errors.InvalidArgumentError):
        traced(*map(tf.ones, shapes))


@pytest.mark.parametrize("edges, causal", [("shifted", False), ("masked", True)])
def test_images_smaller_than_the_window(edges, causal):
    x = tf.ones([1, 2, 4])
    if edges == "masked":
        assert local_attention(x, x, x, 3, num_heads=1, causal=causal).shape == x.shape
        return
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"shifted.*\(3,\).*Received"):
        local_attention(x, x, x, 3, num_heads=1, edges=edges)


def test_bad_rank():
    x = tf.ones([4, 6])
    with pytest.raises(tf.errors.InvalidArgumentError, match="rank 3 to 5.*Received"):
        local_attention(x, x, x, 3, num_heads=1)


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"kernel_size": 0}, "kernel_size"),
        ({"kernel_size": (3, 3, 3)}, "kernel_size"),
        ({"strides": 0}, "strides"),
        ({"strides": 4}, "strides.*kernel_size"),
        ({"dilation_rate": (0, 1)}, "dilation_rate"),
        ({"num_heads": 0}, "num_heads"),
        ({"num_heads": 1.5}, "num_heads"),
        ({"edges": "same"}, "edges"),
        ({"causal": (True,)}, "causal"),
        ({"causal": 1}, "causal"),
        ({"scale": "small"}, "scale"),
        ({"scale": float("inf")}, "scale"),
        ({"data_format": "channels_middle"}, "data_format"),
    ],
)
def test_bad_arguments(arguments, name):
    x = tf.ones([1, 5, 5, 4])
    with pytest.raises(ValueError, match=f"{name}.*Received"):
        local_attention(x, x, x, **{"kernel_size": 3, "num_heads": 2, **arguments})
