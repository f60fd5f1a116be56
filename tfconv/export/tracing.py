"""A Keras model as a function of named tensors, traced once for every conversion."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv import _compat
from tfconv._compat import keras
from tfconv.export.samples import (
    Arrays,
    Samples,
    batches,
    elements,
    given_samples,
    random_samples,
)
from tfconv.ops.conv import conv

_STYLE = re.compile(r"\x1b\[\d*m")  # of terminals, in Keras's messages
_NO_NAME = re.compile(r"[^A-Za-z0-9_.\\/>-]")  # signs that names of operations cannot have


@dataclasses.dataclass(frozen=True)
class Traced:
    """A model, ready to be converted.

    Attributes:
        model: The Keras model.
        inputs: Its inputs, with names.
        structure: The same in the structure that the model is called with.
        function: Takes the inputs, gives the outputs by name.
        module: Holds the variables.
        outputs: The names of the model's outputs, in its order.
        layers: Paths ("block/conv") of the layers whose outputs are among those of ``function``
            as well, under names of their own; see `trace`.
    """

    model: Any
    inputs: list[tf.TensorSpec]
    structure: Any
    function: Any
    module: tf.Module
    outputs: list[str]
    layers: dict[str, str]

    @property
    def operations(self) -> list[tf.Operation]:
        """What the function computes by."""
        return self.function.graph.get_operations()

    @property
    def fixed_batch(self) -> int | None:
        """The size of the batch if there is only one that the function takes."""
        return fixed_batch(self.inputs)

    def expected(self, arrays: Arrays) -> Arrays:
        """What the model gives for arrays by the names of its inputs."""
        batch = fixed_batch(getattr(self.model, "inputs", None) or ())
        parts = [_given(self.model, self.structure, part) for part in batches(arrays, batch)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _given(model: Any, inputs: Any, arrays: Arrays) -> Arrays:
    tensors = [tf.constant(arrays[spec.name]) for spec in tf.nest.flatten(inputs)]
    with _compat.in_float32(model):
        y = model(tf.nest.pack_sequence_as(inputs, tensors), training=False)
        return {name: np.asarray(t) for name, t in named_outputs(model, y).items()}


def fixed_batch(inputs: Sequence[Any]) -> int | None:
    """The size of the batch if only one fits the inputs."""
    return max((spec.shape[0] or 0 for spec in inputs), default=0) or None


def with_sizes(inputs: Any, batch_size: int | None, input_shape: Any) -> Any:
    """Inputs of one size of the batch, and of sizes where the model takes any.

    Args:
        inputs: What `model_inputs` gives.
        batch_size: The size of the batch; None for any. A model that has one keeps it.
        input_shape: The shape of an example: of several inputs, of each, in their order or by
            their names. None for the model's own.

    Raises:
        ValueError: If one of them is not that, or does not fit the model.
    """
    specs = tf.nest.flatten(inputs)
    is_size = isinstance(batch_size, (int, np.integer)) and not isinstance(batch_size, bool)
    if batch_size is not None and not (is_size and batch_size > 0):
        raise ValueError(
            f"`batch_size` must be a positive integer or None. Received: batch_size={batch_size!r}"
        )
    own = fixed_batch(specs)
    if own and batch_size not in (None, 1, own):
        raise ValueError(
            f"`batch_size` must be {own}, the only one that the model takes. "
            f"Received: batch_size={batch_size}"
        )
    batch = own or (None if batch_size is None else int(batch_size))
    shapes = _input_shapes(specs, input_shape)
    sized = [tf.TensorSpec([batch, *shapes[s.name]], s.dtype, s.name) for s in specs]
    return tf.nest.pack_sequence_as(inputs, sized)


def _input_shapes(specs: Sequence[tf.TensorSpec], given: Any) -> dict[str, tf.TensorShape]:
    """The shapes of examples by the names of the inputs."""
    own = {spec.name: spec.shape[1:] for spec in specs}
    if given is None:
        return own
    with contextlib.suppress(TypeError, ValueError):
        shapes = given
        if not isinstance(given, dict):
            is_one = all(isinstance(size, (int, np.integer)) for size in given)
            given_each = [given] if is_one and len(own) == 1 else list(given)
            shapes = dict(zip(own, given_each)) if len(given_each) == len(own) else {}
        shapes = {name: tf.TensorShape(shape) for name, shape in shapes.items()}
        known = all(shape.is_fully_defined() for shape in shapes.values())
        if known and shapes.keys() == own.keys():
            if all(shape.is_compatible_with(own[name]) for name, shape in shapes.items()):
                return shapes
    fitting = ", ".join(f"{shape} for `{name}`" for name, shape in own.items())
    raise ValueError(
        "`input_shape` must be the shape of an example, without the batch, of each input "
        f"({fitting}). Received: input_shape={given!r}"
    )


def trace(model: Any, inputs: Any, of_layers: bool = False, *, to_tflite: bool = False) -> Traced:
    """Traces a model for conversion: layers that compute in other real types do in float32.

    Args:
        model: The model.
        inputs: What `model_inputs` gives for it.
        of_layers: Whether the outputs of all its layers become outputs of the function.
        to_tflite: Whether layers take the forms that TensorFlow Lite has fast kernels for.
    """
    if to_tflite:  # its converter saves variables by their names
        check_names(layer.name for layer in _compat.all_layers(model))
    specs = tf.nest.flatten(inputs)
    layers: dict[str, str] = {}
    names: list[str] = []

    @tf.function(input_signature=specs)
    def function(*tensors):
        with _recorded_outputs(model if of_layers else None) as recorded:
            y = model(tf.nest.pack_sequence_as(inputs, list(tensors)), training=False)
        outputs = named_outputs(model, y)
        names[:] = outputs
        for number, (path, output) in enumerate(recorded):
            layers[f"layer_{number}"] = path
            outputs[f"layer_{number}"] = output
        # A converter joins outputs that are one tensor: each gets an operation of its own.
        return {n: tf.identity(t, name=_operation_name(n)) for n, t in outputs.items()}

    module = tf.Module()
    with contextlib.ExitStack() as scopes:
        scopes.enter_context(_compat.export_scope())
        scopes.enter_context(_compat.in_float32(model))
        if to_tflite:
            scopes.enter_context(_compat.tflite_scope())
            scopes.enter_context(_volumes_by_frames(model))
        concrete = function.get_concrete_function()
        # Only now: the call builds what a subclass of keras.Model is made of.
        module.variables_of_model = [_compat.tensorflow_variable(v) for v in model.variables]
    return Traced(model, specs, inputs, concrete, module, names, layers)


@contextlib.contextmanager
def _volumes_by_frames(model: Any) -> Iterator[None]:
    """Has Keras's convolutions of volumes, those inside layers too, convolve as tfconv's do.

    TensorFlow Lite's own has no kernels for integers (see `ops.conv`).
    """
    hook = keras.layers.Conv3D.convolution_op
    changed = [
        layer
        for layer in _compat.all_layers(model)
        if isinstance(layer, keras.layers.Conv3D)
        and getattr(type(layer), "convolution_op", None) is hook
    ]
    for layer in changed:  # past Keras, which would track it
        vars(layer)["convolution_op"] = functools.partial(
            conv,
            strides=layer.strides,
            padding=layer.padding,
            dilation_rate=layer.dilation_rate,
            groups=layer.groups,
            data_format=layer.data_format,
        )
    try:
        yield
    finally:
        for layer in changed:
            del vars(layer)["convolution_op"]


def samples_of(model: Any, inputs: Any, data: Any, run: bool) -> Samples:
    """Examples for a model: those that the user gives, or random ones for None.

    Args:
        model: The model.
        inputs: What `model_inputs` gives for it.
        data: The ``representative_data``.
        run: Whether the model will be run on them.

    Raises:
        ValueError: If the data does not fit the inputs, or random examples of an unknown size do
            not fit the model.
    """
    specs = tf.nest.flatten(inputs)
    if data is not None:
        return given_samples(data, specs)
    samples = random_samples(specs)
    if run and any(None in spec.shape[1:] for spec in specs):
        arrays = samples.batch(fixed_batch(specs) or 1)
        try:
            _given(model, inputs, arrays)
        except Exception as error:
            lines = _STYLE.sub("", str(error)).splitlines()
            why = next((line for line in lines[1:] if line), str(error))
            raise ValueError(
                "`representative_data` is needed: the sizes of the model's inputs are not known, "
                f"and {[a.shape for a in arrays.values()]} do not suit it ({why}) One example "
                "of a size that does is enough. Received: representative_data=None"
            ) from error
    return samples


def model_inputs(model: Any, data: Any) -> Any:
    """The inputs of a model, with names, in the structure that it is called with.

    Args:
        model: A Keras model.
        data: Examples; needed if the model does not say what it takes.

    Raises:
        ValueError: If that is not known, or TensorFlow cannot have the names.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a Keras model. Received: {type(model)}")
    check_names((layer.name for layer in _compat.all_layers(model)), outermost=False)
    if getattr(model, "inputs", None):
        structure = _compat.model_input(model)
        flat = tf.nest.flatten(structure)
        shapes = [(x.shape, x.dtype, x.name.partition(":")[0]) for x in flat]
        check_names(name for *_, name in shapes)
    elif data is None:
        raise ValueError(
            "`representative_data` is needed for a model that has no inputs of its own, such as a "
            "subclass of keras.Model: one example is enough. Received: representative_data=None"
        )
    else:
        structure = next(iter(elements(data)), [])
        if not model.built:  # by its own policy, before it is traced in float32
            one = tf.nest.map_structure(lambda x: tf.convert_to_tensor(x)[:1], structure)
            model(one, training=False)
        arrays = [np.asarray(x) for x in tf.nest.flatten(structure)]
        names = sorted(structure) if isinstance(structure, dict) else _numbered("input", arrays)
        shapes = [((None, *a.shape[1:]), a.dtype, n) for a, n in zip(arrays, names)]
    specs = [tf.TensorSpec(shape, _narrowed(dtype), name) for shape, dtype, name in shapes]
    return tf.nest.pack_sequence_as(structure, specs)


def check_names(names: Iterable[str], outermost: bool = True) -> None:
    """Raises ValueError for names of layers that operations of a graph cannot have.

    Args:
        names: The names.
        outermost: Whether what is named so may stand in no other scope.
    """
    name_of = _operation_name if outermost else functools.partial(_NO_NAME.sub, "_")
    bad = [name for name in names if name_of(name) != name]
    if bad:
        start = ", no _ - / at their start" if outermost else ""
        raise ValueError(
            "`model` must have layers with names of letters, digits and the signs _ . - / only"
            f"{start}. Received: {', '.join(map(repr, bad))}"
        )


def _operation_name(name: str) -> str:
    """The name for an operation: TensorFlow has fewer signs, and fewer still at the start."""
    made = _NO_NAME.sub("_", name)
    return made if re.match("[A-Za-z0-9.]", made) else f"named{made}"


def named_outputs(model: Any, y: Any) -> dict[str, Any]:
    """A model's outputs by name: their keys, the model's names for them, or numbers."""
    flat = tf.nest.flatten(y)
    if isinstance(y, dict):
        names = sorted(y)
    else:
        names = list(getattr(model, "output_names", None) or ())
    if len(names) != len(flat) or len(set(names)) != len(names):
        names = _numbered("output", flat)
    return {name: tf.convert_to_tensor(tensor) for name, tensor in zip(names, flat)}


def _numbered(word: str, things: Sequence[Any]) -> list[str]:
    return [word] if len(things) == 1 else [f"{word}_{i}" for i in range(len(things))]


def _narrowed(dtype: Any) -> tf.DType:
    dtype = tf.as_dtype(dtype)
    return tf.float32 if dtype.is_floating else dtype


# Layers within the model.


def unit_layers(model: Any) -> dict[str, Any]:
    """The layers that are judged one by one, by the path of their names from the model.

    Those of Keras and tfconv that have weights, and all others of tfconv; what a layer is made of
    belongs to it. Models, and layers of others that hold layers, are looked into.
    """
    found: dict[str, Any] = {}

    def look(layer: Any, path: str) -> None:
        for child in _compat.child_layers(layer):
            name = f"{path}/{child.name}" if path else child.name
            package = type(child).__module__.partition(".")[0]
            known = package in ("keras", "tf_keras", "tfconv")
            whole = known and not isinstance(child, keras.Model)
            if not whole and _compat.child_layers(child):
                look(child, name)
            elif child.weights or package == "tfconv":
                found[name] = child

    look(model, "")
    return found


@contextlib.contextmanager
def _recorded_outputs(model: Any) -> Iterator[list[tuple[str, tf.Tensor]]]:
    """Scope in which the outputs of a model's layers are put into a list, in order."""
    recorded: list[tuple[str, tf.Tensor]] = []
    layers = {} if model is None else unit_layers(model)

    def recording(path: str, call: Any) -> Any:
        def recorded_call(*args, **kwargs):
            y = call(*args, **kwargs)
            recorded.extend((path, tensor) for tensor in tf.nest.flatten(y))
            return y

        return recorded_call

    # A layer may be known by several paths, and have a `call` of its own beside its class's.
    patched = {id(layer): (path, layer) for path, layer in reversed(layers.items())}.values()
    own = [(layer, vars(layer).get("call")) for _, layer in patched]
    try:
        for path, layer in patched:
            object.__setattr__(layer, "call", recording(path, layer.call))
        yield recorded
    finally:
        for layer, call in own:
            if call is not None:
                object.__setattr__(layer, "call", call)
            elif "call" in vars(layer):
                object.__delattr__(layer, "call")
