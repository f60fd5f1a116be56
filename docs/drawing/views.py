"""What two outputs of a layer look at: the picture that the README opens with."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import tfconv

from .connections import built, connections, plain, two_inputs
from .dependent import repeated
from .layouts import picture
from .panels import new_axes, new_figure
from .style import HUES, INK, MUTED, value_colour

ROWS, COLUMNS = 5, 9
PLACES = ((2, 2), (2, 6))  # of the outputs
SHAPE = (ROWS, COLUMNS, 1)


@picture
def views() -> Figure:
    figure = new_figure((7.6, 3.35))
    rng = np.random.default_rng(4)
    image = rng.uniform(0.2, 1, [1, *SHAPE])
    for value, place in zip((-1.0, 1.0), PLACES):  # two places that differ
        image[(0, *place)] = value
    image = tf.constant(image)
    drawn = (
        ("Conv2D", "one kernel, everywhere", _convolved(1)),
        ("Conv2D, dilation_rate=2", "the same, further apart", _convolved(2)),
        ("CondConv2D", "a kernel for each input", _conditional()),
        ("DeformableConv2D", "taps move with the input", None),
        ("Involution2D", "a kernel for each place", _involution(image)),
        ("LocalSelfAttention2D", "neighbours by how they match", _attention(image)),
    )
    for number, (name, text, weights) in enumerate(drawn):
        left, bottom = 0.01 + number % 3 * 0.332, 0.51 - number // 3 * 0.49
        axes = new_axes(figure, (left, bottom, 0.316, 0.36))
        _pixels(axes, weights, apart=name == "CondConv2D")
        if weights is None:
            _samples(axes, image)
        middle = left + 0.158
        figure.text(
            middle, bottom + 0.445, name, ha="center", va="center", family="DejaVu Sans Mono"
        )
        figure.text(middle, bottom + 0.39, text, ha="center", va="center", color=MUTED)
    return figure


def _weights(function: Any) -> np.ndarray:
    """[places, rows, columns]: what the outputs take of each pixel."""
    matrix = connections(function, SHAPE).matrix
    rows = [matrix[row * COLUMNS + column] for row, column in PLACES]
    return np.reshape(rows, [-1, ROWS, COLUMNS])


def _convolved(dilation: int) -> np.ndarray:
    layer = plain(tfconv.Conv2D, 1, 3, padding="same", dilation_rate=dilation)
    return _weights(built(layer, SHAPE))


def _conditional() -> np.ndarray:
    """The first output for one input, the second for another."""
    layer = plain(tfconv.CondConv2D, 1, 3, padding="same", num_experts=3)
    built(layer, SHAPE, signed=("routing/kernel",), scale=2)
    kept = []
    for number, x in enumerate(two_inputs(SHAPE)):
        routing = layer.routing_weights(tf.constant(x))
        held = lambda other, r=routing: layer(other, routing_weights=repeated(r, other))  # noqa: E731
        kept.append(_weights(held)[number])
    return np.stack(kept)


def _involution(image: tf.Tensor) -> np.ndarray:
    layer = tfconv.Involution2D(3, groups=1, reduction_ratio=1, dtype="float64")
    built(layer, SHAPE, signed=("span",), scale=0.5)
    kernels = layer.kernels(image)
    return _weights(lambda other: tfconv.ops.involution(other, repeated(kernels, other), 3))


def _attention(image: tf.Tensor) -> np.ndarray:
    layer = plain(tfconv.LocalSelfAttention2D, 2, 3, num_heads=1)
    built(layer, SHAPE, signed=("query", "key", "embedding"))
    attention = layer.attention(image)
    return _weights(lambda other: tfconv.ops.involution(other, repeated(attention, other), 3))


def _pixels(axes: Any, weights: np.ndarray | None, apart: bool) -> None:
    """The image; what each output sees of it in the colours of the weights."""
    for row, column in np.ndindex(ROWS, COLUMNS):
        if apart and column == COLUMNS // 2:
            continue  # two images side by side
        colour = "white"
        for seen in () if weights is None else weights:
            if seen[row, column] != 0:
                low, high = weights[weights != 0].min(), weights.max()
                colour = value_colour(seen[row, column], low, high)
        style = {"facecolor": colour, "edgecolor": "#b5b5b0", "lw": 0.6}
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **style))
    for row, column in PLACES:
        frame = {"facecolor": "none", "edgecolor": INK, "lw": 1.6, "zorder": 3}
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **frame))
    axes.set_aspect("equal")
    axes.set_xlim(-0.8, COLUMNS - 0.2)
    axes.set_ylim(ROWS - 0.4, -0.6)


def _samples(axes: Any, image: tf.Tensor) -> None:
    """Where the two outputs of a deformable convolution look."""
    layer = plain(tfconv.DeformableConv2D, 1, 3, padding="same")
    built(layer, SHAPE)
    rng = np.random.default_rng(2)
    layer.offset_kernel.assign(rng.normal(0, 0.2, layer.offset_kernel.shape))
    offset, mask = layer.offsets_and_mask(image)
    for row, column in PLACES:
        moved = np.asarray(offset)[0, row, column].reshape(9, 2)
        for tap, (dy, dx) in enumerate(moved):
            y, x = row + tap // 3 - 1, column + tap % 3 - 1
            axes.plot([x, x + dx], [y, y + dy], color=HUES[4], lw=1.1, zorder=4)
            axes.scatter(x, y, s=9, facecolors="white", edgecolors=HUES[4], lw=0.9, zorder=5)
            size = 42 * np.asarray(mask)[0, row, column, tap]
            axes.scatter(x + dx, y + dy, s=size, c=HUES[4], edgecolors="white", lw=0.5, zorder=6)
