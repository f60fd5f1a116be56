"""Time of the native ops over the nearest stock TensorFlow op, both measured in one run.

    python benchmarks/native_ops.py [--repeats 30] [--json ratios.json]

Float32 and channels-last. Each pair of rivals runs alternately in the same process, so that
whatever slows the machine slows both; the table shows medians, the ratio of the medians and,
in brackets, the middle half of the ratios of neighbouring runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402
from rich.table import Table  # noqa: E402

import tfconv  # noqa: E402

SHAPES = ((8, 64, 56), (8, 128, 28), (8, 256, 14))
SHAPES_PER_EXAMPLE = ((8, 64, 28), (32, 64, 28), (32, 128, 14))
GROUP_CHANNELS = 16
EXPERTS = 8


def forward(function: Callable[..., tf.Tensor], inputs: list[tf.Tensor]) -> Callable[[], object]:
    compiled = tf.function(function)
    return lambda: compiled(*inputs)


def forward_backward(
    function: Callable[..., tf.Tensor], inputs: list[tf.Tensor]
) -> Callable[[], object]:
    @tf.function
    def step(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = function(*inputs)
        return tape.gradient(y, inputs, output_gradients=y)

    return lambda: step(*inputs)


def involution_pair(batch: int, channels: int, size: int):
    x = tf.random.normal([batch, size, size, channels])
    kernel = tf.random.normal([batch, size, size, channels // GROUP_CHANNELS * 49])
    depthwise = tf.random.normal([7, 7, channels, 1])
    return (
        (lambda x, k: tfconv.ops.involution(x, k, 7), [x, kernel]),
        (lambda x, k: tf.nn.depthwise_conv2d(x, k, [1, 1, 1, 1], "SAME"), [x, depthwise]),
    )


def deformable_pair(batch: int, channels: int, size: int):
    x = tf.random.normal([batch, size, size, channels])
    offset = tf.random.normal([batch, size, size, 18])
    mask = tf.random.uniform([batch, size, size, 9])
    kernel = tf.random.normal([3, 3, channels, channels])
    return (
        (
            lambda x, o, k, m: tfconv.ops.deformable_conv2d(x, o, k, m),
            [x, offset, kernel, mask],
        ),
        (lambda x, k: tf.nn.conv2d(x, k, 1, "SAME"), [x, kernel]),
    )


def _split_loop(x: tf.Tensor, kernels: tf.Tensor) -> tf.Tensor:
    """One tf.nn.conv2d for each example of a batch whose size is known."""
    pairs = zip(tf.split(x, x.shape[0]), tf.unstack(kernels))
    return tf.concat([tf.nn.conv2d(one, kernel, 1, "SAME") for one, kernel in pairs], 0)


def _mixed(experts: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """A kernel for each example, mixed from experts."""
    flat = tf.matmul(weights, tf.reshape(experts, [experts.shape[0], -1]))
    return tf.reshape(flat, [-1, *experts.shape[1:]])


def _per_example_inputs(batch: int, channels: int, size: int) -> list[tf.Tensor]:
    return [
        tf.random.normal([batch, size, size, channels]),
        tf.random.normal([batch, 3, 3, channels, channels]),
    ]


def per_example_pair(batch: int, channels: int, size: int):
    x, kernels = _per_example_inputs(batch, channels, size)
    return (
        (tfconv.ops.per_example_conv, [x, kernels]),
        (lambda x, k: tf.nn.conv2d(x, k, 1, "SAME"), [x, kernels[0]]),
    )


def per_example_split_pair(batch: int, channels: int, size: int):
    inputs = _per_example_inputs(batch, channels, size)
    return (tfconv.ops.per_example_conv, inputs), (_split_loop, inputs)


def condconv_pair(batch: int, channels: int, size: int):
    x, _ = _per_example_inputs(batch, channels, size)
    experts = tf.random.normal([EXPERTS, 3, 3, channels, channels])
    inputs = [x, experts, tf.random.uniform([batch, EXPERTS])]
    return (
        (lambda x, e, w: tfconv.ops.per_example_conv(x, _mixed(e, w)), inputs),
        (lambda x, e, w: _split_loop(x, _mixed(e, w)), inputs),
    )


ROWS = (
    ("involution 7x7", "tf.nn.depthwise_conv2d", involution_pair, SHAPES),
    ("deformable 3x3 v2", "tf.nn.conv2d", deformable_pair, SHAPES),
    ("per example 3x3", "tf.nn.conv2d, one kernel", per_example_pair, SHAPES_PER_EXAMPLE),
    ("per example 3x3", "split loop", per_example_split_pair, SHAPES_PER_EXAMPLE),
    ("CondConv, 8 experts", "split loop", condconv_pair, SHAPES_PER_EXAMPLE),
)


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(ours: Callable[[], object], peer: Callable[[], object], repeats: int):
    for _ in range(3):
        ours(), peer()
    pairs = [(seconds(ours), seconds(peer)) for _ in range(repeats)]
    ratios = sorted(a / b for a, b in pairs)
    mine, theirs = (statistics.median(column) for column in zip(*pairs))
    quarter = len(ratios) // 4
    return {
        "ms": 1e3 * mine,
        "peer_ms": 1e3 * theirs,
        "ratio": mine / theirs,
        "spread": (ratios[quarter], ratios[-1 - quarter]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30, help="runs of each rival (30)")
    parser.add_argument("--json", help="also write the figures to this file")
    arguments = parser.parse_args()
    status = tfconv.native_status()
    tf.random.set_seed(0)
    cases = [
        (name, peer, pair, direction, shape)
        for name, peer, pair, shapes in ROWS
        for direction in (forward, forward_backward)
        for shape in shapes
    ]
    table = Table(
        title=f"TensorFlow {tf.__version__}, {os.cpu_count()} cores, {status.in_force} "
        f"({status.isa}); batch, channels, size"
    )
    for heading in ("work", "pass", "shape", "peer", "ms", "peer ms", "ratio"):
        table.add_column(heading)
    records = []
    for name, peer, pair, direction, shape in track(cases, "measuring", transient=True):
        (ours, our_inputs), (theirs, their_inputs) = pair(*shape)
        figures = compare(
            direction(ours, our_inputs), direction(theirs, their_inputs), arguments.repeats
        )
        what = "forward" if direction is forward else "forward+backward"
        records.append({"work": name, "pass": what, "shape": shape, "peer": peer, **figures})
        low, high = figures["spread"]
        table.add_row(
            name,
            what,
            str(shape),
            peer,
            f"{figures['ms']:.2f}",
            f"{figures['peer_ms']:.2f}",
            f"{figures['ratio']:.2f} [{low:.2f}-{high:.2f}]",
        )
    console = Console()
    (console if console.is_terminal else Console(width=130)).print(table)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"tensorflow": tf.__version__, "rows": records}, file, indent=1)


if __name__ == "__main__":
    main()
