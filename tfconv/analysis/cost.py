"""What a layer costs, and the rules that say it for each class of layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from tfconv.analysis.receptive_field import Field

Shape = tuple[int, ...]


def _unchanged(field: Field) -> Field | None:
    return field


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one call of a layer costs, for one example of the batch.

    Attributes:
        multiply_adds: Products that go into sums: over taps, channels, positions or kernels. Taps
            that fall into the padding count.
        gating: Products of two computed values at one place: gates, channel weights, merges.
        elementwise: All other operations on values: biases, activations, normalization, means,
            comparisons. One each.
        weights: Trained numbers that products are made with.
        weight_products: Products that such a number takes part in; None for ``multiply_adds``.
        kernel_rank: Largest rank of the matrix that makes an output pixel's channels from all
            that it sees; None for layers without a kernel.
        inside: Values of maps that the layer makes on the way to its outputs.
        view: Whether the output is the input, possibly in another shape: it takes no memory.
        sees_all: Whether each output sees all positions of the input.
        field: The outputs' receptive field, from that of the input; not asked with ``sees_all``.
        unknown: What it does whose cost is not known.

    Example:
        >>> from tfconv.analysis import Cost
        >>> Cost(multiply_adds=9 * 64, elementwise=64, weights=9).multiply_adds
        576
    """

    multiply_adds: int = 0
    gating: int = 0
    elementwise: int = 0
    weights: int = 0
    weight_products: int | None = None
    kernel_rank: int | None = None
    inside: int = 0
    view: bool = False
    sees_all: bool = False
    field: Callable[[Field], Field | None] = _unchanged
    unknown: tuple[str, ...] = ()


Rule = Callable[[Any, Sequence[Shape], Sequence[Shape]], Cost]
_RULES: dict[type, Rule] = {}


def rule(*classes: type) -> Callable[[Rule], Rule]:
    """Registers what layers of some classes cost, in place of an earlier rule for them.

    The rule is also that of subclasses, unless they have a ``call`` of their own.

    Args:
        *classes: Classes of layers.

    Returns:
        A decorator for a function of the layer, its inputs' shapes and its outputs' shapes, both
        lists of tuples with the batch first. It gives the `Cost` for one example.

    Example:
        >>> import math
        >>> from tensorflow import keras
        >>> from tfconv.analysis import Cost, profile, rule
        >>> class Square(keras.layers.Layer):
        ...     def call(self, inputs):
        ...         return inputs * inputs
        >>> @rule(Square)
        ... def square(layer, inputs, outputs):
        ...     return Cost(gating=math.prod(outputs[0][1:]))
        >>> profile(Square(), (4, 4, 2)).flops
        32
    """

    def registered(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(classes, function))
        return function

    return registered


def rule_for(layer: Any) -> Rule | None:
    """The rule of a layer's class; None if there is none, or ``call`` is not what it is for."""
    for base in type(layer).__mro__:
        if base in _RULES:
            return _RULES[base] if type(layer).call is base.call else None
    return None
