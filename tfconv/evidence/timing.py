"""Times taken in turns: what slows the machine for a while slows everyone."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

_CALLS = 5  # in a turn


@dataclasses.dataclass(frozen=True)
class Time:
    """A call's time.

    Attributes:
        milliseconds: The median of all turns.
        ratio: To the first call's: the median of the rounds' ratios.
    """

    milliseconds: float
    ratio: float


def take_turns(
    calls: Mapping[str, Callable[[], Any]], rounds: int, progress: Callable[[], None]
) -> dict[str, Time]:
    """Times calls in rounds, in each of which everyone has a turn.

    A turn is a call to warm up and some more, of which the fastest counts: what interrupts a
    call only makes it slower.

    Args:
        calls: By name.
        rounds: How many.
        progress: Is called before each round.
    """
    turns: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        progress()
        for name, call in calls.items():
            call()
            turns[name].append(min(_seconds(call) for _ in range(_CALLS)))
    first = next(iter(turns.values()))
    return {
        name: Time(
            1e3 * statistics.median(mine),
            statistics.median(own / base for own, base in zip(mine, first)),
        )
        for name, mine in turns.items()
    }


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
