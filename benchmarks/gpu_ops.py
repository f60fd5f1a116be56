"""Times of the native ops on a GPU, of their portable twins and of the nearest stock TensorFlow op.

    python benchmarks/gpu_ops.py [--repeats 50] [--seconds 10] [--dtype float32]

Channels-last; medians of runs of the rivals in turns, each until the GPU has finished. First of
all, native and portable ops have to give the same. 40 rows take seven minutes at most, and some
compilation.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf  # noqa: E402

import tfconv  # noqa: E402

SHAPES = ((8, 64, 56), (8, 128, 28), (8, 256, 14), (64, 64, 56))
GROUP_CHANNELS = 16
TF_CONV = "tf.nn.conv2d"


def _forward(function: Callable, inputs: list[tf.Tensor]) -> Callable[[], object]:
    compiled = tf.function(function)
    return lambda: compiled(*inputs)


def _forward_backward(function: Callable, inputs: list[tf.Tensor]) -> Callable[[], object]:
    @tf.function
    def step(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = function(*inputs)
        return tape.gradient(y, inputs, output_gradients=y)

    return lambda: step(*inputs)


def _portable(function: Callable) -> Callable:
    def call(*inputs):
        with tfconv.portable():
            return function(*inputs)

    return call


def _rows(batch: int, channels: int, size: int, dtype: tf.DType):
    """(work, function, inputs, name of the stock op, it, its inputs)."""

    def normal(*shape):
        return tf.cast(tf.random.normal(shape), dtype)

    def conv(x, kernel):
        return tf.nn.conv2d(x, kernel, 1, "SAME")

    x, kernel = normal(batch, size, size, channels), normal(3, 3, channels, channels)
    yield (
        "involution 7x7",
        lambda x, k: tfconv.ops.involution(x, k, 7),
        [x, normal(batch, size, size, channels // GROUP_CHANNELS * 49)],
        "tf.nn.depthwise_conv2d",
        lambda x, k: tf.nn.depthwise_conv2d(x, k, [1, 1, 1, 1], "SAME"),
        [x, normal(7, 7, channels, 1)],
    )
    groups = channels // GROUP_CHANNELS
    yield (
        "attention 7x7",
        lambda q, k, v: tfconv.ops.local_attention(q, k, v, 7, num_heads=groups),
        [x, normal(batch, size, size, channels), normal(batch, size, size, channels)],
        "tf.nn.depthwise_conv2d",
        lambda x, k: tf.nn.depthwise_conv2d(x, k, [1, 1, 1, 1], "SAME"),
        [x, normal(7, 7, channels, 1)],
    )
    moved = [normal(batch, size, size, groups * 18), normal(batch, size, size, groups * 9)]
    yield (
        "aggregation 3x3",
        lambda x, o, w: tfconv.ops.deformable_aggregation(x, o, w, 3),
        [x, *moved],
        "tf.nn.depthwise_conv2d",
        lambda x, k: tf.nn.depthwise_conv2d(x, k, [1, 1, 1, 1], "SAME"),
        [x, normal(3, 3, channels, 1)],
    )
    deformable = [x, normal(batch, size, size, 18), kernel, normal(batch, size, size, 9)]
    yield "deformable 3x3", tfconv.ops.deformable_conv2d, deformable, TF_CONV, conv, [x, kernel]
    kernels = normal(batch, 3, 3, channels, channels)
    yield "per example 3x3", tfconv.ops.per_example_conv, [x, kernels], TF_CONV, conv, [x, kernel]


def _near(ours: object, portable: object, dtype: tf.DType) -> bool:
    """Whether all results are the same, but for rounding (TensorFloat-32's of float32)."""
    tolerance = {tf.bfloat16: 5e-2, tf.float64: 1e-10}.get(dtype, 5e-3)
    for mine, other in zip(tf.nest.flatten(ours), tf.nest.flatten(portable), strict=True):
        mine, other = tf.cast(mine, tf.float64), tf.cast(other, tf.float64)
        scale = max(1.0, float(tf.reduce_max(tf.abs(other))))
        if not float(tf.reduce_max(tf.abs(mine - other))) <= tolerance * scale:
            return False
    return True


def _milliseconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    tf.test.experimental.sync_devices()
    return 1e3 * (time.perf_counter() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=50, help="runs of each rival (50)")
    parser.add_argument("--seconds", type=float, default=10, help="of a row, at most (10)")
    parser.add_argument("--dtype", default="float32", help="float16, bfloat16, float32 or float64")
    arguments = parser.parse_args()
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus or not tfconv.native_status().cuda:
        print("This needs a GPU, and a native library that was built with CUDA.", file=sys.stderr)
        return 1
    dtype = tf.as_dtype(arguments.dtype)
    with tf.device("GPU:0"):
        for work, ours, inputs, *_ in _rows(*SHAPES[0], dtype):
            for direction in (_forward, _forward_backward):
                results = (direction(f, inputs)() for f in (ours, _portable(ours)))
                if not _near(*results, dtype):
                    print(f"{work}: native and portable ops differ", file=sys.stderr)
                    return 1
    details = tf.config.experimental.get_device_details(gpus[0])
    print(f"TensorFlow {tf.__version__}, {details.get('device_name')}, {arguments.dtype}; ms")
    heading = ("work", "pass", "shape", "native", "portable", "stock")
    print("{:16} {:8} {:>14} {:>9} {:>9} {:>9}".format(*heading))
    with tf.device("GPU:0"):
        for shape in SHAPES:
            for work, ours, inputs, stock, peer, peer_inputs in _rows(*shape, dtype):
                for name, direction in (("forward", _forward), ("both", _forward_backward)):
                    rivals = [
                        direction(ours, inputs),
                        direction(_portable(ours), inputs),
                        direction(peer, peer_inputs),
                    ]
                    for run in rivals * 3:
                        _milliseconds(run)
                    times = []
                    end = time.perf_counter() + arguments.seconds
                    while len(times) < arguments.repeats and (
                        not times or time.perf_counter() < end
                    ):
                        times.append([_milliseconds(run) for run in rivals])
                    medians = [f"{statistics.median(column):9.3f}" for column in zip(*times)]
                    print(f"{work:16} {name:8} {shape!s:>14} {' '.join(medians)}  {stock}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
