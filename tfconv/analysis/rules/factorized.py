"""Convolutions whose kernel is a product of smaller ones."""

from __future__ import annotations

import math
from typing import Any

from tfconv.analysis.cost import Cost, Shape, rule
from tfconv.analysis.rules.conv import grouped_rank, outputs_work
from tfconv.analysis.rules.sizes import channels, geometry, positions, spatial, values
from tfconv.layers.flattened_conv import FlattenedConv
from tfconv.layers.low_rank_conv import LowRankConv
from tfconv.layers.tucker_conv import TuckerConv


def _positions_along(layer: Any, inputs: Shape, outputs: Shape) -> list[int]:
    """Positions once the axes up to each are filtered."""
    before, after = spatial(layer, inputs), spatial(layer, outputs)
    return [
        math.prod(after[: axis + 1]) * math.prod(before[axis + 1 :]) for axis in range(len(before))
    ]


def _factorized(layer: Any, inputs: Any, outputs: Any, counts: list[int], **more: Any) -> Cost:
    """The cost from the positions of each factor's outputs, in the factors' order."""
    shapes = list(layer.factor_shapes(channels(layer, inputs[0])).values())
    window = geometry(layer)
    widths = [shape[-1] for shape in shapes]
    return Cost(
        multiply_adds=sum(math.prod(shape) * count for shape, count in zip(shapes, counts)),
        elementwise=outputs_work(layer, values(outputs[0])),
        weights=sum(math.prod(shape) for shape in shapes),
        inside=sum(width * count for width, count in zip(widths[:-1], counts)),
        field=lambda field: field.slid(window, spatial(layer, inputs[0])),
        **more,
    )


@rule(FlattenedConv)
def flattened(layer, inputs, outputs):
    """One filter across the channels and one along each axis."""
    width = channels(layer, inputs[0])
    counts = [positions(layer, inputs[0]), *_positions_along(layer, inputs[0], outputs[0])]
    rank = grouped_rank(geometry(layer).taps, width, layer.filters, layer.groups)
    return _factorized(layer, inputs, outputs, counts, kernel_rank=rank)


@rule(LowRankConv)
def low_rank(layer, inputs, outputs):
    """Channels to ranks, a filter along each axis, ranks to filters."""
    width, groups = channels(layer, inputs[0]), layer.groups
    counts = [
        positions(layer, inputs[0]),
        *_positions_along(layer, inputs[0], outputs[0]),
        positions(layer, outputs[0]),
    ]
    rank = min(layer.kernel_rank, grouped_rank(geometry(layer).taps, width, layer.filters, groups))
    return _factorized(layer, inputs, outputs, counts, kernel_rank=rank)


@rule(TuckerConv)
def tucker(layer, inputs, outputs):
    """A core between two pointwise convolutions."""
    width, taps, groups = channels(layer, inputs[0]), geometry(layer).taps, layer.groups
    places = positions(layer, outputs[0])
    before, after = layer.ranks
    rank = min(
        grouped_rank(taps, min(width, before), layer.filters, groups),
        grouped_rank(taps, min(width, before), after, groups),
    )
    counts = [positions(layer, inputs[0]), places, places]
    return _factorized(layer, inputs, outputs, counts, kernel_rank=rank)
