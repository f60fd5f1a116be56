"""Times whole networks beside those of `keras.applications`: inference, training, TFLite.

    python -m benchmarks.networks            # everything, into NETWORKS.md
    python -m benchmarks.networks --quick    # batch 1, few rounds; writes nothing

Both sides of a row take turns, so that what slows the machine for a while slows both.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import os
import re
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # on every processor, for both sides

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import Progress  # noqa: E402

import tfconv.models  # noqa: E402
from benchmarks import machine, report  # noqa: E402
from benchmarks.__main__ import positive  # noqa: E402
from benchmarks.worker import rest, turn  # noqa: E402
from tfconv import _compat, analysis  # noqa: E402
from tfconv._compat import keras  # noqa: E402
from tfconv.export import to_tflite  # noqa: E402
from tfconv.surgery import fold_batchnorm  # noqa: E402

ROUNDS = 15
ROUNDS_QUICK = 3
THREADS = len(os.sched_getaffinity(0))
SIZE = 224

NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "ResNet50": functools.partial(keras.applications.ResNet50, weights=None),
    "EfficientNetB0": functools.partial(keras.applications.EfficientNetB0, weights=None),
    "RedNet50": tfconv.models.RedNet50,
    "CondConvEfficientNetB0": tfconv.models.CondConvEfficientNetB0,
    "DeformableResNet50": tfconv.models.DeformableResNet50,
}


@functools.cache
def model(name: str, policy: str = "float32") -> keras.Model:
    """A network, of a dtype policy, whose weights do not let out work, as those of a trained one.

    Zero offsets of batch normalizations would be dropped from graphs; zero offsets of deformable
    convolutions would always hit the same pixels. These are of about half a pixel. The moving
    averages are those of a batch, with which no activation grows from block to block.
    """
    before, rng = keras.mixed_precision.global_policy(), np.random.default_rng(0)
    keras.mixed_precision.set_global_policy(policy)
    try:
        made = NETWORKS[name]()
    finally:
        keras.mixed_precision.set_global_policy(before)
    norms = []
    for layer in _compat.all_layers(made):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.gamma.assign(rng.uniform(0.8, 1.2, tuple(layer.gamma.shape)))
            layer.beta.assign(rng.normal(0, 0.1, tuple(layer.beta.shape)))
            norms.append((layer, layer.momentum))
            layer.momentum = 0.0
        elif isinstance(layer, tfconv.DeformableConv2D):
            layer.offset_kernel.assign(rng.normal(0, 0.01, tuple(layer.offset_kernel.shape)))
    made(_images(4), training=True)
    for layer, momentum in norms:
        layer.momentum = momentum
    assert np.all(np.isfinite(tf.cast(made(_images(1)), tf.float32)))
    return made


@functools.cache
def folded(name: str) -> keras.Model:
    """The network with its normalizations in the layers before them, as far as that is possible."""
    return fold_batchnorm(model(name))


@functools.cache
def multiply_adds(name: str) -> int:
    """Those for one image."""
    return analysis.profile(model(name), (SIZE, SIZE, 3)).multiply_adds


@dataclasses.dataclass(frozen=True)
class Row:
    """A network that is held against another one.

    Attributes:
        work: A key of `WORK`.
        network, base: Keys of `NETWORKS`.
        batch: Images at a time.
        target: The most that the ratio of their times should be, if that is said.
    """

    work: str
    network: str
    base: str
    batch: int
    target: float | None = None

    @property
    def name(self) -> str:
        """What --only is matched with."""
        return f"{self.work}: {self.network} {self.batch}"


def rows() -> list[Row]:
    """What is timed."""
    pairs = [
        ("RedNet50", "ResNet50", {1: 0.75, 8: 0.75}),
        ("CondConvEfficientNetB0", "EfficientNetB0", {1: 1.15, 8: 1.25}),
        ("DeformableResNet50", "ResNet50", {1: 1.5, 8: 1.5}),
    ]
    return [
        *(
            Row(work, *names, batch, target)
            for work in ("inference", "inference, fixed")
            for *names, targets in pairs
            for batch, target in targets.items()
        ),
        *(Row(work, *names, 8) for work in (TRAINING, TRAINING_IN_HALF) for *names, _ in pairs),
        Row("TFLite", "RedNet50", "ResNet50", 1, 1.0),
    ]


# Each of these gives a call without arguments, which does the work once.


def _images(batch: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((batch, SIZE, SIZE, 3)).astype(np.float32)


def _traced(model: keras.Model, batch: int) -> Any:
    @tf.function(input_signature=[tf.TensorSpec([batch, SIZE, SIZE, 3])])
    def run(images):
        return model(images, training=False)

    with tfconv.keep_native():  # its weights may become constants, with the native ops in it
        return run.get_concrete_function()


def inference(model: keras.Model, batch: int) -> Callable[[], Any]:
    return functools.partial(_traced(model, batch), tf.constant(_images(batch)))


def fixed_inference(model: keras.Model, batch: int) -> Callable[[], Any]:
    """Weights are constants of the graph."""
    return functools.partial(_compat.frozen(_traced(model, batch)), tf.constant(_images(batch)))


def training_step(model: keras.Model, batch: int) -> Callable[[], Any]:
    """Forward, backward and an update by stochastic gradient descent."""
    optimizer = keras.optimizers.SGD(1e-4)
    optimizer.build(model.trainable_variables)
    images, classes = tf.constant(_images(batch)), tf.range(batch)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            scores = tf.cast(model(images, training=True), tf.float32)
            losses = keras.losses.sparse_categorical_crossentropy(classes, scores)
            loss = tf.reduce_mean(losses)
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
        return loss

    return step


def lite(model: keras.Model, batch: int) -> Callable[[], Any]:
    """TensorFlow Lite's interpreter, with the delegate for native ops."""
    converted = to_tflite(model, keep_native=True, verify=False, batch_size=batch)
    interpreter = tfconv.lite.Interpreter(converted.content, THREADS)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], _images(batch))
    return interpreter.invoke


TRAINING, TRAINING_IN_HALF = "training step", "training step, mixed_bfloat16"
WORK = {
    "inference": inference,
    "inference, fixed": fixed_inference,
    TRAINING: training_step,
    TRAINING_IN_HALF: training_step,
    "TFLite": lite,
}


@dataclasses.dataclass(frozen=True)
class Result:
    """A row's figures.

    Attributes:
        row: The row.
        times, base_times: Seconds by round.
        multiply_adds: Those of the network over those of the base, for one image.
    """

    row: Row
    times: Sequence[float]
    base_times: Sequence[float]
    multiply_adds: float

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return self.quartiles[1]

    @property
    def quartiles(self) -> Sequence[float]:
        ratios = [mine / theirs for mine, theirs in zip(self.times, self.base_times)]
        return statistics.quantiles(ratios, n=4, method="inclusive")

    @property
    def verdict(self) -> str:
        if self.row.target is None:
            return ""
        return "met" if self.ratio <= self.row.target else "MISSED"


def take_turns(calls: Sequence[Callable[[], Any]], rounds: int) -> list[list[float]]:
    """Seconds of each call by round; the first two calls prepare."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call(), call()
    for _ in range(rounds):
        for call, mine in zip(calls, times):
            mine.append(turn(call))
            rest()
    return times


def measure(row: Row, rounds: int) -> Result:
    both = row.network, row.base
    half = functools.partial(model, policy="mixed_bfloat16")
    network = {"inference, fixed": folded, TRAINING_IN_HALF: half}.get(row.work, model)
    calls = [WORK[row.work](network(name), row.batch) for name in both]
    more, less = (multiply_adds(name) for name in both)
    result = Result(row, *take_turns(calls, rounds), more / less)
    del calls
    gc.collect()
    return result


COLUMNS = (
    *("network", "against", "work", "batch", "time", "its", "ratio", "quartiles"),
    *("ratio of minima", "multiply-adds", "target", ""),
)


def lines(results: Sequence[Result]) -> report.Lines:
    """A line for each result, under `COLUMNS`."""
    return [
        [
            result.row.network,
            result.row.base,
            result.row.work,
            str(result.row.batch),
            *(
                f"{report.milliseconds(statistics.median(times))} ms"
                for times in (result.times, result.base_times)
            ),
            f"{result.ratio:.2f}",
            f"{result.quartiles[0]:.2f} - {result.quartiles[2]:.2f}",
            f"{min(result.times) / min(result.base_times):.2f}",
            f"{result.multiply_adds:.2f}",
            "" if result.row.target is None else f"≤ {result.row.target}",
            result.verdict,
        ]
        for result in results
    ]


_HEAD = """# Results of `make networks-bench`

{facts}

{summary}. A time is the median of {rounds} turns, taken in rounds with those of the other side; a
ratio is the median of the rounds' ratios, and beside it stand their middle half and the ratio of
the least times. Multiply-adds are those of the network over those of the other side. Images have
224 x 224 pixels; float32 unless said, {threads} threads. "Fixed": `fold_batchnorm` has put the
normalizations of both sides into the layers before them, and weights are constants of the graph.
docs/networks_speed.md says more.
"""


def summary(results: Sequence[Result]) -> str:
    verdicts = [result.verdict for result in results if result.verdict]
    return f"{verdicts.count('met')} of {len(verdicts)} targets met"


def markdown(results: Sequence[Result], facts: dict[str, str], rounds: int) -> str:
    """NETWORKS.md."""
    head = _HEAD.format(
        facts="\n".join(f"- {name}: {fact}" for name, fact in facts.items()),
        summary=summary(results),
        rounds=rounds,
        threads=THREADS,
    )
    return "\n".join([head, report.markdown_section("Networks", COLUMNS, lines(results))])


def main() -> int:
    arguments = _arguments()
    rounds = arguments.repeats or (ROUNDS_QUICK if arguments.quick else ROUNDS)
    chosen = [row for row in rows() if re.search(arguments.only, row.name)]
    if arguments.quick:
        chosen = [row for row in chosen if row.batch == 1]
    if not chosen:
        print(f"no row matches {arguments.only!r}", file=sys.stderr)
        return 2
    results = []
    try:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("", total=len(chosen))
            for row in chosen:
                progress.update(task, description=row.name)
                results.append(measure(row, rounds))
                progress.advance(task)
    except KeyboardInterrupt:
        print("interrupted: nothing is written", file=sys.stderr)
        return 130
    console = Console()
    if not console.is_terminal:
        console = Console(width=170)
    console.print(report.table("Networks", COLUMNS, lines(results)))
    console.print(summary(results))
    if not (arguments.quick or arguments.only):
        command = shlex.join(["python", "-m", "benchmarks.networks", *sys.argv[1:]])
        facts = machine.description(command, [f"TensorFlow {_compat.tensorflow_version()}"])
        report.write(arguments.output / "NETWORKS.md", markdown(results, facts, rounds))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.networks", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--repeats", type=positive, help=f"rounds ({ROUNDS}; {ROUNDS_QUICK} with --quick)"
    )
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="rows whose name has this regular expression"
    )
    parser.add_argument("--quick", action="store_true", help="batch 1, few rounds")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parent,
        metavar="DIRECTORY",
        help="where whole runs write NETWORKS.md (benchmarks/)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
