"""Which layers of tfconv can stand where a layer of Keras stands."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from tfconv import layers
from tfconv._compat import keras


@dataclasses.dataclass(frozen=True)
class Replacement:
    """A layer of tfconv that can stand in for a layer of Keras.

    Attributes:
        layer_class: Its class.
        changes: What it does differently.
        constraint: What must hold of the layer that it replaces; empty for nothing.
    """

    layer_class: type
    changes: str
    constraint: str = ""

    def __repr__(self) -> str:
        condition = f" (if {self.constraint})" if self.constraint else ""
        return f"{self.layer_class.__name__}: {self.changes}{condition}"


@dataclasses.dataclass(frozen=True)
class _Row:
    """A family of layers; ``fits`` says of a layer of Keras whether the constraint may hold."""

    name: str
    changes: str
    constraint: str = ""
    fits: Callable[[Any], bool] = lambda layer: True


def _unstrided(layer: Any) -> bool:
    return set(layer.strides) == {1}


def _ungrouped(layer: Any) -> bool:
    return layer.groups == 1


def _depth_kept(layer: Any) -> bool:
    return layer.depth_multiplier == 1


# "{}" stands for the rank: "1D", "2D" or "3D".
_CONV = (
    _Row("Conv{}", "the same, with more paddings, and strides together with dilation"),
    _Row(
        "PointwiseConv{}",
        "the same",
        "the kernel has one tap",
        lambda layer: set(layer.kernel_size) == {1},
    ),
    _Row("GroupConv{}", "channels in groups", "the groups divide channels and filters"),
    _Row("SeparableConv{}", "depthwise, then pointwise", "it has no groups", _ungrouped),
    _Row(
        "FlattenedConv{}", "across channels, then along each axis", "it has no groups", _ungrouped
    ),
    _Row("LowRankConv{}", "a kernel of low rank", "it has no groups", _ungrouped),
    _Row("TuckerConv{}", "a kernel with a small core", "it has no groups", _ungrouped),
    _Row("GatedConv{}", "outputs multiplied with a gate"),
    _Row("CondConv{}", "a kernel for each example, mixed from experts"),
    _Row("DynamicConv{}", "a kernel for each example, mixed by attention"),
    _Row("DeformableConv{}", "taps that move by learned offsets"),
    _Row(
        "LocallyConnected{}",
        "a kernel for each position",
        "the spatial sizes of its input are known",
    ),
    _Row(
        "Involution{}",
        "a kernel for each position, made from the input there",
        "it has no groups and as many filters as channels",
        _ungrouped,
    ),
    _Row(
        "DeformableAggregation{}",
        "a weighted sum of samples at learned offsets, both made from the input",
        "it has no groups",
        _ungrouped,
    ),
    _Row(
        "SelfAttention{}",
        "attention of each position to all",
        'strides are 1, padding is "same", and it has no groups',
        lambda layer: _unstrided(layer) and layer.padding == "same" and _ungrouped(layer),
    ),
    _Row(
        "LocalSelfAttention{}",
        "attention of each position to a window around it",
        'strides are 1, padding is "same", and it has no groups',
        lambda layer: _unstrided(layer) and layer.padding == "same" and _ungrouped(layer),
    ),
)
_DEPTHWISE = (
    _Row("DepthwiseConv{}", "the same, with more paddings, and strides together with dilation"),
    _Row("DepthwiseCondConv{}", "a kernel for each example, mixed from experts"),
    _Row(
        "Involution{}",
        "a kernel for each position, made from the input there",
        "depth_multiplier is 1",
        _depth_kept,
    ),
    _Row(
        "DeformableAggregation{}",
        "a weighted sum of samples at learned offsets, both made from the input",
        "depth_multiplier is 1",
        _depth_kept,
    ),
)
_SEPARABLE = (
    _Row("SeparableConv{}", "the same, with more paddings, and strides together with dilation"),
)
_TRANSPOSE = (_Row("Conv{}Transpose", "the same, with groups, dilation and more paddings"),)
_DENSE = (_Row("CondDense", "a kernel for each example, mixed from experts"),)

_TABLE: dict[str, tuple[_Row, ...]] = {
    **{f"Conv{rank}D": _CONV for rank in (1, 2, 3)},
    **{f"DepthwiseConv{rank}D": _DEPTHWISE for rank in (1, 2)},
    **{f"SeparableConv{rank}D": _SEPARABLE for rank in (1, 2)},
    **{f"Conv{rank}DTranspose": _TRANSPOSE for rank in (1, 2, 3)},
    "Dense": _DENSE,
}
REPLACEABLE = tuple(_TABLE)  # names in keras.layers


def replacements(layer: Any) -> list[Replacement]:
    """The layers of tfconv that can stand in for a layer of Keras.

    Args:
        layer: A Conv1D, 2D or 3D, DepthwiseConv1D or 2D, SeparableConv1D or 2D,
            Conv1DTranspose, 2D or 3D, or Dense layer of Keras, or such a class. Of a layer,
            those are left out whose constraint its arguments rule out; of a class, none are.

    Returns:
        What can replace it, most alike first, with what it changes and what must hold.

    Raises:
        ValueError: If it is none of these.

    Example:
        >>> tfconv.replacements(tf.keras.layers.Dense)
        [CondDense: a kernel for each example, mixed from experts]
        >>> names = [r.layer_class.__name__ for r in tfconv.replacements(tf.keras.layers.Conv2D)]
        >>> "DeformableConv2D" in names
        True
    """
    layer_class = layer if isinstance(layer, type) else type(layer)
    known = {getattr(keras.layers, name): name for name in _TABLE}
    name = next((known[base] for base in layer_class.__mro__ if base in known), None)
    if name is None:
        raise ValueError(
            f"`layer` must be one of Keras's {', '.join(_TABLE)}, or such a class. "
            f"Received: layer={layer!r}"
        )
    rank = next((f"{n}D" for n in (1, 2, 3) if f"{n}D" in name), "")
    found = []
    for row in _TABLE[name]:
        ours = row.name.format(rank)
        if ours in layers.__all__ and (layer is layer_class or row.fits(layer)):
            found.append(Replacement(getattr(layers, ours), row.changes, row.constraint))
    return found
