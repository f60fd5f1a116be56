"""Pictures of profiles and comparisons. They need Matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfconv.analysis.tables import byte_text, count_text
from tfconv.export.files import write
from tfconv.figures import empty_figure

_WEIGHTS, _PRODUCTS, _MAPS, _FIELD = "#00798c", "#d1495b", "#edae49", "#30638e"
_SHOWN = 60  # rows that can be told apart


def draw_profile(profile: Any, path: Path) -> None:
    """Bars for each layer, weights against multiply-adds, and the receptive field's growth."""
    rows = [row for row in profile.rows if row.multiply_adds or row.parameters or row.memory]
    figure = empty_figure(14, 9)
    figure.suptitle(
        f"{profile.name}: {count_text(profile.parameters)} weights, "
        f"{count_text(profile.multiply_adds)} multiply-adds, maps of "
        f"{byte_text(profile.peak_memory)} at once"
    )
    grid = figure.add_gridspec(3, 2, width_ratios=[3, 2], height_ratios=[1, 1, 1.25])
    bars = [figure.add_subplot(grid[i, 0]) for i in range(3)]
    for axes, attribute, title, colour, text in (
        (bars[0], "parameters", "weights", _WEIGHTS, count_text),
        (bars[1], "multiply_adds", "multiply-adds", _PRODUCTS, count_text),
        (bars[2], "memory", "bytes of feature maps", _MAPS, byte_text),
    ):
        _bars(axes, [getattr(row, attribute) for row in rows], title, colour, text)
    _name_rows(bars[-1], [row.name for row in rows])
    _scatter(
        figure.add_subplot(grid[:2, 1]),
        [(row.name, row.parameters, row.multiply_adds) for row in rows if row.multiply_adds],
        named=6,
        rotation=35,
    )
    _growth(figure.add_subplot(grid[2, 1]), profile)
    _save(figure, path)


def draw_comparison(comparison: Any, path: Path) -> None:
    """Weights against multiply-adds, and bars of the totals."""
    names, profiles = comparison.names, comparison.profiles
    figure = empty_figure(13, 1.6 + 0.5 * max(len(names), 6))
    grid = figure.add_gridspec(1, 4, width_ratios=[2.2, 1, 1, 1])
    points = [(name, p.parameters, p.multiply_adds) for name, p in zip(names, profiles)]
    _scatter(figure.add_subplot(grid[0]), points, named=len(points))
    for column, (attribute, title, colour, text) in enumerate(
        (
            ("parameters", "weights", _WEIGHTS, count_text),
            ("multiply_adds", "multiply-adds", _PRODUCTS, count_text),
            ("peak_memory", "maps at once", _MAPS, byte_text),
        )
    ):
        axes = figure.add_subplot(grid[column + 1])
        numbers = [getattr(p, attribute) for p in profiles]
        drawn = axes.barh(range(len(names)), numbers, color=colour)
        axes.bar_label(drawn, [text(number) for number in numbers], padding=3, fontsize=8)
        axes.set_yticks(range(len(names)), names if column == 0 else [])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(0, 1.45 * max(*numbers, 1))
        axes.set_xticks([])
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    if not path.suffix:
        raise ValueError(f"`path` must have a suffix, such as .png. Received: path={path}")
    write(path, lambda made: figure.savefig(made, dpi=110))


def _bars(axes: Any, numbers: Sequence[int], title: str, colour: str, text: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.bar(range(len(numbers)), numbers, color=colour, width=0.8)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlim(-0.6, max(len(numbers), 1) - 0.4)
    axes.set_xticks([])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: text(int(number))))
    axes.spines[["top", "right"]].set_visible(False)


def _name_rows(axes: Any, names: Sequence[str]) -> None:
    every = max(-(-len(names) // _SHOWN), 1)
    shown = range(0, len(names), every)
    labels = [_short(names[i]) for i in shown]
    size = 7 if len(labels) > 30 else 8
    axes.set_xticks(list(shown), labels, rotation=90, fontsize=size)


def _short(name: str, length: int = 28) -> str:
    return name if len(name) <= length else f"...{name[3 - length :]}"


def _scatter(
    axes: Any, points: Sequence[tuple[str, int, int]], named: int, rotation: int = 0
) -> None:
    """Weights against products, both logarithmic; the largest are named."""
    points = [point for point in points if point[1] and point[2]]
    axes.scatter([p[1] for p in points], [p[2] for p in points], color=_FIELD, alpha=0.7)
    if points:
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.margins(0.25, 0.3 if rotation else 0.15)
    placed: list[tuple[int, int]] = []
    for name, weights, products in sorted(points, key=lambda point: -point[2]):
        if len(placed) < named and not any(
            abs(math.log10(weights / w)) + abs(math.log10(products / p)) < 0.3 * bool(rotation)
            for w, p in placed
        ):
            placed.append((weights, products))
            axes.annotate(
                _short(name),
                (weights, products),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=8,
                rotation=rotation,
                rotation_mode="anchor",
            )
    axes.set_xlabel("weights")
    axes.set_ylabel("multiply-adds")
    axes.set_title("weights against multiply-adds", fontsize=10, loc="left")
    axes.grid(alpha=0.3)


def _growth(axes: Any, profile: Any) -> None:
    """The receptive field's size along each axis, row by row; a line at the input's size."""
    rows = [(i, row.field) for i, row in enumerate(profile.rows) if row.field and row.field.axes]
    axes.set_title("receptive field, pixels of the input", fontsize=10, loc="left")
    axes.set_xlabel("layers, in the order of their calls")
    axes.spines[["top", "right"]].set_visible(False)
    if not rows:
        axes.set_yticks([])
        return
    rank = len(rows[0][1].axes)
    sizes = [[field.size[axis] for _, field in rows] for axis in range(rank)]
    alike = all(line == sizes[0] for line in sizes)
    for axis, line in enumerate(sizes[:1] if alike else sizes):
        label = "size" if alike else f"size along axis {axis}"
        axes.step([i for i, _ in rows], line, where="post", label=label, lw=2, alpha=0.8)
    for length in sorted({max(shape[:-1], default=0) for shape in profile.input_shapes} - {0}):
        axes.axhline(length, color="#888888", ls="--", lw=1, label=f"the input's {length}")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, frameon=False)
