"""Whole pictures from what layers connect, and the list of all pictures."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from .connections import Connections, Weight
from .panels import (
    draw_legend,
    draw_matrix,
    draw_scale,
    draw_summary,
    draw_wires,
    middle,
    new_axes,
    new_figure,
)
from .style import FAINT, PAPER, STYLE, Painter, Palette, by_value, by_weight, grey

PICTURES: dict[str, Callable[[], Figure]] = {}


def picture(drawn: Callable[[], Figure]) -> Callable[[], Figure]:
    """Registers a picture; it is always drawn in the same style."""

    @functools.wraps(drawn)
    def styled() -> Figure:
        with matplotlib.rc_context(STYLE):
            return drawn()

    PICTURES[drawn.__name__] = styled
    return styled


def pictures() -> dict[str, Callable[[], Figure]]:
    """All pictures: names and the functions that draw them."""
    return dict(PICTURES)


def draw_weights(
    stages: Sequence[Connections],
    total: Connections | None = None,
    *,
    headings: Sequence[str] | None = None,
    hue_of: Callable[[Weight], Any] | None = None,
    captions: Sequence[str] = ("",),
    others: Sequence[Connections] = (),
) -> Figure:
    """Wires and matrix of a layer whose connections are made by its weights alone.

    Args:
        stages: What is connected from one column of dots to the next.
        total: All stages together, which the matrix shows; that of the only stage if None.
        headings: Names of the columns.
        hue_of: Which weights share a hue; by default those with the same first index.
        captions: What stands above each matrix.
        others: Further matrices, in the same colours.
    """
    figure = new_figure()
    total = total or stages[0]
    weights = list(dict.fromkeys(w for stage in stages for w in stage.weights)) or list(
        total.weights
    )
    palette = Palette.of(weights, hue_of)
    paint = by_weight(palette)
    chosen = middle(total)
    headings = headings or ("input", *[""] * (len(stages) - 1), "output")
    wide = {1: 0.4, 2: 0.52}.get(len(stages), 0.58) if not others else 0.33
    axes = new_axes(figure, (0.015, 0.13, wide - 0.015, 0.84))
    draw_wires(axes, stages, [paint] * len(stages), chosen, headings)
    if len(stages) > 1:
        count, made = int(total.connected.sum()), int(total.made_by.any((0, 1)).sum())
        captions = (f"all stages together:\n{count} connections, {made} weights",)
        paint = grey(total)
    matrices = [total, *others]
    each = (1 - wide - 0.02) / len(matrices)
    for place, (connected, caption) in enumerate(zip(matrices, captions)):
        box = (wide + 0.01 + place * each, 0.14, each, 0.77 if caption else 0.83)
        axes = new_axes(figure, box)
        draw_matrix(axes, connected, paint, chosen if place == 0 else None)
        axes.set_title(caption, fontsize=8.5, pad=0)
    draw_legend(figure, palette, weights, 0.02)
    if len(stages) == 1:
        draw_summary(figure, total)
    figure.tile = functools.partial(matrix_tile, connected=total, paint=paint)
    return figure


def draw_values(
    examples: Sequence[tuple[str, Connections]],
    *,
    left: Callable[[Any, int, Connections, Painter], None] | None = None,
    share: float = 0.4,
    text: str = "value of a connection",
) -> Figure:
    """Wires and matrix for two inputs of a layer whose connections depend on the input.

    Args:
        examples: Captions and connections.
        left: Draws what stands left of the matrix, given the number of the example; wires by
            default.
        share: How much of the width that takes.
        text: What the colours stand for.
    """
    figure = new_figure()
    values = np.concatenate([c.matrix[c.connected] for _, c in examples])
    low, high = values.min(), values.max()
    paint = by_value(low, high)
    for number, (caption, connected) in enumerate(examples):
        start, wide = 0.01 + 0.495 * number, 0.485
        chosen = middle(connected)
        axes = new_axes(figure, (start, 0.13, wide * share, 0.77))
        if left is None:
            draw_wires(axes, [connected], [paint], chosen, ("input", "output"))
        else:
            left(axes, number, connected, paint)
        axes = new_axes(figure, (start + wide * share, 0.13, wide * (1 - share), 0.77))
        draw_matrix(axes, connected, paint, chosen, numbers=connected.matrix.shape[1] < 7)
        figure.text(start + wide / 2, 0.955, caption, ha="center", va="center", fontsize=9)
    figure.add_artist(matplotlib.lines.Line2D([0.5, 0.5], [0.14, 0.97], color=FAINT, lw=1))
    draw_scale(figure, low, high, 0.02, text)
    first = {"connected": examples[0][1], "paint": paint}
    figure.tile = functools.partial(left or matrix_tile, number=0, **first)
    return figure


def matrix_tile(axes: Any, connected: Connections, paint: Painter, number: int = 0) -> None:
    """What stands for a layer in a gallery: its matrix, without words."""
    draw_matrix(axes, connected, paint, None, label=False, ticks=False)


def tiles() -> dict[str, Callable[[], Figure]]:
    """Small pictures for a gallery, by the names of those that they are parts of."""
    return {name: functools.partial(_tile, name) for name in PICTURES if name not in WIDE}


# Pictures of no single layer.
WIDE = {"structures", "conv_paddings", "conv_dilation", "deformable_volume", "views"}


def _tile(name: str) -> Figure:
    whole = PICTURES[name]()
    with matplotlib.rc_context(STYLE):
        figure = new_figure((1.1, 1.1))
        whole.tile(new_axes(figure, (0.02, 0.02, 0.96, 0.96)))
    for text in list(figure.axes[0].texts):
        text.remove()
    return figure


def as_svg(figure: Figure) -> str:
    """The figure as SVG, the same every time: no date, numbers to a thousandth."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor=PAPER)
    text = re.sub(r" *<metadata>.*?</metadata>\n", "", buffer.getvalue(), flags=re.DOTALL)
    text = re.sub(r"-?\d+\.\d+", lambda match: _short(match[0]), text[text.index("<svg") :])
    return re.sub(r" +$", "", text, flags=re.MULTILINE)


def _short(number: str) -> str:
    rounded = f"{float(number):.3f}".rstrip("0").rstrip(".")
    return "0" if rounded == "-0" else rounded


def draw(folder: Path, names: Sequence[str] | None = None) -> list[Path]:
    """Draws pictures, all unless named, into a folder and returns the files.

    Tiles are named "tiles/NAME".
    """
    drawn = {**PICTURES, **{f"tiles/{name}": tile for name, tile in tiles().items()}}
    paths = []
    for name in names or drawn:
        path = folder / f"{name}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(as_svg(drawn[name]()), encoding="utf-8")
        paths.append(path)
    return paths
