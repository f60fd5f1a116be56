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

import tensorflow as tf
from rich.console import Group

from tfconv.export import tables, tracing, verification
from tfconv.export.errors import ExportError
from tfconv.export.files import checked_file, write
from tfconv.export.quiet import quiet
from tfconv.export.samples import Arrays, given_samples, random_samples, repeatable

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
    Its inputs and outputs are the model's, under their names, the batch of any size if the
    model's is. tf2onnx converts, ONNX Runtime compares; both are installed by
    `pip install tf2onnx onnx onnxruntime`.

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
    onnx, tf2onnx = _package("onnx"), _package("tf2onnx")
    onnxruntime = _package("onnxruntime") if verify else None
    with quiet("The conversion to ONNX"):
        traced = tracing.trace(model, inputs)
        function = tf.function(lambda *x: traced.function(*x), input_signature=traced.inputs)
        proto, _ = tf2onnx.convert.from_function(function, traced.inputs, opset=opset)
        version = next(o.version for o in proto.opset_import if o.domain == "")
        _check_operators(proto, version, onnx)
        content = proto.SerializeToString()
        error = None
        if onnxruntime is not None:
            samples = random_samples(traced.inputs)
            if representative_data is not None:
                samples = given_samples(representative_data, traced.inputs)
            errors = verification.compared(_runner(content, onnxruntime), traced, samples)
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
        {tensor.name: _described(tensor, onnx) for tensor in proto.graph.input},
        {tensor.name: _described(tensor, onnx) for tensor in proto.graph.output},
        dict(collections.Counter(node.op_type for node in _nodes(proto.graph)).most_common()),
        error,
    )


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"`tfconv.export.to_onnx` needs {name}, which cannot be imported ({error}): "
            "`pip install tf2onnx onnx onnxruntime`"
        ) from error


def _runner(content: bytes, onnxruntime: ModuleType) -> Any:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(arrays: Arrays) -> Arrays:
        return dict(zip(names, session.run(names, arrays)))

    return run


def _nodes(graph: Any) -> Iterator[Any]:
    """The nodes of a graph and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _check_operators(proto: Any, version: int, onnx: ModuleType) -> None:
    """Raises an error for operations that tf2onnx has left as they were."""
    unknown = {
        node.op_type: node.name
        for node in _nodes(proto.graph)
        if not onnx.defs.has(node.op_type, version, node.domain)
    }
    if unknown:
        listed = ", ".join(f"{op} (at {name})" for op, name in unknown.items())
        raise ExportError(f"ONNX's opset {version} has no operator for: {listed}.")


def _described(tensor: Any, onnx: ModuleType) -> str:
    """Type and shape of an input or output."""
    of_tensor = tensor.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(of_tensor.elem_type)
    shape = [d.dim_value if d.HasField("dim_value") else None for d in of_tensor.shape.dim]
    return tables.tensor_text(str(dtype), shape)
