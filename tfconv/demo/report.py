"""What the demo prints and checks at its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from tfconv.demo.errors import DemoError
from tfconv.demo.routes import BATCHES, Route

REQUIRED_ACCURACY = 0.97
TOLERANCE = 1e-4


def table(routes: Sequence[Route], labels: np.ndarray) -> Table:
    """One line a route; the first is what the others are compared with."""
    result = Table(
        title=f"One network, {len(routes)} routes, {len(labels)} digits that it never saw",
        box=box.SIMPLE_HEAD,
        title_style="bold",
        pad_edge=False,
        padding=0,
    )
    result.add_column("route", min_width=18)
    result.add_column("ops")
    times = [f"ms/image\nbatch {n}" for n in BATCHES]
    for heading in ["on disk", "accuracy", *times, "max\ndiff.", "other\nclass"]:
        result.add_column(heading, justify="right", no_wrap=True)
    first = routes[0]
    for route in routes:
        size = "-" if route.size is None else f"{route.size / 1e3:,.0f} kB"
        compared = [f"{route.difference(first):.0e}", str(route.disagreements(first))]
        result.add_row(
            route.name,
            route.ops,
            size,
            f"{route.accuracy(labels):.2%}",
            *(f"{t:.3f}" for t in route.milliseconds),
            *(["-", "-"] if route is first else compared),
        )
    return result


def as_json(routes: Sequence[Route], labels: np.ndarray, output: Path) -> list[dict[str, Any]]:
    """The table's numbers; paths are relative to `output`."""
    return [
        {
            "route": route.name,
            "ops": route.ops,
            "path": None if route.path is None else route.path.relative_to(output).as_posix(),
            "bytes": route.size,
            "accuracy": route.accuracy(labels),
            "milliseconds_per_image": dict(zip(map(str, BATCHES), route.milliseconds)),
            "largest_difference": route.difference(routes[0]),
            "other_class": route.disagreements(routes[0]),
        }
        for route in routes
    ]


def check(routes: Sequence[Route], labels: np.ndarray, required: float) -> None:
    """Raises DemoError unless all routes agree and the accuracy is at least `required`."""
    first, *others = routes
    problems = []
    for route in others:
        difference, count = route.difference(first), route.disagreements(first)
        if count or not difference <= TOLERANCE:  # NaN fails, too
            problems.append(
                f"{route.name}: {count} of {len(labels)} digits in another class, probabilities "
                f"differ by up to {difference:.2g} (at most {TOLERANCE:.0e} is right)"
            )
    if problems:
        raise DemoError(f"Not every route gives what {first.name} gives.\n" + "\n".join(problems))
    accuracy = first.accuracy(labels)
    if accuracy < required:
        raise DemoError(
            f"The network gets {accuracy:.2%} of the held-out digits right, and at least "
            f"{required:.0%} were expected. More --epochs may help."
        )
