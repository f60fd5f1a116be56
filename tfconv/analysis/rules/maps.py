"""Layers that move values: padding, cropping, upsampling, reshaping, shuffling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfconv import layers
from tfconv._compat import keras
from tfconv.analysis.cost import Cost, rule
from tfconv.analysis.rules.sizes import spatial, values


def _named(pattern: str) -> list[Any]:
    return [getattr(keras.layers, pattern.format(rank)) for rank in ("1D", "2D", "3D")]


def _befores(pairs: Any) -> list[int]:
    """What is added or cut at the start of each axis; Keras has no pairs for one axis."""
    return [pair[0] for pair in pairs] if isinstance(pairs[0], Sequence) else [pairs[0]]


@rule(*_named("ZeroPadding{}"))
def zero_padding(layer, inputs, outputs):
    """Values are copied."""
    return Cost(field=lambda field: field.shifted(_befores(layer.padding)))


@rule(*_named("Cropping{}"))
def cropping(layer, inputs, outputs):
    """Values are copied."""
    return Cost(field=lambda field: field.shifted([-n for n in _befores(layer.cropping)]))


@rule(*_named("UpSampling{}"))
def upsampling(layer, inputs, outputs):
    """Copies; or, interpolated, four products and three sums for each output."""
    size = layer.size if isinstance(layer.size, Sequence) else (layer.size,)
    interpolation = getattr(layer, "interpolation", "nearest")
    known = interpolation in ("nearest", "bilinear")
    each = {"nearest": 0, "bilinear": 7}.get(interpolation, 0)
    return Cost(
        elementwise=each * values(outputs[0]),
        field=lambda field: field.enlarged(size, interpolation == "bilinear") if known else None,
        unknown=() if known else (f"{interpolation} interpolation",),
    )


@rule(keras.layers.Reshape)
def reshape(layer, inputs, outputs):
    """Nothing moves."""
    same = spatial(layer, inputs[0]) == spatial(layer, outputs[0])
    return Cost(view=True, field=lambda field: field if same or field.everything else None)


@rule(keras.layers.Flatten)
def flatten(layer, inputs, outputs):
    """Nothing moves; what comes next sees everything."""
    return Cost(view=True, sees_all=True)


@rule(keras.layers.Permute, keras.layers.RepeatVector)
def permute(layer, inputs, outputs):
    """Values are copied to other axes."""
    return Cost(field=lambda field: field if field.everything else None)


@rule(layers.ChannelShuffle)
def channel_shuffle(layer, inputs, outputs):
    """Values are copied within a position."""
    return Cost()
