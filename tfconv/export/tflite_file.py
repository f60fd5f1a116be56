"""What is in a TensorFlow Lite model: operators, tensors, signatures, and their layers."""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tfconv._compat import KERAS_3, child_layers, tflite_schema

NATIVE_PREFIX = "Tfconv>"  # of the names of tfconv's own operators
IDENTIFIER = b"TFL3"
# What an operator is named for, where several operations of a graph were fused into it.
_PRODUCT = re.compile("conv|matmul|einsum|tensordot", re.IGNORECASE)
_NUMBER = re.compile(r"_\d+$")


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a model.

    Attributes:
        name: Its name; where operations were fused, their names with ";" between them.
        shape: Its shape; None for sizes that are known only when the model runs.
        type: The type of its elements, such as "FLOAT32".
        size: Bytes of its data in the file; 0 if it is computed.
        buffer: The number of its data, which tensors may share.
    """

    name: str
    shape: tuple[int | None, ...]
    type: str
    size: int
    buffer: int

    @property
    def is_constant(self) -> bool:
        return self.size > 0


@dataclasses.dataclass(frozen=True)
class Operator:
    """An operator of a model.

    Attributes:
        name: The name of the builtin operator, such as "CONV_2D", or of the custom one.
        is_custom: Whether it is a custom operator.
        inputs: What it reads; None for optional inputs that are left out.
        outputs: What it writes.
        origin: The layer that it comes from: the names on the way to it, "block/conv"; "" for the
            model itself and where it is not known.
    """

    name: str
    is_custom: bool
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    origin: str


@dataclasses.dataclass(frozen=True)
class Signature:
    """A signature: the tensors behind the names of its inputs and outputs."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


@dataclasses.dataclass
class LayerShare:
    """What a layer has of a model: its operators, and bytes of constants."""

    operators: int = 0
    size: int = 0


@dataclasses.dataclass(frozen=True)
class TFLiteFile:
    """A TensorFlow Lite model.

    Attributes:
        size: Bytes of the file.
        operators: All operators, in the order in which they run.
        tensors: All tensors.
        inputs: What the model takes.
        outputs: What it gives.
        signatures: Its signatures by name.
    """

    size: int
    operators: tuple[Operator, ...]
    tensors: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    signatures: dict[str, Signature]

    @property
    def operator_counts(self) -> dict[str, int]:
        """How many operators there are of each name, the most frequent first."""
        return _counts(operator.name for operator in self.operators)

    @property
    def custom_counts(self) -> dict[str, int]:
        """The same for custom operators only."""
        return _counts(operator.name for operator in self.operators if operator.is_custom)

    @property
    def operator_types(self) -> dict[str, int]:
        """How many operators write each type, such as "FLOAT32", the most frequent first."""
        return _counts(operator.outputs[0].type for operator in self.operators if operator.outputs)

    @property
    def size_by_type(self) -> dict[str, int]:
        """Bytes of constants by the type of their elements; data that is shared counts once."""
        sizes: dict[str, int] = {}
        for tensor in {tensor.buffer: tensor for tensor in reversed(self.tensors)}.values():
            if tensor.is_constant:
                sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.size
        return dict(sorted(sizes.items(), key=lambda item: -item[1]))

    @property
    def shares(self) -> dict[str, LayerShare]:
        """What each layer has of the model, by `Operator.origin`, in the order of its operators.

        Data that several operators read belongs to the layer of the first.
        """
        shares: dict[str, LayerShare] = collections.defaultdict(LayerShare)
        seen = set()
        for operator in self.operators:
            share = shares[operator.origin]
            share.operators += 1
            for tensor in filter(None, operator.inputs):
                if tensor.buffer not in seen:
                    seen.add(tensor.buffer)
                    share.size += tensor.size
        return dict(shares)


def read(source: bytes | str | os.PathLike[str], model: Any = None) -> TFLiteFile:
    """Reads a TensorFlow Lite model.

    Args:
        source: The model, or the file that it is in.
        model: The Keras model that it was converted from, if that is at hand: its layers give
            `Operator.origin` their names. Without it they are read from the names of tensors,
            where parts of a layer may look like layers.

    Returns:
        What is in the model.

    Raises:
        ValueError: If it is not a TensorFlow Lite model, or damaged.
        OSError: If the file cannot be read.

    Example:
        >>> from tfconv.export import tflite_file
        >>> f = tf.function(lambda x: 2.0 * x, input_signature=[tf.TensorSpec([None, 3])])
        >>> concrete = f.get_concrete_function()
        >>> converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], f)
        >>> file = tflite_file.read(converter.convert())
        >>> file.operator_counts, file.inputs[0].shape
        ({'MUL': 1}, (None, 3))
    """
    is_content = isinstance(source, (bytes, bytearray))
    content = bytes(source) if is_content else Path(source).read_bytes()
    name = f"{len(content)} bytes" if is_content else os.fspath(source)
    if content[4:8] != IDENTIFIER:
        raise ValueError(f"`source` must be a TensorFlow Lite model. Received: {name}")
    try:
        return _read(content, model)
    except (struct.error, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"`source` is a damaged TensorFlow Lite model: part of it may be missing ({error}). "
            f"Received: {name}"
        ) from error


def _read(content: bytes, model: Any) -> TFLiteFile:
    schema = tflite_schema()
    root = schema.Model.GetRootAs(content, 0)
    sizes = [buffer.DataLength() for buffer in _all(root.Buffers, root.BuffersLength)]
    graphs = list(_all(root.Subgraphs, root.SubgraphsLength))
    tensors = [
        [_tensor(t, sizes, schema) for t in _all(graph.Tensors, graph.TensorsLength)]
        for graph in graphs
    ]
    codes = [
        _operator_name(code, schema) for code in _all(root.OperatorCodes, root.OperatorCodesLength)
    ]
    operators = []
    for graph, known in zip(graphs, tensors):
        for operator in _all(graph.Operators, graph.OperatorsLength):
            inputs = tuple(
                None if i < 0 else known[i] for i in _all(operator.Inputs, operator.InputsLength)
            )
            outputs = tuple(known[i] for i in _all(operator.Outputs, operator.OutputsLength))
            operators.append(Operator(*codes[operator.OpcodeIndex()], inputs, outputs, ""))
    main, known = graphs[0], tensors[0]
    return TFLiteFile(
        size=len(content),
        operators=tuple(_with_origins(operators, model)),
        tensors=tuple(tensor for known in tensors for tensor in known),
        inputs=tuple(known[i] for i in _all(main.Inputs, main.InputsLength)),
        outputs=tuple(known[i] for i in _all(main.Outputs, main.OutputsLength)),
        signatures={
            _text(signature.SignatureKey()): _signature(
                signature, tensors[signature.SubgraphIndex()]
            )
            for signature in _all(root.SignatureDefs, root.SignatureDefsLength)
        },
    )


def _all(get: Callable[[int], Any], length: Callable[[], int]) -> Iterator[Any]:
    """The elements of a vector of a flatbuffer."""
    return map(get, range(length()))


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _tensor(tensor: Any, sizes: list[int], schema: Any) -> Tensor:
    shape = list(_all(tensor.Shape, tensor.ShapeLength))
    signature = list(_all(tensor.ShapeSignature, tensor.ShapeSignatureLength))
    return Tensor(
        name=_text(tensor.Name()),
        shape=tuple(None if size < 0 else size for size in signature or shape),
        type=_constant_name(schema.TensorType, tensor.Type()),
        size=sizes[tensor.Buffer()],
        buffer=tensor.Buffer(),
    )


def _operator_name(code: Any, schema: Any) -> tuple[str, bool]:
    """An operator's name, and whether it is a custom one."""
    # Codes beyond 127 came later: they stand in a field of their own.
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    if number == schema.BuiltinOperator.CUSTOM:
        return _text(code.CustomCode()), True
    return _constant_name(schema.BuiltinOperator, number), False


def _constant_name(constants: Any, number: int) -> str:
    """The name of a number among a class's constants; the number itself if it is too new."""
    return _constant_names(constants).get(number, str(number))


@functools.cache
def _constant_names(constants: Any) -> dict[int, str]:
    return {value: name for name, value in vars(constants).items() if not name.startswith("_")}


def _signature(signature: Any, known: list[Tensor]) -> Signature:
    inputs = _all(signature.Inputs, signature.InputsLength)
    outputs = _all(signature.Outputs, signature.OutputsLength)
    return Signature(
        *({_text(m.Name()): known[m.TensorIndex()] for m in maps} for maps in (inputs, outputs))
    )


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(collections.Counter(names).most_common())


# Layers. Operations of a graph are named after the layers that they are called in.


def _with_origins(operators: list[Operator], model: Any) -> list[Operator]:
    names = {name for op in operators for tensor in op.outputs for name in _names(tensor)}
    scopes = [_scope(operator, names) for operator in operators]
    if model is None:
        origins = shortened(set(scopes))
    else:
        origins = {scope: _layer_path(scope, model) for scope in set(scopes)}
    return [
        dataclasses.replace(operator, origin=origins[scope])
        for operator, scope in zip(operators, scopes)
    ]


def _names(tensor: Tensor) -> list[str]:
    return [name for name in tensor.name.split(";") if "/" in name]


def _scope(operator: Operator, names: set[str]) -> str:
    """The scope that an operator's operation was made in.

    What writes an output of the model has no name of its own: the names of what it reads have to
    do, constants first.
    """
    inputs = sorted(filter(None, operator.inputs), key=lambda tensor: not tensor.is_constant)
    found = next(filter(None, map(_names, (*operator.outputs, *inputs))), [""])
    name = next((name for name in found if _PRODUCT.search(name.rpartition("/")[2])), found[0])
    scope = name.rpartition("/")[0]
    while scope in names:  # an operation made of operations
        scope = scope.rpartition("/")[0]
    return scope


def _layer_path(scope: str, model: Any) -> str:
    """The names of the layers of a model that lead to a scope.

    TensorFlow makes the names of scopes unique by numbers. In Keras 3 every one has a number, for
    the layers have been traced before: "conv_1" is the layer "conv".
    """

    def candidates(part: str) -> tuple[str, str]:
        plain = _NUMBER.sub("", part)
        return (plain, part) if KERAS_3 else (part, plain)

    parts = scope.split("/")
    if model.name in candidates(parts[0]):
        del parts[0]
    path: list[str] = []
    layer = model
    for part in parts:
        children = {child.name: child for child in child_layers(layer)}
        name = next((name for name in candidates(part) if name in children), None)
        if name is None:
            break
        layer = children[name]
        path.append(name)
    return "/".join(path)


def shortened(scopes: set[str]) -> dict[str, str]:
    """Scopes without the model's own, and without numbers where each part of each has one."""
    paths = {scope: scope.split("/") for scope in scopes if scope}
    if all(_NUMBER.search(part) for path in paths.values() for part in path):
        paths = {s: [_NUMBER.sub("", part) for part in path] for s, path in paths.items()}
    if len({path[0] for path in paths.values()}) == 1:
        paths = {scope: path[1:] for scope, path in paths.items()}
    return {"": "", **{scope: "/".join(path) for scope, path in paths.items()}}
