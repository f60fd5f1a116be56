"""Keras models as ONNX models: converted by tf2onnx, compared in ONNX Runtime."""

from __future__ import annotations

import collections
import dataclasses
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf
from rich.console import Group

from tfconv import _compat
from tfconv.export import tables, tracing, verification
from tfconv.export.errors import ExportError
from tfconv.export.files import checked_file, write
from tfconv.export.quiet import quiet
from tfconv.export.samples import Arrays, batches, repeatable
from tfconv.ops.dispatch import portable

BOUND = 1e-4  # sums in another order, in float32
_OPSETS = range(9, 19)  # those that tf2onnx knows and ONNX Runtime still takes


@dataclasses.dataclass(frozen=True)
class OnnxReport:
    """A model in ONNX, and what is known of it. `print` shows a table.

    Attributes:
        content: The model: what an `.onnx` file holds.
        path: The file that it was written to, or None.
        opset: The version of ONNX's operators.
        inputs: Type and shape of each input by name, such as "float32 [?, 8, 8, 3]".
        outputs: The same of each output.
        operators: How many operators there are of each name, the most frequent first.
        error: The largest root mean square of an output's difference from the Keras model, as a
            share of that of the output; None if it was not measured.
    """

    content: bytes = dataclasses.field(repr=False)
    path: Path | None
    opset: int
    inputs: dict[str, str]
    outputs: dict[str, str]
    operators: dict[str, int]
    error: float | None

    @property
    def size(self) -> int:
        """Bytes of the model."""
        return len(self.content)

    def as_json(self) -> dict[str, Any]:
        """Everything but the content, ready for JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["content"]
        path = None if self.path is None else os.fspath(self.path)
        return {**fields, "path": path, "size": self.size}

    def __rich__(self) -> Group:
        facts = [
            ("file", "none: in memory" if self.path is None else os.fspath(self.path)),
            ("size", tables.kilobytes(self.size)),
            ("opset", str(self.opset)),
            *(("input", f"{name}: {text}") for name, text in self.inputs.items()),
            *(("output", f"{name}: {text}") for name, text in self.outputs.items()),
        ]
        if self.error is not None:
            facts.append(("error", f"{self.error:.2g} (at most {BOUND:.2g} is right)"))
        return Group(tables.facts(facts), tables.counts("operator", self.operators))

    def __str__(self) -> str:
        return tables.as_text(self)


def to_onnx(
    model: Any,
    path: str | os.PathLike[str] | None = None,
    opset: int | None = None,
    verify: bool = True,
    representative_data: Any = None,
) -> OnnxReport:
    """Converts a Keras model to ONNX and compares the two.

    The result holds ONNX's own operators only: those that the stock ops of the layers become.
    Its inputs and outputs are the model's, under their names and in their order, the batch of any
    size if the model's is; an input that is given back is "<name>_output" there. Real numbers are
    in float32, in which layers of other types compute as well. tf2onnx converts, ONNX Runtime
    compares; both are installed by `pip install tf2onnx onnx onnxruntime`.

    Args:
        model: A functional, sequential or subclassed Keras model. For the last,
            ``representative_data`` shows what it takes.
        path: The file to write; None for none. It is there once everything has succeeded.
        opset: The version of ONNX's operators, 9 to 18; None for the one that tf2onnx prefers.
        verify: Whether the result is run and compared with the model, for several inputs and
            sizes of the batch: the root mean square of the difference may be 1e-4 of that of
            the output.
        representative_data: Inputs to compare on, as `tfconv.export.to_tflite` takes them; None
            for random numbers.

    Returns:
        An `OnnxReport`: the model in bytes, its operators, size and error.

    Raises:
        ValueError: If an argument is not what is described above.
        ImportError: If a package that is needed is not installed.
        OSError: If the file cannot be written.
        ExportError: If the conversion fails, or the results differ.

    Source: https://github.com/onnx/tensorflow-onnx

    Example:
        >>> model = tf.keras.Sequential([tf.keras.Input([8, 8, 3]), tfconv.PointwiseConv2D(4)])
        >>> report = tfconv.export.to_onnx(model)
        >>> report.error < 1e-4, report.operators["Conv"]
        (True, 1)
    """
    if opset is not None and (isinstance(opset, bool) or opset not in _OPSETS):
        raise ValueError(
            f"`opset` must be None or from {_OPSETS[0]} to {_OPSETS[-1]}. Received: opset={opset!r}"
        )
    if path is not None:
        path = checked_file(path)
    representative_data = repeatable(representative_data)
    inputs = tracing.model_inputs(model, representative_data)
    onnx, tf2onnx = package("onnx"), package("tf2onnx")
    onnxruntime = package("onnxruntime") if verify else None
    with quiet("The conversion to ONNX", model=model):
        samples = tracing.samples_of(model, inputs, representative_data, run=verify)
        with portable():
            traced = tracing.trace(model, inputs)
        function = _compat.frozen(traced.function, lower_control_flow=False)
        tensors = dict(zip(sorted(traced.outputs), function.outputs))  # as TensorFlow sorts them
        given = {spec.name for spec in traced.inputs}  # of ONNX's tensors, none share a name
        called = {n: f"{n}_output" if n in given else n for n in traced.outputs}
        names = {tensors[name].name: called[name] for name in traced.outputs}
        names.update((x.name, spec.name) for x, spec in zip(function.inputs, traced.inputs))
        proto, _ = tf2onnx.convert.from_graph_def(
            _without_erfc(function.graph.as_graph_def(add_shapes=True)),
            name=model.name,
            input_names=[x.name for x in function.inputs],
            output_names=[tensors[name].name for name in traced.outputs],
            opset=opset,
            tensors_to_rename=names,
        )
        _set_groups(proto, function)
        version = next(o.version for o in proto.opset_import if o.domain == "")
        _check_operators(proto, version, onnx)
        content = proto.SerializeToString()
        error = None
        if onnxruntime is not None:
            names = {shown: name for name, shown in called.items()}
            run = _runner(content, onnxruntime, names, traced.fixed_batch)
            errors = verification.compared(run, traced, samples).errors
            error = max(errors.values())
            if not error <= BOUND:
                worst = max(errors, key=errors.__getitem__)
                raise ExportError(
                    "The ONNX model gives other results than the Keras model: the error of output "
                    f"`{worst}` is {error:.2g} of it, where at most {BOUND:.2g} is right."
                )
    if path is not None:
        write(path, lambda made: made.write_bytes(content))
    return OnnxReport(
        content,
        path,
        version,
        described(proto.graph.input, onnx),
        described(proto.graph.output, onnx),
        operator_counts(proto.graph),
        error,
    )


def package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"ONNX needs {name}, which cannot be imported ({error}): "
            "`pip install tf2onnx onnx onnxruntime`"
        ) from error


def _runner(
    content: bytes, onnxruntime: ModuleType, outputs: dict[str, str], batch: int | None
) -> Any:
    """Runs a model on any number of examples.

    Args:
        content: The model.
        onnxruntime: What runs it.
        outputs: The Keras model's names of the outputs, by those that they have there.
        batch: The size of the batch, None for any.
    """
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [outputs[output.name] for output in session.get_outputs()]

    def run(arrays: Arrays) -> Arrays:
        parts = [session.run(None, part) for part in batches(arrays, batch)]
        return {name: np.concatenate(each) for name, each in zip(names, zip(*parts))}

    return run


def _without_erfc(graph: Any) -> Any:
    """The graph with ``1 - erf(x)`` for ``erfc(x)``, which Keras's GELU has and ONNX has not."""
    for node in list(graph.node):
        if node.op == "Erfc":
            erf = graph.node.add(name=f"{node.name}/erf", op="Erf", input=node.input)
            one = graph.node.add(name=f"{node.name}/one", op="Const")
            for name, value in node.attr.items():
                erf.attr[name].CopyFrom(value)
            one.attr["dtype"].CopyFrom(node.attr["T"])
            one.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(1, node.attr["T"].type))
            node.op = "Sub"
            node.input[:] = [one.name, erf.name]
    return graph


def _set_groups(proto: Any, function: Any) -> None:
    """Tells convolutions their groups: tf2onnx does not know the channels behind a slice."""
    groups = {}
    for op in function.graph.get_operations():
        if op.type in ("Conv2D", "Conv3D"):
            first = op.get_attr("data_format").startswith(b"NC")
            channels = op.inputs[0].shape[1 if first else -1]
            groups[op.name] = channels and channels // op.inputs[1].shape[-2]
    for node in nodes(proto.graph):
        if node.op_type == "Conv" and groups.get(node.name):
            for attribute in node.attribute:
                if attribute.name == "group":
                    attribute.i = groups[node.name]


def nodes(graph: Any) -> Iterator[Any]:
    """The nodes of a graph and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes(inner)


def _check_operators(proto: Any, version: int, onnx: ModuleType) -> None:
    """Raises an error for operations that tf2onnx has left as they were."""
    unknown = {
        node.op_type: node.name
        for node in nodes(proto.graph)
        if not onnx.defs.has(node.op_type, version, node.domain)
    }
    if unknown:
        listed = ", ".join(f"{op} (at {name})" for op, name in unknown.items())
        raise ExportError(f"ONNX's opset {version} has no operator for: {listed}.")


def operator_counts(graph: Any) -> dict[str, int]:
    """How many operators there are of each name, the most frequent first."""
    return dict(collections.Counter(node.op_type for node in nodes(graph)).most_common())


def described(tensors: Any, onnx: ModuleType) -> dict[str, str]:
    """Type and shape of inputs or outputs, by name."""

    def text(tensor: Any) -> str:
        if not tensor.type.HasField("tensor_type"):
            return str(tensor.type.WhichOneof("value")).removesuffix("_type")
        of_tensor = tensor.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(of_tensor.elem_type)
        shape = None
        if of_tensor.HasField("shape"):
            shape = [d.dim_value if d.HasField("dim_value") else None for d in of_tensor.shape.dim]
        return tables.tensor_text(str(dtype), shape)

    return {tensor.name: text(tensor) for tensor in tensors}
