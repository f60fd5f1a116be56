"""Draws what each family of layers connects: one SVG a family.

    python docs/pictures.py OUT_DIR

Nothing is drawn by hand: a real layer is built on a small input, the derivatives of its outputs
by its inputs give the connections, and changing one weight after the other shows which weights
make each of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import matplotlib  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.collections import LineCollection  # noqa: E402
from matplotlib.colors import to_rgb  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import FancyBboxPatch, Rectangle  # noqa: E402

import tfconv  # noqa: E402
from tfconv._compat import keras  # noqa: E402

Function = Callable[[tf.Tensor], tf.Tensor]
Weight = tuple[str, tuple[int, ...]]  # the variable's name and an index into it

# What is computed.


@dataclasses.dataclass(frozen=True)
class Connections:
    """What a function connects: ``y = matrix @ x`` for flattened inputs and outputs.

    Attributes:
        matrix: [outputs, inputs], in the order of [*spatial, channels].
        weights: All weights that were looked at.
        made_by: [outputs, inputs, weights]: whether an element changes with a weight.
        input_shape, output_shape: (*spatial, channels).
    """

    matrix: np.ndarray
    weights: tuple[Weight, ...]
    made_by: np.ndarray
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    @property
    def connected(self) -> np.ndarray:
        """[outputs, inputs]: where there is a connection."""
        return self.matrix != 0

    def makers(self, output: int, source: int) -> list[Weight]:
        """The weights that make the connection of an input with an output."""
        return [self.weights[i] for i in np.flatnonzero(self.made_by[output, source])]


def connections(
    function: Function, input_shape: Sequence[int], variables: Mapping[str, Any] | None = None
) -> Connections:
    """The connections of a layer, or of any function of a batch, and the weights behind them.

    Args:
        function: From [N, *input_shape] to [N, *outputs], in float64, each example by itself.
        input_shape: (*spatial, channels) of an input.
        variables: The variables to look at, by names of one's choice.
    """
    variables = dict(variables or {})
    input_shape = tuple(input_shape)
    rng = np.random.default_rng(0)
    example = rng.uniform(0.5, 1, [1, *input_shape])
    output_shape = tuple(_run(function, example).shape[1:])
    matrix_now = _jacobian(function, example, int(np.prod(output_shape)))
    if sum(int(np.prod(v.shape)) for v in variables.values()) > 9:
        matrix_now = tf.function(matrix_now, autograph=False)  # quicker if called often
    matrix = matrix_now().numpy()
    weights, changed = [], []
    for name, variable in variables.items():
        values = variable.numpy().copy()
        for index in np.ndindex(*values.shape):
            other = values.copy()
            other[index] += 0.1
            variable.assign(other)
            weights.append((name, index))
            changed.append(np.abs(matrix_now().numpy() - matrix) > 1e-9)
        variable.assign(values)
    made_by = np.stack(changed, -1) if changed else np.zeros([*matrix.shape, 0], bool)
    return Connections(matrix, tuple(weights), made_by, input_shape, output_shape)


def _run(function: Function, x: Any) -> tf.Tensor:
    with tfconv.portable():
        return tf.convert_to_tensor(function(tf.constant(x, tf.float64)))


def _jacobian(function: Function, example: np.ndarray, count: int) -> Callable[[], tf.Tensor]:
    """Gives [outputs, inputs] by one gradient.

    There are as many copies of the example as outputs, and each is asked for one of them.
    """
    x = tf.constant(np.repeat(example, count, axis=0))

    def jacobian() -> tf.Tensor:
        with tfconv.portable(), tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reshape(tf.convert_to_tensor(function(x)), [count, count])
            asked = tf.linalg.trace(y)
        return tf.reshape(tape.gradient(asked, x), [count, -1])

    return jacobian


def weight_sum(values: np.ndarray) -> str:
    """Mixing weights as text: "0.2 K₁ + 0.8 K₂"."""
    subscripts = "₁₂₃₄₅₆₇₈₉"
    return " + ".join(f"{value:.2f} K{subscripts[i]}" for i, value in enumerate(values))


def _built(
    layer: Any,
    input_shape: Sequence[int],
    signed: Sequence[str] = (),
    scale: float = 1.0,
    seed: int = 0,
) -> Any:
    """The layer, built for examples of a shape, with positive random weights.

    Weights of which the path contains one of ``signed`` are normally distributed instead, with
    ``scale`` as deviation, so that what is made from the input differs between inputs.
    """
    rng = np.random.default_rng(seed)
    layer(tf.zeros([1, *input_shape], tf.float64))
    for variable in layer.weights:
        path = getattr(variable, "path", variable.name)
        shape = tuple(variable.shape)
        if any(part in path for part in signed):
            variable.assign(rng.normal(0, scale, shape))
        elif shape:  # a scalar is a setting, such as a temperature
            variable.assign(rng.uniform(0.2, 1, shape))
    return layer


def _examples(shape: Sequence[int], seed: int = 1) -> list[np.ndarray]:
    """Two inputs that differ, also in their means, as batches of one."""
    rng = np.random.default_rng(seed)
    return [rng.normal(mean, 0.7, [1, *shape]) for mean in (0.8, -0.8)]


# How it looks.

INK, MUTED, FAINT, PAPER = "#222222", "#666666", "#d9d9d9", "#fcfcfa"
# Okabe and Ito's colours, which colour-blind readers tell apart; the darker ones first.
HUES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6D31", "#999999")
SIZE = (7.6, 3.7)  # inches
_RC = {
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


def _value_colour(value: float, low: float, high: float) -> Colour:
    """A colour from light yellow to navy that is never as light as paper."""
    along = 0.5 if high <= low else (value - low) / (high - low)
    return matplotlib.colormaps["cividis_r"](0.04 + 0.96 * along)[:3]


def _ink_on(colour: Colour) -> str:
    """A colour for text that stands on another."""
    return "white" if np.dot(colour, (0.3, 0.59, 0.11)) < 0.5 else INK


Painter = Callable[[Connections, int, int], Colour]


def _by_weight(palette: Palette) -> Painter:
    """The colour of the one weight that makes a connection."""

    def paint(connected: Connections, output: int, source: int) -> Colour:
        (weight,) = connected.makers(output, source)
        return palette.colours[weight]

    return paint


def _by_value(low: float, high: float) -> Painter:
    def paint(connected: Connections, output: int, source: int) -> Colour:
        return _value_colour(connected.matrix[output, source], low, high)

    return paint


def _grey(connected: Connections) -> Painter:
    """Greys by value, for connections that several weights make together."""
    values = connected.matrix[connected.connected]
    low, high = values.min(), values.max()

    def paint(connected: Connections, output: int, source: int) -> Colour:
        along = (connected.matrix[output, source] - low) / (high - low)
        return (0.85 - 0.65 * along,) * 3

    return paint


def _figure(size: tuple[float, float] = SIZE) -> Figure:
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)  # measures texts
    figure.set_facecolor(PAPER)
    return figure


def _axes(figure: Figure, box: Sequence[float]) -> Any:
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


def _wires(
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


def _matrix(
    axes: Any,
    connected: Connections,
    paint: Painter,
    chosen: int | None,
    label: bool = True,
    numbers: bool = False,
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
                color=_ink_on(colour),
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
        if len(names) > 1:
            gap = 0.02 * max(rows, columns)
            for place, name in enumerate(names):
                at = (place + 0.5) * block
                turned = 90 if not across and block > channels else 0
                if across:
                    axes.text(at, rows + gap, name, ha="center", va="bottom", **_TICKS)
                else:
                    axes.text(
                        -gap, rows - at, name, ha="right", va="center", rotation=turned, **_TICKS
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


_TICKS = {"fontsize": 7, "color": MUTED}


def _legend(figure: Figure, palette: Palette, weights: Sequence[Weight], y: float) -> None:
    """Each variable's name, then a square for each of its weights, a gap between hues."""
    axes = _axes(figure, (0, y, 1, 0.07))
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


def _scale(figure: Figure, low: float, high: float, y: float, text: str) -> None:
    """The scale of values."""
    axes = _axes(figure, (0, y, 1, 0.07))
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
                facecolor=_value_colour(step / (steps - 1), 0, 1),
                lw=0,
            )
        )
    axes.text(left - 0.08, 0, f"{low:.2f}", ha="right", va="center", **_TICKS)
    axes.text(left + wide + 0.1, 0, f"{high:.2f}", ha="left", va="center", **_TICKS)
    axes.text(left - 0.5, 0, text, ha="right", va="center", fontsize=8.5)


def _summary(figure: Figure, connected: Connections, more: str = "") -> None:
    count = int(connected.connected.sum())
    weights = int(connected.made_by.any((0, 1)).sum())
    text = f"{count} connections"
    if weights:
        text += f", {weights} weights"
    figure.text(0.975, 0.055, text + more, ha="right", va="center", color=MUTED)


def _middle(connected: Connections) -> int:
    """The output that is shown in full: the first channel of the middle position."""
    *spatial, channels = connected.output_shape
    if not spatial:
        return channels // 2
    return int(np.ravel_multi_index([size // 2 for size in spatial], spatial)) * channels


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
    figure = _figure()
    total = total or stages[0]
    weights = list(dict.fromkeys(w for stage in stages for w in stage.weights)) or list(
        total.weights
    )
    palette = Palette.of(weights, hue_of)
    paint = _by_weight(palette)
    chosen = _middle(total)
    headings = headings or ("input", *[""] * (len(stages) - 1), "output")
    wide = {1: 0.4, 2: 0.52}.get(len(stages), 0.58) if not others else 0.33
    axes = _axes(figure, (0.015, 0.13, wide - 0.015, 0.84))
    _wires(axes, stages, [paint] * len(stages), chosen, headings)
    if len(stages) > 1:
        count, made = int(total.connected.sum()), int(total.made_by.any((0, 1)).sum())
        captions = (f"all stages together:\n{count} connections, {made} weights",)
        paint = _grey(total)
    matrices = [total, *others]
    each = (1 - wide - 0.02) / len(matrices)
    for place, (connected, caption) in enumerate(zip(matrices, captions)):
        box = (wide + 0.01 + place * each, 0.14, each, 0.77 if caption else 0.83)
        axes = _axes(figure, box)
        _matrix(axes, connected, paint, chosen if place == 0 else None)
        axes.set_title(caption, fontsize=8.5, pad=0)
    _legend(figure, palette, weights, 0.02)
    if len(stages) == 1:
        _summary(figure, total)
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
    figure = _figure()
    values = np.concatenate([c.matrix[c.connected] for _, c in examples])
    low, high = values.min(), values.max()
    paint = _by_value(low, high)
    for number, (caption, connected) in enumerate(examples):
        start, wide = 0.01 + 0.495 * number, 0.485
        chosen = _middle(connected)
        axes = _axes(figure, (start, 0.13, wide * share, 0.77))
        if left is None:
            _wires(axes, [connected], [paint], chosen, ("input", "output"))
        else:
            left(axes, number, connected, paint)
        axes = _axes(figure, (start + wide * share, 0.13, wide * (1 - share), 0.77))
        _matrix(axes, connected, paint, chosen, numbers=connected.matrix.shape[1] < 7)
        figure.text(start + wide / 2, 0.955, caption, ha="center", va="center", fontsize=9)
    figure.add_artist(matplotlib.lines.Line2D([0.5, 0.5], [0.14, 0.97], color=FAINT, lw=1))
    _scale(figure, low, high, 0.02, text)
    return figure


# The pictures. A function named as its picture draws it.

_PICTURES: dict[str, Callable[[], Figure]] = {}


def _picture(draw: Callable[[], Figure]) -> Callable[[], Figure]:
    """Registers a picture; it is always drawn in the same style."""

    @functools.wraps(draw)
    def styled() -> Figure:
        with matplotlib.rc_context(_RC):
            return draw()

    _PICTURES[draw.__name__] = styled
    return styled


def pictures() -> dict[str, Callable[[], Figure]]:
    """All pictures: names and the functions that draw them."""
    return dict(_PICTURES)


def _simple(layer: Any, input_shape: Sequence[int], *names: str) -> Connections:
    """The connections of a layer that has its weights in attributes of these names."""
    layer = _built(layer, input_shape)
    return connections(layer, input_shape, {name: getattr(layer, name) for name in names})


def _plain(layer_class: Any, *args: Any, **kwargs: Any) -> Any:
    """A layer in float64 without biases, which make no connections."""
    return layer_class(*args, dtype="float64", use_bias=False, **kwargs)


def _conv() -> Connections:
    return _simple(_plain(tfconv.Conv1D, 2, 3), (6, 2), "kernel")


@_picture
def conv() -> Figure:
    return draw_weights([_conv()])


@_picture
def conv_paddings() -> Figure:
    return _rows(
        {
            f'padding="{padding}"': _plain(tfconv.Conv1D, 1, 3, padding=padding)
            for padding in ("valid", "same", "full", "causal")
        },
        5,
    )


@_picture
def conv_dilation() -> Figure:
    return _rows(
        {
            "dilation_rate=1": _plain(tfconv.Conv1D, 1, 3),
            "dilation_rate=2": _plain(tfconv.Conv1D, 1, 3, dilation_rate=2),
            "dilation_rate=3": _plain(tfconv.Conv1D, 1, 3, dilation_rate=3),
            "strides=2, dilation_rate=2": _plain(tfconv.Conv1D, 1, 3, strides=2, dilation_rate=2),
        },
        9,
    )


def _rows(layers: Mapping[str, Any], size: int) -> Figure:
    """Four layers with one channel, each as two rows of dots: inputs above, outputs below.

    Where an output has fewer taps than the kernel, the missing ones meet the padding, which is
    drawn as hollow squares.
    """
    figure = _figure()
    for place, (caption, layer) in enumerate(layers.items()):
        connected = _simple(layer, (size, 1), "kernel")
        palette = Palette.of(connected.weights)
        (stride,), (dilation,) = layer.strides, layer.dilation_rate
        taps = len(connected.weights)
        output, source = np.argwhere(connected.connected)[0]
        (first,) = connected.makers(output, source)
        before = output * stride + first[1][0] * dilation - source  # padding
        axes = _axes(figure, (0.02 + place % 2 * 0.49, 0.57 - place // 2 * 0.45, 0.47, 0.35))
        outputs = connected.matrix.shape[0]
        chosen = outputs // 2
        padded = {}
        for output in range(outputs):
            for tap in range(taps):
                at = output * stride + tap * dilation - before
                inside = 0 <= at < size
                if inside:
                    (maker,) = connected.makers(output, at)
                    assert maker[1][0] == tap, "the drawing does not follow the layer"
                else:
                    padded[at] = True
                strong = output == chosen
                axes.plot(
                    [at, output * stride - before + (taps - 1) * dilation / 2],
                    [1, 0],
                    color=palette.colours[("kernel", (tap, 0, 0))],
                    lw=2 if strong else 1,
                    alpha=1 if strong else 0.55,
                    ls="-" if inside else (0, (1.5, 1.5)),
                    zorder=2 if strong else 1,
                )
        for at in range(size):
            asked = connected.connected[chosen, at]
            axes.scatter(at, 1, s=34, c=INK if asked else "white", edgecolors=INK, lw=0.8, zorder=3)
        for at in padded:
            axes.scatter(at, 1, s=30, marker="s", c="white", edgecolors="#999999", lw=0.8, zorder=3)
        for output in range(outputs):
            at = output * stride - before + (taps - 1) * dilation / 2
            filled = INK if output == chosen else "white"
            axes.scatter(at, 0, s=34, c=filled, edgecolors=INK, lw=0.8, zorder=3)
        centre = (size - 1) / 2
        half = centre + 4.2
        axes.set_xlim(centre - half, centre + half)
        axes.set_ylim(-0.55, 1.5)
        axes.text(centre - half + 0.1, 1, "input", ha="left", va="center", color=MUTED)
        axes.text(centre - half + 0.1, 0, "output", ha="left", va="center", color=MUTED)
        axes.set_title(caption, fontsize=9, family="DejaVu Sans Mono", pad=0)
        axes.text(
            centre,
            -0.5,
            f"{size} → {outputs}" + (f", {len(padded)} padding" if padded else ""),
            ha="center",
            va="center",
            color=MUTED,
        )
    palette = Palette.of([("kernel", (tap, 0, 0)) for tap in range(3)])
    _legend(figure, palette, list(palette.colours), 0.015)
    return figure


@_picture
def structures() -> Figure:
    """From a dense layer to a pointwise one: what is left of the connections, what is shared."""
    size, channels = 4, 4
    dense = keras.layers.Dense(size * channels, use_bias=False, dtype="float64")
    _built(dense, (size * channels,))

    def flat(x):
        return tf.reshape(dense(tf.reshape(x, [-1, size * channels])), [-1, size, channels])

    def padded(layer, *names):
        return _simple(layer, (size, channels), *(names or ("kernel",)))

    same = {"padding": "same"}
    drawn = {
        "dense": connections(flat, (size, channels), {"kernel": dense.kernel}),
        "locally connected": padded(_plain(tfconv.LocallyConnected1D, channels, 3, **same)),
        "convolution": padded(_plain(tfconv.Conv1D, channels, 3, **same)),
        "in two groups": padded(_plain(tfconv.GroupConv1D, channels, 3, groups=2, **same)),
        "depthwise": padded(_plain(tfconv.DepthwiseConv1D, 3, **same), "depthwise_kernel"),
        "pointwise": padded(_plain(tfconv.PointwiseConv1D, channels)),
    }
    figure = _figure((7.6, 1.95))
    each = 0.98 / len(drawn)
    for place, (caption, connected) in enumerate(drawn.items()):
        hue_of = (lambda weight: weight[1][0] // channels) if place == 0 else None
        palette = Palette.of(connected.weights, hue_of)
        axes = _axes(figure, (0.01 + place * each, 0.13, each, 0.74))
        _matrix(axes, connected, _by_weight(palette), None, label=False)
        middle = 0.01 + (place + 0.5) * each
        figure.text(middle, 0.93, caption, ha="center", va="center", fontsize=9)
        count = len(connected.weights)
        figure.text(middle, 0.07, f"{count} weights", ha="center", va="center", color=MUTED)
    return figure


@_picture
def conv_transpose() -> Figure:
    layer = _plain(tfconv.Conv1DTranspose, 1, 3, strides=2)
    connected = _simple(layer, (4, 1), "kernel")
    forward = _plain(tfconv.Conv1D, 1, 3, strides=2)
    size = connected.output_shape[0]
    _built(forward, (size, 1)).kernel.assign(layer.kernel)
    matrix = connections(forward, (size, 1), {"kernel": forward.kernel})
    assert np.allclose(matrix.matrix.T, connected.matrix)
    captions = ("transposed convolution", "the convolution that it transposes")
    return draw_weights([connected], captions=captions, others=[matrix])


@_picture
def pointwise_conv() -> Figure:
    return draw_weights([_simple(_plain(tfconv.PointwiseConv1D, 3), (4, 3), "kernel")])


@_picture
def depthwise_conv() -> Figure:
    layer = _plain(tfconv.DepthwiseConv1D, 3)
    return draw_weights([_simple(layer, (6, 3), "depthwise_kernel")])


@_picture
def group_conv() -> Figure:
    def of_groups(weight):  # outputs f of group g, tap t: a hue for each tap of each group
        _, (tap, _, f) = weight
        return f // 2, tap

    shape = (4, 4)
    own = _simple(_plain(tfconv.GroupConv1D, 4, 2, groups=2), shape, "kernel")
    shared = _simple(_plain(tfconv.GroupConv1D, 4, 2, groups=2, share_kernel=True), shape, "kernel")
    captions = ("share_kernel=False", "share_kernel=True")
    return draw_weights([own], hue_of=of_groups, captions=captions, others=[shared])


@_picture
def channel_shuffle() -> Figure:
    layer = tfconv.ChannelShuffle(2, dtype="float64")
    connected = connections(layer, (2, 6))
    # No weights: the colours are those of the groups that the inputs are in.
    groups = [("group", (g,)) for g in range(2)]
    palette = Palette.of(groups)

    def paint(connected, output, source):
        return palette.colours[groups[source % 6 // 3]]

    figure = _figure()
    axes = _axes(figure, (0.015, 0.13, 0.385, 0.84))
    _wires(axes, [connected], [paint], 7, ("input", "output"))
    axes = _axes(figure, (0.41, 0.14, 0.58, 0.83))
    _matrix(axes, connected, paint, 7)
    _legend(figure, palette, groups, 0.02)
    _summary(figure, connected, ", no weights")
    return figure


@_picture
def locally_connected() -> Figure:
    layer = _plain(tfconv.LocallyConnected1D, 2, 3)
    return draw_weights([_simple(layer, (6, 2), "kernel")])


@_picture
def weighted_sum() -> Figure:
    layer = tfconv.WeightedSum(dtype="float64")
    shape = (3,)  # of each input

    def summed(x):
        return layer(tf.unstack(x, axis=1))

    summed(tf.zeros([1, 3, *shape], tf.float64))
    layer.kernel.assign([0.4, 0.7, 1.0])
    connected = connections(summed, (3, *shape), {"kernel": layer.kernel})
    return draw_weights([connected], headings=("three inputs", "output"))


@_picture
def split_transform_merge() -> Figure:
    transforms = [
        _plain(tfconv.Conv1D, 2, size, padding="same", name=f"taps_{size}") for size in (1, 3)
    ]
    layer = tfconv.SplitTransformMerge(transforms, dtype="float64")
    _built(layer, (4, 4))
    kernels = {
        f"group {number}: kernel": transform.kernel
        for number, transform in enumerate(layer.transforms)
    }
    return draw_weights([connections(layer, (4, 4), kernels)])


# Layers that are several convolutions, one after the other.


def _chain(
    layer: Any,
    input_shape: Sequence[int],
    stages: Callable[[Any], Sequence[tuple[str, Function, Mapping[str, Any]]]],
    hue_of: Callable[[Weight], Any] | None = by_variable,
) -> Figure:
    """A layer in stages, each a name, a function and its variables.

    The product of the stages' matrices has to be the layer's.
    """
    layer = _built(layer, input_shape)
    made, shape, names, variables = [], tuple(input_shape), ["input"], {}
    for name, function, used in stages(layer):
        made.append(connections(function, shape, used))
        shape = made[-1].output_shape
        names.append(name)
        variables.update(used)
    total = connections(layer, input_shape, variables)
    product = functools.reduce(
        lambda left, stage: stage.matrix @ left, made, np.eye(len(made[0].matrix[0]))
    )
    assert np.allclose(product, total.matrix), "the stages are not the layer"
    return draw_weights(made, total, headings=names, hue_of=hue_of)


def _depthwise(kernel: Any, rank: int, **kwargs: Any) -> Function:
    """Every channel by itself; the kernel is [taps..., channels, multiplier]."""
    shape = tuple(kernel.shape)

    def function(x):
        channels = x.shape[-1]
        flat = tf.reshape(tf.convert_to_tensor(kernel), [*shape[:rank], 1, -1])
        return tfconv.ops.conv(x, flat, groups=channels, **kwargs)

    return function


def _across(kernel: Any) -> Function:
    return lambda x: tfconv.ops.conv(x, tf.convert_to_tensor(kernel))


def _along(kernel: Any, axis: int) -> Function:
    """A filter [taps, channels] along one axis of an image."""

    def function(x):
        values = tf.convert_to_tensor(kernel)
        shape = [1, 1, 1, values.shape[1]]
        shape[axis] = values.shape[0]
        return tfconv.ops.conv(x, tf.reshape(values, shape), groups=values.shape[1])

    return function


@_picture
def separable_conv() -> Figure:
    return _chain(
        _plain(tfconv.SeparableConv1D, 2, 3),
        (6, 2),
        lambda layer: [
            (
                "depthwise",
                _depthwise(layer.depthwise_kernel, 1),
                {"depthwise_kernel": layer.depthwise_kernel},
            ),
            (
                "pointwise",
                _across(layer.pointwise_kernel),
                {"pointwise_kernel": layer.pointwise_kernel},
            ),
        ],
        hue_of=None,
    )


@_picture
def flattened_conv() -> Figure:
    return _chain(
        _plain(tfconv.FlattenedConv2D, 2, 2),
        (3, 3, 2),
        lambda layer: [
            ("channels", _across(layer.channel_kernel), {"channel_kernel": layer.channel_kernel}),
            ("rows", _along(layer.axis_kernel_0, 0), {"axis_kernel_0": layer.axis_kernel_0}),
            ("columns", _along(layer.axis_kernel_1, 1), {"axis_kernel_1": layer.axis_kernel_1}),
        ],
    )


@_picture
def low_rank_conv() -> Figure:
    return _chain(
        _plain(tfconv.LowRankConv2D, 2, 2, kernel_rank=2),
        (3, 3, 2),
        lambda layer: [
            ("channels", _across(layer.input_kernel), {"input_kernel": layer.input_kernel}),
            ("rows", _along(layer.axis_kernel_0, 0), {"axis_kernel_0": layer.axis_kernel_0}),
            ("columns", _along(layer.axis_kernel_1, 1), {"axis_kernel_1": layer.axis_kernel_1}),
            ("filters", _across(layer.output_kernel), {"output_kernel": layer.output_kernel}),
        ],
    )


@_picture
def tucker_conv() -> Figure:
    return _chain(
        _plain(tfconv.TuckerConv1D, 4, 3, ranks=2),
        (5, 3),
        lambda layer: [
            ("fewer", _across(layer.input_kernel), {"input_kernel": layer.input_kernel}),
            ("core", _across(layer.core_kernel), {"core_kernel": layer.core_kernel}),
            ("filters", _across(layer.output_kernel), {"output_kernel": layer.output_kernel}),
        ],
    )


# Layers whose connections depend on the input. What they make of an input is held, so that the
# rest is linear: `held(x)` is a function that gives for x itself what the layer gives.


def _held(
    layer: Any,
    shape: Sequence[int],
    held: Callable[[tf.Tensor], Function],
    caption: Callable[[tf.Tensor], str] = lambda x: "",
    examples: Sequence[np.ndarray] | None = None,
) -> list[tuple[str, Connections]]:
    """Captions and connections for two inputs."""
    made = []
    for letter, x in zip("AB", examples or _examples(shape)):
        x = tf.constant(x)
        function = held(x)
        assert np.allclose(_run(function, x), _run(layer, x)), "held values are not the layer's"
        more = caption(x)
        made.append(
            (f"input {letter}" + (f": {more}" if more else ""), connections(function, shape))
        )
    return made


def _repeated(values: Any, x: tf.Tensor) -> tf.Tensor:
    """One example's values for every example of x."""
    values = tf.convert_to_tensor(values)
    return tf.repeat(values, tf.shape(x)[0], axis=0)


def _routed(layer: Any, shape: Sequence[int]) -> Figure:
    layer = _built(layer, shape, signed=("routing/kernel",), scale=2)

    def held(x):
        routing = layer.routing_weights(x)
        return lambda other: layer(other, routing_weights=_repeated(routing, other))

    def caption(x):
        return weight_sum(layer.routing_weights(x).numpy()[0])

    return draw_values(_held(layer, shape, held, caption))


@_picture
def cond_conv() -> Figure:
    return _routed(_plain(tfconv.CondConv1D, 1, 3, num_experts=3), (6, 1))


@_picture
def depthwise_cond_conv() -> Figure:
    return _routed(_plain(tfconv.DepthwiseCondConv2D, 2, num_experts=3), (3, 3, 2))


@_picture
def cond_dense() -> Figure:
    return _routed(_plain(tfconv.CondDense, 3, num_experts=3), (4,))


@_picture
def dynamic_conv() -> Figure:
    shape = (6, 1)
    layer = _plain(tfconv.DynamicConv1D, 1, 3, num_experts=3, temperature=1)
    _built(layer, shape, signed=("attend/kernel",), scale=3)

    def held(x):
        kernel = layer.mixed_kernels(layer.attention(x))[0]
        return lambda other: tfconv.ops.conv(other, kernel)

    return draw_values(
        _held(layer, shape, held, lambda x: weight_sum(layer.attention(x).numpy()[0]))
    )


@_picture
def gated_conv() -> Figure:
    shape = (6, 1)
    layer = _built(_plain(tfconv.GatedConv1D, 1, 3), shape, signed=("gate_kernel",))

    def held(x):
        gate = tf.sigmoid(tfconv.ops.conv(x, tf.convert_to_tensor(layer.gate_kernel)))
        kernel = tf.convert_to_tensor(layer.kernel)
        return lambda other: tfconv.ops.conv(other, kernel) * gate

    def caption(x):
        gate = tf.sigmoid(tfconv.ops.conv(x, tf.convert_to_tensor(layer.gate_kernel)))
        return "gates " + ", ".join(f"{value:.2f}" for value in np.ravel(gate))

    return draw_values(_held(layer, shape, held, caption))


@_picture
def squeeze_excite() -> Figure:
    shape = (4, 3)
    layer = tfconv.SqueezeExcite(reduction_ratio=1, dtype="float64")
    _built(layer, shape, signed=("excite/kernel",))

    def held(x):
        gates = tf.convert_to_tensor(layer(x)) / x
        return lambda other: other * gates

    def caption(x):
        gates = (layer(x) / x)[0, 0]
        return "channels times " + ", ".join(f"{value:.2f}" for value in gates)

    return draw_values(_held(layer, shape, held, caption))


@_picture
def involution() -> Figure:
    shape = (4, 4)
    layer = tfconv.Involution1D(3, groups=2, reduction_ratio=1, dtype="float64")
    _built(layer, shape, signed=("reduce/kernel",), scale=0.7)

    def held(x):
        kernels = layer.kernels(x)
        return lambda other: tfconv.ops.involution(other, _repeated(kernels, other), 3)

    return draw_values(_held(layer, shape, held))


@_picture
def self_attention() -> Figure:
    shape = (5, 2)
    layer = _plain(tfconv.SelfAttention1D, 1, 2)
    _built(layer, shape, signed=("query", "key"))

    def held(x):
        attention = layer.attention(x)[:, 0]

        def function(other):
            return layer.project(_repeated(attention, other) @ layer.value(other))

        return function

    return draw_values(_held(layer, shape, held))


@_picture
def local_self_attention() -> Figure:
    shape = (4, 4, 1)
    layer = _plain(tfconv.LocalSelfAttention2D, 2, 3, num_heads=1)
    _built(layer, shape, signed=("query", "key", "embedding"))

    def held(x):
        attention = layer.attention(x)
        return lambda other: tfconv.ops.involution(
            tf.convert_to_tensor(layer.value(other)), _repeated(attention, other), 3
        )

    return draw_values(_held(layer, shape, held), left=_window, share=0.5)


def _window(axes: Any, number: int, connected: Connections, paint: Painter) -> None:
    """The image, with the pixels that the chosen output sees in the colours of its row."""
    rows, columns, channels = connected.input_shape
    chosen = _middle(connected)
    for source in range(rows * columns):
        row, column = divmod(source, columns)
        seen = connected.connected[chosen, source * channels]
        colour = paint(connected, chosen, source * channels) if seen else "white"
        axes.add_patch(
            Rectangle(
                (column - 0.5, row - 0.5), 1, 1, facecolor=colour, edgecolor="#8a8a8a", lw=0.7
            )
        )
        axes.text(
            column,
            row,
            f"{row},{column}",
            ha="center",
            va="center",
            fontsize=7,
            color=_ink_on(to_rgb(colour)),
        )
    row, column = np.unravel_index(chosen // connected.output_shape[-1], connected.output_shape[:2])
    if connected.output_shape[:2] == (rows, columns):
        axes.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="none", edgecolor=INK, lw=1.8)
        )
    _image_limits(axes, rows, columns, "input")


def _image_limits(axes: Any, rows: int, columns: int, text: str) -> None:
    axes.set_aspect("equal")
    axes.set_xlim(-1.0, columns)
    axes.set_ylim(rows, -1.2)
    axes.text((columns - 1) / 2, -0.75, text, ha="center", va="center", fontsize=8.5)


@_picture
def deformable_conv() -> Figure:
    shape, size = (4, 4, 1), 2
    layer = _plain(tfconv.DeformableConv2D, 1, size)
    _built(layer, shape)
    rng = np.random.default_rng(9)
    layer.offset_kernel.assign(rng.normal(0, 0.22, layer.offset_kernel.shape))
    examples = [np.abs(x) for x in _examples(shape)]

    def held(x):
        offset, mask = layer.offsets_and_mask(x)
        return lambda other: layer(other, _repeated(offset, other), _repeated(mask, other))

    made = _held(layer, shape, held, examples=examples)

    def sampled(axes, number, connected, paint):
        offset, mask = layer.offsets_and_mask(tf.constant(examples[number]))
        _sampling_points(axes, connected, paint, np.asarray(offset)[0], np.asarray(mask)[0], size)

    return draw_values(made, left=sampled, share=0.5)


@_picture
def deformable_aggregation() -> Figure:
    shape, size = (4, 4, 1), 2
    layer = tfconv.DeformableAggregation2D(
        size,
        padding="valid",
        groups=1,
        depthwise_kernel_size=None,
        normalize_features=False,
        project_inputs=False,
        project_outputs=False,
        dtype="float64",
    )
    _built(layer, shape)
    rng = np.random.default_rng(3)
    for part, scale in ((layer.offset_projection, 0.5), (layer.weight_projection, 1.0)):
        part.kernel.assign(rng.normal(0, scale, part.kernel.shape))
    examples = [np.abs(x) for x in _examples(shape)]

    def held(x):
        offset, weights = layer.offsets_and_weights(x)
        return lambda other: tfconv.ops.deformable_aggregation(
            other, _repeated(offset, other), _repeated(weights, other), size, padding="valid"
        )

    made = _held(layer, shape, held, examples=examples)

    def sampled(axes, number, connected, paint):
        offset, weights = layer.offsets_and_weights(tf.constant(examples[number]))
        weights = np.asarray(weights)[0] * size * size
        _sampling_points(axes, connected, paint, np.asarray(offset)[0], weights, size)

    return draw_values(made, left=sampled, share=0.5)


def _sampling_points(
    axes: Any,
    connected: Connections,
    paint: Painter,
    offset: np.ndarray,
    mask: np.ndarray,
    size: int,
) -> None:
    """The image, the taps' places in a plain convolution, and where the chosen output samples."""
    _window(axes, 0, connected, paint)
    for text in list(axes.texts):
        text.remove()
    row, column = divmod(_middle(connected), connected.output_shape[1])
    moved = offset[row, column].reshape(size * size, 2)
    for tap in range(size * size):
        y, x = row + tap // size, column + tap % size
        dy, dx = moved[tap]
        axes.annotate(
            "",
            (x + dx, y + dy),
            (x, y),
            arrowprops={"arrowstyle": "-", "color": HUES[4], "lw": 1.4, "shrinkA": 0, "shrinkB": 0},
            zorder=5,
        )
        axes.scatter(x, y, s=24, facecolors="white", edgecolors=HUES[4], lw=1.2, zorder=4)
        axes.scatter(
            x + dx,
            y + dy,
            s=60 * mask[row, column, tap],
            c=HUES[4],
            edgecolors="white",
            lw=0.6,
            zorder=6,
        )
    rows, columns, _ = connected.input_shape
    _image_limits(axes, rows, columns, "input")
    axes.text(
        (columns - 1) / 2,
        rows - 0.15,
        "○ tap   ● sample, larger with its weight",
        ha="center",
        va="center",
        fontsize=7,
        color=HUES[4],
    )


def draw(folder: Path, names: Sequence[str] | None = None, suffix: str = "svg") -> list[Path]:
    """Draws pictures, all unless named, into a folder and returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in names or _PICTURES:
        path = folder / f"{name}.{suffix}"
        metadata = {"Date": None} if suffix == "svg" else None
        figure = _PICTURES[name]()
        with matplotlib.rc_context(_RC):
            figure.savefig(path, metadata=metadata, dpi=100, facecolor=PAPER)
        paths.append(path)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws what each family of layers connects.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="pictures to draw; all by default")
    parser.add_argument("--suffix", default="svg", choices=("svg", "png"))
    arguments = parser.parse_args()
    paths = draw(arguments.folder, arguments.names, arguments.suffix)
    print(f"{len(paths)} pictures in {arguments.folder}")


if __name__ == "__main__":
    main()
