"""Where no native library serves, XLA compiles the twins that it makes faster."""

import functools

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests.conftest import require_native
from tests.ops.geometries import assert_gradients_in_graphs
from tfconv._compat import keras
from tfconv.ops import native, xla

pytestmark = pytest.mark.skipif(xla.missing() is not None, reason="TensorFlow has no XLA here")


@pytest.fixture
def no_library(monkeypatch):
    monkeypatch.setattr(native, "library", lambda: native.Library(problem="there is none"))
    monkeypatch.setattr(native, "warn_if_unavailable", lambda: None)
    monkeypatch.delenv("TFCONV_XLA", raising=False)


def attention(*tensors, **arguments):
    return tfconv.ops.local_attention(*tensors, 3, num_heads=2, **arguments)


def with_bias(query, key, value, bias):
    return attention(query, key, value, bias=bias, edges="shifted", strides=2)


def volumes(x, kernel):
    return tfconv.ops.involution(x, kernel, (1, 2, 3))


def strided(x, kernel):
    return tfconv.ops.involution(x, kernel, 3, strides=2, padding=1, dilation_rate=2)


CASES = {
    "1-D": (lambda x, k: tfconv.ops.involution(x, k, 5), [(2, 7, 4), (2, 7, 10)]),
    "2-D strided": (strided, [(2, 7, 8, 4), (2, 3, 3, 18)]),
    "3-D": (
        lambda x, k: tfconv.ops.involution(x, k, (1, 2, 3)),
        [(1, 3, 4, 3, 2), (1, 3, 4, 3, 6)],
    ),
    "attention": (attention, [(2, 5, 4, 4)] * 2 + [(2, 5, 4, 6)]),
    "attention with bias": (with_bias, [(2, 5, 4, 4)] * 3 + [(2, 9)]),
}


def compiled_functions(function, *tensors):
    """Names of the functions that XLA compiles in what is traced."""
    graph = tf.function(function).get_concrete_function(*tensors).graph
    definition = graph.as_graph_def()
    return [f.signature.name for f in definition.library.function if f.attr["_XlaMustCompile"].b]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("traced", [False, True])
def test_values_and_gradients(case, traced, no_library, rng):
    function, shapes = CASES[case]
    tensors = [tf.constant(rng.standard_normal(shape)) for shape in shapes]

    def results(*tensors):
        with tf.GradientTape() as outer:
            outer.watch(tensors)
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                y = function(*tensors)
            first = tape.gradient(y, tensors, tf.cos(y))
            total = tf.add_n([tf.reduce_sum(g**2) for g in first])
        return y, *first, *outer.gradient(total, tensors)

    with tfconv.portable():
        expected = results(*tensors)
    actual = (tf.function(results) if traced else results)(*tensors)
    assert compiled_functions(function, *tensors)
    for value, other in zip(actual, expected):
        np.testing.assert_allclose(value, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_types(dtype, no_library, rng):
    x, kernel = (tf.cast(rng.standard_normal(s), dtype) for s in [(2, 5, 5, 4), (2, 5, 5, 18)])
    with tfconv.portable():
        expected = tf.cast(tfconv.ops.involution(x, kernel, 3), tf.float32)
    y = tfconv.ops.involution(x, kernel, 3)
    assert y.dtype == dtype
    bound = 1e-5 if dtype == "float32" else 2e-2
    np.testing.assert_allclose(tf.cast(y, tf.float32), expected, rtol=bound, atol=bound)


@pytest.mark.late
def test_batches_of_any_size(no_library, rng):
    inputs = keras.Input((6, 4))
    x = tfconv.Involution1D(3, group_channels=2)(inputs)
    model = keras.Model(inputs, tfconv.LocalSelfAttention1D(4, kernel_size=3, num_heads=2)(x))
    images = rng.standard_normal((3, 6, 4)).astype(np.float32)
    with tfconv.portable():
        expected = model(images)
    function = tf.function(model, input_signature=[tf.TensorSpec([None, 6, 4])])
    assert len(compiled_functions(model, tf.TensorSpec([None, 6, 4]))) == 2
    for count in (3, 1, 0):
        np.testing.assert_allclose(function(images[:count]), expected[:count], atol=1e-5)
    model.compile("sgd", "mse")
    model.fit(images, expected.numpy(), batch_size=2, verbose=0)


def test_gradients_beside_convolutions(no_library, rng):
    """TensorFlow joins the gradients of convolutions' kernels and biases in graphs."""
    x = tf.constant(rng.standard_normal((2, 5, 4, 6)), tf.float32)
    layer = tfconv.LocalSelfAttention2D(4, (3, 2), num_heads=2, use_bias=True)
    layer(x)
    assert_gradients_in_graphs(layer, x)


def test_when(no_library, monkeypatch):
    x, kernel = tf.ones([1, 4, 4, 2]), tf.ones([1, 4, 4, 9])
    names = functools.partial(compiled_functions, lambda x, k: tfconv.ops.involution(x, k, 3))
    assert names(x, kernel)
    assert tfconv.native_status().xla == "yes"
    sizes = tf.TensorSpec([None, None, 4, 2]), tf.TensorSpec([None, None, 4, 9])
    assert not names(*sizes), "each size would be compiled for"
    with tfconv.portable():
        assert not names(x, kernel)
    with tfconv.keep_native():
        assert names(x, kernel)
    monkeypatch.setenv("TFCONV_XLA", "0")
    assert not names(x, kernel)
    assert "TFCONV_XLA=0" in tfconv.native_status().xla


def test_not_beside_the_native_library():
    require_native()
    x, kernel = tf.ones([1, 4, 4, 2], tf.int32), tf.ones([1, 4, 4, 9], tf.int32)
    assert tfconv.native_status().xla is None
    assert not compiled_functions(lambda x, k: tfconv.ops.involution(x, k, 3), x, kernel)


def test_no_more_sizes_than_a_few(no_library, monkeypatch):
    """Without a graph, a size of its own for every image must not compile for every image."""
    monkeypatch.setattr(xla, "MOST_SHAPES", 2)
    splits, plain = [], tf.split
    monkeypatch.setattr(tf, "split", lambda *a, **k: splits.append(0) or plain(*a, **k))
    seen = []
    for size in (5, 6, 7, 5, 7):
        y = tfconv.ops.involution(tf.ones([1, size, 11]), tf.ones([1, size, 33]), 3)
        np.testing.assert_allclose(y[0, 1:-1], np.full([size - 2, 11], 3.0), rtol=1e-6)
        seen.append(len(splits))
    assert seen == [1, 2, 3, 3, 4], "two sizes are traced once, a third is computed as it is"
