"""Says what is in an exported model: a TensorFlow Lite or ONNX file, or a SavedModel."""

from __future__ import annotations

import collections
import dataclasses
import math
import os
import re
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from rich.console import Group
from tensorflow.core.protobuf import saved_model_pb2

from tfconv.export import metadata, tables, tflite_file
from tfconv.export.files import size_on_disk
from tfconv.export.graph_layers import layer_shares
from tfconv.export.onnx import described, nodes, operator_counts, package
from tfconv.export.tflite_file import NATIVE_PREFIX

_PROTO = "saved_model.pb"
_ONNX_START = re.compile(rb"\x08[\x01-\x20]")
_INITIALIZER = "__saved_model_init_op"  # stands among the signatures and is none


@dataclasses.dataclass(frozen=True)
class SignatureTensors:
    """Type and shape of a signature's inputs and outputs, such as "float32 [?, 8]", by name."""

    inputs: dict[str, str]
    outputs: dict[str, str]


@dataclasses.dataclass(frozen=True)
class TFLiteContents:
    """What is in a TensorFlow Lite model. `print` shows a table.

    Attributes:
        path: The file.
        size: Its bytes.
        inputs: Type and shape of each input by name, such as "float32 [?, 8, 8, 3]".
        outputs: The same of each output.
        signatures: The same of each signature.
        operators: How many operators there are of each name, the most frequent first.
        operator_types: How many write each type: without "FLOAT32", all compute in integers.
        custom_operators: The same for those that are none of TensorFlow Lite's own.
        size_by_type: Bytes of constants by their type.
        layers: Operators and bytes of constants of each layer, by the names of the layers around
            it and its own; "" for none. Read from the names of tensors: parts may look like layers.
        metadata: What apps are told, by the keys that `to_tflite` takes; empty if nothing.
    """

    path: Path
    size: int
    inputs: dict[str, str]
    outputs: dict[str, str]
    signatures: dict[str, SignatureTensors]
    operators: dict[str, int]
    operator_types: dict[str, int]
    custom_operators: dict[str, int]
    size_by_type: dict[str, int]
    layers: dict[str, tflite_file.LayerShare]
    metadata: dict[str, Any]

    kind = "TensorFlow Lite"

    def as_json(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return _as_json(self)

    def __rich__(self) -> Group:
        constants = sum(self.size_by_type.values())
        custom = ", ".join(f"{n} {name}" for name, n in self.custom_operators.items())
        facts = [
            ("TensorFlow Lite", os.fspath(self.path)),
            ("size", tables.kilobytes(self.size)),
            *((f"  {name.lower()}", tables.kilobytes(n)) for name, n in self.size_by_type.items()),
            ("  structure", tables.kilobytes(self.size - constants)),
            *(_signature_rows(self.signatures) or _tensor_rows(self.inputs, self.outputs)),
            ("operators", str(sum(self.operators.values()))),
            *((f"  {name.lower()}", str(n)) for name, n in self.operator_types.items()),
            ("  custom", custom or "none"),
            *metadata.rows(self.metadata),
        ]
        operators = {
            f"{name} (custom)" if name in self.custom_operators else name: n
            for name, n in self.operators.items()
        }
        return Group(
            tables.facts(facts),
            tables.counts("operator", operators),
            _layer_table("operators", self.layers),
        )

    def __str__(self) -> str:
        return tables.as_text(self)


@dataclasses.dataclass(frozen=True)
class OnnxContents:
    """What is in an ONNX model. `print` shows a table.

    Attributes:
        path: The file.
        size: Its bytes.
        producer: What wrote it, such as "tf2onnx 1.17.0".
        opsets: The version of the operators of each domain; "" for ONNX's own.
        inputs: Type and shape of each input by name, such as "float32 [?, 8, 8, 3]".
        outputs: The same of each output.
        operators: How many operators there are of each name, the most frequent first.
        custom_operators: The same for those that are none of ONNX's own.
        size_by_type: Bytes of constants by their type, those in files beside it included.
    """

    path: Path
    size: int
    producer: str
    opsets: dict[str, int]
    inputs: dict[str, str]
    outputs: dict[str, str]
    operators: dict[str, int]
    custom_operators: dict[str, int]
    size_by_type: dict[str, int]

    kind = "ONNX"

    def as_json(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return _as_json(self)

    def __rich__(self) -> Group:
        opsets = (f"{name or 'ai.onnx'} {version}" for name, version in self.opsets.items())
        custom = ", ".join(f"{n} {name}" for name, n in self.custom_operators.items())
        facts = [
            ("ONNX", os.fspath(self.path)),
            ("size", tables.kilobytes(self.size)),
            *((f"  {name}", tables.kilobytes(n)) for name, n in self.size_by_type.items()),
            ("written by", self.producer),
            ("opset", ", ".join(opsets)),
            *_tensor_rows(self.inputs, self.outputs),
            ("operators", str(sum(self.operators.values()))),
            ("  custom", custom or "none"),
        ]
        return Group(tables.facts(facts), tables.counts("operator", self.operators))

    def __str__(self) -> str:
        return tables.as_text(self)


@dataclasses.dataclass(frozen=True)
class SavedModelContents:
    """What is in a SavedModel. `print` shows a table.

    Attributes:
        path: Its folder.
        versions: Versions in the folder that was asked about, of which this is the latest; empty
            if it was that of a model itself.
        size: Bytes on disk.
        tensorflow: The version of TensorFlow that wrote it.
        signatures: Type and shape of what each signature takes and gives.
        operations: How often each operation occurs, functions included, the most frequent first.
        native_operations: The same for tfconv's own, which a server must be built with.
        variables: How many variables there are.
        size_by_type: Bytes of the variables by their type.
        layers: Operations and bytes of variables of each layer that the signatures run, by the
            names of the layers that it is in and its own; "" for what belongs to none. As the
            names of operations have them: parts of a layer may look like layers.
    """

    path: Path
    versions: list[int]
    size: int
    tensorflow: str
    signatures: dict[str, SignatureTensors]
    operations: dict[str, int]
    native_operations: dict[str, int]
    variables: int
    size_by_type: dict[str, int]
    layers: dict[str, tflite_file.LayerShare]

    kind = "SavedModel"

    def as_json(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return _as_json(self)

    def __rich__(self) -> Group:
        native = ", ".join(f"{n} {name}" for name, n in self.native_operations.items())
        facts = [("SavedModel", os.fspath(self.path))]
        if self.versions:
            facts.append(("versions", ", ".join(map(str, self.versions))))
        facts += [
            ("size", tables.kilobytes(self.size)),
            ("written by", f"TensorFlow {self.tensorflow}"),
            ("variables", str(self.variables)),
            *((f"  {name}", tables.kilobytes(n)) for name, n in self.size_by_type.items()),
        ]
        facts += [
            *_signature_rows(self.signatures),
            ("operations", str(sum(self.operations.values()))),
            ("  native", native or "none: any TensorFlow runs it"),
        ]
        return Group(
            tables.facts(facts),
            tables.counts("operation", self.operations),
            _layer_table("operations", self.layers),
        )

    def __str__(self) -> str:
        return tables.as_text(self)


def inspect(path: str | os.PathLike[str]) -> TFLiteContents | OnnxContents | SavedModelContents:
    """Says what is in an exported model, without running it.

    Args:
        path: A TensorFlow Lite or ONNX file, the folder of a SavedModel, or a folder of versions
            as TF Serving takes it: the highest version is looked at.

    Returns:
        `TFLiteContents`, `OnnxContents` or `SavedModelContents`: `print` shows tables, `as_json`
        gives the same for JSON.

    Raises:
        ValueError: If it is none of these, or damaged.
        ImportError: If it is an ONNX file, and the package onnx is not installed.

    Example:
        >>> import tempfile
        >>> from tfconv.export.inspection import inspect
        >>> module = tf.Module()
        >>> module.f = tf.function(lambda x: 2 * x, [tf.TensorSpec([None, 3], name="x")])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tf.saved_model.save(module, folder, signatures=module.f)
        ...     contents = inspect(folder)
        >>> contents.signatures["serving_default"].inputs, contents.operations["Mul"]
        ({'x': 'float32 [?, 3]'}, 1)
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"`path` does not exist. Received: path={os.fspath(path)!r}")
    try:
        if path.is_dir():
            return _saved_model(path)
        with path.open("rb") as file:
            # Of ONNX, the first byte says that the version comes, a small number.
            is_onnx = path.suffix == ".onnx" or _ONNX_START.match(file.read(2))
        return _onnx(path) if is_onnx else _tflite(path)
    except OSError as error:
        raise ValueError(
            f"`path` cannot be read ({error.strerror}). Received: path={os.fspath(path)!r}"
        ) from error


def _as_json(contents: Any) -> dict[str, Any]:
    fields = dataclasses.asdict(contents)
    return {"kind": contents.kind, **fields, "path": os.fspath(contents.path)}


def _layer_table(what: str, layers: dict[str, tflite_file.LayerShare]) -> Any:
    total = sum(share.size for share in layers.values())
    rows = [
        (name or "-", share.operators, f"{share.size:,}", f"{share.size / max(total, 1):.1%}")
        for name, share in layers.items()
    ]
    return tables.columns(["layer", what, "bytes", "share"], rows)


def _signature_rows(signatures: dict[str, SignatureTensors]) -> list[tuple[str, str]]:
    rows = []
    for name, signature in signatures.items():
        rows += [("signature", name), *_tensor_rows(signature.inputs, signature.outputs)]
    return rows


def _tensor_rows(inputs: dict[str, str], outputs: dict[str, str]) -> list[tuple[str, str]]:
    return [
        (f"  {word}", f"{name}: {text}")
        for word, tensors in (("input", inputs), ("output", outputs))
        for name, text in tensors.items()
    ]


# TensorFlow Lite.


def _tflite(path: Path) -> TFLiteContents:
    if path.suffix == ".keras":
        raise ValueError(
            "`path` must be an exported model; this is one of Keras, which `tfconv profile` tells "
            f"of and `tfconv convert` converts. Received: path={os.fspath(path)!r}"
        )
    if path.read_bytes()[4:8] != tflite_file.IDENTIFIER:
        raise ValueError(
            "`path` must be a TensorFlow Lite or ONNX file, or the folder of a SavedModel. "
            f"Received: path={os.fspath(path)!r}"
        )
    file = tflite_file.read(path)
    try:
        told = metadata.read(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"In `path`, {error}. Received: path={os.fspath(path)!r}") from error

    def described(tensors: dict[str, tflite_file.Tensor]) -> dict[str, str]:
        return {n: tables.tensor_text(t.type.lower(), t.shape) for n, t in tensors.items()}

    return TFLiteContents(
        path=path,
        size=file.size,
        inputs=described({tensor.name: tensor for tensor in file.inputs}),
        outputs=described({tensor.name: tensor for tensor in file.outputs}),
        signatures={
            name: SignatureTensors(described(s.inputs), described(s.outputs))
            for name, s in file.signatures.items()
        },
        operators=file.operator_counts,
        operator_types=file.operator_types,
        custom_operators=file.custom_counts,
        size_by_type=file.size_by_type,
        layers=file.shares,
        metadata=told,
    )


# ONNX.


def _onnx(path: Path) -> OnnxContents:
    onnx = package("onnx")
    content = path.read_bytes()
    try:
        model = onnx.load_from_string(content)
    except DecodeError:
        model = None
    if model is None or not model.graph.node or not model.opset_import:
        raise ValueError(
            "`path` is no ONNX model, or a damaged one: part of it may be missing. "
            f"Received: path={os.fspath(path)!r}"
        )
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    custom = collections.Counter(
        node.op_type
        for node in nodes(model.graph)
        if not onnx.defs.has(node.op_type, opsets.get("", 1), node.domain)
    )
    constants = model.graph.initializer
    sizes: collections.Counter[str] = collections.Counter()
    for tensor in constants:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        sizes[str(dtype)] += math.prod(tensor.dims) * dtype.itemsize
    names = {tensor.name for tensor in constants}  # old versions have them among the inputs
    return OnnxContents(
        path=path,
        size=len(content),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        opsets=opsets,
        inputs=described([x for x in model.graph.input if x.name not in names], onnx),
        outputs=described(model.graph.output, onnx),
        operators=operator_counts(model.graph),
        custom_operators=dict(custom.most_common()),
        size_by_type=dict(sizes.most_common()),
    )


# SavedModels.


def _saved_model(path: Path) -> SavedModelContents:
    versions: list[int] = []
    if not (path / _PROTO).is_file():
        versions = sorted(
            int(folder.name)
            for folder in path.iterdir()
            if folder.name.isdecimal() and (folder / _PROTO).is_file()
        )
        if not versions:
            raise ValueError(
                f"`path` must be a TensorFlow Lite file, or a folder that holds {_PROTO} or "
                f"versions of a model. Received: path={os.fspath(path)!r}"
            )
        path = next(
            path / name
            for name in os.listdir(path)
            if name.isdecimal() and int(name) == versions[-1]
        )
    graph = _meta_graph(path)
    counts = _operation_counts(graph.graph_def)
    number, size_by_type = _variables(path, has_variables="VarHandleOp" in counts)
    return SavedModelContents(
        path=path,
        versions=versions,
        size=size_on_disk(path),
        tensorflow=graph.meta_info_def.tensorflow_version,
        signatures={
            name: SignatureTensors(_described(s.inputs), _described(s.outputs))
            for name, s in sorted(graph.signature_def.items())
            if name != _INITIALIZER
        },
        operations=counts,
        native_operations={n: k for n, k in counts.items() if n.startswith(NATIVE_PREFIX)},
        variables=number,
        size_by_type=size_by_type,
        layers=layer_shares(graph),
    )


def _damaged(path: Path, why: object) -> ValueError:
    return ValueError(
        f"`path` is a damaged SavedModel: part of it may be missing ({why}). "
        f"Received: path={os.fspath(path)!r}"
    )


def _meta_graph(path: Path) -> Any:
    proto = saved_model_pb2.SavedModel()
    try:
        proto.ParseFromString((path / _PROTO).read_bytes())
    except DecodeError as error:
        raise _damaged(path, error) from error
    if not proto.meta_graphs:
        raise _damaged(path, "it has no graph")
    return proto.meta_graphs[0]


def _operation_counts(graph: Any) -> dict[str, int]:
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    return dict(collections.Counter(node.op for node in nodes).most_common())


def _described(tensors: Any) -> dict[str, str]:
    def text(info: Any) -> str:
        shape = tf.TensorShape(info.tensor_shape)
        sizes = None if shape.rank is None else shape.as_list()
        return tables.tensor_text(tf.as_dtype(info.dtype).name, sizes)

    return {name: text(info) for name, info in sorted(tensors.items())}


def _variables(path: Path, has_variables: bool) -> tuple[int, dict[str, int]]:
    """How many variables there are, and bytes by type."""
    prefix = path / "variables" / "variables"
    if not prefix.with_suffix(".index").is_file():
        if has_variables:
            raise _damaged(path, "it has no variables")
        return 0, {}
    try:
        checkpoint = tf.train.load_checkpoint(os.fspath(prefix))
    except (tf.errors.OpError, ValueError) as error:
        raise _damaged(path, error) from error
    dtypes = checkpoint.get_variable_to_dtype_map()
    sizes: dict[str, int] = collections.defaultdict(int)
    number = 0
    for name, shape in checkpoint.get_variable_to_shape_map().items():
        if dtypes[name] != tf.string:  # how the objects hang together
            number += 1
            sizes[dtypes[name].name] += dtypes[name].size * tf.TensorShape(shape).num_elements()
    if sum(sizes.values()) > sum(file.stat().st_size for file in prefix.parent.iterdir()):
        raise _damaged(path, "the files of its variables are too short")
    return number, dict(sorted(sizes.items(), key=lambda item: -item[1]))
