"""Times every layer once, forward and in training, over the least that it can take here.

    python -m benchmarks.layers              # everything, into docs/layer_speed.md
    python -m benchmarks.layers --only 'GroupConv'

The least: the layer's products at the rate of the plain convolution of as many axes, and its bytes
at the rate of memory. The plain convolution takes a turn in every round of a layer.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import inspect
import math
import os
import re
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import Progress  # noqa: E402

import tfconv  # noqa: E402
from benchmarks import machine, report  # noqa: E402
from benchmarks.__main__ import positive  # noqa: E402
from benchmarks.cases import Rival  # noqa: E402
from benchmarks.floors import TRANSFERS  # noqa: E402
from benchmarks.networks import THREADS, take_turns  # noqa: E402
from benchmarks.numpy_rivals import Engine  # noqa: E402
from tfconv import _compat, analysis  # noqa: E402

ROUNDS = 7
BATCH = 8
CHANNELS = 64
SPATIAL = {1: (784,), 2: (28, 28), 3: (8, 14, 14)}
PASSES = ("forward", "training")
# What layers get of the arguments that they have.
ARGUMENTS = {"filters": CHANNELS, "units": CHANNELS, "kernel_size": 3, "padding": "same"}
# The others that they cannot do without; a layer has as many rows as there are sets of them.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "ChannelShuffle": [{"groups": 8}],
    "DepthwiseConv": [{}, {"strides": 2, "dilation_rate": 2}],
    "GroupConv": [{"groups": 8}, {"groups": 32}, {"groups": 8, "share_kernel": True}],
    "Involution": [{"kernel_size": 7}],
    "LocalSelfAttention": [{"kernel_size": 7, "num_heads": 4}],
    "LowRankConv": [{"kernel_rank": 16}],
    "SelfAttention": [{"num_heads": 4, "key_dim": 16}],
    "SplitTransformMerge": [{"groups": 4}],
    "TuckerConv": [{"ranks": 16}],
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer with its arguments.

    Attributes:
        layer: Its name.
        rank: The spatial axes of its input.
        arguments: Those of its constructor that ``ARGUMENTS`` does not have.
    """

    layer: str
    rank: int
    arguments: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What --only is matched with."""
        words = ", ".join(f"{name}={value}" for name, value in self.arguments.items())
        return f"{self.layer}({words})" if words else self.layer

    @property
    def shape(self) -> tuple[int, ...]:
        """The input's, without the batch."""
        return (*SPATIAL[self.rank], CHANNELS)

    def make(self) -> Any:
        """The layer; weights that start as zeros are small random numbers.

        With offsets of zero, the pixels of deformable convolutions would be whole ones.
        """
        layer_class = getattr(tfconv, self.layer)
        taken = inspect.signature(layer_class).parameters
        arguments = {name: value for name, value in ARGUMENTS.items() if name in taken}
        if "transform" in taken:
            width = CHANNELS // self.arguments["groups"]
            arguments["transform"] = tfconv.Conv2D(width, 3, padding="same")
        layer = layer_class(**{**arguments, **self.arguments})
        layer(self.inputs())
        rng = np.random.default_rng(0)
        for weight in layer.trainable_weights:
            if not np.any(weight):
                weight.assign(rng.normal(0, 0.05, tuple(weight.shape)))
        return layer

    def inputs(self) -> Any:
        rng = np.random.default_rng(1)
        count = 2 if self.layer == "WeightedSum" else 1
        made = [tf.constant(rng.standard_normal((BATCH, *self.shape)), "float32")] * count
        return made if count > 1 else made[0]


def rows() -> list[Row]:
    """Every layer; the plain convolutions are what the others are held against."""
    found = []
    for name in tfconv.layers.__all__:
        rank = re.search("([123])D", name)
        family = re.sub("[123]D", "", name)
        for options in OPTIONS.get(family, [{}]):
            found.append(Row(name, int(rank[1]) if rank else 2, options))
    return found


# Each of these gives a call without arguments, which does the work once.


def forward(layer: Any, inputs: Any) -> Callable[[], Any]:
    run = tf.function(lambda x: layer(x, training=False))
    return lambda: run(inputs)


def training(layer: Any, inputs: Any) -> Callable[[], Any]:
    """The output, and the gradients of all weights and of the input."""
    upstream = tf.random.stateless_normal(tf.shape(layer(inputs)), [0, 0])

    @tf.function
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y, tape.gradient(y, [x, layer.trainable_weights], output_gradients=upstream)

    return lambda: run(inputs)


WORK = dict(zip(PASSES, (forward, training)))


@dataclasses.dataclass(frozen=True)
class Work:
    """What a pass has to do at least.

    Attributes:
        multiply_adds: Products.
        bytes: Of all inputs, weights and outputs, each as often as the pass has to read or write
            it.
    """

    multiply_adds: int
    bytes: int


def work(row: Row, layer: Any, direction: str) -> Work:
    """Training multiplies three times: forward, for the input, and for the weights.

    It reads inputs and weights twice and writes their gradients, and has the outputs twice.
    """
    inputs = tf.nest.flatten(row.inputs())
    shapes = [tuple(x.shape[1:]) for x in inputs]
    profile = analysis.profile(layer, shapes if len(shapes) > 1 else shapes[0])
    read = sum(tf.size(x).numpy() for x in inputs)
    read += sum(math.prod(weight.shape) for weight in layer.weights)
    written = tf.size(layer(row.inputs())).numpy()
    products = BATCH * profile.multiply_adds
    if direction == "training":
        return Work(3 * products, 4 * int(3 * read + 2 * written))
    return Work(products, 4 * int(read + written))


def bandwidths(rounds: int) -> dict[int, float]:
    """Bytes a second, read and written, by the bytes of a block that is copied."""
    engine = Engine(THREADS)
    times = take_turns([engine.prepare(Rival("copy", t, "numpy")) for t in TRANSFERS], rounds)
    return {
        t.bytes: t.bytes * t.repeats / statistics.median(found)
        for t, found in zip(TRANSFERS, times)
    }


@dataclasses.dataclass(frozen=True)
class Result:
    """A row's figures for one pass.

    Attributes:
        row, direction: What was timed.
        seconds, plain_seconds: The layer's and the plain convolution's, by round.
        needed, plain: What each has to do.
        bandwidth: Bytes a second.
    """

    row: Row
    direction: str
    seconds: Sequence[float]
    plain_seconds: Sequence[float]
    needed: Work
    plain: Work
    bandwidth: float

    @property
    def time(self) -> float:
        return statistics.median(self.seconds)

    @property
    def floor(self) -> float:
        """Seconds for the products and the bytes, one after the other."""
        rate = self.plain.multiply_adds / statistics.median(self.plain_seconds)
        return self.needed.multiply_adds / rate + self.needed.bytes / self.bandwidth

    @property
    def ratio(self) -> float:
        return self.time / self.floor

    @property
    def of_plain(self) -> float:
        """The median of the rounds' ratios to the plain convolution."""
        return statistics.median(a / b for a, b in zip(self.seconds, self.plain_seconds))


def measure(row: Row, rounds: int, rates: Mapping[int, float]) -> list[Result]:
    """Both passes of a layer, in turns with the plain convolution."""
    found = []
    plain = Row(f"Conv{row.rank}D", row.rank, {})
    both = [(row, row.make()), (plain, plain.make())]
    for direction in PASSES:
        calls = [WORK[direction](layer, its.inputs()) for its, layer in both]
        times = take_turns(calls, rounds)
        needed = [work(its, layer, direction) for its, layer in both]
        block = max([n for n in rates if n <= needed[0].bytes], default=min(rates))
        found.append(Result(row, direction, *times, *needed, rates[block]))
    gc.collect()
    return found


COLUMNS = (
    *("layer", "forward", "of the plain", "over the floor"),
    *("training", "of the plain", "over the floor", "training / forward"),
)


def lines(results: Sequence[Result]) -> report.Lines:
    """A line for each layer, under `COLUMNS`."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.row.name, []).append(result)
    return [
        [
            name,
            *(
                cell
                for result in both
                for cell in (
                    f"{report.milliseconds(result.time)} ms",
                    f"{result.of_plain:.2f}",
                    f"{result.ratio:.1f}",
                )
            ),
            f"{both[1].time / both[0].time:.1f}",
        ]
        for name, both in found.items()
    ]


_PAGE = """# Speed of layers

Made by `python -m benchmarks.layers`, which needs an idle machine and a few minutes.

{facts}

Batches of {batch}, {channels} channels in and out, {positions} pixels; 3 taps an axis (windows 7),
padding "same", float32, {threads} threads. A time is the median of {rounds} rounds; in each of
them the plain convolution of as many axes (`Conv1D`, `Conv2D`, `Conv3D`) has a turn as well.

- **of the plain**: the median of the rounds' ratios to the plain convolution.
- **over the floor**: the time over the least that the layer can take here, which is its products,
  as [`analysis.profile`](analysis.md) counts them, at the rate at which the plain convolution does
  its own, and the bytes of inputs, weights and outputs, each once, at the rate at which memory is
  copied. Depthwise and grouped layers have few products for each byte; rates of products are
  lower for them, so a few times the floor is what can be had. What is far above stands out.
- **training** computes the output and then the gradients of the input and of all weights. Its floor
  has three times the products, at the plain convolution's rate in training; inputs and weights
  are read twice and their gradients written, outputs and their gradients are moved once.
- **training / forward**: about 3 where both are near their floors.
"""


def markdown(results: Sequence[Result], facts: Mapping[str, str], rounds: int) -> str:
    """docs/layer_speed.md."""
    positions = [" x ".join(map(str, sizes)) for sizes in SPATIAL.values()]
    page = _PAGE.format(
        facts="\n".join(f"- {name}: {fact}" for name, fact in facts.items()),
        batch=BATCH,
        channels=CHANNELS,
        positions=f"{', '.join(positions[:-1])} or {positions[-1]}",
        threads=THREADS,
        rounds=rounds,
    )
    code = [[f"`{name}`", *cells] for name, *cells in lines(results)]
    return "\n".join([page, report.markdown_section("Layers", COLUMNS, code)])


def main() -> int:
    arguments = _arguments()
    chosen = [row for row in rows() if re.search(arguments.only, row.name)]
    if not chosen:
        print(f"no row matches {arguments.only!r}", file=sys.stderr)
        return 2
    results: list[Result] = []
    try:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("memory", total=len(chosen) + 1)
            rates = bandwidths(arguments.repeats)
            for row in chosen:
                progress.update(task, advance=1, description=row.name)
                results += measure(row, arguments.repeats, rates)
    except KeyboardInterrupt:
        print("interrupted: nothing is written", file=sys.stderr)
        return 130
    console = Console()
    if not console.is_terminal:
        console = Console(width=170)
    console.print(report.table("Layers", COLUMNS, lines(results)))
    if not arguments.only:
        command = shlex.join(["python", "-m", "benchmarks.layers", *sys.argv[1:]])
        facts = machine.description(command, [f"TensorFlow {_compat.tensorflow_version()}"])
        content = markdown(results, facts, arguments.repeats)
        report.write(arguments.output / "layer_speed.md", content)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.layers", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--repeats", type=positive, default=ROUNDS, help=f"rounds ({ROUNDS})")
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="rows whose name has this regular expression"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parents[1] / "docs",
        metavar="DIRECTORY",
        help="where whole runs write layer_speed.md (docs/)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
