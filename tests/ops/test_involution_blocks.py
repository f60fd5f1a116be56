"""The form of involutions that servers get: the same as tap by tap."""

import functools

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv import _compat
from tfconv.ops import involution_blocks
from tfconv.ops.dispatch import server_export
from tfconv.ops.geometry import Geometry


@pytest.mark.parametrize(
    "size, kernel_size, strides, padding, dilation",
    [
        ((9, 11), 7, 1, "same", 1),
        ((11, 9), (3, 7), 1, "valid", (2, 1)),
        ((10, 13), (5, 4), (2, 3), "same", 1),
        ((11, 21), (5, 5), (1, 2), ((0, 3), (4, 1)), (3, 1)),
        ((4, 3), (7, 7), 1, "full", 1),
        ((30,), 21, 1, "causal", 1),
        ((17,), 23, 2, "same", 1),
    ],
)
def test_the_same(size, kernel_size, strides, padding, dilation, rng):
    geometry = Geometry.of(kernel_size, strides, padding, dilation, len(size))
    output = geometry.output_shape(size)
    x = tf.constant(rng.standard_normal((2, *size, 6)), tf.float32)
    kernel = rng.standard_normal((2, *output, 3 * geometry.taps)).astype(np.float32)
    assert involution_blocks.suits(x, geometry)
    with tfconv.portable():
        expected = tfconv.ops.involution(x, kernel, kernel_size, strides, padding, dilation)
    specs = [tf.TensorSpec([None, *t.shape[1:]]) for t in (x, kernel)]
    function = tf.function(functools.partial(involution_blocks.by_blocks, geometry=geometry))
    y = function.get_concrete_function(*specs)(x, tf.constant(kernel))
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "size, kernel_size, dilation",
    [((9, 9), 3, 1), ((9, 9), 7, 2), ((None, 9), 7, 1), ((5, 5, 5), 3, 1)],
)
def test_not_for_all(size, kernel_size, dilation):
    geometry = Geometry.of(kernel_size, 1, "same", dilation, len(size))
    assert not involution_blocks.suits(tf.TensorSpec([None, *size, 4]), geometry)


def test_only_servers_get_it():
    def operations():
        function = tf.function(lambda x, k: tfconv.ops.involution(x, k, 7))
        graph = function.get_concrete_function(tf.ones([1, 9, 9, 2]), tf.ones([1, 9, 9, 49])).graph
        return [op.type for op in graph.get_operations()]

    with _compat.export_scope():
        assert operations().count("Mul") >= 49
        with server_export(jit_compile=False):
            assert operations().count("Mul") < 10
