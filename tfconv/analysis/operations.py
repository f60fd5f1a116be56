"""What TensorFlow's operations cost that stand between layers, or in layers without a rule."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection
from typing import Any

import tensorflow as tf

from tfconv.analysis.cost import Cost
from tfconv.analysis.receptive_field import Field


def _size(tensor: Any) -> int:
    return math.prod(tensor.shape.as_list())


def _each(times: int = 1) -> Callable[[Any, Any], Cost]:
    return lambda op, computed: Cost(elementwise=times * _size(op.outputs[0]))


def _product(op: Any, computed: Collection[bool]) -> Cost:
    size = _size(op.outputs[0])
    return Cost(gating=size) if all(computed) else Cost(elementwise=size)


def _sum_of_all(op: Any, computed: Any) -> Cost:
    return Cost(elementwise=(len(op.inputs) - 1) * _size(op.outputs[0]))


def _reduction(op: Any, computed: Any) -> Cost:
    return Cost(elementwise=_size(op.inputs[0]))


def _pooling(op: Any, computed: Any) -> Cost:
    each = math.prod(op.get_attr("ksize")) - op.type.startswith("Max")
    return Cost(elementwise=_size(op.outputs[0]) * each)


def _contraction(op: Any, products: int, factors: Any, computed: Any) -> Cost:
    weights = sum(_size(x) for x, is_computed in zip(factors, computed) if not is_computed)
    return Cost(multiply_adds=products, weights=weights)


def _matrices(op: Any, computed: Any) -> Cost:
    transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
    length = op.inputs[0].shape[-2 if transposed else -1]
    return _contraction(op, _size(op.outputs[0]) * length, op.inputs, computed)


def _convolution(op: Any, computed: Any) -> Cost:
    """Each number of the filter, the last axis apart, meets each output."""
    products = _size(op.outputs[0]) * math.prod(op.inputs[1].shape.as_list()[:-1])
    return _contraction(op, products, op.inputs, computed)


def _depthwise(op: Any, computed: Any) -> Cost:
    products = _size(op.outputs[0]) * math.prod(op.inputs[1].shape.as_list()[:2])
    return _contraction(op, products, op.inputs, computed)


def _transposed(op: Any, computed: Any) -> Cost:
    """Its inputs are a shape, the filter and the map."""
    products = _size(op.inputs[2]) * math.prod(op.inputs[1].shape.as_list()[:-1])
    return _contraction(op, products, op.inputs[1:], computed[1:])


def _einsum(op: Any, computed: Any) -> Cost:
    if len(op.inputs) == 1:  # a transposition, or a sum
        return Cost(elementwise=_size(op.inputs[0]) - _size(op.outputs[0]))
    equation = op.get_attr("equation").decode()
    products = einsum_products(equation, [x.shape.as_list() for x in op.inputs])
    return _contraction(op, products, op.inputs, computed)


def einsum_products(equation: str, shapes: Any) -> int:
    """Products of an Einstein sum of two tensors: one for each value of all its indices."""
    terms = equation.replace(" ", "").split("->")[0].split(",")
    lengths: dict[str, int] = {}
    for term, shape in zip(terms, shapes):
        named = term.replace("...", "")
        more = len(shape) - len(named)
        at = term.index("...") if "..." in term else 0
        letters = [*named[:at], *(f"...{i - more}" for i in range(more)), *named[at:]]
        for letter, length in zip(letters, shape):
            lengths[letter] = max(lengths.get(letter, 1), length)
    return math.prod(lengths.values())


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of operations.

    Attributes:
        cost: From an operation, and for each input whether it depends on the model's.
        view: Whether the output is the input, in another shape or not.
        reads: What an output reads: "place" (the same position), "map" (places may move: the
            receptive field is known only if the sizes of the maps stay), "shifted" (padded maps),
            "all" (a mean and the like, over axes) or "unknown".
    """

    cost: Callable[[Any, Any], Cost]
    view: bool = False
    reads: str = "place"


_NOTHING = lambda op, computed: Cost()  # noqa: E731
_KINDS: dict[str, Kind] = {}


def _add(kind: Kind, names: str) -> None:
    _KINDS.update(dict.fromkeys(names.split(), kind))


_add(
    Kind(_each()),
    "Add AddV2 Sub Div RealDiv DivNoNan Maximum Minimum Neg Abs Sign Square SquaredDifference Sqrt "
    "Rsqrt Reciprocal Inv Pow Exp Expm1 Log Log1p Sin Cos Tan Erf Erfc Floor Ceil Round Rint "
    "Relu Relu6 LeakyRelu Elu Selu Sigmoid Tanh Softplus Softsign ClipByValue BiasAdd Softmax "
    "LogSoftmax Select SelectV2 Greater GreaterEqual Less LessEqual Equal NotEqual LogicalAnd "
    "LogicalOr LogicalNot FloorMod FloorDiv IsNan IsInf IsFinite",
)
_add(Kind(_product), "Mul MulNoNan")
_add(Kind(_sum_of_all), "AddN")
_add(Kind(_each(2)), "FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3")
_add(Kind(_NOTHING, view=True), "Identity IdentityN StopGradient CheckNumerics PreventGradient")
_add(Kind(_NOTHING, view=True, reads="map"), "Reshape Squeeze ExpandDims")
_add(
    Kind(_NOTHING, reads="map"),
    "Cast Transpose Concat ConcatV2 Split SplitV Slice StridedSlice Tile Pack Unpack BroadcastTo "
    "SpaceToDepth DepthToSpace SpaceToBatchND BatchToSpaceND ZerosLike OnesLike",
)
_add(Kind(_NOTHING, reads="unknown"), "GatherV2 GatherNd ReverseV2 Roll")
_add(Kind(_NOTHING, reads="shifted"), "Pad PadV2 MirrorPad")
_add(Kind(_reduction, reads="all"), "Mean Sum Max Min Prod All Any ArgMax ArgMin EuclideanNorm")
_add(Kind(_pooling, reads="unknown"), "MaxPool MaxPool3D AvgPool AvgPool3D")
_add(Kind(_matrices, reads="unknown"), "MatMul BatchMatMul BatchMatMulV2 BatchMatMulV3")
_add(Kind(_convolution, reads="unknown"), "Conv2D Conv3D")
_add(Kind(_depthwise, reads="unknown"), "DepthwiseConv2dNative")
_add(Kind(_transposed, reads="unknown"), "Conv2DBackpropInput Conv3DBackpropInputV2")
_add(Kind(_einsum, reads="unknown"), "Einsum")

# Their outputs do not depend on the values of the inputs.
OF_SHAPES = {"Shape", "ShapeN", "Size", "Rank", "NoOp", "Assert", "BroadcastGradientArgs"}


def kind_of(op: tf.Operation) -> Kind | None:
    """What kind of operation it is; None if that is not known."""
    return _KINDS.get(op.type)


def field_behind(
    op: tf.Operation, x: tf.Tensor, field: Field, channels_first: bool
) -> Field | None:
    """The receptive field of an operation's outputs.

    Args:
        op: The operation.
        x: Its first input that depends on the model's.
        field: That of its inputs together.
        channels_first: Whether the channels of its inputs stand behind the batch.

    Returns:
        None if it is not known.
    """
    kind, before, after = kind_of(op), x.shape, op.outputs[0].shape
    if kind is None or before.rank is None:
        return None
    if kind.reads == "place" or field.everything:
        return field
    rank = len(field.axes)
    start = before.rank - rank if channels_first else 1
    spatial = range(start, start + rank)
    if kind.reads == "shifted":
        pads = tf.get_static_value(op.inputs[1])
        return None if pads is None else field.shifted([int(pads[axis][0]) for axis in spatial])
    if kind.reads == "all":
        over = tf.get_static_value(op.inputs[1])
        axes = set() if over is None else {int(axis) % before.rank for axis in over.flatten()}
        if axes >= set(spatial):
            return field.whole([before[axis] for axis in spatial])
        return field if axes and not axes & set(spatial) else None
    if kind.reads == "map" and not _moves_places(op, spatial) and after.rank is not None:
        first = after.rank - rank if channels_first else 1
        same = after[first : first + rank] == before[start : start + rank]
        return field if same else None
    return None


def _moves_places(op: tf.Operation, spatial: Collection[int]) -> bool:
    """Whether a transposition moves spatial axes, or a slice may turn them around."""
    if op.type == "StridedSlice":
        steps = tf.get_static_value(op.inputs[3])
        return steps is None or min(steps) < 0
    if op.type != "Transpose":
        return False
    order = tf.get_static_value(op.inputs[1])
    return order is None or any(order[axis] != axis for axis in spatial)
