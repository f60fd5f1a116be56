"""The native ops on a GPU: against their portable twins, against the CPU, and bit by bit."""

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


def deformable_volumes(batch, size, groups, width):
    at = (batch, 3, 4, size // 2)
    inputs = [(*at, groups * width), (*at, groups * 24), (2, 2, 2, width, groups * 20)]
    return tfconv.ops.deformable_conv, [*inputs, (*at, groups * 8)]


def deformable_sequences(batch, size, groups, width):
    at = (batch, 4 * size)
    inputs = [(*at, groups * width), (*at, groups * 3), (3, width, groups * 20)]
    return tfconv.ops.deformable_conv, [*inputs, (*at, groups * 3)]


def aggregation(batch, size, groups, width):
    at = (batch, size, size)
    inputs = [(*at, groups * width), (*at, groups * 18), (*at, groups * 9)]
    return (lambda x, o, w: tfconv.ops.deformable_aggregation(x, o, w, 3)), inputs


def local_attention(batch, size, groups, width):
    at = (batch, size, size, groups * width)
    inputs = [at, at, at, (groups, 49)]
    return (
        lambda q, k, v, b: tfconv.ops.local_attention(q, k, v, 7, num_heads=groups, bias=b)
    ), inputs


def shifted_attention(batch, size, groups, width):
    at = (batch, size, size)
    arguments = {"num_heads": groups, "dilation_rate": 2, "edges": "shifted"}
    inputs = [*[(*at, groups * width)] * 3, (*at, groups * 9)]
    return (lambda q, k, v, b: tfconv.ops.local_attention(q, k, v, 3, bias=b, **arguments)), inputs


def pooled_attention(batch, size, groups, width):
    width = groups * width
    inputs = [(batch, -(-size // 2), width), (batch, size, width), (batch, size, 2 * width)]
    return (
        lambda q, k, v: tfconv.ops.local_attention(q, k, v, 5, num_heads=groups, strides=2)
    ), inputs


def per_example(batch, size, groups, width):
    inputs = [(batch, size, size, groups * width), (batch, 3, 3, width, groups * 20)]
    return tfconv.ops.per_example_conv, inputs


FAMILIES = [
    *(involution, deformable_sample, deformable_conv, deformable_volumes, deformable_sequences),
    *(aggregation, local_attention, shifted_attention, pooled_attention, per_example),
]


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


@pytest.fixture(autouse=True)
def float32_as_such():
    """By default, products on GPUs round float32 to 10 bits of the mantissa."""
    tf.config.experimental.enable_tensor_float_32_execution(False)
    yield
    tf.config.experimental.enable_tensor_float_32_execution(True)


def assert_near(results, expected, tolerance):
    for mine, right in zip(results, expected):
        mine, right = (np.asarray(tf.cast(t, tf.float64)) for t in (mine, right))
        scale = max(1.0, np.abs(right).max(initial=0))
        np.testing.assert_allclose(mine, right, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda t: t.name)
@pytest.mark.parametrize("family", FAMILIES)
def test_matches_the_portable_twin(family, dtype, rng):
    """First of all: where this fails, nothing else matters."""
    function, shapes = family(*SIZES[0])
    inputs = [tf.cast(rng.standard_normal(shape), dtype) for shape in shapes]
    with tfconv.portable():
        expected = results("GPU:0", function, inputs)
    assert_near(results("GPU:0", function, inputs), expected, TOLERANCES[dtype])


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda t: t.name)
@pytest.mark.parametrize("family", FAMILIES)
def test_matches_the_cpu(family, dtype, sizes, rng):
    function, shapes = family(*sizes)
    inputs = [tf.cast(rng.standard_normal(shape), dtype) for shape in shapes]
    expected = results("CPU:0", function, inputs)
    assert_near(results("GPU:0", function, inputs), expected, TOLERANCES[dtype])


@pytest.mark.parametrize("family", [aggregation, deformable_conv, local_attention, per_example])
def test_in_slices(family, rng, monkeypatch):
    """A workspace for some images at a time changes nothing but the order of a sum."""
    function, shapes = family(7, 48, 2, 16)
    inputs = [tf.constant(rng.standard_normal(shape), tf.float32) for shape in shapes]
    expected = results("GPU:0", function, inputs)
    monkeypatch.setenv("TFCONV_GPU_WORKSPACE", "4")
    assert_near(results("GPU:0", function, inputs), expected, 1e-5)
    monkeypatch.setenv("TFCONV_GPU_WORKSPACE", "8MB")
    with pytest.raises(tf.errors.InvalidArgumentError, match="TFCONV_GPU_WORKSPACE.*8MB"):
        results("GPU:0", function, inputs)


def test_many_elements():
    """More than 2^31 of them, in the last pixels too."""
    channels = 32
    side = 8200
    with tf.device("GPU:0"):
        x = tf.ones([1, side, side, channels], tf.bfloat16)
        y = tfconv.ops.involution(x, tf.ones([1, side, side, 9], tf.bfloat16), 3)
        assert y[0, side // 2, side // 2].numpy().tolist() == [9] * channels
        assert y[0, -1, -1].numpy().tolist() == [4] * channels


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_bits_every_time(family, rng):
    function, shapes = family(4, 40, 1, 64)
    inputs = [tf.constant(rng.standard_normal(shape), tf.float32) for shape in shapes]
    runs = (results("GPU:0", function, inputs) for _ in range(5))
    assert len({tuple(t.numpy().tobytes() for t in found) for found in runs}) == 1
