"""The native ops on a GPU: against the same ops on the CPU, and bit by bit where that is asked."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import tfconv

pytestmark = [
    pytest.mark.skipif(not tf.config.list_physical_devices("GPU"), reason="there is no GPU here"),
    pytest.mark.skipif(
        not tfconv.native_status().cuda, reason="the native library was built without CUDA"
    ),
]

# The CPU computes the half types in float32, too; both round once.
TOLERANCES = {tf.float16: 2e-3, tf.bfloat16: 2e-2, tf.float32: 3e-5, tf.float64: 1e-11}
# Batch, pixels a side, groups, channels of a group: on 16 bytes and beside, and with no examples.
SIZES = [(2, 13, 2, 16), (3, 8, 3, 5), (1, 33, 1, 72), (0, 8, 2, 4)]


def involution(batch, size, groups, width):
    inputs = [(batch, size, size, groups * width), (batch, size, size, groups * 9)]
    return (lambda x, k: tfconv.ops.involution(x, k, 3)), inputs


def deformable_sample(batch, size, groups, width):
    at = (batch, size, size)
    inputs = [(*at, groups * width), (*at, groups * 18), (*at, groups * 9)]
    return (lambda x, o, m: tfconv.ops.deformable_sample(x, o, m, kernel_size=3)), inputs


def deformable_conv(batch, size, groups, width):
    _, inputs = deformable_sample(batch, size, groups, width)
    inputs.insert(2, (3, 3, width, groups * 20))
    return tfconv.ops.deformable_conv2d, inputs


def per_example(batch, size, groups, width):
    inputs = [(batch, size, size, groups * width), (batch, 3, 3, width, groups * 20)]
    return tfconv.ops.per_example_conv, inputs


FAMILIES = [involution, deformable_sample, deformable_conv, per_example]


def results(device, function, inputs):
    """The output and the gradients for all inputs."""
    with tf.device(device):
        inputs = [tf.identity(t) for t in inputs]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = function(*inputs)
        found = [y, *tape.gradient(y, inputs, output_gradients=y)]
    assert all(device in t.device for t in found)
    return found


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda t: t.name)
@pytest.mark.parametrize("family", FAMILIES)
def test_matches_the_cpu(family, dtype, sizes, rng):
    function, shapes = family(*sizes)
    inputs = [tf.cast(rng.standard_normal(shape), dtype) for shape in shapes]
    expected = results("CPU:0", function, inputs)
    for mine, right in zip(results("GPU:0", function, inputs), expected):
        mine, right = (np.asarray(tf.cast(t, tf.float64)) for t in (mine, right))
        scale = max(1.0, np.abs(right).max(initial=0))
        np.testing.assert_allclose(mine, right, rtol=0, atol=TOLERANCES[dtype] * scale)


def test_many_elements():
    """More than 2^31 of them, in the last pixels too."""
    channels = 32
    side = 8200
    with tf.device("GPU:0"):
        x = tf.ones([1, side, side, channels], tf.bfloat16)
        y = tfconv.ops.involution(x, tf.ones([1, side, side, 9], tf.bfloat16), 3)
        assert y[0, side // 2, side // 2].numpy().tolist() == [9] * channels
        assert y[0, -1, -1].numpy().tolist() == [4] * channels


DETERMINISTIC = """
import hashlib
import tensorflow as tf, tfconv
tf.config.experimental.enable_op_determinism()
tf.random.set_seed(0)
with tf.device("GPU:0"):
    x, offset = tf.random.normal([4, 40, 40, 64]), 4 * tf.random.normal([4, 40, 40, 18])
    kernel = tf.random.normal([3, 3, 64, 32])
    for _ in range(5):
        with tf.GradientTape() as tape:
            tape.watch([x, offset, kernel])
            y = tfconv.ops.deformable_conv2d(x, offset, kernel)
        found = [y, *tape.gradient(y, [x, offset, kernel], output_gradients=y)]
        print(hashlib.sha256(b"".join(t.numpy().tobytes() for t in found)).hexdigest())
"""


def test_determinism():
    """In a process of its own: it cannot be switched off again."""
    done = subprocess.run(
        [sys.executable, "-c", DETERMINISTIC], capture_output=True, text=True, check=True
    )
    assert len(set(done.stdout.split())) == 1
