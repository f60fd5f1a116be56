"""The weights with which examples mix the kernels of CondConv and the like."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from tfconv.layers.dynamic_conv import DynamicConv
from tfconv.layers.experts import Experts
from tfconv.visual.calls import Call, as_batch, calls, chosen

_AT_ONCE = 32  # examples that the model is called with


@dataclasses.dataclass(frozen=True, eq=False)
class LayerRouting:
    """How examples mix the kernels of one layer.

    Attributes:
        name: The layer's name.
        kind: Its class.
        weights: [N, kernels]: the weight of each kernel for each example.
    """

    name: str
    kind: str
    weights: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class RoutingWeights:
    """What `routing_weights` gives.

    Attributes:
        model: The model's name.
        layers: A `LayerRouting` for each layer.
        labels: [N]: the examples' classes, or None.
    """

    model: str
    layers: tuple[LayerRouting, ...]
    labels: np.ndarray | None = None

    def by_class(self) -> dict[str, np.ndarray]:
        """Mean weights [classes, kernels] by layer; classes in the order of their labels.

        Raises:
            ValueError: If there are no labels.
        """
        if self.labels is None:
            raise ValueError("`labels` must be given for means by class. Received: labels=None")
        rows = [self.labels == label for label in np.unique(self.labels)]
        return {
            layer.name: np.stack([layer.weights[row].mean(0) for row in rows])
            for layer in self.layers
        }

    def plot(self, path: str | Path | None = None) -> Any:
        """Draws the weights: bars for one example, maps for several; means if there are labels.

        Args:
            path: A file to write the picture to; its suffix says the format.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: If Matplotlib is not installed.
            ValueError: If ``path`` is no place for a file.
        """
        from tfconv.visual.plots import draw, draw_routing

        return draw(draw_routing, self, path)


def routing_weights(
    model: Any, images: Any, layer: Any = None, labels: Any = None
) -> RoutingWeights:
    """The weights with which examples mix the kernels of CondConv, CondDense and dynamic layers.

    They are a layer's own, or those that it is called with.

    Args:
        model: A Keras model with one input.
        images: [N, ...] array, as the model takes it, or one example.
        layer: A layer or its name; None for all.
        labels: Classes of the examples, for means by class.

    Returns:
        `RoutingWeights`.

    Raises:
        NoSuchLayer: If there is no such layer.
        ValueError: If an argument is not what is described above.

    Source: Yang et al., CondConv, arXiv:1904.04971, figures 4 and 5.

    Example:
        >>> from tensorflow import keras
        >>> from tfconv.visual import routing_weights
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), tfconv.DynamicConv2D(4, 3)])
        >>> shown = routing_weights(model, np.ones([5, 8, 8, 3]))
        >>> shown.layers[0].weights.shape, float(shown.layers[0].weights[0].sum().round(3))
        ((5, 4), 1.0)
    """
    batch = as_batch(model, images, "images")
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != (len(batch),):
            raise ValueError(
                f"`labels` must have one class for each of {len(batch)} examples. "
                f"Received: labels of shape {labels.shape}"
            )
    made: dict[int, list[np.ndarray]] = {}
    for start in range(0, len(batch), _AT_ONCE):
        part = batch[start : start + _AT_ONCE]
        found = calls(model, part, lambda each: isinstance(each, (Experts, DynamicConv)))
        found = chosen(found, layer, model, "a layer that mixes kernels for every example")
        for i, call in enumerate(found):
            made.setdefault(i, []).append(_weights(call))
    rows = tuple(
        LayerRouting(call.name, type(call.layer).__name__, np.concatenate(made[i]))
        for i, call in enumerate(found)
    )
    return RoutingWeights(model.name, rows, labels)


def _weights(call: Call) -> np.ndarray:
    mask = call.given.get("mask", getattr(call.inputs, "_keras_mask", None))
    if isinstance(call.layer, DynamicConv):
        weights = call.layer.attention(call.cast_inputs, mask)
    else:
        weights = call.given.get("routing_weights")
        if weights is None:
            weights = call.layer.routing_weights(call.cast_inputs, mask)
    return np.asarray(weights, np.float32)
