"""Tensors of more than 2**31 elements.

Their memory is reserved but never written except at the far end, so the tests need address space
rather than memory. Only where a kernel computes on a converted copy, that takes memory.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv.ops import native

CHANNELS = 64
LENGTH = 2**31 // CHANNELS + 1003  # pixels: beyond 2**31 elements, 8 GiB of float32


def mostly_untouched(length, values):
    """[1, length, CHANNELS] tensor of zeros that ends with ``values``, without a copy."""
    size, alignment = length * CHANNELS, 64
    memory = np.zeros(size + alignment, values.dtype)
    first = -memory.ctypes.data % alignment // memory.itemsize
    array = memory[first : first + size].reshape(1, length, CHANNELS)
    array[0, -len(values) :] = values
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def test_involution_reads_beyond_two_billion_elements():
    values = np.random.default_rng(0).normal(size=(3, CHANNELS)).astype(np.float32)
    x = mostly_untouched(LENGTH, values)
    stride = (LENGTH - 3) // 4
    assert (LENGTH - 3) % stride == 0  # the last window ends with the tensor
    kernel = tf.random.stateless_normal([1, 5, 4 * 3], [1, 2])
    assert native.library().module is not None, tfconv.native_status().reason
    y = tfconv.ops.involution(x, kernel, kernel_size=3, strides=stride, padding="valid")
    weights = tf.reshape(kernel[0, -1], [4, 3]).numpy().repeat(CHANNELS // 4, axis=0)
    np.testing.assert_allclose(y[0, -1], (weights.T * values).sum(0), rtol=1e-5, atol=1e-5)


def test_deformable_reads_beyond_two_billion_elements():
    width = 1 << 13
    height = LENGTH // width + 1
    values = np.random.default_rng(0).normal(size=(1, CHANNELS)).astype(np.float32)
    x = tf.reshape(mostly_untouched(height * width, values), [1, height, width, CHANNELS])
    assert native.library().module is not None, tfconv.native_status().reason
    corner = tf.constant([height - 1.0, width - 1.0], shape=[1, 1, 1, 2])
    arguments = {"strides": (height, width), "padding": "valid"}
    sample = tfconv.ops.deformable_sample(x, corner, kernel_size=1, **arguments)
    np.testing.assert_allclose(sample[0, 0, 0], values, rtol=1e-6)
    kernel = tf.eye(CHANNELS)[None, None]
    y = tfconv.ops.deformable_conv2d(x, corner, kernel, **arguments)
    np.testing.assert_allclose(y[0, 0], values, rtol=1e-5)


def test_per_example_reads_beyond_two_billion_elements():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, CHANNELS)).astype(np.float32)
    kernel = rng.normal(size=(1, 3, CHANNELS, 5)).astype(np.float32)
    x = mostly_untouched(LENGTH, values)
    stride = (LENGTH - 3) // 4
    assert native.library().module is not None, tfconv.native_status().reason
    y = tfconv.ops.per_example_conv(x, kernel, strides=stride, padding="valid")
    assert y.shape == [1, 5, 5]
    np.testing.assert_allclose(
        y[0, -1], np.einsum("tc,tcf->f", values, kernel[0]), rtol=1e-4, atol=1e-4
    )


def free_memory():
    """Bytes that this process may still take."""
    text = Path("/proc/meminfo").read_text()
    free = 1024 * int(re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE).group(1))
    group = Path("/sys/fs/cgroup")
    limit = group / "memory.max"
    if limit.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int((group / "memory.current").read_text()))
    return free


def test_bfloat16_converts_beyond_two_billion_elements():
    needed = 5 * LENGTH * CHANNELS  # a copy in float32, and some room
    if free_memory() < needed:
        pytest.skip(f"needs {needed >> 30} GiB of free memory. Received: {free_memory() >> 30} GiB")
    values = np.random.default_rng(0).integers(-8, 8, (3, CHANNELS)).astype(np.float32)
    upper = (values.view(np.uint32) >> 16).astype(np.uint16)
    x = tf.bitcast(mostly_untouched(LENGTH, upper), tf.bfloat16)
    stride = (LENGTH - 3) // 4
    kernel = tf.ones([1, 5, 4 * 3], tf.bfloat16)
    assert native.library().module is not None, tfconv.native_status().reason
    y = tfconv.ops.involution(x, kernel, kernel_size=3, strides=stride, padding="valid")
    np.testing.assert_array_equal(tf.cast(y[0, -1], tf.float32), values.sum(0))
