"""Layers that look at places of an image: windows, and samples between pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import tfconv

from .connections import Connections, built, plain, two_inputs
from .dependent import held_values, repeated
from .layouts import draw_values, picture
from .panels import middle, new_axes, new_figure
from .style import HUES, INK, TICKS, Painter, ink_on


@picture
def local_self_attention() -> Figure:
    shape = (4, 4, 1)
    layer = plain(tfconv.LocalSelfAttention2D, 2, 3, num_heads=1)
    built(layer, shape, signed=("query", "key", "embedding"))

    def held(x):
        attention = layer.attention(x)
        return lambda other: tfconv.ops.involution(
            tf.convert_to_tensor(layer.value(other)), repeated(attention, other), 3
        )

    return draw_values(held_values(layer, shape, held), left=draw_window, share=0.5)


def draw_window(axes: Any, number: int, connected: Connections, paint: Painter) -> None:
    """The image, with the pixels that the chosen output sees in the colours of its row."""
    rows, columns, channels = connected.input_shape
    chosen = middle(connected)
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
            color=ink_on(to_rgb(colour)),
        )
    row, column = np.unravel_index(chosen // connected.output_shape[-1], connected.output_shape[:2])
    if connected.output_shape[:2] == (rows, columns):
        axes.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="none", edgecolor=INK, lw=1.8)
        )
    image_limits(axes, rows, columns, "input")


def image_limits(axes: Any, rows: int, columns: int, text: str) -> None:
    axes.set_aspect("equal")
    axes.set_xlim(-1.0, columns)
    axes.set_ylim(rows, -1.2)
    axes.text((columns - 1) / 2, -0.75, text, ha="center", va="center", fontsize=8.5)


@picture
def deformable_conv() -> Figure:
    shape, size = (4, 4, 1), 2
    layer = plain(tfconv.DeformableConv2D, 1, size)
    built(layer, shape)
    rng = np.random.default_rng(9)
    layer.offset_kernel.assign(rng.normal(0, 0.22, layer.offset_kernel.shape))
    examples = [np.abs(x) for x in two_inputs(shape)]

    def held(x):
        offset, mask = layer.offsets_and_mask(x)
        return lambda other: layer(other, repeated(offset, other), repeated(mask, other))

    made = held_values(layer, shape, held, examples=examples)

    def sampled(axes, number, connected, paint):
        offset, mask = layer.offsets_and_mask(tf.constant(examples[number]))
        _sampling_points(axes, connected, paint, np.asarray(offset)[0], np.asarray(mask)[0], size)

    return draw_values(made, left=sampled, share=0.5)


@picture
def deformable_volume() -> Figure:
    """Like ``deformable_conv``, in a volume that is seen from the side; without the matrix."""
    shape, size = (3, 3, 3, 1), 2
    layer = plain(tfconv.DeformableConv3D, 1, size)
    built(layer, shape)
    rng = np.random.default_rng(5)
    layer.offset_kernel.assign(rng.normal(0, 0.1, layer.offset_kernel.shape))
    figure = new_figure((7.6, 2.7))
    for number, x in enumerate(two_inputs(shape)):
        offset, mask = layer.offsets_and_mask(tf.constant(x - np.mean(x)))
        at = (0, 1, 0)  # of the output
        taps = np.array(list(np.ndindex(size, size, size))) + at
        moved = np.asarray(offset)[0][at].reshape(-1, 3)
        axes = new_axes(figure, (0.01 + 0.495 * number, 0.1, 0.485, 0.82))
        _volume(axes, shape[:3], taps, taps + moved, np.asarray(mask)[0][at])
        caption = f"input {'AB'[number]}"
        figure.text(0.2525 + 0.495 * number, 0.955, caption, ha="center", va="center", fontsize=9)
    text = "○ tap   ● sample, larger with its weight"
    figure.text(0.5, 0.05, text, ha="center", va="center", color=HUES[4])
    return figure


def _volume(
    axes: Any, sizes: tuple[int, ...], taps: np.ndarray, samples: np.ndarray, weights: np.ndarray
) -> None:
    """Slices of a volume behind each other; taps, samples, and lines between them."""

    def seen(places: Any) -> np.ndarray:
        depth, row, column = np.moveaxis(np.asarray(places, float), -1, 0)
        return np.stack([column + 2.1 * depth + 0.25 * row, row - 0.3 * depth], -1)

    deep, rows, columns = sizes
    for depth in reversed(range(deep)):
        corners = [(depth, r, c) for r, c in ((0, 0), (0, 1), (1, 1), (1, 0), (0, 0))]
        border = seen([(d, (rows - 1) * r, (columns - 1) * c) for d, r, c in corners])
        axes.fill(*border.T, facecolor="#ececea", edgecolor="#8a8a8a", alpha=0.55, lw=0.7, zorder=1)
        pixels = seen([(depth, *place) for place in np.ndindex(rows, columns)])
        axes.scatter(*pixels.T, s=5, c="#8a8a8a", zorder=2)
    axes.scatter(*seen(taps).T, s=22, facecolors="white", edgecolors=HUES[4], lw=1.1, zorder=3)
    for tap, sample in zip(seen(taps), seen(samples)):
        axes.plot(*np.stack([tap, sample], -1), color=HUES[4], lw=1.2, zorder=4)
    axes.scatter(*seen(samples).T, s=60 * weights, c=HUES[4], edgecolors="white", lw=0.6, zorder=5)
    axes.set_aspect("equal")
    axes.set_xlim(-0.6, columns + 2.1 * (deep - 1) + 0.3)
    axes.set_ylim(rows + 0.25, -0.3 * (deep - 1) - 0.7)
    for depth in range(deep):
        x, y = seen((depth, 0, (columns - 1) / 2))
        axes.text(x, y - 0.3, f"slice {depth}", ha="center", va="center", **TICKS)


@picture
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
    built(layer, shape)
    rng = np.random.default_rng(3)
    for part, scale in ((layer.offset_projection, 0.5), (layer.weight_projection, 1.0)):
        part.kernel.assign(rng.normal(0, scale, part.kernel.shape))
    examples = [np.abs(x) for x in two_inputs(shape)]

    def held(x):
        offset, weights = layer.offsets_and_weights(x)
        return lambda other: tfconv.ops.deformable_aggregation(
            other, repeated(offset, other), repeated(weights, other), size, padding="valid"
        )

    made = held_values(layer, shape, held, examples=examples)

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
    draw_window(axes, 0, connected, paint)
    for text in list(axes.texts):
        text.remove()
    row, column = divmod(middle(connected), connected.output_shape[1])
    moved = offset[row, column].reshape(size * size, 2)
    for tap in range(size * size):
        y, x = row + tap // size, column + tap % size
        dy, dx = moved[tap]
        axes.plot([x, x + dx], [y, y + dy], color=HUES[4], lw=1.4, zorder=5)
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
    image_limits(axes, rows, columns, "input")
    axes.text(
        (columns - 1) / 2,
        rows - 0.15,
        "○ tap   ● sample, larger with its weight",
        ha="center",
        va="center",
        fontsize=7,
        color=HUES[4],
    )
