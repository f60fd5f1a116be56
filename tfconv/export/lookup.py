"""Real numbers inside models in integers, replaced by tables of what they give for each integer.

TensorFlow Lite rounds down, squares and makes indices of real numbers only: coordinates would leave
the integers for that. What is computed of one 8-bit integer has 256 results.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from tfconv._compat import tflite_schema
from tfconv.export.rewriting import drop_unread, kind, load, new_operator, pack

_INTEGERS = np.arange(-128, 128)


def with_tables(content: bytes) -> bytes:
    """A model in integers that looks up what it would compute of an integer as a real number.

    Where real numbers reach what no table can have, such as a layer that stays in floating point,
    they stay.
    """
    model = load(content)
    real = [op for op in model.subgraphs[0].operators if kind(model, op) == "DEQUANTIZE"]
    sources = dict.fromkeys(int(op.inputs[0]) for op in real)
    if not any([_Source(model, source).look_up() for source in sources]):
        return content
    drop_unread(model)
    return pack(model)


class _Source:
    """What a model computes of one of its tensors, element by element.

    Attributes:
        values: What tensors hold for each integer.
        operators: Those that compute them.
    """

    def __init__(self, model: Any, source: int):
        self._model, self._graph, self._source = model, model.subgraphs[0], source
        self._types = tflite_schema().TensorType
        self.values: dict[int, np.ndarray] = {}
        self.operators: list[Any] = []
        scale = self._scale(source)
        if scale is None or not self._is_computed(source):
            return
        self.values[source] = _reals(_INTEGERS, scale)
        for operator in self._graph.operators:
            self._follow(operator)

    def _follow(self, operator: Any) -> None:
        function = _FUNCTIONS.get(kind(self._model, operator))
        read = list(map(int, operator.inputs)) if function else []
        activation = getattr(operator.builtinOptions, "fusedActivationFunction", 0)
        if not self.values.keys() & set(read) or activation:
            return
        given = [self.values[i] if i in self.values else self._number(i) for i in read]
        written = int(operator.outputs[0])
        shapes = [list(self._graph.tensors[i].shape) for i in (self._source, written)]
        if all(v is not None for v in given) and shapes[0] == shapes[1]:
            self.values[written] = function(*given)
            self.operators.append(operator)

    def look_up(self) -> bool:
        """Puts tables in the place of the operators; False if that leaves real numbers."""
        types, tensors = self._types, self._graph.tensors
        made = [int(op.outputs[0]) for op in self.operators]
        others = [op for op in self._graph.operators if op not in self.operators]
        read = {int(i) for op in others for i in op.inputs} | set(map(int, self._graph.outputs))
        wanted = [i for i in made if i in read]
        if not any(tensors[i].type == types.FLOAT32 for i in made):
            return False
        if any(tensors[i].type != types.INT32 and self._scale(i) is None for i in wanted):
            return False
        place = self._graph.operators.index(self.operators[0])
        before, after = self._graph.operators[:place], self._graph.operators[place:]
        plain, index = (self._like(self._source, types.INT32) for _ in range(2))
        shift = self._constant(np.int32(-_INTEGERS[0]), types.INT32)
        cast = {"inDataType": types.INT8, "outDataType": types.INT32}
        new = [
            new_operator(self._model, "CAST", [self._source], plain, **cast),
            new_operator(self._model, "ADD", [plain, shift], index),
        ]
        for tensor in wanted:
            table = self._table(tensor)
            new.append(new_operator(self._model, "GATHER", [table, index], tensor))
        kept = [op for op in after if op not in self.operators]
        self._graph.operators = [*before, *new, *kept]
        return True

    def _table(self, tensor: int) -> int:
        """A constant with what a tensor holds for each integer."""
        values, scale = np.broadcast_to(self.values[tensor], _INTEGERS.shape), self._scale(tensor)
        if scale is None:
            return self._constant(values.astype(np.int32), self._types.INT32)
        integers = np.clip(np.round(values / scale[0]) + scale[1], -128, 127).astype(np.int8)
        table = self._constant(integers, self._types.INT8)
        self._graph.tensors[table].quantization = self._graph.tensors[tensor].quantization
        return table

    def _scale(self, index: int) -> tuple[float, int] | None:
        """Scale and zero point of an 8-bit tensor that has one of each, else None."""
        tensor = self._graph.tensors[index]
        scales = getattr(tensor.quantization, "scale", None)
        if tensor.type != self._types.INT8 or scales is None or len(scales) != 1:
            return None
        return float(scales[0]), int(tensor.quantization.zeroPoint[0])

    def _is_computed(self, index: int) -> bool:
        data = self._model.buffers[self._graph.tensors[index].buffer].data
        return data is None or not len(data)

    def _number(self, index: int) -> np.ndarray | None:
        """The value of a constant of one element, None of others."""
        tensor, types = self._graph.tensors[index], self._types
        kinds = {types.FLOAT32: np.float32, types.INT32: np.int32, types.INT8: np.int8}
        if self._is_computed(index) or tensor.type not in kinds:
            return None
        data = np.frombuffer(bytes(self._model.buffers[tensor.buffer].data), kinds[tensor.type])
        if data.size != 1:
            return None
        scale = self._scale(index)
        return data[0].astype(np.float64) if scale is None else _reals(data[0], scale)

    def _constant(self, array: Any, kind: int) -> int:
        buffer = tflite_schema().BufferT()
        buffer.data = np.frombuffer(np.asarray(array).tobytes(), np.uint8)
        self._model.buffers.append(buffer)
        tensor = tflite_schema().TensorT()
        tensor.shape, tensor.type = list(np.shape(array)), kind
        tensor.name, tensor.buffer = b"table", len(self._model.buffers) - 1
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _like(self, index: int, kind: int) -> int:
        tensor = copy.copy(self._graph.tensors[index])
        tensor.type, tensor.quantization, tensor.buffer = kind, None, 0
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1


def _reals(integers: Any, scale: tuple[float, int]) -> np.ndarray:
    return (np.asarray(integers, np.float64) - scale[1]) * scale[0]


def _same(x: np.ndarray) -> np.ndarray:
    return x


_FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "ADD": np.add,
    "CAST": np.trunc,
    "DEQUANTIZE": _same,
    "ELU": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "FLOOR": np.floor,
    "MAXIMUM": np.maximum,
    "MINIMUM": np.minimum,
    "MUL": np.multiply,
    "QUANTIZE": _same,
    "RELU_0_TO_1": lambda x: np.clip(x, 0, 1),
    "SQUARE": np.square,
    "SUB": np.subtract,
}
