"""Sizes that rules are written in: channels, positions, windows."""

from __future__ import annotations

import math
from typing import Any

from tfconv._compat import keras
from tfconv.analysis.cost import Shape
from tfconv.ops.geometry import Geometry


def channels_first(layer: Any) -> bool:
    """Whether the channels of a layer's maps stand behind the batch."""
    return getattr(layer, "data_format", "channels_last") == "channels_first"


def channels(layer: Any, shape: Shape) -> int:
    """Channels of a map."""
    return shape[1] if channels_first(layer) else shape[-1]


def spatial(layer: Any, shape: Shape) -> Shape:
    """Spatial sizes of a map."""
    return shape[2:] if channels_first(layer) else shape[1:-1]


def positions(layer: Any, shape: Shape) -> int:
    """Positions of a map."""
    return math.prod(spatial(layer, shape))


def values(shape: Shape) -> int:
    """Values of one example."""
    return math.prod(shape[1:])


def geometry(layer: Any) -> Geometry:
    """The window of a convolution or of what looks like one."""
    return Geometry.of(
        layer.kernel_size,
        layer.strides,
        layer.padding,
        getattr(layer, "dilation_rate", 1),
        len(layer.kernel_size),
    )


def activated(layer: Any, count: int, name: str = "activation") -> int:
    """Operations of a layer's activation of ``count`` values: one each, none for "linear"."""
    activation = getattr(layer, name, None)
    return 0 if activation in (None, keras.activations.linear) else count


def biased(layer: Any, count: int) -> int:
    """Operations of a bias that is added to ``count`` values."""
    return count if layer.use_bias else 0
