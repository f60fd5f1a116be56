"""Sizes that are not known when a function is traced: what does not fit is refused when it runs."""

from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from tests.ops.geometries import gradients
from tfconv.ops import (
    conv,
    conv_transpose,
    deformable_aggregation,
    deformable_conv2d,
    deformable_sample,
    involution,
    local_attention,
    per_example_conv,
)
from tfconv.ops.checks import checked
from tfconv.ops.per_example_conv import mixed_conv

SQUARE = tf.ones([3, 3, 4, 4])


def involve(**arguments):
    return lambda x, kernel: involution(x, kernel, 3, **arguments)


def mixed(**arguments):
    return lambda x, kernels: per_example_conv(x, kernels, **arguments)


def deformed(**arguments):
    return lambda x, offset, *mask: deformable_conv2d(x, offset, SQUARE, *mask, **arguments)


def aggregated(**arguments):
    return lambda *inputs: deformable_aggregation(*inputs, 3, **arguments)


def sampled(**arguments):
    return lambda x, offset, mask: deformable_sample(x, offset, mask, kernel_size=3, **arguments)


def attended(**arguments):
    return lambda q, k, v, *bias: local_attention(
        q, k, v, 3, num_heads=2, bias=bias[0] if bias else None, **arguments
    )


def convolved(*kernel, **arguments):
    return lambda x: conv(x, tf.ones(kernel), **arguments)


def transposed(*kernel, **arguments):
    return lambda x: conv_transpose(x, tf.ones(kernel), **arguments)


FIRST = {"data_format": "channels_first"}
# Functions, the shapes of their inputs, and shapes that do not fit.
CASES = {
    "involution 1-D": (involve(), [(2, 6, 4), (2, 6, 6)]),
    "involution": (involve(strides=2), [(2, 8, 8, 4), (2, 4, 4, 18)]),
    "involution valid": (involve(padding="valid"), [(2, 5, 5, 4), (2, 3, 3, 18)]),
    "involution first": (involve(strides=2, **FIRST), [(2, 4, 8, 8), (2, 18, 4, 4)]),
    "involution 3-D": (involve(strides=2), [(2, 4, 4, 4, 4), (2, 2, 2, 2, 27)]),
    "per example": (mixed(padding="valid"), [(2, 5, 5, 4), (2, 3, 3, 2, 6)]),
    "per example 1x1": (mixed(), [(2, 5, 5, 4), (2, 1, 1, 4, 5)]),
    "per example depthwise": (mixed(padding="valid"), [(2, 5, 5, 4), (2, 3, 3, 1, 4)]),
    "deformable conv": (deformed(strides=2), [(2, 8, 8, 4), (2, 4, 4, 18), (2, 4, 4, 9)]),
    "deformable conv valid": (deformed(padding="valid"), [(2, 5, 5, 4), (2, 3, 3, 36)]),
    "deformable aggregation": (aggregated(strides=2), [(2, 8, 8, 4), (2, 4, 4, 36), (2, 4, 4, 18)]),
    "deformable aggregation 1-D": (aggregated(padding="valid"), [(2, 5, 4), (2, 3, 6), (2, 3, 6)]),
    "deformable sample": (sampled(**FIRST), [(2, 4, 4, 8), (2, 18, 4, 8), (2, 9, 4, 8)]),
    "attention": (attended(), [(2, 4, 5, 4)] * 3),
    "attention with biases": (attended(), [*[(2, 4, 5, 4)] * 3, (2, 4, 5, 18)]),
    "attention in blocks": (
        attended(strides=2, edges="shifted"),
        [(2, 6, 4), (2, 6, 4), (2, 6, 6)],
    ),
    "attention causal": (attended(causal=True, dilation_rate=2), [(2, 4, 4)] * 3),
    "conv": (convolved(3, 3, 4, 4), [(2, 5, 5, 4)]),
    "conv in groups": (convolved(3, 2, 4, groups=2), [(2, 5, 4)]),
    "conv depthwise": (convolved(2, 3, 3, 1, 4, groups=4), [(2, 3, 3, 3, 4)]),
    "transposed conv": (transposed(3, 3, 4, 4, padding=3, strides=2), [(2, 5, 5, 4)]),
    "transposed conv in groups": (transposed(3, 2, 4, padding=2, groups=2), [(2, 5, 4)]),
}


def changed(shapes):
    """The shapes with another size in one place, or with the sizes of two axes moved."""
    for number, shape in enumerate(shapes):
        for axis, size in enumerate(shape):
            for other in (1, 2 * size):
                yield number, (*shape[:axis], other, *shape[axis + 1 :])
        if number and len(shape) == 4:
            yield number, (shape[0], shape[1] // 2, shape[2] * 2, shape[3])
            yield number, (shape[0], shape[1], shape[2] // 2, shape[3] * 2)


@pytest.mark.dear
@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "XLA"])
@pytest.mark.parametrize("name", CASES)
def test_as_with_known_sizes(name, compiled, implementation):
    """Whatever is refused when sizes are known is refused when they are not, and nothing else."""
    function, good = CASES[name]
    channels = 1 if "first" in name or "sample" in name else -1
    unknown = []
    for number, shape in enumerate(good):
        sizes = [None] * len(shape)
        sizes[channels] = shape[channels]
        if number and name.startswith("per example"):  # kernels of known shape
            sizes[1:] = shape[1:]
        unknown.append(tf.TensorSpec(sizes))
    traced = tf.function(function, unknown, jit_compile=compiled, autograph=False)
    refused = 0
    for number, shape in [(0, good[0]), *changed(good)]:
        if not unknown[number].shape.is_compatible_with(shape):
            continue
        inputs = [tf.ones(shape if i == number else s) for i, s in enumerate(good)]
        try:
            expected = function(*inputs)
        except (ValueError, tf.errors.InvalidArgumentError):
            refused += 1
            with pytest.raises(tf.errors.InvalidArgumentError):
                traced(*inputs)
                pytest.fail(f"{[x.shape for x in inputs]} were taken")
        else:
            np.testing.assert_allclose(traced(*inputs), expected, rtol=1e-5)
    assert refused


def test_messages(implementation):
    """With XLA as well, an error says what is wrong."""
    said = "needs an input of at least"
    for compiled, words in ((False, said), (True, said.replace(" ", "_"))):
        traced = tf.function(
            convolved(3, 3, 4, 4),
            input_signature=[tf.TensorSpec([None, None, None, 4])],
            jit_compile=compiled,
        )
        with pytest.raises(tf.errors.InvalidArgumentError, match=words):
            traced(tf.ones([1, 2, 3, 4]))


def test_static_shapes_are_kept():
    @tf.function(input_signature=[tf.TensorSpec([None, 7, None, 3])])
    def function(x):
        y = checked(x, tf.shape(x)[2] > 1, "narrow: ", tf.shape(x))
        assert y.shape.as_list() == [None, 7, None, 3]
        return y

    x = tf.random.normal([2, 7, 2, 3])
    np.testing.assert_array_equal(function(x), x)
    with pytest.raises(tf.errors.InvalidArgumentError, match="narrow"):
        function(tf.zeros([0, 7, 1, 3]))


# Functions and the shapes of their inputs, in images of no rows.
EMPTY = {
    "involution": (involve(strides=2), [(2, 0, 8, 4), (2, 0, 4, 18)]),
    "per example": (mixed(), [(2, 0, 5, 4), (2, 3, 3, 2, 6)]),
    "per example depthwise": (mixed(), [(2, 0, 5, 4), (2, 3, 3, 1, 4)]),
    "mixed": (mixed_conv, [(2, 0, 5, 4), (3, 3, 3, 2, 6), (2, 3)]),
    "deformable conv": (deformed(), [(2, 0, 4, 4), (2, 0, 4, 36), (2, 0, 4, 18)]),
    "deformable aggregation": (aggregated(), [(2, 0, 4, 4), (2, 0, 4, 36), (2, 0, 4, 18)]),
    "deformable sample": (sampled(), [(2, 0, 4, 8), (2, 0, 4, 18), (2, 0, 4, 9)]),
    "attention": (attended(), [(2, 0, 5, 4)] * 3 + [(2, 0, 5, 18)]),
    "conv": (partial(conv, padding="same"), [(2, 0, 5, 4), (3, 3, 4, 5)]),
    "conv in groups": (partial(conv, padding="same", groups=2), [(2, 0, 5, 4), (3, 3, 2, 6)]),
    "conv depthwise": (partial(conv, padding="same", groups=4), [(2, 0, 5, 4), (3, 3, 1, 8)]),
}


@pytest.mark.parametrize("name", EMPTY)
def test_no_pixels(name, implementation):
    function, shapes = EMPTY[name]
    y, *grads = gradients(function, list(map(tf.ones, shapes)))
    assert y.shape[:2] == [2, 0]
    for grad, shape in zip(grads, shapes):
        assert grad.shape == shape and not np.any(grad)


CONVOLUTIONS = [
    convolved(3, 3, 4, 4),
    convolved(3, 3, 2, 4, groups=2, padding="same"),
    convolved(3, 3, 1, 4, groups=4),
    convolved(1, 1, 4, 4, strides=2),
    convolved(3, 4, 5),
    convolved(2, 2, 2, 4, 4),
    transposed(3, 3, 4, 4, strides=2),
    transposed(1, 1, 4, 4, strides=2),
]


@pytest.mark.parametrize("number", range(len(CONVOLUTIONS)))
def test_empty_batches(number):
    """Outputs and gradients of a batch that turns out to be empty."""
    function = CONVOLUTIONS[number]
    rank = {4: 1, 5: 3}.get(number, 2)
    traced = tf.function(
        lambda x: gradients(function, [x]),
        input_signature=[tf.TensorSpec([None] * (rank + 1) + [4])],
    )
    for batch in (0, 2):
        x = tf.random.normal([batch, *[5] * rank, 4])
        for actual, expected in zip(traced(x), gradients(function, [x])):
            assert actual.shape == expected.shape
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "function", [convolved(1, 1, 8, 16, strides=2), transposed(1, 1, 8, 8, strides=(1, 2))]
)
def test_no_strided_pointwise_convolution(function):
    """Whose gradient ends the process in TensorFlow 2.21."""
    traced = tf.function(lambda x: gradients(function, [x])[1])
    graph = traced.get_concrete_function(tf.TensorSpec([2, 9, 9, 8])).graph
    strides = [list(op.get_attr("strides")) for op in graph.get_operations() if "Conv2D" in op.type]
    assert strides and all(each == [1, 1, 1, 1] for each in strides)
