"""Layers to try the formulas of docs/layers.md on."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
from collections.abc import Callable
from typing import Any

import tensorflow as tf

import tfconv
from tests.docs.page import SYMBOLS, Section, families, names_in


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer in one configuration.

    Attributes:
        layer: Makes the layer.
        shape: Shape of its input, channels last.
        inputs: How many inputs it takes, as a list; 0 for one that is no list.
        by_definition: Whether products are counted by doing what the definition says. Needed
            where TensorFlow's operations do other work: zeros between pixels, outputs dropped,
            pixels added so that a dilation divides their number.
    """

    layer: Callable[[], Any]
    shape: tuple[int, ...]
    inputs: int = 0
    by_definition: bool = False


ROWS: dict[str, list[Row]] = {
    "LocallyConnected": [
        Row(lambda: tfconv.LocallyConnected1D(6, 3, groups=2, use_bias=False), (2, 9, 4)),
        Row(lambda: tfconv.LocallyConnected2D(3, (3, 2), (2, 1), "same"), (1, 5, 6, 2)),
    ],
    "Conv": [
        Row(lambda: tfconv.Conv2D(6, 3, 2, "same", groups=2, use_bias=False), (2, 7, 6, 4)),
        Row(lambda: tfconv.Conv3D(4, (3, 2, 1), padding="full"), (1, 4, 4, 5, 2)),
        Row(lambda: tfconv.Conv2D(6, 3, 2, "same", dilation_rate=2, groups=3), (1, 9, 8, 6)),
        Row(
            lambda: tfconv.Conv1D(4, 3, padding="causal", dilation_rate=2),
            (1, 7, 2),
            by_definition=True,
        ),
        Row(lambda: tfconv.Conv2D(5, 3, padding=[(1, 0), (2, 2)], dilation_rate=2), (1, 9, 8, 2)),
    ],
    "GroupConv": [
        Row(lambda: tfconv.GroupConv1D(6, 3, groups=2, use_bias=False), (2, 9, 4)),
        Row(lambda: tfconv.GroupConv2D(6, 3, groups=3, share_kernel=True), (1, 6, 5, 6)),
        Row(
            lambda: tfconv.GroupConv3D(4, 2, strides=2, groups=2, share_kernel=True),
            (1, 4, 4, 5, 4),
        ),
        Row(lambda: tfconv.GroupConv1D(80, 3, groups=40), (1, 9, 80)),
    ],
    "ChannelShuffle": [
        Row(lambda: tfconv.ChannelShuffle(3, inverse=True), (2, 5, 4, 6)),
        Row(lambda: tfconv.ChannelShuffle(2), (2, 8)),
    ],
    "SplitTransformMerge": [
        Row(
            lambda: tfconv.SplitTransformMerge(
                tfconv.SeparableConv2D(5, 3), groups=2, merge="weighted_sum"
            ),
            (2, 6, 6, 4),
        ),
        Row(
            lambda: tfconv.SplitTransformMerge(
                [tfconv.Conv1D(3, 3), tfconv.FlattenedConv1D(2, 3), tfconv.GatedConv1D(4, 3)]
            ),
            (1, 9, 6),
        ),
        Row(lambda: tfconv.SplitTransformMerge(tfconv.Conv1D(3, 2), 2, "mean"), (1, 9, 6)),
    ],
    "DepthwiseConv": [
        Row(lambda: tfconv.DepthwiseConv1D(3, 2, depth_multiplier=3, use_bias=False), (2, 9, 4)),
        Row(lambda: tfconv.DepthwiseConv3D((3, 2, 2), padding="same"), (1, 4, 5, 5, 3)),
        Row(lambda: tfconv.DepthwiseConv2D(3, (2, 1)), (1, 7, 6, 2), by_definition=True),
        Row(
            lambda: tfconv.DepthwiseConv2D(3, 2, "same", 2, dilation_rate=2),
            (1, 7, 6, 2),
            by_definition=True,
        ),
    ],
    "PointwiseConv": [
        Row(lambda: tfconv.PointwiseConv1D(6, strides=2, groups=2, use_bias=False), (2, 9, 4)),
        Row(lambda: tfconv.PointwiseConv3D(5, padding=1), (1, 3, 4, 5, 3)),
    ],
    "SeparableConv": [
        Row(lambda: tfconv.SeparableConv1D(5, 3, 2, depth_multiplier=2), (2, 9, 4)),
        Row(lambda: tfconv.SeparableConv3D(5, 2, padding="same", use_bias=False), (1, 4, 4, 5, 3)),
        Row(lambda: tfconv.SeparableConv2D(5, 3, (1, 2)), (1, 7, 6, 2), by_definition=True),
    ],
    "TuckerConv": [
        Row(lambda: tfconv.TuckerConv1D(6, 3, ranks=(2, 4), groups=2, use_bias=False), (2, 9, 4)),
        Row(
            lambda: tfconv.TuckerConv2D(6, (3, 2), strides=2, padding="same", ranks=3), (1, 7, 6, 4)
        ),
        Row(lambda: tfconv.TuckerConv3D(4, 2, padding=1, ranks=(2, 3)), (1, 4, 4, 5, 2)),
    ],
    "LowRankConv": [
        Row(lambda: tfconv.LowRankConv1D(6, 3, groups=2, kernel_rank=4, use_bias=False), (2, 9, 4)),
        Row(lambda: tfconv.LowRankConv2D(5, (3, 5), kernel_rank=3), (1, 7, 9, 4)),
        Row(
            lambda: tfconv.LowRankConv2D(
                6, (3, 2), strides=(2, 1), padding="full", groups=3, kernel_rank=6
            ),
            (1, 7, 6, 3),
            by_definition=True,
        ),
    ],
    "FlattenedConv": [
        Row(lambda: tfconv.FlattenedConv1D(6, 3, strides=2, groups=2, use_bias=False), (2, 9, 4)),
        Row(lambda: tfconv.FlattenedConv3D(4, (3, 2, 1)), (1, 5, 4, 3, 2)),
        Row(
            lambda: tfconv.FlattenedConv2D(
                4, (3, 2), strides=2, padding="same", groups=2, dilation_rate=2
            ),
            (1, 7, 6, 4),
            by_definition=True,
        ),
    ],
    "ConvTranspose": [
        Row(lambda: tfconv.Conv1DTranspose(6, 3, 2, groups=2, use_bias=False), (2, 5, 4)),
        Row(lambda: tfconv.Conv3DTranspose(3, (3, 2, 2), 2, padding=1), (1, 3, 3, 4, 2)),
        Row(
            lambda: tfconv.Conv2DTranspose(4, 3, padding=1, groups=2),
            (1, 4, 5, 2),
            by_definition=True,
        ),
        Row(
            lambda: tfconv.Conv2DTranspose(2, (3, 2), (2, 3), dilation_rate=2),
            (1, 4, 3, 3),
            by_definition=True,
        ),
    ],
    "GatedConv": [
        Row(
            lambda: tfconv.GatedConv2D(6, 3, strides=2, padding="same", groups=2, gate="feature"),
            (2, 7, 6, 4),
        ),
        Row(lambda: tfconv.GatedConv3D(4, (3, 2, 1), use_bias=False), (1, 4, 4, 5, 2)),
    ],
    "DeformableConv": [
        Row(
            lambda: tfconv.DeformableConv2D(
                6, (3, 2), strides=2, groups=2, offset_groups=4, use_bias=False
            ),
            (2, 7, 6, 4),
        ),
        Row(lambda: tfconv.DeformableConv2D(5, 3, dilation_rate=2, modulated=False), (1, 8, 8, 3)),
        Row(lambda: tfconv.DeformableConv1D(4, 3, groups=2, offset_groups=2), (2, 9, 4)),
        Row(lambda: tfconv.DeformableConv3D(3, (3, 2, 1)), (1, 4, 4, 5, 2)),
    ],
    "DeformableAggregation": [
        Row(
            lambda: tfconv.DeformableAggregation1D(
                5, strides=2, groups=3, depthwise_kernel_size=2, use_bias=False
            ),
            (2, 9, 6),
        ),
        Row(
            lambda: tfconv.DeformableAggregation3D((3, 2, 1), group_channels=2, padding="valid"),
            (1, 4, 4, 5, 4),
        ),
        Row(lambda: tfconv.DeformableAggregation2D((3, 5), groups=1), (1, 6, 7, 3)),
    ],
    "SqueezeExcite": [
        Row(lambda: tfconv.SqueezeExcite(squeeze_channels=3, use_bias=False), (2, 5, 8)),
        Row(lambda: tfconv.SqueezeExcite(reduction_ratio=4), (1, 4, 3, 2, 9)),
    ],
    "WeightedSum": [
        Row(lambda: tfconv.WeightedSum(), (2, 5, 4), inputs=2),
        Row(lambda: tfconv.WeightedSum("softmax"), (2, 5, 4, 3, 3), inputs=4),
    ],
    "CondConv": [
        Row(
            lambda: tfconv.CondConv1D(6, 3, groups=2, num_experts=3, use_bias=False),
            (2, 9, 4),
        ),
        Row(lambda: tfconv.CondConv2D(6, 3, groups=2, num_experts=8), (2, 3, 3, 4)),
        Row(
            lambda: tfconv.CondConv3D(4, (3, 2, 1), strides=2, padding="same", num_experts=2),
            (1, 5, 4, 3, 2),
        ),
        Row(lambda: tfconv.CondConv2D(4, (1, 2), num_experts=5), (1, 1, 2, 2)),
    ],
    "DepthwiseCondConv": [
        Row(
            lambda: tfconv.DepthwiseCondConv2D(
                (3, 2), strides=2, padding="same", depth_multiplier=2, num_experts=3, use_bias=False
            ),
            (2, 7, 6, 4),
        ),
        Row(lambda: tfconv.DepthwiseCondConv2D(3, depth_multiplier=3), (2, 3, 3, 2)),
    ],
    "CondDense": [
        Row(lambda: tfconv.CondDense(5, num_experts=3, use_bias=False), (2, 6, 4)),
        Row(lambda: tfconv.CondDense(3, num_experts=2), (2, 3, 2, 7)),
    ],
    "DynamicConv": [
        Row(
            lambda: tfconv.DynamicConv1D(6, 3, groups=2, num_experts=3, use_bias=False),
            (2, 9, 4),
        ),
        Row(lambda: tfconv.DynamicConv2D(6, 3, groups=2, num_experts=8), (2, 3, 3, 4)),
        Row(
            lambda: tfconv.DynamicConv3D(4, (3, 2, 1), strides=2, padding="same", num_experts=2),
            (1, 5, 4, 3, 2),
        ),
    ],
    "Involution": [
        Row(lambda: tfconv.Involution1D(3, strides=2, groups=3, reduction_ratio=2), (2, 9, 6)),
        Row(lambda: tfconv.Involution3D((3, 2, 1), group_channels=2), (1, 4, 4, 5, 4)),
        Row(lambda: tfconv.Involution2D((3, 5), padding="valid", groups=1), (1, 6, 7, 3)),
    ],
    "LocalSelfAttention": [
        Row(
            lambda: tfconv.LocalSelfAttention2D(6, (3, 5), num_heads=2, use_bias=True), (2, 5, 6, 4)
        ),
        Row(lambda: tfconv.LocalSelfAttention2D(10, 3, num_heads=2, dilation_rate=2), (1, 5, 5, 3)),
        Row(lambda: tfconv.LocalSelfAttention1D(6, 5, num_heads=3, strides=2), (1, 9, 4)),
        Row(
            lambda: tfconv.LocalSelfAttention3D(8, (3, 2, 1), num_heads=2, edges="shifted"),
            (1, 4, 3, 5, 3),
        ),
    ],
    "SelfAttention": [
        Row(
            lambda: tfconv.SelfAttention1D(
                num_heads=2, key_dim=3, value_dim=5, filters=7, use_bias=False
            ),
            (2, 9, 4),
        ),
        Row(
            lambda: tfconv.SelfAttention3D(num_heads=3, key_dim=4, value_dim=2, filters=6),
            (1, 2, 3, 2, 5),
        ),
    ],
}


def example(section: Section) -> tuple[dict[str, Any], str]:
    """Runs a section's example; the names that it defines and what it prints."""
    names: dict[str, Any] = {}
    above = section.text[: section.text.index(section.example)].count("\n")
    padded = "\n" * (section.line + above) + section.example
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(padded, "docs/layers.md", "exec"), names)
    return names, printed.getvalue()


@functools.cache
def configurations(name: str) -> list[tuple[Row | None, Any, Any, Any]]:
    """(row, layer, x, y) for the example of a family and its rows."""
    names, _ = example(families()[name])
    found = [(None, names["layer"], names["x"], names["y"])]
    for row in ROWS[name]:
        layer = row.layer()
        tensors = [tf.random.normal(row.shape) for _ in range(max(row.inputs, 1))]
        x = tensors if row.inputs else tensors[0]
        found.append((row, layer, x, layer(x)))
    return found


def values(formula: str, layer: Any, x: Any, y: Any) -> dict[str, Any]:
    """The symbols of a formula, bound."""
    x = x[0] if isinstance(x, list) else x
    return {name: SYMBOLS[name](layer, x, y) for name in names_in(formula) if name in SYMBOLS}
