"""Which layers a model calls, on what, and what it computes between them.

The model is traced once, into a graph for one example; nothing is computed. Every call of a layer
is noted with the operations that it put into the graph, so that models of all kinds look alike:
Sequential, functional, subclassed, nested, and layers made of layers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv._compat import keras
from tfconv.analysis.cost import Rule, rule_for


@dataclasses.dataclass
class Call:
    """One call of a layer.

    Attributes:
        layer: The layer.
        path: Its name behind those of the layers that it is called in.
        rule: What says its cost; None for layers that are looked into.
        inputs: The tensors among its arguments.
        outputs: The tensors that it gives.
        first, last: The operations of the graph that it made: ``first <= i < last``.
        inner: The calls inside it.
    """

    layer: Any
    path: str
    rule: Rule | None
    inputs: list[tf.Tensor]
    outputs: list[tf.Tensor] = dataclasses.field(default_factory=list)
    first: int = 0
    last: int = 0
    inner: list[Call] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Trace:
    """A traced model.

    Attributes:
        root: The call of the model itself.
        operations: The operations of its graph, in the order in which they were made.
        owner: Keeps the graph alive.
    """

    root: Call
    operations: list[tf.Operation]
    owner: Any


def trace(layer: Any, specs: Any) -> Trace:
    """Traces a layer or model for inference; builds it if need be.

    Args:
        layer: The layer or model.
        specs: A `tf.TensorSpec` of its input, or a structure of them.
    """
    recorder = _Recorder()

    def run(inputs, inline):
        recorder.start()
        training = "training" in inspect.signature(layer.call).parameters
        with recorder.listening(), _functions_run_inline(inline):
            return layer(inputs, **({"training": False} if training else {}))

    def graph(inline):
        traced = tf.function(lambda inputs: run(inputs, inline), autograph=False)
        return traced.get_concrete_function(specs)

    try:
        function = graph(inline=True)
    except tf.errors.OperatorNotAllowedInGraphError:  # Python's `if` or `for` on tensors
        function = graph(inline=False)
    return Trace(recorder.taken(), function.graph.get_operations(), function)


class _Recorder:
    """Notes the calls of layers while a graph is made."""

    def start(self) -> None:
        """Forgets everything: TensorFlow may trace a function twice."""
        self._graph = tf.compat.v1.get_default_graph()
        self.root = Call(None, "", None, [])
        self._open = [self.root]

    def taken(self) -> Call:
        """The call of the model; what TensorFlow keeps of the recorder keeps no graph alive."""
        call = self.root.inner[0]
        del self._graph, self.root, self._open
        return call

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Scope in which calls of all layers are noted."""
        original = keras.layers.Layer.__call__
        recorder = self

        def noted(self, *args, **kwargs):
            return recorder._note(original, self, args, kwargs)

        keras.layers.Layer.__call__ = noted
        try:
            yield
        finally:
            keras.layers.Layer.__call__ = original

    def _note(self, original: Any, layer: Any, args: Any, kwargs: Any) -> Any:
        outer = self._open[-1]
        # Keras 3 tries layers out in graphs of its own; in a layer with a rule, all is its own.
        if tf.compat.v1.get_default_graph() is not self._graph or outer.rule is not None:
            return original(layer, *args, **kwargs)
        if rule_for(layer) is not None:  # it may be called on weights, too
            args, kwargs = tf.nest.map_structure(_as_tensor, (args, kwargs))
        inputs = self._tensors((args, kwargs))
        path = f"{outer.path}/{layer.name}".lstrip("/") if outer is not self.root else ""
        call = Call(layer, path, rule_for(layer), inputs)
        call.first = len(self._graph.get_operations())
        self._open.append(call)
        try:
            result = original(layer, *args, **kwargs)
        finally:
            self._open.pop()
        call.last = len(self._graph.get_operations())
        call.outputs = self._tensors(result)
        if call.outputs:  # none if called to be built only
            outer.inner.append(call)
        return result

    def _tensors(self, structure: Any) -> list[tf.Tensor]:
        return [x for x in tf.nest.flatten(structure) if getattr(x, "graph", None) is self._graph]


def _as_tensor(x: Any) -> Any:
    given = (np.ndarray, tf.Variable, getattr(keras, "Variable", tf.Variable))
    return tf.convert_to_tensor(x) if isinstance(x, given) else x


@contextlib.contextmanager
def _functions_run_inline(inline: bool) -> Iterator[None]:
    """Scope in which what is decorated with `tf.function` becomes part of the graph around it."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(inline)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)
