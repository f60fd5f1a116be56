"""Runs a model on images and keeps what some of its layers are called with.

Layers need no hooks, and models of all kinds look alike: Sequential, functional, subclassed,
nested, and layers made of layers.
"""

from __future__ import annotations

import collections
import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv._compat import all_layers, keras
from tfconv.analysis.cost import rule_for
from tfconv.layers.base import static_shape
from tfconv.layers.calls import SecondOutput


class NoSuchLayer(ValueError):
    """The model has no layer that does what is asked for, or none of that name."""


@dataclasses.dataclass(frozen=True)
class Call:
    """The first call of a layer.

    Attributes:
        layer: The layer.
        name: Its name behind those of the layers that it is called in.
        inputs: Its first argument.
        given: Its other arguments by their names.
        outputs: What it gives.
    """

    layer: Any
    name: str
    inputs: Any
    given: dict[str, Any]
    outputs: Any

    @property
    def cast_inputs(self) -> tf.Tensor:
        """The inputs in the type that the layer computes in."""
        return tf.cast(self.inputs, self.layer.compute_dtype)

    def channels_last(self, x: tf.Tensor) -> np.ndarray:
        """The first example of something that the layer makes, channels last."""
        return np.asarray(tf.cast(self.layer.channels_last(x)[0], tf.float32))


def calls(model: Any, images: Any, wanted: Callable[[Any], bool]) -> list[Call]:
    """The first calls of wanted layers, by their first outputs, in the order in which they end.

    As in profiles, layers inside one with a rule for its cost are its own.

    Args:
        model: A Keras model; it is called for inference.
        images: A batch of what it takes.
        wanted: Says of a layer whether its call is kept.
    """
    found: list[Call] = []
    inside: list[Any] = []
    original = keras.layers.Layer.__call__

    def noted(self, *args, **kwargs):
        # Keras 3 tries layers out in graphs of its own.
        if not tf.executing_eagerly() or (inside and rule_for(inside[-1]) is not None):
            return original(self, *args, **kwargs)
        inside.append(self)
        name = "/".join(each.name for each in inside[1:])
        try:
            outputs = original(self, *args, **kwargs)
        finally:
            inside.pop()
        # Keras 2 builds some models with tensors that have no values.
        y = outputs[0] if isinstance(self, SecondOutput) and isinstance(outputs, tuple) else outputs
        kept = inside and isinstance(y, tf.Tensor) and wanted(self)
        if kept and not any(call.layer is self for call in found):
            first = (*args, *kwargs.values())[0]
            names = list(inspect.signature(self.call).parameters)
            given = {**dict(zip(names[1:], args[1:])), **kwargs}
            found.append(Call(self, name, first, given, y))
        return outputs

    training = "training" in inspect.signature(model.call).parameters
    compiled = not tf.config.functions_run_eagerly()
    keras.layers.Layer.__call__ = noted
    tf.config.run_functions_eagerly(True)
    try:
        model(images, **({"training": False} if training else {}))
    finally:
        keras.layers.Layer.__call__ = original
        tf.config.run_functions_eagerly(not compiled)
    return found


def chosen(found: Sequence[Call], layer: Any, model: Any, what: str) -> list[Call]:
    """The calls of one layer or, for None, of all.

    Args:
        found: The calls.
        layer: None, a layer, or its name, alone or behind those that it is called in.
        model: The model, for the error.
        what: Which layers those are, for the error.

    Raises:
        NoSuchLayer: If there is none.
    """
    if not found:
        layers = (each for each in all_layers(model) if each is not model)
        kinds = collections.Counter(type(each).__name__ for each in layers)
        has = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none"
        raise NoSuchLayer(
            f"`model` must have a layer for this: {what}. "
            f"Received: model={model.name!r}, whose layers are {has}"
        )
    if layer is None:
        return list(found)
    matching = [call for call in found if layer is call.layer or layer == call.name]
    matching = matching or [call for call in found if layer == call.layer.name]
    if not matching:
        names = ", ".join(call.name for call in found)
        raise NoSuchLayer(
            f"`layer` must be one of the layers for this ({what}): {names}. "
            f"Received: layer={getattr(layer, 'name', layer)!r}"
        )
    return matching[:1]


def as_batch(model: Any, images: Any, name: str, rank: int | None = None) -> np.ndarray:
    """One or several inputs of a model as a batch.

    Args:
        model: The model.
        images: An input, or a batch of them.
        name: What the argument is called.
        rank: How many axes a batch must have; None for as many as the model's input.

    Raises:
        ValueError: If the model does not take them.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a Keras model. Received: model={model!r}")
    inputs = getattr(model, "inputs", None) or ()
    if len(inputs) > 1:
        raise ValueError(
            f"`model` must have one input. Received: model={model.name!r} with {len(inputs)}"
        )
    batch = np.asarray(images)
    shape = static_shape(inputs[0].shape) if inputs else (None,) * (rank or batch.ndim)
    batch = batch[np.newaxis] if batch.ndim == len(shape) - 1 else batch
    fits = batch.ndim == len(shape) and batch.size and batch.dtype.kind in "bfiu"
    fits = fits and all(m in (None, n) for m, n in zip(shape[1:], batch.shape[1:]))
    if not fits or rank not in (None, batch.ndim):
        expected = f"numbers of the shape {shape[1:]}, or several of them"
        if rank not in (None, len(shape)):
            expected = f"an image, which this model does not take: its input is {expected}"
        raise ValueError(
            f"`{name}` must be {expected}. Received: {name} of shape {np.shape(images)} and type "
            f"{batch.dtype}"
        )
    dtype = tf.as_dtype(inputs[0].dtype if inputs else "float32")
    if dtype.is_integer:
        whole = batch.dtype.kind != "f" or (batch == np.floor(batch)).all()
        if not whole or batch.min() < dtype.min or batch.max() > dtype.max:
            raise ValueError(
                f"`{name}` must be whole numbers from {dtype.min} to {dtype.max}, which the model "
                f"takes. Received: {name} with values from {batch.min()} to {batch.max()}"
            )
    return batch.astype(dtype.as_numpy_dtype)
