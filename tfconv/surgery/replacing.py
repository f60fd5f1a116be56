"""Layers of a model replaced by others."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import tensorflow as tf

from tfconv._compat import config_of, keras, own_policy_of, quantization_of, tree
from tfconv.layers.base import static_shape
from tfconv.replacements import replacements
from tfconv.surgery.kernels import CONVOLUTIONS, TRANSPOSED, take_weights
from tfconv.surgery.rebuilding import Call, calls_in, rebuild

Rules = "Mapping[Any, Any] | Sequence[tuple[Any, Any]]"


@dataclasses.dataclass(frozen=True)
class Replaced:
    """What became of a layer.

    Attributes:
        name: The layer's name.
        old: The name of its class.
        new: The name of the class of the layer in its place.
        kept: Whether that has its kernel; else it has new weights, of its initializers.

    Example:
        >>> print(tfconv.surgery.Replaced("conv1", "Conv2D", "Involution2D", kept=False))
        conv1: Conv2D -> Involution2D, new weights
    """

    name: str
    old: str
    new: str
    kept: bool

    def __str__(self) -> str:
        weights = "kernel kept" if self.kept else "new weights"
        return f"{self.name}: {self.old} -> {self.new}, {weights}"


def replace(
    model: keras.Model, rules: Rules, report: Callable[[Replaced], Any] | None = None
) -> keras.Model:
    """A new model in which other layers stand in the place of some.

    Each layer takes the first rule that fits. What a new layer is made with: the arguments that
    both layers have (name, filters, kernel size, strides, padding, dilation, groups, activation,
    ``use_bias``, initializers, regularizers, constraints, dtype and so on), then the rule's own.
    It gets the old layer's kernel and bias where it can hold them:

    - a convolution's in `Conv2D` and the like, `GroupConv2D` with as many groups, `PointwiseConv2D`
      with one tap, `CondConv2D` and `DynamicConv2D` (all experts equal), `DeformableConv2D`
      (offsets zero) and `LocallyConnected2D` (the same at each position);
    - a depthwise convolution's in `DepthwiseConv2D` and `DepthwiseCondConv2D`, a separable one's in
      `SeparableConv2D`, a transposed one's in `Conv2DTranspose`, a dense layer's in `CondDense`.

    There, with no other arguments, the model gives what the old one gives, until it is trained.
    All other layers are copies with the same weights. The old model stays as it is; the new one
    has nothing in common with it and is not compiled.

    Args:
        model: A functional model, or a sequential one that is built. Models inside it are looked
            into if they are one of these.
        rules: Pairs (which layers, what instead), or a dict of them. Which: a class of layers, a
            name with ``*`` and ``?`` as in file names, or a function from a layer to True or
            False. What: a class of layers, such a class with arguments
            (``functools.partial(tfconv.CondConv2D, num_experts=4)``), or a function from the old
            layer to the new one. `tfconv.replacements` says which layers can stand where.
        report: Called with a `Replaced` for each layer that was replaced: ``print``, or a list's
            ``append``.

    Returns:
        The new model.

    Raises:
        ValueError: If the model is of another kind, a rule is none or fits no layer that the rules
            before it have left, or a new layer cannot stand where the old one stood.

    Example:
        >>> inputs = tf.keras.Input((8, 8, 16))
        >>> x = tf.keras.layers.Conv2D(16, 3, padding="same", name="spatial")(inputs)
        >>> model = tf.keras.Model(inputs, tf.keras.layers.Conv2D(4, 1, name="channels")(x))
        >>> import functools
        >>> rules = {"spatial": functools.partial(tfconv.Involution2D, kernel_size=7)}
        >>> new = tfconv.surgery.replace(model, rules, report=print)
        spatial: Conv2D -> Involution2D, new weights
        >>> deformable = {tf.keras.layers.Conv2D: tfconv.DeformableConv2D}
        >>> same = tfconv.surgery.replace(model, deformable, report=print)
        spatial: Conv2D -> DeformableConv2D, kernel kept
        channels: Conv2D -> DeformableConv2D, kernel kept
        >>> x = tf.random.normal([1, 8, 8, 16])
        >>> bool(tf.reduce_max(tf.abs(same(x) - model(x))) < 1e-5)
        True
    """
    pairs = [_Rule(*pair) for pair in _pairs(rules)]
    made = {}
    for call in calls_in(model):
        layer = call.layer
        if id(layer) not in made and isinstance(layer, keras.layers.Layer):
            rule = next((rule for rule in pairs if rule.fits(layer)), None)
            made[id(layer)] = None if rule is None else rule.replacement(call)
    for rule in pairs:
        if not rule.used:
            raise ValueError(
                "Each of `rules` must fit a layer of the model that the rules before it have left; "
                f"the model's layers are {[layer.name for layer in model.layers]}. "
                f"Received: rule {rule.which!r}"
            )

    def finish(old, new):
        kept = take_weights(old, new[0])
        if report is not None:
            report(Replaced(old.name, type(old).__name__, type(new[0]).__name__, kept))

    return rebuild(model, lambda layer: made.get(id(layer)), finish)


def _pairs(rules: Any) -> list[tuple[Any, Any]]:
    pairs = rules.items() if isinstance(rules, Mapping) else rules
    if not isinstance(pairs, Iterable):
        pairs = [pairs]
    pairs = list(pairs)
    for pair in pairs:
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
            raise ValueError(
                "`rules` must be pairs (which layers, what instead), or a dict of them. "
                f"Received: {pair!r} in rules={rules!r}"
            )
    return pairs


class _Rule:
    """Which layers are replaced, and by what."""

    def __init__(self, which: Any, instead: Any):
        self.which = which
        self._instead = instead
        self.used = False
        if not (isinstance(which, str) or callable(which)):
            raise ValueError(
                "`rules` must say with a class, a name or a function which layers are replaced. "
                f"Received: {which!r}"
            )
        is_layer = isinstance(instead, keras.layers.Layer)
        if is_layer or not callable(instead) or getattr(instead, "args", None):
            raise ValueError(
                "`rules` must give a class of layers, functools.partial of one with arguments by "
                f"name, or a function from a layer to another. Received: {instead!r} for {which!r}"
            )

    def fits(self, layer: Any) -> bool:
        if isinstance(self.which, str):
            fits = fnmatch.fnmatchcase(layer.name, self.which)
        elif isinstance(self.which, type):
            # Keras 2's transposed convolutions are convolutions.
            apart = self.which in CONVOLUTIONS and isinstance(layer, TRANSPOSED)
            fits = isinstance(layer, self.which) and not apart
        else:
            fits = bool(self.which(layer))
        self.used |= fits
        return fits

    def replacement(self, call: Call) -> Any:
        """What stands instead of the layer of a call."""
        layer = call.layer
        try:
            new = self._made(layer)
            if not isinstance(new, keras.layers.Layer) or new is layer:
                raise ValueError(f"it gives no new layer but {new!r}")
            _check_shapes(new, call)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"The layer {layer.name!r} ({type(layer).__name__}) cannot be replaced by the rule "
                f"{self.which!r}: {error}"
            ) from error
        return new

    def _made(self, layer: Any) -> Any:
        made, arguments = self._instead, {}
        if isinstance(made, functools.partial):
            made, arguments = made.func, made.keywords
        if not (isinstance(made, type) and issubclass(made, keras.layers.Layer)):
            return self._instead(layer)
        for other in _ruled_out(layer):
            if made is other.layer_class:
                raise ValueError(f"{made.__name__} can stand for it only if {other.constraint}")
        return made.from_config({**_shared(layer, made, arguments), **arguments})


def _ruled_out(layer: Any) -> list[Any]:
    """The layers of tfconv that could replace another of the layer's class, but not this one."""
    try:
        possible = replacements(layer)
    except ValueError:  # none of Keras's convolutions
        return []
    return [other for other in replacements(type(layer)) if other not in possible]


def _shared(layer: Any, new_class: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a layer that another class takes too."""
    config = config_of(layer)
    if quantization_of(layer) and new_class is not type(layer):
        config["dtype"] = own_policy_of(layer).name.rpartition("_from_")[2]
    for what in ("initializer", "regularizer", "constraint"):
        given = config.get(f"kernel_{what}", config.get(f"depthwise_{what}"))
        for weight in ("kernel", "depthwise", "pointwise"):
            config.setdefault(f"{weight}_{what}", given)
    known = inspect.signature(new_class).parameters
    if "filters" not in known or "group_channels" in known:  # groups are something else there
        config.pop("groups", None)
    # All arguments that a class takes, its bases' included, are in the configuration of a layer.
    own = {name: config[name] for name in known if name in config}
    taken = new_class(**{**own, "name": layer.name, **arguments}).get_config()
    mode = config.get("padding_mode")
    if mode and "padding_mode" not in known and taken.get("padding", "valid") != "valid":
        raise ValueError(f"{new_class.__name__} pads with zeros, not by padding_mode={mode!r}")
    return {name: value for name, value in config.items() if name in taken}


def _check_shapes(new: Any, call: Call) -> None:
    """Raises unless a layer gives what another gave, as far as the shape goes."""
    inputs = tree.flatten(call.inputs)
    tensors = [x for x in tree.flatten((call.args, call.kwargs)) if hasattr(x, "shape")]
    if len(call.outputs) != 1 or list(map(id, tensors)) != list(map(id, inputs)):
        return  # Keras tells the shapes of such layers in ways of their own
    try:
        given = new.compute_output_shape(tree.map_structure(lambda x: tuple(x.shape), call.inputs))
    except NotImplementedError:
        return
    outputs = call.outputs[0].shape
    if not tf.TensorShape(given).is_compatible_with(outputs):
        made_from = ", ".join(str(static_shape(x.shape)) for x in inputs)
        raise ValueError(
            f"from {made_from} it makes {static_shape(given)}, not {static_shape(outputs)}"
        )
