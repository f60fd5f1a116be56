"""Layers whose connections are made by their weights: what is shared, and what is left out."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

import tfconv
from tfconv._compat import keras

from .connections import Connections, built, connections, plain, simple
from .layouts import draw_weights, matrix_tile, picture
from .panels import draw_legend, draw_matrix, draw_summary, draw_wires, new_axes, new_figure
from .style import INK, MUTED, Palette, by_weight


def _conv() -> Connections:
    return simple(plain(tfconv.Conv1D, 2, 3), (6, 2), "kernel")


@picture
def conv() -> Figure:
    return draw_weights([_conv()])


@picture
def conv_paddings() -> Figure:
    return _rows(
        {
            f'padding="{padding}"': plain(tfconv.Conv1D, 1, 3, padding=padding)
            for padding in ("valid", "same", "full", "causal")
        },
        5,
    )


@picture
def conv_dilation() -> Figure:
    return _rows(
        {
            "dilation_rate=1": plain(tfconv.Conv1D, 1, 3),
            "dilation_rate=2": plain(tfconv.Conv1D, 1, 3, dilation_rate=2),
            "dilation_rate=3": plain(tfconv.Conv1D, 1, 3, dilation_rate=3),
            "strides=2, dilation_rate=2": plain(tfconv.Conv1D, 1, 3, strides=2, dilation_rate=2),
        },
        9,
    )


def _rows(layers: Mapping[str, Any], size: int) -> Figure:
    """Four layers with one channel, each as two rows of dots: inputs above, outputs below.

    Where an output has fewer taps than the kernel, the missing ones meet the padding, which is
    drawn as hollow squares.
    """
    figure = new_figure()
    for place, (caption, layer) in enumerate(layers.items()):
        connected = simple(layer, (size, 1), "kernel")
        palette = Palette.of(connected.weights)
        (stride,), (dilation,) = layer.strides, layer.dilation_rate
        taps = len(connected.weights)
        output, source = np.argwhere(connected.connected)[0]
        (first,) = connected.makers(output, source)
        before = output * stride + first[1][0] * dilation - source  # padding
        axes = new_axes(figure, (0.02 + place % 2 * 0.49, 0.57 - place // 2 * 0.45, 0.47, 0.35))
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
    draw_legend(figure, palette, list(palette.colours), 0.015)
    return figure


@picture
def structures() -> Figure:
    """From a dense layer to a pointwise one: what is left of the connections, what is shared."""
    size, channels = 4, 4
    dense = keras.layers.Dense(size * channels, use_bias=False, dtype="float64")
    built(dense, (size * channels,))

    def flat(x):
        return tf.reshape(dense(tf.reshape(x, [-1, size * channels])), [-1, size, channels])

    def padded(layer, *names):
        return simple(layer, (size, channels), *(names or ("kernel",)))

    same = {"padding": "same"}
    drawn = {
        "dense": connections(flat, (size, channels), {"kernel": dense.kernel}),
        "locally connected": padded(plain(tfconv.LocallyConnected1D, channels, 3, **same)),
        "convolution": padded(plain(tfconv.Conv1D, channels, 3, **same)),
        "in two groups": padded(plain(tfconv.GroupConv1D, channels, 3, groups=2, **same)),
        "depthwise": padded(plain(tfconv.DepthwiseConv1D, 3, **same), "depthwise_kernel"),
        "pointwise": padded(plain(tfconv.PointwiseConv1D, channels)),
    }
    figure = new_figure((7.6, 1.95))
    each = 0.98 / len(drawn)
    for place, (caption, connected) in enumerate(drawn.items()):
        hue_of = (lambda weight: weight[1][0] // channels) if place == 0 else None
        palette = Palette.of(connected.weights, hue_of)
        axes = new_axes(figure, (0.01 + place * each, 0.13, each, 0.74))
        draw_matrix(axes, connected, by_weight(palette), None, label=False)
        middle = 0.01 + (place + 0.5) * each
        figure.text(middle, 0.93, caption, ha="center", va="center", fontsize=9)
        count = len(connected.weights)
        figure.text(middle, 0.07, f"{count} weights", ha="center", va="center", color=MUTED)
    return figure


@picture
def conv_transpose() -> Figure:
    layer = plain(tfconv.Conv1DTranspose, 1, 3, strides=2)
    connected = simple(layer, (4, 1), "kernel")
    forward = plain(tfconv.Conv1D, 1, 3, strides=2)
    size = connected.output_shape[0]
    built(forward, (size, 1)).kernel.assign(layer.kernel)
    matrix = connections(forward, (size, 1), {"kernel": forward.kernel})
    assert np.allclose(matrix.matrix.T, connected.matrix)
    captions = ("transposed convolution", "the convolution that it transposes")
    return draw_weights([connected], captions=captions, others=[matrix])


@picture
def pointwise_conv() -> Figure:
    return draw_weights([simple(plain(tfconv.PointwiseConv1D, 3), (4, 3), "kernel")])


@picture
def depthwise_conv() -> Figure:
    layer = plain(tfconv.DepthwiseConv1D, 3)
    return draw_weights([simple(layer, (6, 3), "depthwise_kernel")])


@picture
def group_conv() -> Figure:
    def of_groups(weight):  # outputs f of group g, tap t: a hue for each tap of each group
        _, (tap, _, f) = weight
        return f // 2, tap

    shape = (4, 4)
    own = simple(plain(tfconv.GroupConv1D, 4, 2, groups=2), shape, "kernel")
    shared = simple(plain(tfconv.GroupConv1D, 4, 2, groups=2, share_kernel=True), shape, "kernel")
    captions = ("share_kernel=False", "share_kernel=True")
    return draw_weights([own], hue_of=of_groups, captions=captions, others=[shared])


@picture
def channel_shuffle() -> Figure:
    layer = tfconv.ChannelShuffle(2, dtype="float64")
    connected = connections(layer, (2, 6))
    # No weights: the colours are those of the groups that the inputs are in.
    groups = [("group", (g,)) for g in range(2)]
    palette = Palette.of(groups)

    def paint(connected, output, source):
        return palette.colours[groups[source % 6 // 3]]

    figure = new_figure()
    axes = new_axes(figure, (0.015, 0.13, 0.385, 0.84))
    draw_wires(axes, [connected], [paint], 7, ("input", "output"))
    axes = new_axes(figure, (0.41, 0.14, 0.58, 0.83))
    draw_matrix(axes, connected, paint, 7)
    draw_legend(figure, palette, groups, 0.02)
    draw_summary(figure, connected, ", no weights")
    figure.tile = functools.partial(matrix_tile, connected=connected, paint=paint)
    return figure


@picture
def locally_connected() -> Figure:
    layer = plain(tfconv.LocallyConnected1D, 2, 3)
    return draw_weights([simple(layer, (6, 2), "kernel")])


@picture
def weighted_sum() -> Figure:
    layer = tfconv.WeightedSum(dtype="float64")
    shape = (3,)  # of each input

    def summed(x):
        return layer(tf.unstack(x, axis=1))

    summed(tf.zeros([1, 3, *shape], tf.float64))
    layer.kernel.assign([0.4, 0.7, 1.0])
    connected = connections(summed, (3, *shape), {"kernel": layer.kernel})
    return draw_weights([connected], headings=("three inputs", "output"))


@picture
def split_transform_merge() -> Figure:
    transforms = [
        plain(tfconv.Conv1D, 2, size, padding="same", name=f"taps_{size}") for size in (1, 3)
    ]
    layer = tfconv.SplitTransformMerge(transforms, dtype="float64")
    built(layer, (4, 4))
    kernels = {
        f"group {number}: kernel": transform.kernel
        for number, transform in enumerate(layer.transforms)
    }
    return draw_weights([connections(layer, (4, 4), kernels)])
