"""Changes to TensorFlow Lite models that the converter does not make."""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterable
from typing import Any

import flatbuffers

from tfconv._compat import tflite_schema

_LONG_NAME = 200  # characters


def with_float_products(content: bytes, float_content: bytes, names: Iterable[str]) -> bytes:
    """A "dynamic" model in which some operators get back the weights that they had in float32.

    Args:
        content: The model.
        float_content: The model in float32, of the same operators.
        names: The names of the first outputs of these operators.
    """
    wanted = set(names)
    if not wanted:
        return content
    schema = tflite_schema()
    model, original = load(content), load(float_content)
    (graph, *_), (source, *_) = model.subgraphs, original.subgraphs
    inputs = {_name(source, op): op.inputs for op in source.operators}
    new: dict[int, int] = {}  # places of tensors by those in the source: operators may share them
    for operator in graph.operators:
        name = _name(graph, operator)
        if name not in wanted:
            continue
        operator.inputs = list(operator.inputs)
        for place, (index, given) in enumerate(zip(operator.inputs, map(int, inputs[name]))):
            if index >= 0 and graph.tensors[index].type == schema.TensorType.INT8:
                if given not in new:
                    tensor = source.tensors[given]
                    model.buffers.append(original.buffers[tensor.buffer])
                    tensor.buffer = len(model.buffers) - 1
                    new[given] = len(graph.tensors)
                    graph.tensors.append(tensor)
                operator.inputs[place] = new[given]
    drop_unread(model)
    return pack(model)


def with_unique_names(content: bytes) -> bytes:
    """A model whose tensors have a name each, by which some runtimes find them.

    After quantization, each of the parts that a tensor is split into has the names of all the
    operations that were joined in it: the first of these, and a number, will do.
    """
    model = load(content)
    changed = False
    for graph in model.subgraphs:
        taken = {bytes(tensor.name or b"") for tensor in graph.tensors}
        seen: set[bytes] = set()
        numbers: collections.Counter[bytes] = collections.Counter()
        borders = [*map(int, graph.inputs), *map(int, graph.outputs)]
        for index in dict.fromkeys([*borders, *range(len(graph.tensors))]):
            tensor = graph.tensors[index]
            name = bytes(tensor.name or b"")
            first = name.partition(b";")[0] if len(name) > _LONG_NAME else name or b"tensor"
            new = first
            while new in seen or (new != name and new in taken):
                numbers[first] += 1
                new = b"%s_%d" % (first, numbers[first])
            seen.add(new)
            changed |= new != name
            tensor.name = new
    return pack(model) if changed else content


def in_order_of_use(content: bytes) -> bytes:
    """A model whose operators run just before what they make is used: in caches, if it can be.

    The converter sorts them by names: all pixels under the taps of an involution, say, before the
    first of its kernels.
    """
    model = load(content)
    changed = False
    for graph in model.subgraphs:
        order = _by_use(graph)
        changed |= order != sorted(order)
        graph.operators = [graph.operators[number] for number in order]
    return pack(model) if changed else content


def _by_use(graph: Any) -> list[int]:
    """The numbers of a graph's operators, those first that others need; as they are if one acts."""
    operators = graph.operators or []
    made = [[] if op.outputs is None else list(map(int, op.outputs)) for op in operators]
    needed = [[] if op.inputs is None else list(map(int, op.inputs)) for op in operators]
    makers = {tensor: number for number, tensors in enumerate(made) for tensor in tensors}
    if not all(made) or graph.outputs is None or min(makers, default=0) < 0:  # -1: left out
        return list(range(len(operators)))
    order: dict[int, None] = {}
    for last in [*(makers[int(i)] for i in graph.outputs if int(i) in makers), *range(len(made))]:
        path = [last]
        while path:
            number = path[-1]
            before = (makers[i] for i in needed[number] if i in makers)
            first = next((maker for maker in before if maker not in order), None)
            if first is None:
                order[path.pop()] = None
            else:
                path.append(first)
    return list(order)


def _name(graph: Any, operator: Any) -> str:
    """The name of an operator's first output; "" if it has none."""
    if operator.outputs is None or not len(operator.outputs):
        return ""
    return graph.tensors[operator.outputs[0]].name.decode()


def drop_unread(model: Any) -> None:
    """Empties the buffers of constants that no operator reads any more."""
    graph, *inner = model.subgraphs
    read = {int(i) for operator in graph.operators for i in operator.inputs}
    read |= {int(i) for indices in (graph.inputs, graph.outputs) for i in indices}
    used = {tensor.buffer for i, tensor in enumerate(graph.tensors) if i in read}
    used |= {tensor.buffer for other in inner for tensor in other.tensors}
    for tensor in graph.tensors:
        if tensor.buffer not in used:
            model.buffers[tensor.buffer].data = None


def kind(model: Any, operator: Any) -> str:
    """The name of a builtin operator, such as "CONV_2D"."""
    return _kinds().get(_number(model.operatorCodes[operator.opcodeIndex]), "")


@functools.cache
def _kinds() -> dict[int, str]:
    builtin = vars(tflite_schema().BuiltinOperator)
    return {number: name for name, number in builtin.items() if not name.startswith("_")}


def new_operator(model: Any, name: str, inputs: list[int], output: int, **options: Any) -> Any:
    """An operator for a graph of a model.

    Args:
        model: The model.
        name: Of a builtin operator; one word.
        inputs, output: Numbers of tensors.
        options: Its options that differ from the defaults.
    """
    schema, operator = tflite_schema(), tflite_schema().OperatorT()
    operator.opcodeIndex = _code(model, name)
    operator.inputs, operator.outputs = inputs, [output]
    options_class = f"{name.capitalize()}Options"
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, options_class)
    operator.builtinOptions = getattr(schema, f"{options_class}T")()
    for key, value in options.items():
        setattr(operator.builtinOptions, key, value)
    return operator


def _code(model: Any, name: str) -> int:
    """The place of an operator's code among those of a model, of a version that takes integers."""
    number = getattr(tflite_schema().BuiltinOperator, name)
    for place, code in enumerate(model.operatorCodes):
        if _number(code) == number:
            code.version = max(code.version, 2)
            return place
    code = tflite_schema().OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = number
    code.version = 2
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _number(code: Any) -> int:
    # Codes beyond 127 came later: they stand in a field of their own.
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def load(content: bytes) -> Any:
    """A model as objects, to be changed."""
    schema = tflite_schema()
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))


def pack(model: Any) -> bytes:
    """What `load` gave, as a file again."""
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
