"""What pictures are made of: wires, matrices, legends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from .connections import Connections, Weight
from .style import FAINT, INK, MUTED, PAPER, SIZE, TICKS, Painter, Palette, ink_on, value_colour


def new_figure(size: tuple[float, float] = SIZE) -> Figure:
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)  # measures texts
    figure.set_facecolor(PAPER)
    return figure


def new_axes(figure: Figure, box: Sequence[float]) -> Any:
    axes = figure.add_axes(box)
    axes.set_axis_off()
    return axes


def _heights(shape: Sequence[int]) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Heights in [0, 1], from the top, of the dots of one column, and of each position's box."""
    *spatial, channels = shape
    positions = int(np.prod(spatial))
    apart = 0.55 if channels > 1 else 0.0
    raw = np.array([p * (channels + apart) + c for p in range(positions) for c in range(channels)])
    margin = 0.55
    total = raw[-1] + 2 * margin
    heights = 1 - (raw + margin) / total
    half = 0.5 / total
    boxes = []
    for p in range(positions):
        inside = heights[p * channels : (p + 1) * channels]
        boxes.append((inside.min() - half, inside.max() + half))
    return heights, boxes


def _labels(shape: Sequence[int]) -> list[str]:
    """Names of positions: 0, 1, ... or row and column."""
    *spatial, _ = shape
    return [",".join(map(str, index)) for index in np.ndindex(*spatial)]


def _blocks(shape: Sequence[int]) -> tuple[int, list[str]]:
    """Elements in each named block of a matrix's axis, and the names: positions, or image rows."""
    *spatial, channels = shape
    if len(spatial) == 2:
        return spatial[1] * channels, [f"row {row}" for row in range(spatial[0])]
    return channels, _labels(shape)


def draw_wires(
    axes: Any,
    stages: Sequence[Connections],
    painters: Sequence[Painter],
    chosen: int,
    headings: Sequence[str],
) -> None:
    """Columns of dots from the input to the output, joined by what each stage connects."""
    shapes = [stages[0].input_shape, *(stage.output_shape for stage in stages)]
    columns = [_heights(shape) for shape in shapes]
    most = max(int(np.prod(shape)) for shape in shapes)
    radius = float(np.clip(150 / most, 3.2, 6.5))
    asked = [{chosen}]  # in each column, from the last, what the chosen output depends on
    for stage in reversed(stages):
        asked.insert(0, {s for o in asked[0] for s in np.flatnonzero(stage.connected[o])})
    for number, (stage, paint) in enumerate(zip(stages, painters)):
        faint, strong = [], []
        for output, source in np.argwhere(stage.connected):
            ends = [
                (number, columns[number][0][source]),
                (number + 1, columns[number + 1][0][output]),
            ]
            colour = paint(stage, output, source)
            (strong if output in asked[number + 1] else faint).append((ends, colour))
        for lines, width, alpha, order in ((faint, 0.8, 0.45, 1), (strong, 2.0, 1.0, 2)):
            if lines:
                axes.add_collection(
                    LineCollection(
                        [ends for ends, _ in lines],
                        colors=[colour for _, colour in lines],
                        linewidths=width,
                        alpha=alpha,
                        zorder=order,
                        capstyle="round",
                    )
                )
    for number, ((heights, boxes), shape) in enumerate(zip(columns, shapes)):
        for label, (low, high) in zip(_labels(shape), boxes):
            if shape[-1] > 1:
                axes.add_patch(
                    FancyBboxPatch(
                        (number - 0.035, low),
                        0.07,
                        high - low,
                        boxstyle="round,pad=0,rounding_size=0.012",
                        mutation_aspect=1,
                        facecolor="#ececea",
                        edgecolor="none",
                        zorder=3,
                    )
                )
            if number in (0, len(shapes) - 1) and len(boxes) > 1:
                side = -1 if number == 0 else 1
                axes.text(
                    number + side * 0.07,
                    (low + high) / 2,
                    label,
                    ha="right" if number == 0 else "left",
                    va="center",
                    fontsize=7.5,
                    color=MUTED,
                )
        filled = [INK if i in asked[number] else "#ffffff" for i in range(len(heights))]
        axes.scatter(
            [number] * len(heights),
            heights,
            s=radius**2,
            c=filled,
            edgecolors=INK,
            linewidths=0.8,
            zorder=4,
        )
        axes.text(number, 1.02, headings[number], ha="center", va="bottom", fontsize=8.5)
    axes.set_xlim(-0.22, len(shapes) - 1 + 0.22)
    axes.set_ylim(-0.01, 1.09)


def draw_matrix(
    axes: Any,
    connected: Connections,
    paint: Painter,
    chosen: int | None,
    label: bool = True,
    numbers: bool = False,
    ticks: bool = True,
) -> None:
    """The matrix, outputs down and inputs across; white is no connection."""
    rows, columns = connected.matrix.shape
    axes.add_patch(Rectangle((0, 0), columns, rows, facecolor="white", edgecolor="none", zorder=0))
    for output, source in np.argwhere(connected.connected):
        colour = paint(connected, output, source)
        corner = (source, rows - 1 - output)
        axes.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor="none", zorder=1))
        if numbers:
            axes.text(
                source + 0.5,
                rows - 0.5 - output,
                f"{connected.matrix[output, source]:.2f}".lstrip("0"),
                ha="center",
                va="center",
                fontsize=6.5,
                color=ink_on(colour),
                zorder=4,
            )
    for shape, count, across in (
        (connected.input_shape, columns, True),
        (connected.output_shape, rows, False),
    ):
        channels, (block, names) = shape[-1], _blocks(shape)
        for at in range(count + 1):
            border = at % channels == 0
            style = {"color": "#8a8a8a" if border else FAINT, "lw": 0.7 if border else 0.5}
            if block > channels and at % block == 0:
                style = {"color": INK, "lw": 0.9}
            style["zorder"] = 3 if border else 2
            if across:
                axes.plot([at, at], [0, rows], **style)
            else:
                axes.plot([0, columns], [rows - at, rows - at], **style)
        if len(names) > 1 and ticks:
            gap = 0.02 * max(rows, columns)
            for place, name in enumerate(names):
                at = (place + 0.5) * block
                turned = 90 if not across and block > channels else 0
                if across:
                    axes.text(at, rows + gap, name, ha="center", va="bottom", **TICKS)
                else:
                    axes.text(
                        -gap, rows - at, name, ha="right", va="center", rotation=turned, **TICKS
                    )
    if chosen is not None:
        axes.add_patch(
            Rectangle(
                (0, rows - 1 - chosen),
                columns,
                1,
                facecolor="none",
                edgecolor=INK,
                lw=1.8,
                zorder=5,
            )
        )
    if label:
        gap = 0.02 * max(rows, columns)
        axes.text(columns / 2, -gap, "inputs", ha="center", va="top", color=MUTED)
        axes.text(
            columns + gap, rows / 2, "outputs", ha="left", va="center", color=MUTED, rotation=90
        )
    margin = 0.1 * max(rows, columns)
    axes.set_xlim(-margin, columns + margin)
    axes.set_ylim(-margin, rows + margin)
    axes.set_aspect("equal")


def draw_legend(figure: Figure, palette: Palette, weights: Sequence[Weight], y: float) -> None:
    """Each variable's name, then a square for each of its weights, a gap between hues."""
    axes = new_axes(figure, (0, y, 1, 0.07))
    width, height = figure.get_size_inches()
    axes.set_xlim(0, width)
    axes.set_ylim(-height * 0.035, height * 0.035)
    names = list(dict.fromkeys(name for name, _ in weights))
    hues = list(dict.fromkeys(map(palette.hue_of, weights)))
    weights = sorted(weights, key=lambda weight: hues.index(palette.hue_of(weight)))
    most = len(weights)
    small = len(names) > 3
    side = 0.115 if most <= 30 else 0.085
    x = 0.2
    for name in names:
        style = {"fontsize": 7 if small else 8.5, "family": "DejaVu Sans Mono"}
        text = axes.text(x, 0, name, ha="left", va="center", **style)
        extent = text.get_window_extent(figure.canvas.get_renderer())
        x += extent.width / figure.dpi + 0.1
        before = None
        for weight in (weight for weight in weights if weight[0] == name):
            hue = palette.hue_of(weight)
            x += 0.06 if before is not None and hue != before else 0
            before = hue
            axes.add_patch(
                Rectangle((x, -side / 2), side, side, facecolor=palette.colours[weight], lw=0)
            )
            x += side + 0.012
        x += 0.12 if small else 0.22


def draw_scale(figure: Figure, low: float, high: float, y: float, text: str) -> None:
    """The scale of values."""
    axes = new_axes(figure, (0, y, 1, 0.07))
    width, height = figure.get_size_inches()
    axes.set_xlim(0, width)
    axes.set_ylim(-height * 0.035, height * 0.035)
    steps, left, wide = 48, 3.1, 1.7
    for step in range(steps):
        axes.add_patch(
            Rectangle(
                (left + wide * step / steps, -0.055),
                wide / steps * 1.1,
                0.11,
                facecolor=value_colour(step / (steps - 1), 0, 1),
                lw=0,
            )
        )
    axes.text(left - 0.08, 0, f"{low:.2f}", ha="right", va="center", **TICKS)
    axes.text(left + wide + 0.1, 0, f"{high:.2f}", ha="left", va="center", **TICKS)
    axes.text(left - 0.5, 0, text, ha="right", va="center", fontsize=8.5)


def draw_summary(figure: Figure, connected: Connections, more: str = "") -> None:
    count = int(connected.connected.sum())
    weights = int(connected.made_by.any((0, 1)).sum())
    text = f"{count} connections"
    if weights:
        text += f", {weights} weights"
    figure.text(0.975, 0.055, text + more, ha="right", va="center", color=MUTED)


def middle(connected: Connections) -> int:
    """The output that is shown in full: the first channel of the middle position."""
    *spatial, channels = connected.output_shape
    if not spatial:
        return channels // 2
    return int(np.ravel_multi_index([size // 2 for size in spatial], spatial)) * channels
