"""Batch normalizations multiplied into the kernels before them."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from tfconv._compat import (
    config_of,
    convert_variable,
    has_adapters,
    keras,
    quantization_of,
    tree,
)
from tfconv.layers.experts import Experts, Mixture
from tfconv.surgery.kernels import is_known, kind, output_weights
from tfconv.surgery.rebuilding import Call, calls_in, rebuild


@dataclasses.dataclass(frozen=True)
class Folded:
    """What became of a batch normalization.

    Attributes:
        name: Its name.
        into: The name of the layer that does its work now; None if it stays.
        reason: Why it stays; empty if it does not.

    Example:
        >>> print(tfconv.surgery.Folded("bn", "conv"))
        bn: folded into conv
        >>> print(tfconv.surgery.Folded("bn", None, "conv has an activation"))
        bn: stays, because conv has an activation
    """

    name: str
    into: str | None
    reason: str = ""

    def __str__(self) -> str:
        if self.into is None:
            return f"{self.name}: stays, because {self.reason}"
        return f"{self.name}: folded into {self.into}"


def fold_batchnorm(
    model: keras.Model, report: Callable[[Folded], Any] | None = None
) -> keras.Model:
    """A new model without the batch normalizations that the layer before them can do.

    ``gamma * (K x + b - mean) / sqrt(variance + epsilon) + beta = K' x + b'`` with
    ``K' = s K``, ``b' = s (b - mean) + beta`` and ``s = gamma / sqrt(variance + epsilon)``, one of
    each output channel: what the model gives at inference stays the same, with fewer operations.
    For training it is another model, without batch statistics.

    A normalization goes into a convolution, depthwise, separable or transposed convolution or
    dense layer, Keras's or tfconv's; factorized, deformable, locally connected and dynamic ones
    and those with experts (if their routing weights add up to 1) included. That layer must have
    no activation, be called once, and give its outputs to the normalization only. All other
    normalizations stay, and so do those inside of layers, such as in `Involution2D`.

    Args:
        model: A functional model, or a sequential one that is built. Models inside it are looked
            into if they are one of these.
        report: Called with a `Folded` for each normalization: ``print``, or a list's ``append``.

    Returns:
        The new model, not compiled, which has nothing in common with the old one.

    Raises:
        ValueError: If the model is of another kind.

    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference, arXiv:1712.05877, section 3.2.

    Example:
        >>> conv = tf.keras.layers.Conv2D(4, 3, use_bias=False, name="conv")
        >>> norm = tf.keras.layers.BatchNormalization(name="norm")
        >>> model = tf.keras.Sequential([tf.keras.Input((8, 8, 3)), conv, norm])
        >>> folded = tfconv.surgery.fold_batchnorm(model, report=print)
        norm: folded into conv
        >>> [layer.name for layer in folded.layers]
        ['conv']
    """
    graph = _Graph(list(calls_in(model)))
    takes_in, removed = {}, set()
    for call in graph.calls:
        norm = call.layer
        if not isinstance(norm, keras.layers.BatchNormalization):
            continue
        before, reason = graph.before(call)
        if not reason:
            takes_in[id(before)] = norm
            removed.add(id(norm))
        if report is not None:
            report(Folded(norm.name, None if reason else before.name, reason))

    def new_layer(layer):
        if id(layer) in takes_in:
            return type(layer).from_config({**config_of(layer), "use_bias": True})
        return [] if id(layer) in removed else None

    def finish(layer, new):
        if new:
            _fold(takes_in[id(layer)], layer, new[0])

    return rebuild(model, new_layer, finish)


class _Graph:
    """Which layers are called on what, in a model and those inside it."""

    def __init__(self, calls: list[Call]):
        self.calls = calls
        self._count = collections.Counter(id(call.layer) for call in calls)
        self._makers = {id(tensor): call.layer for call in calls for tensor in call.outputs}
        taken = [tensor for call in calls for tensor in tree.flatten((call.args, call.kwargs))]
        models = {id(call.model): call.model for call in calls}
        taken += [tensor for model in models.values() for tensor in model.outputs]
        self._taken = collections.Counter(map(id, taken))
        self._training = set()  # models that are called with training=True, and those in them
        for call in calls:
            if id(call.model) in self._training or _trains(call):
                self._training.add(id(call.layer))

    def before(self, call: Call) -> tuple[Any, str]:
        """The layer before a normalization, and why it cannot take that in, or ""."""
        norm, layer = call.layer, self._makers.get(id(call.inputs))
        name = getattr(layer, "name", "an input")
        if self._count[id(norm)] > 1:
            return layer, "it is called several times"
        if id(norm) in self._training:
            return layer, "it is called with training=True"
        if not is_known(norm):
            return layer, f"its class {type(norm).__name__} may compute something else"
        if layer is not None and not is_known(layer):
            return layer, f"{name}'s class {type(layer).__name__} may compute something else"
        if kind(layer) is None:
            return layer, f"{name} before it has no kernel for it"
        if norm.compute_dtype != layer.compute_dtype:
            return layer, f"it computes in another dtype than {name}"
        if quantization_of(layer):
            return layer, f"{name} is quantized"
        if has_adapters(layer):
            return layer, f"{name} has low-rank adapters"
        if self._count[id(layer)] > 1:
            return layer, f"{name} is called several times"
        if self._taken[id(call.inputs)] > 1:
            return layer, f"the outputs of {name} are used elsewhere too"
        if layer.activation not in (None, keras.activations.linear):
            return layer, f"{name} has an activation"
        if layer.activity_regularizer is not None:
            return layer, f"{name} has an activity regularizer"
        if _axes(norm, call) != _channel_axis(layer, call):
            return layer, f"it normalizes other axes than the channels of {name}"
        if getattr(layer, "share_kernel", False) and layer.groups > 1:
            return layer, f"the groups of {name} share a kernel"
        if isinstance(layer, Experts) and not _adds_up(layer):
            return layer, f"the routing weights of {name} need not add up to 1"
        return layer, ""


def _trains(call: Call) -> bool:
    """Whether a call says training=True."""
    given = call.args[1] if len(call.args) > 1 else call.kwargs.get("training")
    return given is True


def _axes(norm: Any, call: Call) -> list[int]:
    axes = [norm.axis] if isinstance(norm.axis, int) else norm.axis
    return [axis % len(call.inputs.shape) for axis in axes]


def _channel_axis(layer: Any, call: Call) -> list[int]:
    first = getattr(layer, "data_format", None) == "channels_first"
    return [1 if first else len(call.inputs.shape) - 1]


def _adds_up(layer: Any) -> bool:
    """Whether the weights of a layer's experts add up to 1 for every input."""
    return layer.routing is not None and layer.routing_activation is keras.activations.softmax


def _fold(norm: Any, old: Any, new: Any) -> None:
    """Gives ``new``, which is ``old`` with a bias, the weights that do what both of them did."""
    kernel, bias = output_weights(new)
    values = old.get_weights()
    if not old.use_bias:
        place = next(i for i, weight in enumerate(new.weights) if weight is bias)
        values.insert(place, np.zeros(bias.shape))
    new.set_weights(values)
    scale = 1 / np.sqrt(_array(norm.moving_variance) + norm.epsilon)
    if norm.scale:
        scale = scale * _array(norm.gamma)
    shift = _array(norm.beta) if norm.center else 0
    kernel.assign(_scaled(new, _array(kernel), scale))
    bias.assign(scale * (_array(bias) - _array(norm.moving_mean)) + shift)


def _array(variable: Any) -> np.ndarray:
    return np.asarray(convert_variable(variable), np.float64)


def _scaled(layer: Any, kernel: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """A layer's kernel with each output channel multiplied by its scale."""
    shape = kernel.shape
    if isinstance(layer, Mixture):
        kernel = kernel.reshape(-1, *layer.expert_shape)
    if kind(layer) == "transposed":  # [*k, filters / groups, C]
        groups = getattr(layer, "groups", 1)
        scale = np.repeat(scale.reshape(groups, -1).T, shape[-1] // groups, axis=1)
    elif kind(layer) == "depthwise":  # [*k, C, multiplier]
        scale = scale.reshape(kernel.shape[-2:])
    return (kernel * scale).reshape(shape)
