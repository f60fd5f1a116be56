"""Runs a SavedModel through TensorFlow's C API, without TensorFlow's Python or tfconv.

A program of its own, started as ``python -I c_api_runner.py``: what TF Serving does when it
loads a model, with the libraries of the installed TensorFlow. It needs NumPy only, finds the
tensors' names in the model's signature, and writes one line of JSON to standard output.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

_LIBRARIES = (
    ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2"),
    ("libtensorflow_framework.2.dylib", "libtensorflow_cc.2.dylib"),
)
_DT_FLOAT = 1
_pointer = ctypes.c_void_p


class _Buffer(ctypes.Structure):
    _fields_ = [("data", _pointer), ("length", ctypes.c_size_t), ("deallocator", _pointer)]


class _Output(ctypes.Structure):
    _fields_ = [("operation", _pointer), ("index", ctypes.c_int)]


def libraries(folder: Path) -> tuple[Path, ...] | None:
    """TensorFlow's shared libraries in `folder`, or None if it has not all of them."""
    for names in _LIBRARIES:
        paths = tuple(folder / name for name in names)
        if all(path.is_file() for path in paths):
            return paths
    return None


# Protocol buffers: just enough to read a signature.


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The (number, value) pairs of a serialized message: ints, or bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(message, at)
        else:
            if kind == 2:
                length, at = _varint(message, at)
            elif kind in (1, 5):
                length = 8 if kind == 1 else 4
            else:
                raise ValueError(f"Unknown wire type in a protocol buffer. Received: {kind}")
            value, at = message[at : at + length], at + length
        yield number, value


def _entries(message: bytes, number: int) -> dict[str, bytes]:
    """The map in field `number`: its keys and serialized values."""
    pairs = (dict(fields(value)) for n, value in fields(message) if n == number)
    return {pair[1].decode(): pair.get(2, b"") for pair in pairs}


def read_signature(meta_graph: bytes, name: str) -> tuple[str, str]:
    """Names of a signature's only input and only output, such as ``serving_default_x:0``.

    Args:
        meta_graph: A serialized MetaGraphDef.
        name: The signature's name.

    Raises:
        ValueError: If there is no such signature, or it has other than one float32 tensor on
            either side.
    """
    signatures = _entries(meta_graph, 5)
    if name not in signatures:
        raise ValueError(f"The model has no signature {name!r}. Received: {sorted(signatures)}")
    names = []
    for number in (1, 2):
        tensors = _entries(signatures[name], number)
        infos = [dict(fields(info)) for info in tensors.values()]
        if len(infos) != 1 or infos[0].get(2) != _DT_FLOAT:
            raise ValueError(
                f"The signature {name!r} must have one float32 input and one float32 output. "
                f"Received: {sorted(tensors)}"
            )
        names.append(infos[0][1].decode())
    return names[0], names[1]


class Model:
    """A SavedModel in a session of TensorFlow's C API.

    Args:
        folder: The SavedModel.
        library_folder: Where TensorFlow's shared libraries lie.
        signature: The signature to run.

    Raises:
        RuntimeError: If TensorFlow cannot load it; the message is TensorFlow's.
    """

    def __init__(self, folder: Path, library_folder: Path, signature: str):
        paths = libraries(library_folder)
        if paths is None:
            raise RuntimeError(f"No TensorFlow libraries in the folder. Received: {library_folder}")
        self._libraries = [ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL) for path in paths]
        self._status = self._function("TF_NewStatus", _pointer)()
        self.version = self._function("TF_Version", ctypes.c_char_p)().decode()
        self._graph = self._function("TF_NewGraph", _pointer)()
        options = self._function("TF_NewSessionOptions", _pointer)()
        meta_graph = self._function("TF_NewBuffer", ctypes.POINTER(_Buffer))()
        load = self._function(
            "TF_LoadSessionFromSavedModel",
            _pointer,
            *(_pointer, _pointer, ctypes.c_char_p, _pointer, ctypes.c_int),
            *(_pointer, _pointer, _pointer),
        )
        tags = (ctypes.c_char_p * 1)(b"serve")
        path = str(folder).encode()
        self._session = load(options, None, path, tags, 1, self._graph, meta_graph, self._status)
        self._check("loading the SavedModel")
        content = meta_graph.contents
        names = read_signature(ctypes.string_at(content.data, content.length), signature)
        self._input, self._output = (self._tensor(name) for name in names)
        self._run = self._function(
            "TF_SessionRun",
            None,
            *(_pointer, _pointer, _pointer, _pointer, ctypes.c_int, _pointer, _pointer),
            *(ctypes.c_int, _pointer, ctypes.c_int, _pointer, _pointer),
        )
        self._allocate = self._function(
            "TF_AllocateTensor",
            _pointer,
            *(ctypes.c_int, _pointer, ctypes.c_int, ctypes.c_size_t),
        )
        self._data = self._function("TF_TensorData", _pointer, _pointer)
        self._delete = self._function("TF_DeleteTensor", None, _pointer)
        self._rank = self._function("TF_NumDims", ctypes.c_int, _pointer)
        self._size = self._function("TF_Dim", ctypes.c_int64, _pointer, ctypes.c_int)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The output for a float32 array."""
        x = np.ascontiguousarray(x, np.float32)
        sizes = (ctypes.c_int64 * x.ndim)(*x.shape)
        given = self._allocate(_DT_FLOAT, sizes, x.ndim, x.nbytes)
        ctypes.memmove(self._data(given), x.ctypes.data, x.nbytes)
        inputs, outputs = (_Output * 1)(self._input), (_Output * 1)(self._output)
        values, results = (_pointer * 1)(given), (_pointer * 1)()
        session, status = self._session, self._status
        self._run(session, None, inputs, values, 1, outputs, results, 1, None, 0, None, status)
        self._delete(given)
        self._check("running the model")
        result = results[0]
        shape = [self._size(result, axis) for axis in range(self._rank(result))]
        pointer = ctypes.cast(self._data(result), ctypes.POINTER(ctypes.c_float))
        y = np.ctypeslib.as_array(pointer, shape).copy()
        self._delete(result)
        return y

    def _function(self, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        for library in self._libraries:
            function = getattr(library, name, None)
            if function is not None:
                function.restype, function.argtypes = result, arguments
                return function
        raise RuntimeError(f"TensorFlow's libraries have no function {name}")

    def _tensor(self, name: str) -> _Output:
        """The graph's output with a name such as ``StatefulPartitionedCall:0``."""
        operation, _, index = name.partition(":")
        find = self._function("TF_GraphOperationByName", _pointer, _pointer, ctypes.c_char_p)
        found = find(self._graph, operation.encode())
        if not found:
            raise RuntimeError(f"The graph has no operation of that name. Received: {operation}")
        return _Output(found, int(index or 0))

    def _check(self, what: str) -> None:
        if self._function("TF_GetCode", ctypes.c_int, _pointer)(self._status):
            message = self._function("TF_Message", ctypes.c_char_p, _pointer)(self._status)
            raise RuntimeError(f"{what} failed: {message.decode(errors='replace')}")


def milliseconds(function: Callable[[np.ndarray], Any], x: np.ndarray, repeats: int) -> float:
    """Median time of a call on `x`, per example, after three calls that do not count."""
    times = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        function(x)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[3:]) / len(x)


def foreign_modules() -> list[str]:
    """Modules of TensorFlow, Keras or tfconv in this process, of which there must be none."""
    names = ("tensorflow", "keras", "tf_keras", "tfconv")
    return sorted(name for name in sys.modules if name.partition(".")[0] in names)


def main() -> int:
    """Runs the program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of the SavedModel")
    parser.add_argument("inputs", type=Path, help="inputs, a .npy file")
    parser.add_argument("outputs", type=Path, help="where to write the outputs, a .npy file")
    parser.add_argument("--libraries", type=Path, required=True, help="folder of TensorFlow's")
    parser.add_argument("--signature", default="serving_default")
    parser.add_argument("--batches", type=int, nargs="*", default=[], help="batch sizes to time")
    parser.add_argument("--repeats", type=int, default=30, help="how often to time each")
    arguments = parser.parse_args()
    inputs = np.load(arguments.inputs)
    try:
        model = Model(arguments.model, arguments.libraries, arguments.signature)
        np.save(arguments.outputs, model(inputs))
        times = [milliseconds(model, inputs[:n], arguments.repeats) for n in arguments.batches]
    except (OSError, RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    found = foreign_modules()
    if found:
        print(f"This process was to run without Python modules of: {found}", file=sys.stderr)
        return 1
    report = {"tensorflow": model.version, "milliseconds": times, "foreign_modules": found}
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
