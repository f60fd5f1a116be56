"""What to take when: each comparison of the plan put where its interval and its costs belong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tfconv.evidence.plan import Expectation, Experiment
from tfconv.evidence.report import Difference, difference
from tfconv.evidence.runs import Run, finished

MORE, SAVES, UNTOLD, LESS = "more", "saves", "untold", "less"
_HEADS = {
    MORE: "More accurate, by more than the interval: take the first, if you can pay for it.",
    SAVES: "As accurate, within the points that were allowed, with fewer weights and "
    "multiply-adds: take the first, to save.",
    UNTOLD: "These runs cannot tell: take what costs less, and try the other on your own images.",
    LESS: "Less accurate, by more than the interval: take the first only for what it saves.",
}
_ENOUGH = 3  # seeds
_TEXT = """## What to take when

From the runs below by one rule, and from nothing else: the interval of a difference says which list
it belongs to. Behind the difference stands what the first network costs, beside the second.
"""


def apart(runs: dict[str, list[Run]], name: str, than: str) -> Difference:
    """The difference between two networks of an experiment."""
    mine, base = (np.stack([run.correct for run in runs[each]]) for each in (name, than))
    return difference(mine, base)


def costs(runs: dict[str, list[Run]], name: str, than: str) -> tuple[float, float, float]:
    """Weights, multiply-adds and time to train, as ratios to another network's."""
    mine, base = runs[name], runs[than]
    seconds = [float(np.median([run.seconds for run in each])) for each in (mine, base)]
    return (
        mine[0].parameters / base[0].parameters,
        mine[0].multiply_adds / base[0].multiply_adds,
        seconds[0] / seconds[1],
    )


def belongs(expectation: Expectation, runs: dict[str, list[Run]]) -> str:
    """Which list a comparison belongs to."""
    found = apart(runs, expectation.better, expectation.than)
    low, high = found.points - found.interval, found.points + found.interval
    allowed = expectation.within or 0.0
    weights, products, _ = costs(runs, expectation.better, expectation.than)
    if low > 0:
        return MORE
    if high < -allowed:
        return LESS
    return SAVES if low > -allowed and weights < 1 and products < 1 else UNTOLD


def _sentence(experiment: Experiment, expectation: Expectation, runs: dict[str, Any]) -> str:
    pair = expectation.better, expectation.than
    weights, products, time = (f"{ratio:.2f}" for ratio in costs(runs, *pair))
    allowed = "" if expectation.within is None else f", {expectation.within:g} allowed"
    return (
        f"- **{pair[0]}** or {pair[1]}, on {experiment.task.name} digits: "
        f"{apart(runs, *pair)} points{allowed}; {weights} times the weights, {products} times the "
        f"multiply-adds, {time} times the training time ([{experiment.name}](#{experiment.name}))"
    )


def _budgets(complete: list[tuple[Experiment, dict[str, list[Run]]]]) -> Iterator[str]:
    """What longer training makes of a network that two experiments have on the same task."""
    for one, first in complete:
        for other, second in complete:
            if one.task == other.task and one.epochs > other.epochs:
                for name in sorted(first.keys() & second.keys()):
                    ends = (np.mean([r.curve[-1] for r in runs[name]]) for runs in (first, second))
                    yield (
                        f"Budgets count: after {one.epochs} epochs {name} has {next(ends):.1f}% of "
                        f"{one.task.name} digits right ([{one.name}](#{one.name})), after "
                        f"{other.epochs} epochs {next(ends):.1f}% ([{other.name}](#{other.name})). "
                        "What is ahead after few epochs learns fast, and may not stay ahead."
                    )


def chapter(experiments: list[Experiment], folder: Path, seeds: int) -> str:
    """The page's part that says what to take, from experiments with enough seeds."""
    found = [(each, finished(folder, each, seeds)) for each in experiments]
    counts = {each.name: len(runs.get(each.baseline, ())) for each, runs in found}
    enough = min(_ENOUGH, seeds)
    complete = [(each, runs) for each, runs in found if counts[each.name] >= enough]
    lists: dict[str, list[str]] = {kind: [] for kind in _HEADS}
    for experiment, runs in complete:
        for expectation in experiment.expectations:
            lists[belongs(expectation, runs)].append(_sentence(experiment, expectation, runs))
    lines = [_TEXT]
    some = {name: f"{name} ({count} of {seeds})" for name, count in counts.items()}
    for what, wanted in (
        ("From fewer seeds than are planned, so with rougher intervals", range(enough, seeds)),
        ("Left out until more seeds have been run", range(enough)),
    ):
        if names := [some[name] for name, count in counts.items() if count in wanted]:
            lines += [f"{what}: {', '.join(names)}.", ""]
    lines += [line for said in _budgets(complete) for line in (said, "")]
    for kind, head in _HEADS.items():
        if lists[kind]:
            lines += [f"**{head}**", "", *lists[kind], ""]
    return "\n".join(lines) + "\n" if any(lists.values()) else ""
