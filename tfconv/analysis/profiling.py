"""Goes through a traced model and notes what each part costs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfconv._compat import keras
from tfconv.analysis import operations
from tfconv.analysis.cost import Cost, Shape
from tfconv.analysis.receptive_field import Field, united
from tfconv.analysis.result import Profile, Row
from tfconv.analysis.trace import Call, trace
from tfconv.layers.base import static_shape
from tfconv.ops.geometry import is_int


def profile(model: Any, input_shape: Any = None) -> Profile:
    """What a model or layer costs for one example: weights, products, memory, receptive fields.

    The model is traced for inference, not run, and built if it is not yet. Layers with a rule
    (see `rule`) are one row; all others, such as models and layers made of layers, are looked
    into. What they compute themselves, between the layers, is counted by TensorFlow's
    operations. Where neither rules nor operations say what something costs, it stands in
    ``unknown``, and what is counted of it is too little.

    Args:
        model: A Keras model or layer.
        input_shape: The shape of an input without the batch, such as ``(224, 224, 3)``, or a list
            or dictionary of shapes, as the model takes its inputs; an axis in front that is None
            is taken for the batch. None: what the model was made for.

    Returns:
        A `Profile`.

    Raises:
        ValueError: If ``model`` is no layer, or a size of its input is not known.

    Example:
        >>> from tfconv.analysis import profile
        >>> found = profile(tfconv.Conv2D(32, 5, padding="same", use_bias=False), (64, 64, 3))
        >>> found.parameters, found.multiply_adds, found.rows[0].weight_reuse
        (2400, 9830400, 4096.0)
    """
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(f"`model` must be a Keras model or layer. Received: model={model!r}")
    specs = _specs(model, input_shape)
    if isinstance(model, keras.Sequential) and not model.built:
        model.build((None, *specs.shape[1:]))  # for batches of any size
    traced = trace(model, specs)
    walk = _Walk(traced.operations)
    inputs = [x for x in traced.root.inputs if x.op.type == "Placeholder"]
    walk.start(inputs, _data_format(traced.root) == "channels_first")
    walk.visit(traced.root)
    peak, peak_at = walk.peak(traced.root.outputs)
    return Profile(
        name=model.name,
        input_shapes=tuple(tuple(x.shape[1:]) for x in inputs),
        rows=walk.rows,
        peak_memory=peak,
        peak_at=peak_at,
        field=walk.field(traced.root.outputs),
    )


def _specs(model: Any, input_shape: Any) -> Any:
    """`tf.TensorSpec`s of the inputs, one example each."""
    made_for = None
    if getattr(model, "inputs", None):  # Keras 3's Sequential has no `input`
        made_for = getattr(model, "input", model.inputs[0])
    given = input_shape
    if given is None and made_for is not None:
        given = tf.nest.map_structure(lambda x: static_shape(x.shape)[1:], made_for)
    if made_for is not None and isinstance(given, list) and not isinstance(made_for, list):
        flat = tf.nest.flatten(made_for)
        if len(flat) == len(given) > 1 and all(map(_is_shape, given)):
            made = iter(given)
            given = tf.nest.map_structure(lambda x: next(made), made_for)
    by_name = {}
    if isinstance(made_for, dict):
        by_name = {name: x.dtype for name, x in made_for.items()}
    dtypes = [x.dtype for x in tf.nest.flatten(made_for)] if made_for is not None else []

    def spec(shape: Any, name: str = "") -> tf.TensorSpec:
        if not _is_shape(shape):
            raise ValueError(
                "`input_shape` must be a shape without the batch, or a list or dictionary of them. "
                f"Received: input_shape={input_shape!r}"
            )
        sizes = tuple(shape)
        if input_shape is not None and sizes and sizes[0] is None:
            sizes = sizes[1:]
        if not all(is_int(n) and n > 0 for n in sizes):
            raise ValueError(
                "`input_shape` must have all sizes of an input, without the batch. "
                f"Received: input_shape={input_shape!r}"
                + (f" for an input of shape {sizes}" if input_shape is None else "")
            )
        dtype = by_name.get(name) or (dtypes.pop(0) if dtypes else model.variable_dtype)
        return tf.TensorSpec((1, *sizes), tf.as_dtype(dtype))

    if isinstance(given, dict):
        return {name: spec(shape, name) for name, shape in given.items()}
    if isinstance(given, (list, tuple, tf.TensorShape)):
        if any(isinstance(shape, (list, tuple, tf.TensorShape)) for shape in given):
            return [spec(shape) for shape in given]
        return spec(given)
    raise ValueError(
        "`input_shape` must be given for a layer, and for a model that was made without one: a "
        f"shape without the batch, or a list or dictionary of them. Received: {input_shape!r}"
    )


def _is_shape(given: Any) -> bool:
    return isinstance(given, (list, tuple, tf.TensorShape))


@dataclasses.dataclass
class _Storage:
    """Memory that holds a map, in steps of the walk."""

    bytes: int
    made: int
    used: int


@dataclasses.dataclass(frozen=True)
class _Map:
    """A tensor that depends on the model's inputs."""

    storage: _Storage
    field: Field | None
    channels_first: bool

    def sizes(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The spatial ones of a tensor's."""
        rank = len(self.field.axes) if self.field else len(shape) - 2
        if rank <= 0:
            return ()
        return tuple(shape[-rank:] if self.channels_first else shape[1 : rank + 1])


class _Walk:
    """Follows the tensors of a trace through calls and operations, in the order of execution."""

    def __init__(self, graph_operations: list[tf.Operation]):
        self.rows: list[Row] = []
        self._operations = graph_operations
        self._maps: dict[str, _Map] = {}
        self._storages: list[_Storage] = []
        self._inside: list[tuple[int, str]] = []  # by step: bytes inside a layer, the row's name
        self._counted: set[int] = set()  # weights that stand in a row

    def start(self, inputs: list[tf.Tensor], first: bool) -> None:
        """Notes the model's inputs, and whether their channels are first."""
        ranks = {len(x.shape) for x in inputs}
        for x in inputs:
            known = len(ranks) == 1 and len(x.shape) >= 2
            field = Field.of_pixels(len(x.shape) - 2) if known else None
            self._maps[x.name] = _Map(self._storage(x), field, first)
        self._inside.append((0, "input"))

    def visit(self, call: Call) -> None:
        """Counts a call, and what is in it."""
        if call.rule is not None:
            self._leaf(call)
            return
        before = len(self.rows)
        at = call.first
        for inner in call.inner:
            self._between(call, at, inner.first)
            self.visit(inner)
            at = inner.last
        self._between(call, at, call.last)
        own = self._new_weights(call.layer)
        if own or (not call.inner and len(self.rows) == before):
            # Its maps stand in the rows before.
            made = self._maps.get(call.outputs[0].name)
            row = self._row(
                dataclasses.replace(call, inputs=[]),
                Cost(),
                parameters=_parameters(own, call.layer),
                field=made and made.field,
            )
            moved = sum(math.prod(w.shape) * tf.as_dtype(w.dtype).size for w in own)
            self.rows.append(dataclasses.replace(row, bytes_moved=moved))

    # Layers with a rule.

    def _leaf(self, call: Call) -> None:
        shapes = [_shape(x) for x in call.inputs], [_shape(x) for x in call.outputs]
        cost = call.rule(call.layer, *shapes)
        batch = shapes[0][0][0] if shapes[0] and shapes[0][0] else 1
        sources = self._sources(call.inputs)
        data_format = getattr(call.layer, "data_format", None)
        first = data_format == "channels_first"
        if data_format is None and sources:
            first = sources[0].channels_first
        field = self._united(sources, call.inputs)
        if field:
            # Not by the layer's data format: what is flattened may have its channels first.
            sizes = sources[0].sizes(shapes[0][0])
            field = field.whole(sizes) if cost.sees_all else cost.field(field)
        inside = cost.inside * batch * (call.outputs[0].dtype.size or 0)
        made = self._step(call.path or call.layer.name, sources, call.outputs, inside, cost.view)
        for x, storage in made:
            self._maps[x.name] = _Map(storage, field, first)
        own = self._new_weights(call.layer)
        row = self._row(
            call,
            _times(cost, batch),
            memory=self._new_bytes(made) + inside,
            parameters=_parameters(own, call.layer),
            field=field,
            unknown=cost.unknown,
        )
        repeated = bool(call.layer.weights) and not own
        self.rows.append(dataclasses.replace(row, repeated=repeated))

    # Operations between layers.

    def _between(self, call: Call, first: int, last: int) -> None:
        """Counts what a layer computes itself, as a row if it is anything."""
        cost, memory, types, unknown, made, read = Cost(), 0, {}, {}, {}, {}
        for op in self._operations[first:last]:
            computed = [x.name in self._maps for x in op.inputs]
            if not any(computed) or op.type in operations.OF_SHAPES:
                continue
            kind = operations.kind_of(op)
            sized = all(x.shape.is_fully_defined() for x in (*op.inputs, *op.outputs))
            if kind is None or not sized:
                unknown[op.type] = None
            else:
                cost = _sum(cost, kind.cost(op, computed))
            inputs = [x for x in op.inputs if x.name in self._maps]
            read.update((x.name, x) for x in inputs if x.name not in made)
            sources = self._sources(inputs)
            field = self._united(sources, inputs)
            field = (
                operations.field_behind(op, inputs[0], field, sources[0].channels_first)
                if field and sized
                else None
            )
            view = kind is not None and kind.view
            name, outputs = call.path or call.layer.name, list(op.outputs)
            for x, storage in self._step(name, sources, outputs, 0, view):
                self._maps[x.name] = _Map(storage, field, sources[0].channels_first)
                made[x.name] = x
                memory += 0 if view else storage.bytes
            if not view:
                types[op.type] = None
        if types:
            done = dataclasses.replace(call, inputs=list(read.values()), outputs=outputs)
            names = {"types": tuple(types), "unknown": tuple(unknown)}
            self.rows.append(self._row(done, cost, memory, field=field, **names))

    # Fields, memory, weights.

    def _sources(self, tensors: list[tf.Tensor]) -> list[_Map]:
        return [self._maps[x.name] for x in tensors if x.name in self._maps]

    def _united(self, sources: list[_Map], tensors: list[tf.Tensor]) -> Field | None:
        fields = [source.field for source in sources]
        if not fields or None in fields:
            return None
        shapes = [_shape(x) for x in tensors if x.name in self._maps]
        return united(fields, [m.sizes(shape) for m, shape in zip(sources, shapes)])

    def _storage(self, x: tf.Tensor) -> _Storage:
        step = len(self._inside)
        self._storages.append(_Storage(math.prod(_shape(x)) * x.dtype.size, step, step))
        return self._storages[-1]

    def _step(
        self, name: str, sources: list[_Map], outputs: list[tf.Tensor], inside: int, view: bool
    ) -> list[tuple[tf.Tensor, _Storage]]:
        """One step of the execution: the storages of its outputs."""
        for source in sources:
            source.storage.used = len(self._inside)
        made = []
        for x in outputs:
            known = self._maps.get(x.name)
            if known is not None:
                made.append((x, known.storage))
            elif view and sources:
                made.append((x, sources[0].storage))
            else:
                made.append((x, self._storage(x)))
        self._inside.append((inside, name))
        return made

    def _new_bytes(self, made: list[tuple[tf.Tensor, _Storage]]) -> int:
        return sum(storage.bytes for _, storage in made if storage.made == len(self._inside) - 1)

    def field(self, outputs: list[tf.Tensor]) -> Field | None:
        """The receptive field of the outputs; None if theirs differ."""
        fields = [source.field for source in self._sources(outputs)]
        return fields[0] if fields and fields.count(fields[0]) == len(fields) else None

    def peak(self, outputs: list[tf.Tensor]) -> tuple[int, str]:
        """The largest number of bytes that live at once, and where."""
        for source in self._sources(outputs):
            source.storage.used = len(self._inside)
        change = [0] * (len(self._inside) + 2)
        for storage in self._storages:
            change[storage.made] += storage.bytes
            change[storage.used + 1] -= storage.bytes
        live, most, where = 0, -1, ""
        for more, (inside, name) in zip(change, self._inside):
            live += more
            if live + inside > most:
                most, where = live + inside, name
        return most, where

    def _new_weights(self, layer: Any) -> list[Any]:
        """Weights of a layer that stand in no row yet."""
        found = [weight for weight in layer.weights if id(weight) not in self._counted]
        self._counted.update(map(id, found))
        return found

    def _row(
        self,
        call: Call,
        cost: Cost,
        memory: int = 0,
        parameters: tuple[int, int] = (0, 0),
        field: Field | None = None,
        types: tuple[str, ...] = (),
        unknown: tuple[str, ...] = (),
    ) -> Row:
        weights = [] if types else call.layer.weights
        moved = sum(math.prod(w.shape) * tf.as_dtype(w.dtype).size for w in weights)
        moved += sum(math.prod(_shape(x)) * x.dtype.size for x in (*call.inputs, *call.outputs))
        return Row(
            name=call.path or call.layer.name,
            kind="+".join(types) if types and call.inner else type(call.layer).__name__,
            input_shapes=tuple(_shape(x)[1:] for x in call.inputs),
            output_shapes=tuple(_shape(x)[1:] for x in call.outputs),
            trainable=parameters[0],
            non_trainable=parameters[1],
            multiply_adds=cost.multiply_adds,
            gating=cost.gating,
            elementwise=cost.elementwise,
            memory=memory,
            bytes_moved=moved,
            weights=cost.weights,
            weight_products=(
                cost.multiply_adds if cost.weight_products is None else cost.weight_products
            ),
            kernel_rank=cost.kernel_rank,
            field=field,
            unknown=unknown,
        )


def _data_format(root: Call) -> str:
    """That of the first layer that has one; Keras's where none has."""
    calls = [root]
    while calls:
        call = calls.pop()
        if getattr(call.layer, "data_format", None) is not None:
            return call.layer.data_format
        calls += reversed(call.inner)
    return keras.backend.image_data_format()


def _parameters(weights: Sequence[Any], layer: Any) -> tuple[int, int]:
    """Numbers in some weights of a layer: trainable ones and others."""
    trainable = {id(weight) for weight in layer.trainable_weights}
    counts = [0, 0]
    for weight in weights:
        counts[id(weight) not in trainable] += math.prod(weight.shape)
    return counts[0], counts[1]


def _shape(x: tf.Tensor) -> Shape:
    """A tensor's shape; sizes that are not known count as 1."""
    if x.shape.rank is None:
        return ()
    return tuple(1 if n is None else n for n in x.shape.as_list())


def _sum(first: Cost, second: Cost) -> Cost:
    return Cost(
        multiply_adds=first.multiply_adds + second.multiply_adds,
        gating=first.gating + second.gating,
        elementwise=first.elementwise + second.elementwise,
        weights=first.weights + second.weights,
        weight_products=(first.weight_products or 0)
        + (second.multiply_adds if second.weights else 0),
    )


def _times(cost: Cost, batch: int) -> Cost:
    """The cost of a call that is given several examples for one of the model."""
    return dataclasses.replace(
        cost,
        multiply_adds=cost.multiply_adds * batch,
        gating=cost.gating * batch,
        elementwise=cost.elementwise * batch,
        weight_products=None if cost.weight_products is None else cost.weight_products * batch,
    )
