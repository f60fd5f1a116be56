"""Pooling: over windows and over everything."""

from __future__ import annotations

from typing import Any

from tfconv._compat import keras
from tfconv.analysis.cost import Cost, rule
from tfconv.analysis.rules.sizes import spatial, values
from tfconv.ops.geometry import Geometry


def _named(pattern: str) -> list[Any]:
    return [getattr(keras.layers, pattern.format(rank)) for rank in ("1D", "2D", "3D")]


def _pooling(layer: Any, inputs: Any, outputs: Any, each: int) -> Cost:
    sizes = spatial(layer, inputs[0])
    rank = len(sizes)
    window = Geometry.of(layer.pool_size, layer.strides, layer.padding, 1, rank)
    return Cost(
        elementwise=values(outputs[0]) * (window.taps + each),
        field=lambda field: field.slid(window, sizes),
    )


@rule(*_named("MaxPooling{}"))
def max_pooling(layer, inputs, outputs):
    """``k - 1`` comparisons for each output."""
    return _pooling(layer, inputs, outputs, -1)


@rule(*_named("AveragePooling{}"))
def average_pooling(layer, inputs, outputs):
    """``k - 1`` additions and a division for each output."""
    return _pooling(layer, inputs, outputs, 0)


@rule(*_named("GlobalMaxPooling{}"))
def global_max_pooling(layer, inputs, outputs):
    """A comparison for each value but one."""
    return Cost(
        elementwise=values(inputs[0]) - values(outputs[0]),
        field=lambda field: field.whole(spatial(layer, inputs[0])),
    )


@rule(*_named("GlobalAveragePooling{}"))
def global_average_pooling(layer, inputs, outputs):
    """An addition for each value but one, and a division."""
    return Cost(
        elementwise=values(inputs[0]),
        field=lambda field: field.whole(spatial(layer, inputs[0])),
    )
