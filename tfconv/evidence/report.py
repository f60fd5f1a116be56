"""What came of a comparison: figures, and their forms as table, CSV, JSON, Markdown and picture."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from tfconv.analysis.result import as_csv, written
from tfconv.analysis.tables import as_text, count_text
from tfconv.evidence.data import needs
from tfconv.evidence.timing import Time

_CONFIDENCE = 0.95
_LEGEND = """
One network, made anew with each layer in its two places, and trained in the same way. Weights and
multiply-adds are those of the whole network. *% right* is the mean over the seeds; what *against
{0}* says has an interval of 95% over seeds and images, by Student's t (over images, if there is one
seed). In brackets behind times: the ratio to the first row's.
""".strip()


@dataclasses.dataclass(frozen=True)
class Difference:
    """How many more of the test images one gets right than another, in percent of them.

    Attributes:
        points: The mean over seeds.
        interval: What is on either side of it in an interval of 95%.
    """

    points: float
    interval: float

    def __str__(self) -> str:
        return f"{self.points:+.1f} ± {self.interval:.1f}"


def difference(mine: np.ndarray, base: np.ndarray) -> Difference:
    """The difference between two candidates on the same images after training with the same seeds.

    The interval is `t * sqrt(a + b)`, where `a = v_i / images` and `b = v_s / seeds`: ``v_i`` is
    the variance over images of their mean difference, ``v_s`` that over seeds of theirs, and ``t``
    Student's for `(a + b)^2 / (a^2 / (images - 1) + b^2 / (seeds - 1))` degrees of freedom
    (Welch 1947, doi:10.1093/biomet/34.1-2.28): the fewer seeds, the wider. One seed says nothing
    of seeds: the interval then is that of the images alone.

    Args:
        mine: [seeds, images], whether it was right.
        base: The same of the other.

    Raises:
        ImportError: If SciPy is not installed.
    """
    with needs("scipy", "Intervals are computed by"):
        from scipy import stats
    differences = 100.0 * (mine.astype(np.float64) - base)
    of_images, of_seeds = differences.mean(0), differences.mean(1)
    parts = [
        (float(means.var(ddof=1)) / len(means), len(means) - 1)
        for means in (of_images, of_seeds)
        if len(means) > 1
    ]
    variance = sum(part for part, _ in parts)
    interval = 0.0
    if variance > 0:
        freedom = variance**2 / sum(part**2 / free for part, free in parts)
        interval = float(stats.t.ppf((1 + _CONFIDENCE) / 2, freedom)) * math.sqrt(variance)
    return Difference(float(differences.mean()), interval)


@dataclasses.dataclass(frozen=True)
class Row:
    """A candidate's figures.

    Attributes:
        name, setting, mixes: As a `Candidate` has them.
        parameters: Trainable weights of the whole network.
        multiply_adds: Those of the whole network, for one image.
        accuracies: Percent of the test images that were right, by seed.
        difference: From the first row's; None in it.
        step: A training step.
        latency: TFLite's, of one image on one thread.
    """

    name: str
    setting: str
    mixes: str
    parameters: int
    multiply_adds: int
    accuracies: list[float]
    difference: Difference | None
    step: Time
    latency: Time

    @property
    def accuracy(self) -> float:
        """The mean over seeds."""
        return sum(self.accuracies) / len(self.accuracies)

    def cells(self) -> list[str]:
        """What stands in the columns of figures."""
        low, high = min(self.accuracies), max(self.accuracies)
        return [
            count_text(self.parameters),
            count_text(self.multiply_adds),
            f"{self.accuracy:.1f} ({low:.1f}-{high:.1f})",
            "" if self.difference is None else str(self.difference),
            f"{self.step.milliseconds:.2f} ({self.step.ratio:.2f}x)",
            f"{self.latency.milliseconds:.3f} ({self.latency.ratio:.2f}x)",
        ]


@dataclasses.dataclass(frozen=True)
class Report:
    """A comparison. ``rich.print(report)`` shows a table.

    Attributes:
        facts: What the figures depend on: data, training, machine, versions.
        rows: One for each candidate; the first is what the others are compared with.
    """

    facts: dict[str, str]
    rows: list[Row]

    def to_csv(self, path: str | Path | None = None) -> str:
        """A line for each candidate; written to a file if a path is given."""
        lines = []
        for row in self.rows:
            apart = row.difference
            lines.append(
                {
                    "name": row.name,
                    "setting": row.setting,
                    "mixes": row.mixes,
                    "parameters": row.parameters,
                    "multiply_adds": row.multiply_adds,
                    "accuracy": row.accuracy,
                    "lowest_accuracy": min(row.accuracies),
                    "highest_accuracy": max(row.accuracies),
                    "difference": apart and apart.points,
                    "interval": apart and apart.interval,
                    "step_milliseconds": row.step.milliseconds,
                    "step_ratio": row.step.ratio,
                    "tflite_milliseconds": row.latency.milliseconds,
                    "tflite_ratio": row.latency.ratio,
                }
            )
        return written(as_csv(lines), path)

    def to_json(self, path: str | Path | None = None) -> str:
        """All figures, which `from_json` reads; written to a file if a path is given."""
        return written(json.dumps(dataclasses.asdict(self), indent=2) + "\n", path)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that `to_json` has written."""
        content = json.loads(text)
        rows = []
        for row in content["rows"]:
            apart = row["difference"] and Difference(**row["difference"])
            times = {name: Time(**row[name]) for name in ("step", "latency")}
            rows.append(Row(**{**row, **times, "difference": apart}))
        return cls(content["facts"], rows)

    def to_markdown(self, path: str | Path | None = None) -> str:
        """A page with the facts and the table; written to a file if a path is given."""
        titles = [title.replace("-\n", "-").replace("\n", " ") for title in self._titles()]
        head = ["layer", "put in", "mixes", *titles]
        lines = ["# Layer beside layer", "", _LEGEND.format(self.rows[0].name), ""]
        lines += [f"- {name}: {fact}" for name, fact in self.facts.items()]
        lines += ["", f"| {' | '.join(head)} |", "|---|---|---|" + "---:|" * len(titles)]
        for row in self.rows:
            cells = [row.name, row.setting, row.mixes, *row.cells()]
            lines.append(f"| {' | '.join(cells)} |")
        for verdict, names in self._verdicts().items():
            lines += ["", f"{verdict}: {', '.join(names) or 'none'}."]
        return written("\n".join(lines) + "\n", path)

    def plot(self, path: str | Path) -> None:
        """Draws accuracy against weights, multiply-adds, training step and latency.

        Args:
            path: The picture's file; its suffix says the format, such as ".png" or ".svg".

        Raises:
            ImportError: If Matplotlib is not installed.
        """
        from tfconv.evidence.picture import draw

        draw(self, Path(path))

    def _verdicts(self) -> dict[str, list[str]]:
        """The names of the rows by what their intervals say."""
        base = self.rows[0].name
        found = {
            f"More accurate than {base}, by more than the interval": [],
            f"Less accurate than {base}, by more than the interval": [],
            f"Not to be told from {base}": [],
        }
        higher, lower, equal = found.values()
        for row in self.rows[1:]:
            apart = row.difference
            told = abs(apart.points) > apart.interval
            (equal if not told else higher if apart.points > 0 else lower).append(row.name)
        return found

    def _titles(self) -> list[str]:
        return [
            "weights",
            "multiply-\nadds",
            "% right\n(lowest-highest)",
            f"against\n{self.rows[0].name}",
            "training step,\nms",
            "TFLite,\nms",
        ]

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("layer", no_wrap=True)
        for title in self._titles():
            table.add_column(title, justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(*map(Text, [row.name, *row.cells()]))
        yield table
        for name, fact in self.facts.items():
            yield Text(f"{name}: {fact}")

    def __str__(self) -> str:
        return as_text(self)
