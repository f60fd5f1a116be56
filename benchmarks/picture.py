"""results.png: every ratio that has a target, over that target."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.measuring import Result
from benchmarks.rows import SECTIONS, WORK

COLOURS = {"forward": "tab:blue", "forward+backward": "tab:orange"}
HEIGHTS = {"forward": -0.16, "forward+backward": 0.16}  # of dots, off the middle of their line


def label(result: Result) -> str:
    """The line of a result: all shapes share one, and so do the values of a size that grows."""
    row = result.row
    if row.base is not None or row.memory:
        return f"{row.work} / {row.against}"
    return f"{WORK[row.rival.case.family]} / {row.against}"


def of_target(result: Result) -> float:
    """The ratio as a part of its target; what is above one misses it."""
    part = result.ratio / result.row.target
    return 1 / part if result.row.at_least else part


def draw(results: Sequence[Result]) -> Figure:
    results = [result for result in results if result.row.target is not None]
    lines = list(dict.fromkeys((result.row.section, label(result)) for result in results))
    sections = list(dict.fromkeys(section for section, _ in lines))
    # A section's heading takes a line too.
    places = {}
    for section in sections:
        places[section] = len(places)
        for line in lines:
            if line[0] == section:
                places[line] = len(places)
    figure = Figure(figsize=(10, 1.5 + 0.27 * len(places)), layout="constrained")
    axes = figure.subplots()
    for result in results:
        direction = result.row.rival.case.direction
        height = places[result.row.section, label(result)] + HEIGHTS[direction]
        axes.plot(of_target(result), height, "o", color=COLOURS[direction], markersize=5, alpha=0.8)
    axes.set_xscale("log", base=2)
    low, high = axes.get_xlim()
    axes.set_xlim(low, max(high, 1.5))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}" if x >= 1 else f"1/{1 / x:g}")
    axes.axvspan(1, axes.get_xlim()[1], color="tab:red", alpha=0.12, linewidth=0)
    axes.axvline(1, color="tab:red", linewidth=1)
    axes.set_ylim(len(places) - 0.5, -0.5)
    axes.set_yticks(list(places.values()), [SECTIONS.get(p, p[1]) for p in places])
    for text, place in zip(axes.get_yticklabels(), places):
        text.set_fontweight("bold" if place in SECTIONS else "normal")
        text.set_fontsize(8)
    axes.grid(axis="both", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("ratio over its target, a dot for each shape; what lies to the right misses it")
    figure.legend(
        handles=[
            Line2D([], [], marker="o", linestyle="", color=colour, label=direction)
            for direction, colour in COLOURS.items()
        ],
        loc="outside upper right",
        ncols=2,
    )
    return figure


def write(path: Path, results: Sequence[Result]) -> None:
    """Writes the picture whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        draw(results).savefig(part, format="png", dpi=110)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
