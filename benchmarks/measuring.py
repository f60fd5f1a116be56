"""Measures groups of rivals in rounds: what slows the machine for a while slows all of them."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.cases import Rival
from benchmarks.rows import Group, Row
from benchmarks.worker import Workers

# Who is slow sits out the last rounds so as not to use more seconds than this in all, at two calls
# a turn, but takes part in the first few.
LIMIT = 4.0
FEWEST_TURNS = 5


def take_turns(workers: Workers, rivals: Iterable[Rival], rounds: int) -> dict[Rival, list[float]]:
    """Seconds of each rival by round; a rival that sits out leaves the last rounds out."""
    turns = {}
    for rival in dict.fromkeys(rivals):
        call = workers.of(rival).ask("prepare", rival)
        turns[rival] = min(rounds, max(FEWEST_TURNS, int(LIMIT / (2 * call))))
    times = {rival: [] for rival in turns}
    for number in range(rounds):
        for rival, count in turns.items():
            if number < count:
                times[rival].append(workers.of(rival).ask("turn", rival))
    workers.forget()
    return times


@dataclasses.dataclass(frozen=True)
class Result:
    """A row's figures.

    Attributes:
        row: The row.
        value: The rival's figure: median of seconds, or bytes.
        base: The figure below the line, of the same kind.
        ratio: The rival's figure over the base's; of times, the median of the rounds' ratios.
        quartiles: The middle half of the rounds' ratios; None of figures that do not vary.
    """

    row: Row
    value: float
    base: float
    ratio: float
    quartiles: tuple[float, float] | None = None

    @property
    def met(self) -> bool | None:
        """Whether the ratio keeps to the target; None without one."""
        target = self.row.target
        if target is None:
            return None
        return self.ratio >= target if self.row.at_least else self.ratio <= target


def measure(
    workers: Workers, group: Group, rounds: int
) -> tuple[list[Result], dict[Rival, list[float]]]:
    """The results of a group, and the seconds of each of its rivals."""
    if group[0].memory:
        return [_memory(workers, row) for row in group], {}
    rivals = [rival for row in group for rival in (row.rival, row.base) if rival is not None]
    times = take_turns(workers, rivals, rounds)
    return compare(group, times), times


def compare(group: Group, times: Mapping[Rival, Sequence[float]]) -> list[Result]:
    """The results of a group of which all times are known."""
    cost = {
        rival: statistics.median(seconds) / rival.case.multiply_adds
        for rival, seconds in times.items()
    }
    best = min(cost, key=cost.get)
    return [_compare(row, row.base or best, times) for row in group]


def _compare(row: Row, base: Rival, times: Mapping[Rival, Sequence[float]]) -> Result:
    scale = 1.0
    if row.per_multiply_add:
        scale = base.case.multiply_adds / row.rival.case.multiply_adds
    ratios = [scale * mine / theirs for mine, theirs in zip(times[row.rival], times[base])]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    value, below = (statistics.median(times[rival]) for rival in (row.rival, base))
    return Result(row, value, below, middle, (low, high))


def _memory(workers: Workers, row: Row) -> Result:
    """Memory above inputs and outputs over the columns or, outputs included, over one output."""
    worker, case = workers.of(row.rival), row.rival.case
    worker.ask("prepare", row.rival)
    held, base = worker.ask("extra_bytes", row.rival), case.columns_bytes
    workers.forget()
    if row.against == "one output":
        base = case.output_bytes
        held += base + (case.inputs_bytes if case.backward else 0)
    return Result(row, held, base, held / base)
