"""What tells apps how to feed a TensorFlow Lite file and how to name what it gives."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
from flatbuffers import number_types
from flatbuffers.table import Table

from tfconv._compat import tflite_schema
from tfconv.export.rewriting import load, pack

_ENTRY, _IDENTIFIER, _PARSER = b"TFLITE_METADATA", b"M001", "1.0.0"
_TEXTS = ("name", "description", "version", "author", "license")
# Numbers of the schema of TFLite Support.
_FEATURE, _IMAGE = 1, 2  # what a tensor holds
_RGB, _GRAYSCALE = 1, 2
_NORMALIZATION = 1  # a step before the model
_AXIS_LABELS = 2  # what a file is
_PIXEL_MAXIMUM = 255.0
_SHOWN = 5  # labels


def check(metadata: Any) -> None:
    """Checks what can be known before there is a file.

    Raises:
        ValueError: If `metadata` is not what `to_tflite` takes.
    """
    keys = (*_TEXTS, "labels", "mean", "std")
    if metadata is None:
        return
    if not isinstance(metadata, Mapping) or not all(key in keys for key in metadata):
        raise ValueError(
            f"`metadata` must be a dict with some of {', '.join(keys)}. "
            f"Received: metadata={metadata!r}"
        )
    for key in _TEXTS:
        if not isinstance(metadata.get(key, ""), str):
            raise ValueError(
                f"`metadata` must have a string as {key!r}. Received: {metadata[key]!r}"
            )
    for key in ("mean", "std"):
        values = _numbers(metadata.get(key, 1.0))
        if values is None or (key == "std" and min(values) <= 0):
            raise ValueError(
                f"`metadata` must have a number as {key!r}, or one for each channel, in pixel "
                f"values of 0 to 255{', above 0' if key == 'std' else ''}. "
                f"Received: {metadata[key]!r}"
            )
    if ("mean" in metadata) != ("std" in metadata):
        raise ValueError(
            f"`metadata` must have both of 'mean' and 'std', or none. Received: {[*metadata]}"
        )
    labels = metadata.get("labels", [])
    for names in labels.values() if isinstance(labels, Mapping) else [labels]:
        if isinstance(names, str) or not _are_labels(names):
            raise ValueError(
                "`metadata` must have as 'labels' a list of strings of one line each or, for "
                f"several outputs, a dict of such by their names. Received: {names!r}"
            )


def _numbers(values: Any) -> list[float] | None:
    """One float or several as a list; None if they are something else."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        return None
    if array.ndim > 1 or not array.size or not np.isfinite(array).all():
        return None
    return [float(x) for x in array.reshape(-1)]


def _are_labels(names: Any) -> bool:
    if not isinstance(names, Sequence):
        return False
    return all(isinstance(n, str) and n and len(n.splitlines()) == 1 for n in names)


def with_metadata(content: bytes, metadata: Mapping[str, Any]) -> bytes:
    """A file with metadata in the schema of TFLite Support.

    The labels are files in a zip archive that the model's bytes are followed by: `unzip` finds
    them, too.

    Args:
        content: A TensorFlow Lite file with a signature.
        metadata: What `to_tflite` takes.

    Raises:
        ValueError: If it does not fit the inputs and outputs.
    """
    model = load(content)
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    names = {
        int(each.tensorIndex): each.name.decode()
        for each in [*signature.inputs, *signature.outputs]
    }
    shapes = {i: _shape(graph.tensors[i]) for i in names}
    inputs = {names[int(i)]: shapes[int(i)] for i in graph.inputs}
    outputs = {names[int(i)]: shapes[int(i)] for i in graph.outputs}
    labels = _labels_of(metadata.get("labels"), outputs)
    files = {name: "labels.txt" if len(labels) == 1 else f"labels_{name}.txt" for name in labels}
    images = [name for name, shape in inputs.items() if _is_image(shape)]
    if "mean" in metadata and not images:
        raise ValueError(
            "`metadata` with 'mean' and 'std' needs an image as input: [batch, height, width, 1 or "
            f"3 channels]. Received: inputs of shapes {list(inputs.values())}"
        )
    table = {
        **{i: metadata.get(key) for i, key in ((0, "name"), (1, "description"), (2, "version"))},
        3: [
            {
                2: [_input(name, inputs[name], metadata) for name in inputs],
                3: [_output(name, files.get(name)) for name in outputs],
            }
        ],
        **{4: metadata.get("author"), 5: metadata.get("license"), 7: _PARSER},
    }
    builder = flatbuffers.Builder(1024)
    builder.Finish(_written(builder, table), _IDENTIFIER)
    _put(model, bytes(builder.Output()))
    return _with_files(
        pack(model), {files[name]: "\n".join(labels[name]) + "\n" for name in labels}
    )


def _shape(tensor: Any) -> list[int]:
    signature = tensor.shapeSignature
    return [int(n) for n in (tensor.shape if signature is None else signature)]


def _is_image(shape: Sequence[int]) -> bool:
    return len(shape) == 4 and shape[-1] in (1, 3)


def _labels_of(labels: Any, outputs: Mapping[str, list[int]]) -> dict[str, list[str]]:
    """The labels by the name of their output."""
    if not labels:
        return {}
    if not isinstance(labels, Mapping):
        if len(outputs) != 1:
            raise ValueError(
                "`metadata` must have as 'labels' a dict by the names of the outputs "
                f"({', '.join(outputs)}). Received: {type(labels).__name__}"
            )
        labels = dict.fromkeys(outputs, labels)
    for name, own in labels.items():
        if name not in outputs or outputs[name][-1:] != [len(own)]:
            raise ValueError(
                "`metadata` must have as many 'labels' as an output has elements in its last axis: "
                f"{outputs}. Received: {len(own)} labels for {name!r}"
            )
    return {name: list(own) for name, own in labels.items()}


# Tables of flatbuffers as dicts by the numbers of their fields; None is left out.


def _input(name: str, shape: Sequence[int], metadata: Mapping[str, Any]) -> dict[int, Any]:
    table: dict[int, Any] = {0: name}
    if _is_image(shape):
        table[3] = {0: _IMAGE, 1: {0: _RGB if shape[-1] == 3 else _GRAYSCALE}}
        if "mean" in metadata:
            mean, std = (_numbers(metadata[key]) for key in ("mean", "std"))
            for key, values in (("mean", mean), ("std", std)):
                if len(values) not in (1, shape[-1]):
                    raise ValueError(
                        f"`metadata` must have one number as {key!r}, or {shape[-1]} for the "
                        f"channels of {name!r}. Received: {values}"
                    )
            table[4] = [{0: _NORMALIZATION, 1: {0: mean, 1: std}}]
            both = np.broadcast_arrays(mean, std)
            limits = [((x - both[0]) / both[1]).tolist() for x in (_PIXEL_MAXIMUM, 0.0)]
            table[5] = dict(enumerate(limits))
    else:
        table[3] = {0: _FEATURE, 1: {}}
    return table


def _output(name: str, file: str | None) -> dict[int, Any]:
    table: dict[int, Any] = {0: name, 3: {0: _FEATURE, 1: {}}}
    if file is not None:
        table[6] = [{0: file, 1: "Names of the classes.", 2: _AXIS_LABELS}]
    return table


def _written(builder: Any, value: Any) -> int:
    """Where a table, a string or a vector stands after it has been written."""
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, dict):
        fields = {slot: given for slot, given in value.items() if given is not None}
        places = {i: _written(builder, v) for i, v in fields.items() if not isinstance(v, int)}
        builder.StartObject(max(fields, default=-1) + 1)
        for slot, given in fields.items():
            if slot in places:
                builder.PrependUOffsetTRelativeSlot(slot, places[slot], 0)
            else:
                builder.PrependByteSlot(slot, given, 0)
        return builder.EndObject()
    floats = all(isinstance(item, float) for item in value)
    items = value if floats else [_written(builder, item) for item in value]
    builder.StartVector(4, len(items), 4)
    for item in reversed(items):
        (builder.PrependFloat32 if floats else builder.PrependUOffsetTRelative)(item)
    return builder.EndVector()


def _put(model: Any, data: bytes) -> None:
    schema = tflite_schema()
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(data, np.uint8)
    model.buffers.append(buffer)
    entry.name, entry.buffer = _ENTRY, len(model.buffers) - 1
    others = [each for each in model.metadata or [] if each.name != _ENTRY]
    model.metadata = [*others, entry]


def _with_files(content: bytes, texts: Mapping[str, str]) -> bytes:
    if not texts:
        return content
    stream = io.BytesIO(content)
    with zipfile.ZipFile(stream, "a") as archive:
        for name, text in texts.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # its date is the same every time
    return stream.getvalue()


def read(content: bytes) -> dict[str, Any]:
    """What a file's metadata says, as `to_tflite` takes it; empty where there is none.

    Of the numbers, those of the first input that has some.

    Raises:
        ValueError: If the metadata is damaged.
    """
    try:
        return _read(content)
    except (struct.error, LookupError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"the metadata is damaged: {error}") from error


def _read(content: bytes) -> dict[str, Any]:
    root = tflite_schema().Model.GetRootAs(content, 0)
    entries = [root.Metadata(i) for i in range(root.MetadataLength())]
    entry = next((each for each in entries if each.Name() == _ENTRY), None)
    if entry is None:
        return {}
    data = root.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
    table = _Fields(Table(data, struct.unpack_from("<I", data)[0]))
    given = zip(_TEXTS, map(table.text, (0, 1, 2, 4, 5)))
    metadata: dict[str, Any] = {key: text for key, text in given if text is not None}
    graph = next(iter(table.tables(3)), None)
    inputs, outputs = ([], []) if graph is None else (graph.tables(2), graph.tables(3))
    files = {
        tensor.text(0) or str(number): file.text(0)
        for number, tensor in enumerate(outputs)
        for file in tensor.tables(6)
        if file.number(2) == _AXIS_LABELS
    }
    if files:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            texts = {name: archive.read(file).decode() for name, file in files.items()}
        labels = {name: text.rstrip().splitlines() for name, text in texts.items()}
        metadata["labels"] = labels if len(outputs) > 1 else next(iter(labels.values()))
    steps = [step for tensor in inputs for step in tensor.tables(4)]
    options = next((s.table(1) for s in steps if s.number(0) == _NORMALIZATION), None)
    if options is not None:
        metadata |= {"mean": options.floats(0), "std": options.floats(1)}
    return metadata


def rows(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What `read` gives, for a table."""
    found = [("metadata", "")] if metadata else []
    for key, value in metadata.items():
        if key == "labels":
            for output, labels in value.items() if isinstance(value, dict) else [("", value)]:
                shown = ", ".join(labels[:_SHOWN]) + (", ..." if len(labels) > _SHOWN else "")
                found.append((f"  labels {output}".rstrip(), f"{len(labels)}: {shown}"))
        else:
            text = value if isinstance(value, str) else ", ".join(f"{x:g}" for x in value)
            found.append((f"  {key}", text))
    return found


class _Fields:
    """The fields of a flatbuffer's table, by their numbers."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def _place(self, number: int) -> int:
        return self._table.Offset(4 + 2 * number)

    def text(self, number: int) -> str | None:
        place = self._place(number)
        return self._table.String(self._table.Pos + place).decode() if place else None

    def number(self, number: int) -> int:
        flags = number_types.Uint8Flags
        place = self._place(number)
        return self._table.Get(flags, self._table.Pos + place) if place else 0

    def table(self, number: int) -> _Fields:
        position = self._table.Pos + self._place(number)
        return _Fields(Table(self._table.Bytes, self._table.Indirect(position)))

    def tables(self, number: int) -> list[_Fields]:
        table, starts = self._table, self._items(number)
        return [_Fields(Table(table.Bytes, table.Indirect(start))) for start in starts]

    def floats(self, number: int) -> list[float]:
        flags = number_types.Float32Flags
        return [self._table.Get(flags, start) for start in self._items(number)]

    def _items(self, number: int) -> list[int]:
        """Where the elements of a vector stand, of four bytes each."""
        place = self._place(number)
        if not place:
            return []
        start = self._table.Vector(place)
        return [start + 4 * i for i in range(self._table.VectorLen(place))]
