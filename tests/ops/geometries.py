"""The geometries that every sliding-window op is tested on, and what turns them into tests."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

import tfconv
from tests.sliding_windows import GEOMETRIES, Geometry, random_geometry, table  # noqa: F401
from tfconv.ops.channels import to_first
from tfconv.ops.native import library


def as_function(function, mode: str):
    """``function`` itself for mode "eager", traced for mode "graph"."""
    return tf.function(function) if mode == "graph" else function


def in_format(data_format: str, *tensors):
    """Channels-last arrays as tensors of a data format."""
    move = to_first if data_format == "channels_first" else tf.identity
    return [None if t is None else move(tf.convert_to_tensor(t)) for t in tensors]


def gradients(function, inputs, upstream=None):
    """``function(*inputs)`` and its gradients for all inputs, for a fixed upstream gradient."""
    inputs = [tf.convert_to_tensor(t) for t in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = function(*inputs)
    if upstream is None:
        size = tf.size(y, out_type=tf.int64)
        upstream = tf.reshape(tf.sin(tf.cast(tf.range(size), tf.float64) * 1.7), tf.shape(y))
    return [y, *tape.gradient(y, inputs, tf.cast(upstream, y.dtype))]


def second_gradients(function, inputs):
    """Gradients, for all inputs, of a sum that weighs all first gradients of ``function``."""
    inputs = [tf.convert_to_tensor(t) for t in inputs]
    with tf.GradientTape() as outer:
        outer.watch(inputs)
        _, *first = gradients(function, inputs)
        total = tf.add_n([tf.reduce_sum(tf.sin(g) * (i + 1)) for i, g in enumerate(first)])
    return outer.gradient(total, inputs)


def assert_numeric_gradients(function, inputs, tolerance=1e-6):
    """Analytic gradients equal numeric ones, in float64, for every input on its own."""
    inputs = [tf.constant(t, tf.float64) for t in inputs]
    for number in range(len(inputs)):

        def of_one(value, number=number):
            return function(*inputs[:number], value, *inputs[number + 1 :])

        theory, numeric = tf.test.compute_gradient(of_one, [inputs[number]])
        assert np.abs(theory[0]).max() > 1e-3, "a gradient that vanishes proves nothing"
        np.testing.assert_allclose(
            theory[0], numeric[0], rtol=tolerance, atol=tolerance, err_msg=f"input {number}"
        )


def assert_gradients_in_graphs(layer, x):
    """Those of the weights are the same in a graph, where TensorFlow joins operations."""

    def gradients(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.sin(layer(x)))
        return tape.gradient(loss, layer.trainable_variables)

    for found, expected in zip(tf.function(gradients)(x), gradients(x)):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


# Half precision is computed in float32 and rounded once: half a unit in the last place, and a
# little for the float32 sum.
TOLERANCES = {
    tf.float16: {"rtol": 6e-4, "atol": 1e-4},
    tf.bfloat16: {"rtol": 5e-3, "atol": 1e-3},
    tf.float32: {"rtol": 2e-5, "atol": 2e-5},
    tf.float64: {"rtol": 1e-11, "atol": 1e-11},
}


def assert_close(actual, expected, dtype=None, further=0.0):
    """Compares with the tolerance of the actual value's type, and ``further`` differences."""
    if dtype is None:
        dtype = tf.as_dtype(actual.dtype)
    actual, expected = (np.asarray(tf.cast(t, tf.float64)) for t in (actual, expected))
    if np.any(further):
        error = actual - expected
        actual = expected + np.sign(error) * np.maximum(np.abs(error) - further, 0)
    np.testing.assert_allclose(actual, expected, **TOLERANCES[dtype])


def rounding_of_samples(function, inputs, upstream=None):
    """How far rounded samples may move the output and the gradients of a deformable convolution.

    Where the processor multiplies bfloat16, samples are rounded to it, by up to 2**-9 of each,
    before they are multiplied: in the output and in the gradient of the kernel.
    """
    if tf.as_dtype(inputs[0].dtype) != tf.bfloat16 or library().isa != "avx512bf16":
        return [0.0] * (1 + len(inputs))
    x, offset, *others = (tf.cast(t, tf.float64) for t in inputs)
    inputs = [tf.abs(x), offset, *map(tf.abs, others)]
    with tfconv.portable():
        if upstream is None:
            upstream = gradients(tf.identity, [function(*inputs)])[1]
        y, _, _, kernel, *_ = gradients(function, inputs, tf.abs(upstream))
    moved = [0.0] * (1 + len(inputs))
    moved[0], moved[3] = 2**-9 * y, 2**-9 * kernel
    return moved


def check_only_wanted_gradients(function, inputs, wanted, module, name, called, monkeypatch):
    """Of the ops for a convolution's gradients, eagerly those run that ``called`` names ("input",
    "filter"); in graphs the wanted gradients depend on no others."""
    inputs = [tf.convert_to_tensor(t) for t in inputs]

    def some(*inputs):
        with tf.GradientTape() as tape:
            tape.watch([inputs[i] for i in wanted])
            y = function(*inputs)
        return tape.gradient(y, [inputs[i] for i in wanted])

    native_ops = {kind: f"tfconv_{name}_{kind}_grad" for kind in ("input", "filter")}
    todo, reached = [t.op for t in tf.function(some).get_concrete_function(*inputs).outputs], set()
    while todo:
        op = todo.pop()
        if op not in reached:
            reached.add(op)
            todo.extend(t.op for t in op.inputs)
    types = [op.type.replace("Tfconv>", "").lower() for op in reached]
    for kind, native_op in native_ops.items():
        type_ = native_op.removeprefix("tfconv_").replace("_", "")
        assert (type_ in types) == (kind in called.split()), kind

    ran = []

    def recorded(kind, native_op):
        return lambda **arguments: ran.append(kind) or native_op(**arguments)

    for kind, native_op in native_ops.items():
        monkeypatch.setattr(module, native_op, recorded(kind, getattr(module, native_op)))
    every = gradients(function, inputs, tf.ones_like(function(*inputs)))[1:]
    assert sorted(ran) == ["filter", "input"]
    ran.clear()
    for actual, i in zip(some(*inputs), wanted):
        np.testing.assert_array_equal(actual, every[i])
    assert sorted(ran) == sorted(called.split())
