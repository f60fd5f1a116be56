"""A model made anew with some of its layers replaced.

``rebuild(model, new_layer, finish=None)`` is what the functions of `tfconv.surgery` that change a
model's layers stand on:

- ``new_layer(layer)`` says what takes a layer's place: None keeps it (as a copy of its own
  weights), a layer or a list of layers, called one after the other, replaces it, and an empty list
  takes it out. It is asked once for every layer and every model inside the model, before the new
  model exists; a layer that is used in several places is replaced once and stays shared. Names
  have to be unique in a model: one of the new layers should have the old one's.
- ``finish(layer, layers)`` is called once for every layer that was replaced, when the new model is
  built and all kept layers have their weights: to give the new layers theirs.

A layer inside a layer, as in a TimeDistributed, belongs to that one: what stands elsewhere in the
model too is not shared with it any more.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tfconv import _compat
from tfconv._compat import keras, tree

NewLayer = Callable[[Any], "Any | Sequence[Any] | None"]
Finish = Callable[[Any, "list[Any]"], None]


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of a layer in a model.

    Attributes:
        model: The model, or the one inside it, that makes the call.
        layer: The layer, or operation of Keras 3.
        args, kwargs: Its arguments.
        outputs: The list of tensors that it gave.
    """

    model: Any
    layer: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Any]

    @property
    def inputs(self) -> Any:
        """The first argument."""
        return (*self.args, *self.kwargs.values())[0]


def calls_in(model: Any) -> Iterator[Call]:
    """All calls in a model and in the models inside it, each of which is looked into once.

    Raises:
        ValueError: If the model is neither functional nor sequential and built.
    """
    require_graph(model)
    models, seen = [model], {id(model)}
    for each in models:
        for call in _compat.calls_of(each):
            yield Call(each, *call)
            if _is_model(call[0]) and id(call[0]) not in seen:
                seen.add(id(call[0]))
                models.append(call[0])


def rebuild(model: keras.Model, new_layer: NewLayer, finish: Finish | None = None) -> keras.Model:
    """A new model of the same calls as ``model``, with some of its layers replaced.

    Layers that are kept are copies, with the same names, weights and ``trainable``; the models
    have nothing in common afterwards. Models inside the model are made anew likewise, except those
    that are neither functional nor sequential, which are layers like any other. Subclasses that are
    made as functional or sequential models are stay what they are; those with a constructor of
    their own become plain models. The new model is not compiled.

    Args:
        model: A functional model, or a sequential one that is built.
        new_layer: What takes a layer's place: None for a copy of it, a layer, or a list of layers
            one after the other.
        finish: Called with each replaced layer and the list of its new layers, which are built.
            They have the old layer's ``trainable``, and are called with the arguments that it was
            called with, except ``training`` and ``mask`` where they take none.

    Returns:
        The new model.

    Raises:
        ValueError: If the model is of another kind, a layer cannot be made from its configuration,
            or a new layer cannot be called as the old one.
    """
    require_graph(model)
    making = _Making(new_layer)
    try:
        made = making.model(model)
    except _NoCopyError:
        raise
    except (TypeError, ValueError) as error:
        making.blame(error)
        raise
    making.finish(finish)
    return made


def require_graph(model: Any) -> None:
    """Raises ValueError unless the calls of a model's layers are known."""
    if not _is_model(model):
        raise ValueError(
            "`model` must be a functional model, or a Sequential model that is built (it begins "
            "with an Input, or was called once), without losses of `add_loss`. In a model with a "
            "`call` of its own it is not known how the layers are called. "
            f"Received: model={model!r} of type {type(model).__name__}"
        )


def _is_model(layer: Any) -> bool:
    """Whether a layer is a model that can be looked into."""
    return isinstance(layer, keras.Model) and _compat.is_graph(layer)


class _NoCopyError(ValueError):
    """A layer cannot be made from its configuration."""


class _Making:
    """The making of one model and of those inside it."""

    def __init__(self, new_layer: NewLayer):
        self._new_layer = new_layer
        self._made: dict[int, list[Any]] = {}  # by the identity of the old layer
        self._models: list[tuple[Any, Any]] = []  # old and new, inner ones first
        self._kept: list[tuple[Any, Any]] = []
        self._replaced: list[tuple[Any, list[Any]]] = []

    def model(self, model: Any) -> Any:
        sequential = isinstance(model, keras.Sequential)
        made = self._sequential(model) if sequential else self._functional(model)
        self._models.append((model, made))
        return made

    def _sequential(self, model: Any) -> Any:
        source = _compat.copy_of(_compat.source_of(model.inputs[0]))
        layers = [new for layer in model.layers for new in self._layers(layer)]
        kind = type(model)
        if kind.__init__ is not keras.Sequential.__init__:
            kind = keras.Sequential
        return kind([source, *layers], name=model.name)

    def _functional(self, model: Any) -> Any:
        inputs = tree.map_structure(
            lambda x: _compat.copy_of(_compat.source_of(x)).output, model.input
        )
        tensors = dict(zip(map(id, tree.flatten(model.input)), tree.flatten(inputs)))

        def new(structure):
            return tree.map_structure(lambda x: tensors.get(id(x), x), structure)

        for layer, args, kwargs, outputs in _compat.calls_of(model):
            result = self._called(layer, new(args), new(kwargs))
            tensors.update(zip(map(id, outputs), tree.flatten(result)))
        # A subclass keeps what it changes, such as its train_step, if it is made as its base is.
        _, *arguments = inspect.signature(type(model).__init__).parameters
        plain = {"args", "kwargs", "name", "trainable"}
        as_base = arguments[:2] == ["inputs", "outputs"] and plain.issuperset(arguments[2:])
        kind = type(model) if as_base else keras.Model
        return kind(inputs, new(model.output), name=model.name)

    def _called(self, layer: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """What the layers in a layer's place give for its arguments."""
        result = (*args, *kwargs.values())[0]
        for new in self._layers(layer):
            if new.__class__ is not layer.__class__:
                takes = inspect.signature(new.call).parameters
                dropped = {"training", "mask"} - set(takes)
                kwargs = {name: kwargs[name] for name in kwargs if name not in dropped}
            result = new(*args, **kwargs)
            args, kwargs = (result,), {}
        return result

    def _layers(self, layer: Any) -> list[Any]:
        """The layers in a layer's place."""
        if id(layer) not in self._made:
            self._made[id(layer)] = self._new(layer)
        return self._made[id(layer)]

    def _new(self, layer: Any) -> list[Any]:
        # Keras 3 has operations in its models too.
        given = self._new_layer(layer) if isinstance(layer, keras.layers.Layer) else None
        if given is not None:
            layers = list(given) if isinstance(given, (list, tuple)) else [given]
            self._replaced.append((layer, layers))
            return layers
        if _is_model(layer):
            return [self.model(layer)]
        try:
            copy = _compat.copy_of(layer)
        except (TypeError, ValueError, NotImplementedError) as error:
            raise _NoCopyError(
                f"`model` has the layer {layer.name!r} ({type(layer).__name__}), which cannot be "
                f"made from its configuration: {error} Received: model with layer={layer.name!r}"
            ) from error
        if isinstance(layer, keras.layers.Layer):
            self._kept.append((layer, copy))
        return [copy]

    def blame(self, error: Exception) -> None:
        """Raises ValueError naming the layer in whose place another could not be built."""
        for old, layers in self._replaced:
            for new in layers:
                if not new.built:
                    raise ValueError(
                        f"The layer {old.name!r} ({type(old).__name__}) cannot be replaced with "
                        f"{type(new).__name__}: {error}"
                    ) from error

    def finish(self, finish: Finish | None) -> None:
        """Gives the layers their flags and weights."""
        # A model hands its flag down to its layers, so outer ones come first.
        for old, new in reversed(self._models):
            _set_trainable(old, new)
        for old, new in self._kept:
            _set_all_trainable(old, new)
            _copy_state(old, new)
        for old, layers in self._replaced:
            for new in layers:
                _set_all_trainable(old, new)
            if finish is not None:
                finish(old, layers)


def copy_weights(old: Any, new: Any) -> bool:
    """Gives a layer the weights of another of its class, by name; False if it has others."""
    values, weights = _compat.weights_by_name(old), _compat.weights_by_name(new)
    if {k: tuple(v.shape) for k, v in values.items()} != {
        k: tuple(v.shape) for k, v in weights.items()
    }:
        return False
    for key, weight in weights.items():
        weight.assign(values[key])
    return True


def _copy_state(old: Any, new: Any) -> None:
    _compat.quantize_as(old, new)
    if not (_compat.KERAS_3 and copy_weights(old, new)):
        new.set_weights(old.get_weights())  # or an error that says what does not fit
    if isinstance(new, keras.layers.Normalization):
        new.finalize_state()  # which makes of the weights what it computes with
    if _compat.KERAS_3 and hasattr(new, "set_vocabulary"):  # which no weights hold
        words = old.get_vocabulary(include_special_tokens=False)
        weights = getattr(old, "idf_weights", None)
        if words and weights is None:
            new.set_vocabulary(words)


def _set_all_trainable(old: Any, new: Any) -> None:
    """The flags of a layer and, if the other one is of the same class, of the layers inside it."""
    if type(old) is not type(new):
        return _set_trainable(old, new)
    for old_part, new_part in zip(_compat.all_layers(old), _compat.all_layers(new)):
        _set_trainable(old_part, new_part)


def _set_trainable(old: Any, new: Any) -> None:
    if new.trainable != old.trainable:
        new.trainable = old.trainable
