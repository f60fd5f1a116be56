"""Colours: one for every weight, or one for every value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb

from .connections import Connections, Weight

INK, MUTED, FAINT, PAPER = "#222222", "#666666", "#d9d9d9", "#fcfcfa"
# Okabe and Ito's colours, which colour-blind readers tell apart; the darker ones first.
HUES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6D31", "#999999")
SIZE = (7.6, 3.7)  # inches
TICKS = {"fontsize": 7, "color": MUTED}
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "tfconv",
    "text.color": INK,
    "axes.labelcolor": MUTED,
}

Colour = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Palette:
    """A colour for every weight: the hue by ``hue_of``, the shade by the place among equals."""

    colours: Mapping[Weight, Colour]
    hue_of: Callable[[Weight], Any]

    @staticmethod
    def of(weights: Sequence[Weight], hue_of: Callable[[Weight], Any] | None = None) -> Palette:
        hue_of = hue_of or _first_axis(weights)
        families: dict[Any, list[Weight]] = {}
        for weight in weights:
            families.setdefault(hue_of(weight), []).append(weight)
        colours = {}
        for number, members in enumerate(families.values()):
            hue = np.array(to_rgb(HUES[number % len(HUES)]))
            for place, weight in enumerate(members):
                colours[weight] = _shade(hue, place, len(members))
        return Palette(colours, hue_of)


def _shade(hue: np.ndarray, place: int, count: int) -> Colour:
    """From a darker to a lighter colour of one hue."""
    if count == 1:
        return tuple(hue)
    along = place / (count - 1)
    dark = hue * 0.72
    light = 1 - (1 - hue) * 0.42
    return tuple(dark + (light - dark) * along)


def _first_axis(weights: Sequence[Weight]) -> Callable[[Weight], Any]:
    """A hue for each index along the first axis on which a variable's indices differ."""
    axes = {}
    for name in {name for name, _ in weights}:
        indices = np.array([index for other, index in weights if other == name])
        several = np.flatnonzero(indices.max(0) > 0) if indices.size else []
        axes[name] = int(several[0]) if len(several) else None
    return lambda weight: (
        weight[0],
        None if axes[weight[0]] is None else weight[1][axes[weight[0]]],
    )


def by_variable(weight: Weight) -> str:
    """One hue a variable."""
    return weight[0]


def value_colour(value: float, low: float, high: float) -> Colour:
    """A colour from light yellow to navy that is never as light as paper."""
    along = 0.5 if high <= low else (value - low) / (high - low)
    return matplotlib.colormaps["cividis_r"](0.04 + 0.96 * along)[:3]


def ink_on(colour: Colour) -> str:
    """A colour for text that stands on another."""
    return "white" if np.dot(colour, (0.3, 0.59, 0.11)) < 0.5 else INK


Painter = Callable[[Connections, int, int], Colour]


def by_weight(palette: Palette) -> Painter:
    """The colour of the one weight that makes a connection."""

    def paint(connected: Connections, output: int, source: int) -> Colour:
        (weight,) = connected.makers(output, source)
        return palette.colours[weight]

    return paint


def by_value(low: float, high: float) -> Painter:
    def paint(connected: Connections, output: int, source: int) -> Colour:
        return value_colour(connected.matrix[output, source], low, high)

    return paint


def grey(connected: Connections) -> Painter:
    """Greys by value, for connections that several weights make together."""
    values = connected.matrix[connected.connected]
    low, high = values.min(), values.max()

    def paint(connected: Connections, output: int, source: int) -> Colour:
        along = (connected.matrix[output, source] - low) / (high - low)
        return (0.85 - 0.65 * along,) * 3

    return paint
