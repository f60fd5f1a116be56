"""Integers as inputs and outputs of TensorFlow Lite models that compute with them."""

from __future__ import annotations

import copy
from typing import Any

from tfconv._compat import tflite_schema
from tfconv.export.rewriting import kind, load, new_operator, pack

TYPES = {"int8": "INT8", "uint8": "UINT8"}
_SHIFT = 128  # between the zero points of both


def with_integer_borders(content: bytes, dtype: str) -> bytes:
    """A model that takes and gives integers where it took and gave real numbers.

    Args:
        content: A model in integers, with real numbers at its borders.
        dtype: "int8" or "uint8". Scale and zero point stand in the model.

    Raises:
        ValueError: If no range is known for an input or output, since nothing that is in
            integers reads or writes it.
    """
    model = load(content)
    _Borders(model, dtype).change()
    return pack(model)


class _Borders:
    """The borders of a model's main graph, which are changed in place."""

    def __init__(self, model: Any, dtype: str):
        self._schema = tflite_schema()
        self._model, self._graph = model, model.subgraphs[0]
        self._operators = list(self._graph.operators)
        self._dtype = dtype

    def change(self) -> None:
        real = self._schema.TensorType.FLOAT32
        # What comes last to be read comes first to be written.
        for index in dict.fromkeys(map(int, self._graph.inputs)):
            if self._graph.tensors[index].type == real:
                self._input(index)
        for index in dict.fromkeys(map(int, self._graph.outputs)):
            if self._graph.tensors[index].type == real:
                self._output(index)
        self._graph.operators = self._operators

    def _input(self, index: int) -> None:
        readers = [op for op in self._operators if index in _indices(op.inputs)]
        makers = [op for op in readers if self._quantizes(op)]
        real = [op for op in readers if op not in makers]
        if not makers:
            raise ValueError(self._unknown(index, "input", "reads"))
        plain = self._graph.tensors[makers[0].outputs[0]].quantization
        if real:
            _replace(real, "inputs", index, twin := self._twin(index))
            self._operators.insert(0, new_operator(self._model, "DEQUANTIZE", [index], twin))
        self._retype(index, plain)
        for op in makers if self._dtype == "int8" else ():
            written = int(op.outputs[0])
            if written in _indices(self._graph.outputs):
                continue
            if _same(self._graph.tensors[written].quantization, plain):
                self._operators.remove(op)
                _replace(self._operators, "inputs", written, index)

    def _output(self, index: int) -> None:
        (maker,) = (op for op in self._operators if index in _indices(op.outputs))
        readers = [op for op in self._operators if index in _indices(op.inputs)]
        if kind(self._model, maker) != "DEQUANTIZE":
            # Others read it in integers, whose range then is the output's.
            known = [op for op in readers if self._quantizes(op)]
            if not known:
                raise ValueError(self._unknown(index, "output", "writes"))
            plain = self._graph.tensors[known[0].outputs[0]].quantization
            twin = self._twin(index)
            _replace(self._operators, "inputs", index, twin)
            _replace([maker], "outputs", index, twin)
            self._operators.append(new_operator(self._model, "QUANTIZE", [twin], index))
            return self._retype(index, plain)
        source = int(maker.inputs[0])
        plain = self._graph.tensors[source].quantization
        if readers:
            _replace(readers, "inputs", index, twin := self._twin(index))
            twin = new_operator(self._model, "DEQUANTIZE", [source], twin)
            self._operators.insert(self._operators.index(maker), twin)
        self._retype(index, plain)
        writers = [op for op in self._operators if source in _indices(op.outputs)]
        borders = {*_indices(self._graph.inputs), *_indices(self._graph.outputs)}
        if self._dtype == "int8" and writers and source not in borders:
            self._operators.remove(maker)
            _replace(writers, "outputs", source, index)
            _replace(self._operators, "inputs", source, index)
        else:
            place = self._operators.index(maker)
            self._operators[place] = new_operator(self._model, "QUANTIZE", [source], index)

    def _retype(self, index: int, plain: Any) -> None:
        tensor = self._graph.tensors[index]
        tensor.type = getattr(self._schema.TensorType, TYPES[self._dtype])
        tensor.quantization = copy.deepcopy(plain)
        if self._dtype == "uint8":
            tensor.quantization.zeroPoint = [int(plain.zeroPoint[0]) + _SHIFT]

    def _twin(self, index: int) -> int:
        """A new tensor of real numbers that is like one of the model's."""
        tensor = copy.deepcopy(self._graph.tensors[index])
        tensor.name = bytes(tensor.name) + b"_real"
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _quantizes(self, operator: Any) -> bool:
        return kind(self._model, operator) == "QUANTIZE"

    def _unknown(self, index: int, what: str, verb: str) -> str:
        name = bytes(self._graph.tensors[index].name).decode()
        return f"the operator that {verb} the {what} `{name}` has no form in integers"


def _indices(indices: Any) -> list[int]:
    return [] if indices is None else list(map(int, indices))


def _replace(operators: list[Any], side: str, old: int, new: int) -> None:
    for operator in operators:
        indices = _indices(getattr(operator, side))
        setattr(operator, side, [new if i == old else i for i in indices])


def _same(a: Any, b: Any) -> bool:
    return list(a.scale) == list(b.scale) and list(a.zeroPoint) == list(b.zeroPoint)
