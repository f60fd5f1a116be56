"""Factorizes a network that is trained on handwritten digits, into docs/factorize_digits.md.

    python docs/factorize_digits.py

Every form, at several speeds, before and after some further training, for three seeds. It takes
some minutes.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from rich.progress import (  # noqa: E402
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from tfconv._compat import keras, tensorflow_version  # noqa: E402
from tfconv.demo.digits import CLASSES, Digits, load_digits  # noqa: E402
from tfconv.export.files import replacing  # noqa: E402
from tfconv.surgery import FactorizeReport, factorize  # noqa: E402
from tfconv.surgery.decompositions import FORMS  # noqa: E402

PAGE = Path(__file__).resolve().parent / "factorize_digits.md"
PICTURE = PAGE.with_suffix(".svg")
SEEDS = (0, 1, 2)
SPEEDUPS = (2, 3, 5)
SHOWN = 3  # the one of which the tables are
EPOCHS, MORE_EPOCHS = 30, 5
_BATCH = 64
_RATE, _MORE_RATE = 4e-3, 1e-3
_COLOURS = {
    "separable": "#0072B2",
    "flattened": "#E69F00",
    "low_rank": "#009E73",
    "tucker": "#D55E00",
}


def network() -> keras.Model:
    """Three convolutions of 3x3."""
    layers = [keras.Input((8, 8, 1))]
    for number, filters in enumerate((16, 32, 32), 1):
        layers += [
            keras.layers.Conv2D(filters, 3, padding="same", name=f"conv_{number}"),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
        ]
        if number == 2:
            layers.append(keras.layers.MaxPooling2D())
    layers += [
        keras.layers.Flatten(),
        keras.layers.Dropout(0.3),
        keras.layers.Dense(CLASSES, activation="softmax"),
    ]
    return keras.Sequential(layers, name="digits")


def train(model: keras.Model, digits: Digits, epochs: int, rate: float) -> None:
    """Trains on digits that are shifted by up to a pixel, differently every epoch."""
    count = len(digits.train_labels)
    schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * -(-count // _BATCH))
    optimizer = keras.optimizers.Adam(schedule)
    model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False)

    def shifted(image, label):
        return tf.image.random_crop(tf.pad(image, [[1, 1], [1, 1], [0, 0]]), image.shape), label

    data = tf.data.Dataset.from_tensor_slices((digits.train_images, digits.train_labels))
    data = data.cache().shuffle(count).map(shifted).batch(_BATCH).prefetch(1)
    model.fit(data, epochs=epochs, shuffle=False, verbose=0)


def accuracy(model: keras.Model, digits: Digits) -> float:
    """The share of the digits held out that the model knows."""
    answers = tf.argmax(model(digits.test_images, training=False), axis=-1)
    return float((answers.numpy() == digits.test_labels).mean())


@dataclasses.dataclass(frozen=True)
class Run:
    """A factorized network.

    Attributes:
        method: Its form.
        wanted: The speedup that was asked for.
        report: What was done.
        at_once, later: Its accuracies, before and after more training.
    """

    method: str
    wanted: float
    report: FactorizeReport
    at_once: float
    later: float


@dataclasses.dataclass(frozen=True)
class Results:
    """What came of all seeds.

    Attributes:
        before: Accuracies of the networks.
        longer: Their accuracies with as much more training as the factorized ones have.
        runs: The factorized networks, of all seeds.
    """

    before: list[float]
    longer: list[float]
    runs: list[Run]

    def of(self, method: str, wanted: float) -> list[Run]:
        return [run for run in self.runs if (run.method, run.wanted) == (method, wanted)]


def factorized(model: keras.Model, digits: Digits, method: str, wanted: float, epochs: int) -> Run:
    """Factorizes a trained network and trains the result further."""
    reports: list[FactorizeReport] = []
    small = factorize(model, method, speedup=wanted, report=reports.append)
    at_once = accuracy(small, digits)
    train(small, digits, epochs, _MORE_RATE)
    return Run(method, wanted, reports[0], at_once, accuracy(small, digits))


def measured(seeds: Sequence[int], speedups: Sequence[float], epochs: int, more: int) -> Results:
    """Trains a network for every seed, and factorizes it in every form at every speed."""
    digits = load_digits()
    results = Results([], [], [])
    forms = list(itertools.product(FORMS, speedups))
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("", total=len(seeds) * (len(forms) + 2))
        for seed in seeds:
            progress.update(task, description=f"seed {seed}: training")
            keras.utils.set_random_seed(seed)
            model = network()
            train(model, digits, epochs, _RATE)
            results.before.append(accuracy(model, digits))
            progress.advance(task)
            for method, wanted in forms:
                progress.update(task, description=f"seed {seed}: {method}, {wanted} times")
                results.runs.append(factorized(model, digits, method, wanted, more))
                progress.advance(task)
            progress.update(task, description=f"seed {seed}: further training")
            train(model, digits, more, _MORE_RATE)
            results.longer.append(accuracy(model, digits))
            progress.advance(task)
    return results


# What is written.

_HEAD = f"""# Digits, factorized

Made by `docs/factorize_digits.py` with TensorFlow {tensorflow_version()}. A network of three 3x3
convolutions learns the 1,797 handwritten digits of scikit-learn, a third of them held out, in
{EPOCHS} epochs. [`factorize`](factorize.md) gives it {SHOWN} times fewer multiply-adds in each
form; {MORE_EPOCHS} epochs of further training follow. Accuracies are of the digits held out: the
mean of {len(SEEDS)} seeds, the least and the largest. In the first row, further training is that of
the network itself.

| form | multiply-adds | weights | times fewer | error of kernels | factorized | trained further |
|---|---|---|---|---|---|---|
"""

_LAYERS = f"""
Layer by layer, for seed {SEEDS[0]}; a layer without a rank is as it was:

| form | layer | rank | error | multiply-adds before | after |
|---|---|---|---|---|---|
"""

_PICTURE = f"""
Accuracy and speed, for networks that have {SPEEDUPS[0]} to {SPEEDUPS[-1]} times fewer
multiply-adds; bars reach from the least to the largest of the seeds. The line is the network
before, the dotted one a point below.

![accuracy against speed]({PICTURE.name})
"""


def page(results: Results) -> str:
    """The page with the tables."""
    lines = _HEAD.splitlines()
    first = results.runs[0].report
    lines.append(
        f"| none | {_count(first.multiply_adds[0])} | {_count(first.parameters[0])} | | | "
        f"{_span(results.before)} | {_span(results.longer)} |"
    )
    for method in FORMS:
        runs = results.of(method, SHOWN)
        reports = [run.report for run in runs]
        cells = [
            f"`{method}`",
            _counts([report.multiply_adds[1] for report in reports]),
            _counts([report.parameters[1] for report in reports]),
            f"{min(report.speedup for report in reports):.2f}",
            _span([report.error for report in reports]),
            _span([run.at_once for run in runs]),
            _span([run.later for run in runs]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += _LAYERS.splitlines()
    for method in FORMS:
        report = results.of(method, SHOWN)[0].report
        for row in report.rows:
            before, after = row.multiply_adds
            rank = ", ".join(map(str, row.rank))
            lines.append(
                f"| `{method}` | {row.name} | {rank} | {row.error:.1%} | {_count(before)} | "
                f"{_count(after)} |"
            )
        lines += [f"| `{method}` | {name} | - | 0 | | |" for name in report.left]
    return "\n".join([*lines, *_PICTURE.splitlines()]) + "\n"


def draw(results: Results, path: Path) -> None:
    """Accuracy against speed, at once and after more training."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharex=True)
    shown = {"at_once": "factorized", "later": "trained further"}
    for axes, (attribute, title) in zip(panels, shown.items()):
        for method in FORMS:
            groups = [results.of(method, wanted) for wanted in SPEEDUPS]
            x = [statistics.mean(run.report.speedup for run in runs) for runs in groups]
            values = [[100 * getattr(run, attribute) for run in runs] for runs in groups]
            means = [statistics.mean(each) for each in values]
            reach = [
                [m - min(v) for m, v in zip(means, values)],
                [max(v) - m for m, v in zip(means, values)],
            ]
            axes.errorbar(
                x, means, reach, label=method, color=_COLOURS[method], marker="o", capsize=3
            )
        level = 100 * statistics.mean(results.before)
        axes.axhline(level, color="#666666", linewidth=1)
        axes.axhline(level - 1, color="#666666", linewidth=1, linestyle=":")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("times fewer multiply-adds")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy, %")
    panels[0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def _count(number: int) -> str:
    return f"{number:,}"


def _counts(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return _count(low) if low == high else f"{_count(low)} to {_count(high)}"


def _span(shares: Sequence[float]) -> str:
    """The mean of some shares, and the least and the largest."""
    low, high = min(shares), max(shares)
    return f"{statistics.mean(shares):.1%} ({low:.1%} to {high:.1%})"


if __name__ == "__main__":
    tf.config.experimental.enable_op_determinism()
    found = measured(SEEDS, SPEEDUPS, EPOCHS, MORE_EPOCHS)
    with replacing(PAGE) as path:
        path.write_text(page(found), encoding="utf-8")
    with replacing(PICTURE) as path:
        draw(found, path)
