"""Calls at the same time: every thread gets the bits of a call on its own."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import tensorflow as tf

import tfconv
from tests.ops.geometries import gradients

THREADS = 8
CALLS = 8  # of each thread


def draw(seed, *shape):
    return tf.random.stateless_normal(shape, [seed, len(shape)])


def involution(seed):
    inputs = [draw(seed, 2, 17, 19, 24), draw(seed, 2, 17, 19, 50)]
    return lambda x, kernel: tfconv.ops.involution(x, kernel, 5), inputs


def deformable_aggregation(seed):
    inputs = [draw(seed, 2, 13, 11, 20), 3 * draw(seed, 2, 13, 11, 36), draw(seed, 2, 13, 11, 18)]
    return lambda *inputs: tfconv.ops.deformable_aggregation(*inputs, 3), inputs


def deformable_sample(seed):
    inputs = [draw(seed, 2, 13, 11, 20), 3 * draw(seed, 2, 13, 11, 36), draw(seed, 2, 13, 11, 18)]
    return lambda *inputs: tfconv.ops.deformable_sample(*inputs, kernel_size=3), inputs


def deformable_conv2d(seed):
    inputs = [draw(seed, 2, 13, 11, 20), 3 * draw(seed, 2, 13, 11, 18), draw(seed, 3, 3, 20, 24)]
    return tfconv.ops.deformable_conv2d, inputs


def per_example_conv(seed):
    return tfconv.ops.per_example_conv, [draw(seed, 2, 17, 19, 20), draw(seed, 2, 3, 3, 20, 24)]


def local_attention(seed):
    inputs = [draw(seed, 2, 17, 19, 24), draw(seed, 2, 17, 19, 24), draw(seed, 2, 17, 19, 12)]
    return lambda *inputs: tfconv.ops.local_attention(*inputs, 5, num_heads=3), inputs


FUNCTIONS = [
    involution,
    local_attention,
    deformable_aggregation,
    deformable_sample,
    deformable_conv2d,
    per_example_conv,
]


def bits(make, seed, dtype=tf.float32):
    """Hashes of an output and of its gradients."""
    function, inputs = make(seed)
    results = gradients(function, [tf.cast(tensor, dtype) for tensor in inputs])
    assert len(results) == len(inputs) + 1
    return [hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for tensor in results]


def at_the_same_time(work):
    """What work(0), work(1), ... return, each in a thread of its own."""
    start = threading.Barrier(THREADS)

    def run(thread):
        start.wait(timeout=60)
        return work(thread)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
@pytest.mark.parametrize("make", FUNCTIONS, ids=lambda make: make.__name__)
def test_same_op(make, dtype, native_module):
    expected = [[bits(make, seed, dtype)] * CALLS for seed in range(THREADS)]
    found = at_the_same_time(lambda seed: [bits(make, seed, dtype) for _ in range(CALLS)])
    assert found == expected


def test_all_ops(native_module):
    """Every thread starts with another op."""
    expected = [[bits(make, seed) for make in FUNCTIONS] for seed in range(THREADS)]

    def work(seed):
        order = [(seed + i) % len(FUNCTIONS) for i in range(len(FUNCTIONS))]
        found = {i: bits(FUNCTIONS[i], seed) for i in order}
        return [found[i] for i in range(len(FUNCTIONS))]

    assert at_the_same_time(work) == expected
