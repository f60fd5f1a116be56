"""Which layer of a SavedModel each of its operations comes from, by the names of scopes."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfconv.export.tflite_file import LayerShare, shortened

# Scopes that layers open for casts of their weights and for normalisation.
_INNER_SCOPE = re.compile(r"(^|/)(Cast|batchnorm)(_\d+)?$")


def layer_shares(graph: Any) -> dict[str, LayerShare]:
    """What each layer has of what the signatures of a SavedModel run, in the order of its nodes.

    What several signatures run counts once.

    Args:
        graph: Its `MetaGraphDef`.

    Returns:
        Operations and bytes of variables by the names of the layers that they are in; "" for what
        belongs to none. A variable that several layers read belongs to the first.
    """
    nodes = {node.name: node for node in graph.graph_def.node}
    functions = {f.signature.name: f for f in graph.graph_def.library.function}
    called = {
        tensor.name.partition(":")[0]
        for signature in graph.signature_def.values()
        for tensor in signature.outputs.values()
    }
    shares: dict[str, LayerShare] = collections.defaultdict(LayerShare)
    counted: set[Any] = set()
    # The names of calls and arguments are TensorFlow's: layers are in the functions.
    for name in sorted(called & nodes.keys()):
        node = nodes[name]
        for function in _functions(node):
            inputs = [nodes.get(tensor.partition(":")[0]) for tensor in _data_inputs(node)]
            _add(functions, function, inputs, shares, counted)
    names = shortened(set(shares))
    found: dict[str, LayerShare] = collections.defaultdict(LayerShare)
    for scope, share in shares.items():
        found[names[scope]].operators += share.operators
        found[names[scope]].size += share.size
    return dict(found)


def _add(
    functions: dict[str, Any],
    name: str,
    arguments: Sequence[Any],
    shares: dict[str, LayerShare],
    counted: set[Any],
    outer: str = "",
) -> None:
    """Adds what a function runs; `arguments` are the nodes behind its inputs, or None."""
    if (outer, name) in counted:
        return
    counted.add((outer, name))
    function = functions[name]
    given = dict(zip((argument.name for argument in function.signature.input_arg), arguments))
    names = {node.name for node in function.node_def}
    for node in function.node_def:
        scope = "/".join(filter(None, (outer, _scope(node.name, names))))
        called = [inner for inner in _functions(node) if inner in functions]
        inputs = [given.get(tensor.partition(":")[0]) for tensor in _data_inputs(node)]
        for inner in called:
            _add(functions, inner, inputs, shares, counted, scope)
        if called:
            continue
        shares[scope].operators += 1
        for variable in filter(None, inputs):
            if variable.op == "VarHandleOp" and variable.name not in counted:
                counted.add(variable.name)
                shares[scope].size += _bytes(variable)


def _functions(node: Any) -> Iterator[str]:
    for attribute in node.attr.values():
        if attribute.HasField("func"):
            yield attribute.func.name
        yield from (function.name for function in attribute.list.func)


def _data_inputs(node: Any) -> list[str]:
    return [name for name in node.input if not name.startswith("^")]


def _scope(name: str, names: set[str]) -> str:
    scope = name.rpartition("/")[0]
    while scope in names or _INNER_SCOPE.search(scope):  # an operation made of operations
        scope = scope.rpartition("/")[0]
    return scope


def _bytes(variable: Any) -> int:
    elements = tf.TensorShape(variable.attr["shape"].shape).num_elements() or 0
    return elements * tf.as_dtype(variable.attr["dtype"].type).size
