"""The signatures of a SavedModel: functions of named tensors, traced as TensorFlow exports them."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfconv import _compat
from tfconv._compat import keras
from tfconv.export.tracing import check_names
from tfconv.ops.dispatch import keep_native as keeping_native
from tfconv.ops.dispatch import server_export

DEFAULT = "serving_default"


@dataclasses.dataclass(frozen=True)
class Signature:
    """What a server can be asked for.

    Attributes:
        inputs: Shape and type of each input by its name.
        outputs: The same of each output.
    """

    inputs: dict[str, tf.TensorSpec]
    outputs: dict[str, tf.TensorSpec]

    @property
    def batched(self) -> bool:
        """Whether every tensor's first dimension is a batch of any size."""
        return all(
            spec.shape.rank is None or (spec.shape.rank > 0 and spec.shape[0] is None)
            for spec in (*self.inputs.values(), *self.outputs.values())
        )

    def __str__(self) -> str:
        def listed(specs: Mapping[str, tf.TensorSpec]) -> str:
            return ", ".join(f"{n}: {s.dtype.name} {_shape(s)}" for n, s in specs.items())

        return f"({listed(self.inputs)}) -> ({listed(self.outputs)})"


def _shape(spec: tf.TensorSpec) -> str:
    if spec.shape.rank is None:
        return "of any shape"
    return "[" + ", ".join("?" if d is None else str(d) for d in spec.shape) + "]"


def trace(
    given: Mapping[str, Any], keep_native: bool, jit_compile: bool = False
) -> tuple[dict[str, Any], dict[str, Signature]]:
    """Traces signatures as for an export.

    Args:
        given: For each name a Keras model, a `tf.function` with an input signature, or a pair of
            a function and its inputs, a `tf.TensorSpec` for each name.
        keep_native: Whether native ops stay what they are.
        jit_compile: Whether XLA is to compile what it makes faster.

    Returns:
        The concrete functions by name, and the signatures.

    Raises:
        ValueError: If one of them is none of these, or cannot be called with what it asks for.
    """
    functions, signatures = {}, {}
    for name, value in given.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"`signatures` must have strings as names. Received: {name!r}")
        function, inputs = _function(name, value)
        with contextlib.ExitStack() as scope:
            scope.enter_context(_compat.export_scope())
            scope.enter_context(server_export(jit_compile))
            if keep_native:
                scope.enter_context(keeping_native())
            functions[name] = function.get_concrete_function(**inputs)
        outputs = {
            key: tf.TensorSpec(tensor.shape, tensor.dtype)
            for key, tensor in functions[name].structured_outputs.items()
        }
        signatures[name] = Signature(inputs, outputs)
    return functions, signatures


def _function(name: str, value: Any) -> tuple[Any, dict[str, tf.TensorSpec]]:
    """A `tf.function` from keyword arguments to a dict, and the arguments' specs."""
    if isinstance(value, keras.Model):
        call, inputs, output_names = _of_model(name, value)
    elif isinstance(value, (tuple, list)) and len(value) == 2 and callable(value[0]):
        call, inputs, output_names = _traceable(value[0]), _checked(name, value[1]), None
    elif getattr(value, "input_signature", None) is not None:
        call, inputs, output_names = _of_function(name, value)
    else:
        raise ValueError(
            f"`signatures[{name!r}]` must be a Keras model, a tf.function with an input_signature "
            "or a pair (function, {input name: tf.TensorSpec}). "
            f"Received: {value!r}"
        )

    @tf.function(autograph=False)
    def signature(**tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        return _named(name, call(**tensors), output_names)

    specs = {k: tf.TensorSpec(s.shape, s.dtype, name=k) for k, s in inputs.items()}
    return signature, specs


def answers(model: keras.Model, tensors: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """What the model itself gives for the inputs of the signature that it makes."""
    call, _, output_names = _of_model(DEFAULT, model)
    return _named(DEFAULT, call(**tensors), output_names)


def _traceable(function: Callable) -> Callable:
    """A function of Python, whose `if` and `for` may be over tensors; others stay as they are."""
    statements = inspect.isroutine(function) and function.__name__ != "<lambda>"
    return tf.function(function) if statements else function


def _of_model(name: str, model: keras.Model) -> tuple[Callable, dict, list[str] | None]:
    tensors = getattr(model, "inputs", None)
    if not tensors:
        raise ValueError(
            "The inputs of the model are not known: it must be functional, or sequential and "
            f"built. For others, give `signatures={{{name!r}: (function, "
            f"{{input name: tf.TensorSpec}})}}`. Received: {model!r}"
        )
    kinds = keras.layers.InputLayer  # whose names a signature need not have
    layers = (each for each in _compat.all_layers(model) if not isinstance(each, kinds))
    check_names(layer.name for layer in layers)
    structure = _compat.model_input(model)
    if isinstance(structure, Mapping):
        names = list(structure)
        tensors = [structure[key] for key in names]
    elif len(tensors) == 1:
        names = ["inputs"]
    else:
        names = [tensor.name for tensor in tensors]
    if not all(key.isidentifier() for key in names):
        raise ValueError(
            f"`signatures[{name!r}]` must have inputs with names like those of variables, without "
            f"spaces. Received: {names}"
        )
    inputs = {
        key: tf.TensorSpec(tuple(tensor.shape), tensor.dtype) for key, tensor in zip(names, tensors)
    }

    def call(**given: tf.Tensor) -> Any:
        if isinstance(structure, Mapping):
            return model(given, training=False)
        flat = [given[key] for key in names]
        return model(tf.nest.pack_sequence_as(structure, flat), training=False)

    return call, inputs, getattr(model, "output_names", None)


def _of_function(name: str, function: Any) -> tuple[Callable, dict, None]:
    specs = list(function.input_signature)
    if not all(isinstance(spec, tf.TensorSpec) and spec.name for spec in specs):
        raise ValueError(
            f"`signatures[{name!r}]` must have an input_signature of tf.TensorSpecs with names. "
            f"Received: {specs}"
        )
    inputs = {spec.name: spec for spec in specs}
    return lambda **given: function(*(given[key] for key in inputs)), inputs, None


def _checked(name: str, inputs: Any) -> dict[str, tf.TensorSpec]:
    valid = isinstance(inputs, Mapping) and all(
        isinstance(key, str) and key.isidentifier() and isinstance(spec, tf.TensorSpec)
        for key, spec in inputs.items()
    )
    if not valid or not inputs:
        raise ValueError(
            f"`signatures[{name!r}]` must have a tf.TensorSpec for each of its inputs, by the "
            f"names that the function gives them. Received: {inputs!r}"
        )
    return dict(inputs)


def _named(name: str, outputs: Any, names: list[str] | None) -> dict[str, tf.Tensor]:
    """The outputs of a function as a dict: one is called "outputs"."""
    if isinstance(outputs, Mapping):
        named = dict(outputs)
    elif isinstance(outputs, (tuple, list)) and len(outputs) != 1:
        if names is None or len(set(names)) != len(outputs):
            names = [f"output_{i}" for i in range(len(outputs))]
        named = dict(zip(names, outputs))
    else:
        (output,) = outputs if isinstance(outputs, (tuple, list)) else [outputs]
        named = {"outputs": output}
    if not all(isinstance(k, str) and tf.is_tensor(v) for k, v in named.items()) or not named:
        received = tf.nest.map_structure(
            lambda y: f"{y.dtype.name} {y.shape}" if tf.is_tensor(y) else y, outputs
        )
        raise ValueError(
            f"`signatures[{name!r}]` must return tensors: one, several, or a dict of them, not "
            f"nested any deeper. Received: {received!r}"
        )
    return named
