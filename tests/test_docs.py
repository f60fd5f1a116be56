"""docs/layers.md: every layer has its section, and what stands there of shapes and costs holds.

The page's formulas are Python expressions in its symbols. They are evaluated for real layers and
held against the layers' weights, and against products counted apart from the page: in the graph
of a call, or by doing what the definition says, product by product.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import importlib.util
import io
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests.reference import Window, window

PAGE = (Path(__file__).resolve().parents[1] / "docs/layers.md").read_text(encoding="utf-8")


INTERPOLATION = "Interpolation, not counted above"  # a row that one section has


# The page.


def family(name: str) -> str:
    """The name of a layer's family: its class's name without the rank."""
    return re.sub("[123]D", "", name)


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def anchor(heading: str) -> str:
    """What Markdown makes of a heading for links."""
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        heading: Its heading.
        text: What stands below it.
        line: The number of its first line, so that errors name the page's lines.
    """

    heading: str
    text: str
    line: int

    @property
    def names(self) -> list[str]:
        return self.heading.split(", ")

    @property
    def example(self) -> str:
        return re.findall(r"^```python\n(.*?)^```", self.text, re.MULTILINE | re.DOTALL)[0]

    def cell(self, row: str) -> str | None:
        """The second cell of a row of the section's table."""
        found = re.search(rf"^\| {re.escape(row)} \| (.*) \|$", self.text, re.MULTILINE)
        return found and found.group(1)

    def formula(self, row: str) -> str | None:
        """The one formula of a row, None if there is no such row."""
        cell = self.cell(row)
        return None if cell is None else codes(cell)[0]

    @property
    def weights(self) -> dict[str, str]:
        """Formulas of the weights' shapes by name."""
        return dict(code.split(" ", 1) for code in codes(self.cell("Weights")) if " [" in code)


def codes(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


@functools.cache
def sections() -> dict[str, Section]:
    """All sections by heading."""
    parts = re.split(r"^## (.+)\n", PAGE, flags=re.MULTILINE)
    found, line = {}, parts[0].count("\n") + 1
    for heading, text in zip(parts[1::2], parts[2::2]):
        found[heading] = Section(heading, text, line)
        line += text.count("\n") + 1
    return found


@functools.cache
def families() -> dict[str, Section]:
    """The sections of layers, by family."""
    return {family(s.names[0]): s for s in sections().values() if s.names[0] in dir(tfconv.layers)}


def rows(heading: str) -> list[list[str]]:
    """The table of a section, without its header."""
    lines = [line for line in sections()[heading].text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


# The symbols.

FUNCTIONS = {"len": len, "max": max, "min": min, "prod": math.prod, "sum": sum, "zip": zip}


def narrow(layer: Any, x: tf.Tensor) -> int:
    """Channels in the narrow middle of a layer, as its arguments say."""
    config = layer.get_config()
    if config.get("kernel_rank") or config.get("squeeze_channels"):
        return config.get("kernel_rank") or config["squeeze_channels"]
    return max(x.shape[-1] // config["reduction_ratio"], 1)


# What the page's symbols are: from a layer's arguments, its (first) input and its output.
SYMBOLS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "N": lambda layer, x, y: x.shape[0],
    "c": lambda layer, x, y: x.shape[-1],
    "f": lambda layer, x, y: y.shape[-1],
    "q_i": lambda layer, x, y: tuple(x.shape[1:-1]),
    "q": lambda layer, x, y: math.prod(x.shape[1:-1]),
    "p_i": lambda layer, x, y: tuple(y.shape[1:-1]),
    "p": lambda layer, x, y: math.prod(y.shape[1:-1]),
    "k_i": lambda layer, x, y: layer.kernel_size,
    "k": lambda layer, x, y: math.prod(layer.kernel_size),
    "a_i": lambda layer, x, y: [
        math.prod(y.shape[1 : i + 2]) * math.prod(x.shape[i + 2 : -1])
        for i in range(len(x.shape) - 2)
    ],
    "l_i": lambda layer, x, y: layer.depthwise_kernel_size,
    "b": lambda layer, x, y: int(layer.use_bias),
    "g": lambda layer, x, y: layer.groups or x.shape[-1] // layer.group_channels,
    "j": lambda layer, x, y: 1 if layer.share_kernel else layer.groups,
    "m": lambda layer, x, y: layer.depth_multiplier,
    "r": lambda layer, x, y: narrow(layer, x),
    "r_1": lambda layer, x, y: layer.ranks[0],
    "r_2": lambda layer, x, y: layer.ranks[1],
    "e": lambda layer, x, y: layer.num_experts,
    "o": lambda layer, x, y: layer.offset_groups,
    "s": lambda layer, x, y: layer.rank + layer.modulated,
    "h": lambda layer, x, y: layer.num_heads,
    "d": lambda layer, x, y: getattr(layer, "key_dim", None) or layer.filters // layer.num_heads,
    "v": lambda layer, x, y: layer.value_dim or layer.key_dim,
    "z": lambda layer, x, y: (
        math.prod(2 * size - 1 for size in x.shape[1:-1]) if layer.relative_position_bias else 0
    ),
    "n": lambda layer, x, y: layer.kernel.shape[0],
    "t_i": lambda layer, x, y: [part.count_params() for part in layer.transforms],
    "u_i": lambda layer, x, y: [
        products_in_graph(part, split)
        for part, split in zip(layer.transforms, tf.split(x, layer.groups, axis=-1))
    ],
    "w": lambda layer, x, y: int(layer.merge == "weighted_sum"),
}


def names_in(formula: str) -> set[str]:
    """The symbols of a formula."""
    nodes = [node for node in ast.walk(ast.parse(formula)) if isinstance(node, ast.Name)]
    own = {node.id for node in nodes if isinstance(node.ctx, ast.Store)}
    return {node.id for node in nodes} - own - set(FUNCTIONS)


def evaluated(formula: str, values: dict[str, Any]) -> Any:
    return eval(formula, {"__builtins__": FUNCTIONS, **values})


# Layers to try the formulas on.


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer in one configuration.

    Attributes:
        layer: Makes the layer.
        shape: Shape of its input, channels last.
        inputs: How many inputs it takes, as a list; 0 for one that is no list.
        by_definition: Whether products are counted by doing what the definition says. Needed
            where TensorFlow's operations do other work: zeros between pixels, outputs dropped,
            pixels added so that a dilation divides their number.
    """

    layer: Callable[[], Any]
    shape: tuple[int, ...]
    inputs: int = 0
    by_definition: bool = False


ROWS: dict[str, list[Row]] = {
    "LocallyConnected": [
        Row(lambda: tfconv.LocallyConnected1D(6, 3, groups=2, use_bias=False), (2, 9, 4)),
        Row(lambda: tfconv.LocallyConnected2D(3, (3, 2), (2, 1), "same"), (1, 5, 6, 2)),
    ],
    "Conv": [
        Row(lambda: tfconv.Conv2D(6, 3, 2, "same", groups=2, use_bias=False), (2, 7, 6, 4)),
        Row(lambda: tfconv.Conv3D(4, (3, 2, 1), padding="full"), (1, 4, 4, 5, 2)),
        Row(lambda: tfconv.Conv2D(6, 3, 2, "same", dilation_rate=2, groups=3), (1, 9, 8, 6)),
        Row(
            lambda: tfconv.Conv1D(4, 3, padding="causal", dilation_rate=2),
            (1, 7, 2),
            by_definition=True,
        ),
        Row(lambda: tfconv.Conv2D(5, 3, padding=[(1, 0), (2, 2)], dilation_rate=2), (1, 9, 8, 2)),
    ],
    "GroupConv": [
        Row(lambda: tfconv.GroupConv1D(6, 3, groups=2, use_bias=False), (2, 9, 4)),
        Row(lambda: tfconv.GroupConv2D(6, 3, groups=3, share_kernel=True), (1, 6, 5, 6)),
        Row(
            lambda: tfconv.GroupConv3D(4, 2, strides=2, groups=2, share_kernel=True),
            (1, 4, 4, 5, 4),
        ),
        Row(lambda: tfconv.GroupConv1D(80, 3, groups=40), (1, 9, 80)),
    ],
    "ChannelShuffle": [
        Row(lambda: tfconv.ChannelShuffle(3, inverse=True), (2, 5, 4, 6)),
        Row(lambda: tfconv.ChannelShuffle(2), (2, 8)),
    ],
    "SplitTransformMerge": [
        Row(
            lambda: tfconv.SplitTransformMerge(
                tfconv.SeparableConv2D(5, 3), groups=2, merge="weighted_sum"
            ),
            (2, 6, 6, 4),
        ),
        Row(
            lambda: tfconv.SplitTransformMerge(
                [tfconv.Conv1D(3, 3), tfconv.FlattenedConv1D(2, 3), tfconv.GatedConv1D(4, 3)]
            ),
            (1, 9, 6),
        ),
        Row(lambda: tfconv.SplitTransformMerge(tfconv.Conv1D(3, 2), 2, "mean"), (1, 9, 6)),
    ],
    "DepthwiseConv": [
        Row(lambda: tfconv.DepthwiseConv1D(3, 2, depth_multiplier=3, use_bias=False), (2, 9, 4)),
        Row(lambda: tfconv.DepthwiseConv3D((3, 2, 2), padding="same"), (1, 4, 5, 5, 3)),
        Row(lambda: tfconv.DepthwiseConv2D(3, (2, 1)), (1, 7, 6, 2), by_definition=True),
        Row(
            lambda: tfconv.DepthwiseConv2D(3, 2, "same", 2, dilation_rate=2),
            (1, 7, 6, 2),
            by_definition=True,
        ),
    ],
    "PointwiseConv": [
        Row(lambda: tfconv.PointwiseConv1D(6, strides=2, groups=2, use_bias=False), (2, 9, 4)),
        Row(lambda: tfconv.PointwiseConv3D(5, padding=1), (1, 3, 4, 5, 3)),
    ],
    "SeparableConv": [
        Row(lambda: tfconv.SeparableConv1D(5, 3, 2, depth_multiplier=2), (2, 9, 4)),
        Row(lambda: tfconv.SeparableConv3D(5, 2, padding="same", use_bias=False), (1, 4, 4, 5, 3)),
        Row(lambda: tfconv.SeparableConv2D(5, 3, (1, 2)), (1, 7, 6, 2), by_definition=True),
    ],
    "TuckerConv": [
        Row(lambda: tfconv.TuckerConv1D(6, 3, ranks=(2, 4), groups=2, use_bias=False), (2, 9, 4)),
        Row(
            lambda: tfconv.TuckerConv2D(6, (3, 2), strides=2, padding="same", ranks=3), (1, 7, 6, 4)
        ),
        Row(lambda: tfconv.TuckerConv3D(4, 2, padding=1, ranks=(2, 3)), (1, 4, 4, 5, 2)),
    ],
    "LowRankConv": [
        Row(lambda: tfconv.LowRankConv1D(6, 3, groups=2, kernel_rank=4, use_bias=False), (2, 9, 4)),
        Row(lambda: tfconv.LowRankConv2D(5, (3, 5), kernel_rank=3), (1, 7, 9, 4)),
        Row(
            lambda: tfconv.LowRankConv2D(
                6, (3, 2), strides=(2, 1), padding="full", groups=3, kernel_rank=6
            ),
            (1, 7, 6, 3),
            by_definition=True,
        ),
    ],
    "FlattenedConv": [
        Row(lambda: tfconv.FlattenedConv1D(6, 3, strides=2, groups=2, use_bias=False), (2, 9, 4)),
        Row(lambda: tfconv.FlattenedConv3D(4, (3, 2, 1)), (1, 5, 4, 3, 2)),
        Row(
            lambda: tfconv.FlattenedConv2D(
                4, (3, 2), strides=2, padding="same", groups=2, dilation_rate=2
            ),
            (1, 7, 6, 4),
            by_definition=True,
        ),
    ],
    "ConvTranspose": [
        Row(lambda: tfconv.Conv1DTranspose(6, 3, 2, groups=2, use_bias=False), (2, 5, 4)),
        Row(lambda: tfconv.Conv3DTranspose(3, (3, 2, 2), 2, padding=1), (1, 3, 3, 4, 2)),
        Row(
            lambda: tfconv.Conv2DTranspose(4, 3, padding=1, groups=2),
            (1, 4, 5, 2),
            by_definition=True,
        ),
        Row(
            lambda: tfconv.Conv2DTranspose(2, (3, 2), (2, 3), dilation_rate=2),
            (1, 4, 3, 3),
            by_definition=True,
        ),
    ],
    "GatedConv": [
        Row(
            lambda: tfconv.GatedConv2D(6, 3, strides=2, padding="same", groups=2, gate="feature"),
            (2, 7, 6, 4),
        ),
        Row(lambda: tfconv.GatedConv3D(4, (3, 2, 1), use_bias=False), (1, 4, 4, 5, 2)),
    ],
    "DeformableConv": [
        Row(
            lambda: tfconv.DeformableConv2D(
                6, (3, 2), strides=2, groups=2, offset_groups=4, use_bias=False
            ),
            (2, 7, 6, 4),
        ),
        Row(lambda: tfconv.DeformableConv2D(5, 3, dilation_rate=2, modulated=False), (1, 8, 8, 3)),
        Row(lambda: tfconv.DeformableConv1D(4, 3, groups=2, offset_groups=2), (2, 9, 4)),
        Row(lambda: tfconv.DeformableConv3D(3, (3, 2, 1)), (1, 4, 4, 5, 2)),
    ],
    "DeformableAggregation": [
        Row(
            lambda: tfconv.DeformableAggregation1D(
                5, strides=2, groups=3, depthwise_kernel_size=2, use_bias=False
            ),
            (2, 9, 6),
        ),
        Row(
            lambda: tfconv.DeformableAggregation3D((3, 2, 1), group_channels=2, padding="valid"),
            (1, 4, 4, 5, 4),
        ),
        Row(lambda: tfconv.DeformableAggregation2D((3, 5), groups=1), (1, 6, 7, 3)),
    ],
    "SqueezeExcite": [
        Row(lambda: tfconv.SqueezeExcite(squeeze_channels=3, use_bias=False), (2, 5, 8)),
        Row(lambda: tfconv.SqueezeExcite(reduction_ratio=4), (1, 4, 3, 2, 9)),
    ],
    "WeightedSum": [
        Row(lambda: tfconv.WeightedSum(), (2, 5, 4), inputs=2),
        Row(lambda: tfconv.WeightedSum("softmax"), (2, 5, 4, 3, 3), inputs=4),
    ],
    "CondConv": [
        Row(
            lambda: tfconv.CondConv1D(6, 3, groups=2, num_experts=3, use_bias=False),
            (2, 9, 4),
        ),
        Row(lambda: tfconv.CondConv2D(6, 3, groups=2, num_experts=8), (2, 3, 3, 4)),
        Row(
            lambda: tfconv.CondConv3D(4, (3, 2, 1), strides=2, padding="same", num_experts=2),
            (1, 5, 4, 3, 2),
        ),
        Row(lambda: tfconv.CondConv2D(4, (1, 2), num_experts=5), (1, 1, 2, 2)),
    ],
    "DepthwiseCondConv": [
        Row(
            lambda: tfconv.DepthwiseCondConv2D(
                (3, 2), strides=2, padding="same", depth_multiplier=2, num_experts=3, use_bias=False
            ),
            (2, 7, 6, 4),
        ),
        Row(lambda: tfconv.DepthwiseCondConv2D(3, depth_multiplier=3), (2, 3, 3, 2)),
    ],
    "CondDense": [
        Row(lambda: tfconv.CondDense(5, num_experts=3, use_bias=False), (2, 6, 4)),
        Row(lambda: tfconv.CondDense(3, num_experts=2), (2, 3, 2, 7)),
    ],
    "DynamicConv": [
        Row(
            lambda: tfconv.DynamicConv1D(6, 3, groups=2, num_experts=3, use_bias=False),
            (2, 9, 4),
        ),
        Row(lambda: tfconv.DynamicConv2D(6, 3, groups=2, num_experts=8), (2, 3, 3, 4)),
        Row(
            lambda: tfconv.DynamicConv3D(4, (3, 2, 1), strides=2, padding="same", num_experts=2),
            (1, 5, 4, 3, 2),
        ),
    ],
    "Involution": [
        Row(lambda: tfconv.Involution1D(3, strides=2, groups=3, reduction_ratio=2), (2, 9, 6)),
        Row(lambda: tfconv.Involution3D((3, 2, 1), group_channels=2), (1, 4, 4, 5, 4)),
        Row(lambda: tfconv.Involution2D((3, 5), padding="valid", groups=1), (1, 6, 7, 3)),
    ],
    "LocalSelfAttention": [
        Row(
            lambda: tfconv.LocalSelfAttention2D(6, (3, 5), num_heads=2, use_bias=True), (2, 5, 6, 4)
        ),
        Row(lambda: tfconv.LocalSelfAttention2D(10, 3, num_heads=2, dilation_rate=2), (1, 5, 5, 3)),
        Row(lambda: tfconv.LocalSelfAttention1D(6, 5, num_heads=3, strides=2), (1, 9, 4)),
        Row(
            lambda: tfconv.LocalSelfAttention3D(8, (3, 2, 1), num_heads=2, edges="shifted"),
            (1, 4, 3, 5, 3),
        ),
    ],
    "SelfAttention": [
        Row(
            lambda: tfconv.SelfAttention1D(
                num_heads=2, key_dim=3, value_dim=5, filters=7, use_bias=False
            ),
            (2, 9, 4),
        ),
        Row(
            lambda: tfconv.SelfAttention3D(num_heads=3, key_dim=4, value_dim=2, filters=6),
            (1, 2, 3, 2, 5),
        ),
    ],
}


def example(section: Section) -> tuple[dict[str, Any], str]:
    """Runs a section's example; the names that it defines and what it prints."""
    names: dict[str, Any] = {}
    above = section.text[: section.text.index(section.example)].count("\n")
    padded = "\n" * (section.line + above) + section.example
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(padded, "docs/layers.md", "exec"), names)
    return names, printed.getvalue()


@functools.cache
def configurations(name: str) -> list[tuple[Row | None, Any, Any, Any]]:
    """(row, layer, x, y) for the example of a family and its rows."""
    names, _ = example(families()[name])
    found = [(None, names["layer"], names["x"], names["y"])]
    for row in ROWS[name]:
        layer = row.layer()
        tensors = [tf.random.normal(row.shape) for _ in range(max(row.inputs, 1))]
        x = tensors if row.inputs else tensors[0]
        found.append((row, layer, x, layer(x)))
    return found


def values(formula: str, layer: Any, x: Any, y: Any) -> dict[str, Any]:
    """The symbols of a formula, bound."""
    x = x[0] if isinstance(x, list) else x
    return {name: SYMBOLS[name](layer, x, y) for name in names_in(formula) if name in SYMBOLS}


# Products, counted.


def _size(tensor: Any) -> int:
    return math.prod(tensor.shape.as_list())


def _of_filter(op: Any, outputs: Any) -> int:
    """Of a convolution whose filter, its last axis apart, meets each of some numbers."""
    return _size(outputs) * math.prod(op.inputs[1].shape.as_list()[:-1])


def _of_matrices(op: Any) -> int:
    transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
    return _size(op.outputs[0]) * op.inputs[0].shape[-2 if transposed else -1]


PRODUCTS: dict[str, Callable[[Any], int]] = {
    "Conv2D": lambda op: _of_filter(op, op.outputs[0]),
    "Conv3D": lambda op: _of_filter(op, op.outputs[0]),
    "Conv2DBackpropInput": lambda op: _of_filter(op, op.inputs[2]),
    "Conv3DBackpropInputV2": lambda op: _of_filter(op, op.inputs[2]),
    "DepthwiseConv2dNative": lambda op: (
        _size(op.outputs[0]) * math.prod(op.inputs[1].shape.as_list()[:2])
    ),
    "MatMul": _of_matrices,
    "BatchMatMulV2": _of_matrices,
    "BatchMatMulV3": _of_matrices,
    "Mul": lambda op: _size(op.outputs[0]) if op.outputs[0].dtype.is_floating else 0,
}
HIDING = ("Einsum", "PartitionedCall", "StatefulPartitionedCall", "While", "StatelessWhile")


def products_in_graph(layer: Any, x: Any, **given: tf.Tensor) -> int:
    """The products in the graph of a call with the portable operations, for one example.

    Only those with a factor that depends on the inputs and none that is a constant: scaling does
    not count. Nor does normalization.
    """
    inputs = tf.nest.map_structure(lambda tensor: tensor[:1], (x, given))
    traced = tf.function(lambda x, given: layer(x, **given), autograph=False)
    with tfconv.portable():
        function = traced.get_concrete_function(*inputs)
    variable = {tensor.ref() for tensor in function.inputs}
    reached = {tensor.ref() for tensor in function.inputs[: len(tf.nest.flatten(inputs))]}
    total = 0
    for op in function.graph.get_operations():
        sources = [tensor.ref() for tensor in op.inputs]
        if any(tensor in variable for tensor in sources):
            variable.update(tensor.ref() for tensor in op.outputs)
        if not any(tensor in reached for tensor in sources):
            continue
        reached.update(tensor.ref() for tensor in op.outputs)
        assert op.type not in HIDING, op
        normalizing = "normalization" in op.name or "batchnorm" in op.name
        factors = op.inputs[-2:]  # a transposed convolution's first input is a shape
        if op.type in PRODUCTS and not normalizing and all(t.ref() in variable for t in factors):
            total += PRODUCTS[op.type](op)
    return total


class Products:
    """Multiplies arrays, and counts."""

    total = 0

    def __call__(self, first: Any, second: Any) -> np.ndarray:
        result = np.multiply(first, second)
        self.total += result.size
        return result


def convolved(times: Products, x: Any, kernel: Any, places: Window, groups: int) -> np.ndarray:
    """``y[p, f] = sum_{t, c} kernel[t, c, f] * x[pixel(p, t), c]``, pixels outside being zero."""
    sizes, (width, filters) = x.shape[:-1], kernel.shape[-2:]
    y = np.zeros((*places.outputs(sizes), filters))
    each = filters // groups
    for position in np.ndindex(*y.shape[:-1]):
        for tap in places.taps:
            pixel = places.pixel(position, tap)
            inside = all(0 <= i < n for i, n in zip(pixel, sizes))
            values = x[pixel] if inside else np.zeros(x.shape[-1])
            for group in range(groups):
                outputs = slice(group * each, (group + 1) * each)
                inputs = values[group * width : (group + 1) * width, None]
                y[position][outputs] += times(inputs, kernel[tap][:, outputs]).sum(0)
    return y


def window_of(layer: Any, x: np.ndarray) -> Window:
    return window(
        x.shape[:-1], layer.kernel_size, layer.strides, layer.padding, layer.dilation_rate
    )


def plain(times: Products, layer: Any, x: np.ndarray) -> np.ndarray:
    return convolved(times, x, np.asarray(layer.kernel), window_of(layer, x), layer.groups)


def pointwise(times: Products, x: np.ndarray, kernel: np.ndarray, groups: int) -> np.ndarray:
    sizes = x.shape[:-1]
    return convolved(times, x, kernel, window(sizes, [1] * len(sizes)), groups)


def depthwise(times: Products, layer: Any, x: np.ndarray) -> np.ndarray:
    kernel = np.asarray(layer.depthwise_kernel)
    *size, channels, multiplier = kernel.shape
    kernel = kernel.reshape(*size, 1, channels * multiplier)
    return convolved(times, x, kernel, window_of(layer, x), channels)


def separable(times: Products, layer: Any, x: np.ndarray) -> np.ndarray:
    return pointwise(times, depthwise(times, layer, x), np.asarray(layer.pointwise_kernel), 1)


def along_axes(times: Products, layer: Any, x: np.ndarray) -> np.ndarray:
    whole, rank = window_of(layer, x), x.ndim - 1
    for axis in range(rank):
        kernel = np.asarray(getattr(layer, f"axis_kernel_{axis}"))
        neutral = (1, 1, (0, 0), 1)
        own = [
            tuple(values[i] if i == axis else nothing for i in range(rank))
            for values, nothing in zip(whole, neutral)
        ]
        places = Window(*own)
        kernel = kernel.reshape(*places.kernel_size, 1, -1)
        x = convolved(times, x, kernel, places, kernel.shape[-1])
    return x


def low_rank(times: Products, layer: Any, x: np.ndarray) -> np.ndarray:
    y = pointwise(times, x, np.asarray(layer.input_kernel), layer.groups)
    y = along_axes(times, layer, y)
    return pointwise(times, y, np.asarray(layer.output_kernel), layer.groups)


def flattened(times: Products, layer: Any, x: np.ndarray) -> np.ndarray:
    y = pointwise(times, x, np.asarray(layer.channel_kernel), layer.groups)
    return along_axes(times, layer, y)


def transposed(times: Products, layer: Any, x: np.ndarray) -> np.ndarray:
    """Every pixel paints the kernel; what falls outside the output is cut off afterwards."""
    kernel, groups = np.asarray(layer.kernel), layer.groups
    before = 0 if layer.padding == "valid" else layer.padding
    _, *sizes, filters = layer.compute_output_shape((1, *x.shape))
    y = np.zeros((*sizes, filters))
    width, each = x.shape[-1] // groups, filters // groups
    for pixel in np.ndindex(*x.shape[:-1]):
        for tap in np.ndindex(*layer.kernel_size):
            paint = [
                times(kernel[tap][:, part], x[pixel][part]).sum(-1)
                for part in (slice(g * width, (g + 1) * width) for g in range(groups))
            ]
            place = tuple(
                i * s + t * d - before
                for i, s, t, d in zip(pixel, layer.strides, tap, layer.dilation_rate)
            )
            if all(0 <= i < n for i, n in zip(place, sizes)):
                y[place] += np.reshape(paint, [groups * each])
    return y


DEFINITIONS: dict[str, Callable[[Products, Any, np.ndarray], np.ndarray]] = {
    "Conv": plain,
    "DepthwiseConv": depthwise,
    "SeparableConv": separable,
    "LowRankConv": low_rank,
    "FlattenedConv": flattened,
    "ConvTranspose": transposed,
}


def products_by_definition(name: str, layer: Any, x: tf.Tensor, y: tf.Tensor) -> int:
    """The products of a layer's definition, which must give what the layer gives."""
    times = Products()
    result = DEFINITIONS[name](times, layer, x.numpy()[0])
    result = result + (np.asarray(layer.bias) if layer.use_bias else 0)
    np.testing.assert_allclose(y.numpy()[0], result, rtol=0, atol=1e-4)
    return times.total


# The tests.


def test_every_layer_has_a_section():
    """One section a family, which lists all its classes."""
    listed = [name for section in families().values() for name in section.names]
    assert sorted(listed) == sorted(tfconv.layers.__all__)
    for name, section in families().items():
        assert {family(each) for each in section.names} == {name}
    assert set(ROWS) == set(families())


@pytest.mark.parametrize("name", ROWS)
def test_section_has_all_parts(name):
    section = families()[name]
    text = section.text
    assert len(text.split("$$")[0].strip()) > 200, "no paragraph that says what it is and when"
    assert len(text.split("$$")) in (3, 5), "no equation"
    pictures = list(re.finditer(r"^!\[([^]]+)\]\(([^)]+)\)\n\n\*([^*]+)\*$", text, re.M))
    assert pictures and pictures[0].group(2) == f"pictures/{snake(name)}.svg"
    assert len(pictures) == text.count("![") == text.count(".svg")
    for picture in pictures:
        assert len(picture.group(3)) > 40, "a caption says what is seen"
    for row in ("Input", "Output", "Weights", "Parameters", "Multiply-adds"):
        assert section.cell(row), row
    assert len(re.findall("^```python$", text, re.MULTILINE)) == 1
    source = text[text.index("\nSource: ") :]
    links = re.findall(r"\]\((https?://[^)]+)\)", source)
    assert links and all("arxiv.org/abs/" in link for link in links) or name == "LocallyConnected"
    for shown, link in re.findall(r"\[arXiv:([\d.]+)\]\(https://arxiv.org/abs/([\d.]+)\)", text):
        assert shown == link


def test_sources_are_those_of_the_docstrings():
    """A number of a paper that stands on the page stands in the layer's module too."""
    for name, section in families().items():
        layer = getattr(tfconv, section.names[0])
        documented = "".join(base.__doc__ or "" for base in layer.__mro__ if base is not object)
        for number in re.findall(r"arxiv.org/abs/([\d.]+)", section.text):
            assert number in documented, (name, number)


def test_symbols():
    """The page explains the symbols that it uses, and no others."""
    explained = [symbol for row in rows("Symbols") for symbol in codes(row[0])]
    assert sorted(explained) == sorted(SYMBOLS)
    used = set()
    for section in families().values():
        for row in ("Parameters", "Multiply-adds"):
            used |= names_in(section.formula(row))
        for shape in section.weights.values():
            used |= names_in(shape.replace("k_i[i]", "k_i"))
    assert used | {"N", "q_i"} == set(SYMBOLS)


@pytest.mark.parametrize("name", ROWS)
def test_configurations_tell_formulas_apart(name):
    """Every symbol of a formula takes two values or more: a wrong place of it would be seen."""
    section = families()[name]
    for row in ("Parameters", "Multiply-adds"):
        formula = section.formula(row)
        for symbol in names_in(formula):
            seen = {
                str(values(symbol, layer, x, y)[symbol]) for _, layer, x, y in configurations(name)
            }
            assert len(seen) > 1, f"{name}: {symbol} of `{formula}` is {seen} everywhere"
    ranks = {len(y.shape) for _, _, _, y in configurations(name)}
    assert len(ranks) > 1 or len(section.names) == 1


@pytest.mark.parametrize("name", ROWS)
def test_example(name):
    """The example runs by itself, and prints what it says."""
    section = families()[name]
    names, printed = example(section)
    said = re.findall(r"^print\(.*\)  # (.*)$", section.example, re.MULTILINE)
    assert said and printed.splitlines() == said
    assert type(names["layer"]).__name__ in section.names
    assert names["y"].shape[0] == tf.nest.flatten(names["x"])[0].shape[0]
    assert "y = layer(x)" in section.example


def at_path(layer: Any, path: str) -> Any:
    """An attribute of an attribute; None where the layer does without one of them."""
    for name in path.split("."):
        layer = layer if layer is None else getattr(layer, name)
    return layer


@pytest.mark.parametrize("name", ROWS)
def test_shapes_and_weights(name):
    """Inputs, outputs and all weights have the shapes that the page gives them."""
    section = families()[name]
    for _, layer, x, y in configurations(name):
        given = x[0] if isinstance(x, list) else x
        for row, tensor in (("Input", given), ("Output", y)):
            formula = next(code for code in codes(section.cell(row)) if code.startswith("["))
            assert evaluated(formula, values(formula, layer, x, y)) == list(tensor.shape), row
        found = 0
        for path, formula in section.weights.items():
            axes = range(len(given.shape) - 2) if path.endswith("_i") else [0]
            for axis in axes:
                weight = at_path(layer, re.sub("_i$", f"_{axis}", path))
                if weight is not None:
                    shape = evaluated(formula, {**values(formula, layer, x, y), "i": axis})
                    assert shape == list(weight.shape), path
                    found += math.prod(shape)
        inside = getattr(layer, "transforms", [])
        assert found + sum(part.count_params() for part in inside) == layer.count_params()


@pytest.mark.parametrize("name", ROWS)
def test_parameters(name):
    formula = families()[name].formula("Parameters")
    for row, layer, x, y in configurations(name):
        count = evaluated(formula, values(formula, layer, x, y))
        assert count == layer.count_params(), (row, layer.get_config())


@pytest.mark.parametrize("name", ROWS)
def test_multiply_adds(name):
    section = families()[name]
    formula = section.formula("Multiply-adds")
    more = section.formula(INTERPOLATION) or "0"
    for row, layer, x, y in configurations(name):
        count = evaluated(formula, values(formula, layer, x, y))
        if row is not None and row.by_definition:
            expected = products_by_definition(name, layer, x, y)
        else:
            expected = products_in_graph(layer, x) - evaluated(more, values(more, layer, x, y))
        assert count == expected, (row, layer.get_config())


@pytest.mark.parametrize("execution, number", [("mix_kernels", 0), ("mix_outputs", 1)])
@pytest.mark.parametrize("name", ["CondConv", "DepthwiseCondConv", "DynamicConv"])
def test_execution(name, execution, number):
    """The two numbers in `min` are those of the two orders."""
    formula = families()[name].formula("Multiply-adds")
    layer = {
        "CondConv": lambda **how: tfconv.CondConv2D(6, 3, groups=2, num_experts=3, **how),
        "DepthwiseCondConv": lambda **how: tfconv.DepthwiseCondConv2D(3, num_experts=3, **how),
        "DynamicConv": lambda **how: tfconv.DynamicConv2D(6, 3, groups=2, num_experts=3, **how),
    }[name](execution=execution)
    x = tf.ones([1, 6, 5, 4])
    symbols = values(formula, layer, x, layer(x))
    count = evaluated(formula, {**symbols, "min": lambda *costs: costs[number]})
    assert count == products_in_graph(layer, x)
    other = evaluated(formula, {**symbols, "min": lambda *costs: costs[1 - number]})
    assert count != other


def test_given_routing():
    """What the page takes off when the caller routes."""
    for name, layer in (
        ("CondConv", tfconv.CondConv1D(6, 3, groups=2, num_experts=3)),
        ("DepthwiseCondConv", tfconv.DepthwiseCondConv2D(3, num_experts=3)),
        ("CondDense", tfconv.CondDense(5, num_experts=3)),
    ):
        x = tf.ones([1, 9, 4]) if name != "DepthwiseCondConv" else tf.ones([1, 6, 5, 4])
        routing = tf.ones([1, 3])
        y = layer(x, routing_weights=routing)
        section = families()["CondConv"]
        parameters, products = re.search(
            r"`routing_weights` given, `(.+?)` parameters and `(.+?)` multiply-adds", section.text
        ).groups()
        for row, fewer, counted in (
            ("Parameters", parameters, layer.count_params()),
            (
                "Multiply-adds",
                products,
                products_in_graph(layer, x, routing_weights=routing),
            ),
        ):
            formula = f"{families()[name].formula(row)} - ({fewer})"
            assert counted == evaluated(formula, values(formula, layer, x, y)), (name, row)


def test_given_offsets():
    """A deformable layer that is given offsets has nothing that makes them."""
    section = families()["DeformableConv"]
    assert "what depends on `s` falls away" in section.text
    layer = tfconv.DeformableConv2D(6, 3, groups=2, offset_groups=2)
    x, offset = tf.ones([1, 6, 5, 4]), tf.fill([1, 4, 3, 2 * 9 * 2], 0.3)
    y = layer(x, offset)
    formula = section.formula("Parameters")
    symbols = values(formula, layer, x, y)
    assert layer.count_params() == evaluated(formula, {**symbols, "s": 0})
    formula, more = section.formula("Multiply-adds"), section.formula(INTERPOLATION)
    symbols = values(f"{formula} + {more}", layer, x, y)
    count = evaluated(formula, {**symbols, "s": 0}) + evaluated(more, {**symbols, "s": 2})
    assert count == products_in_graph(layer, x, offset=offset)


# A wide layer, for the ratios: stride 1, no bias, 3x3 taps on 8x8 positions.
WIDE = {
    **{"c": 256, "f": 384, "q": 64, "p": 64, "k": 9, "k_i": (3, 3), "a_i": (64, 64)},
    **{"b": 0, "g": 8, "j": 8, "m": 1, "r": 60, "r_1": 64, "r_2": 96, "e": 10, "o": 2, "s": 3},
    **{"h": 8, "d": 32, "v": 32, "z": 0, "n": 3, "w": 0, "l_i": (3, 3)},
    **{"t_i": [9 * 32 * 48] * 8, "u_i": [64 * 9 * 32 * 48] * 8},
}
# What differs for some families: groups only in rows that are about them.
GROUPED = ("GroupConv", "SplitTransformMerge", "Involution", "DeformableAggregation")
APART: dict[str, dict[str, Any]] = {
    "DepthwiseConv": {"m": 2, "f": 512},
    "SeparableConv": {"m": 2},
    "ConvTranspose": {"q": 16},
    "SqueezeExcite": {"r": 16, "f": 256},
    "WeightedSum": {"f": 256},
    "DepthwiseCondConv": {"m": 2, "f": 512},
    "CondDense": {"k": 1},
    "DeformableAggregation": {"f": 256, "g": 16},
    "Involution": {"f": 256, "g": 16},
    "LocalSelfAttention": {"f": 256},
    "SelfAttention": {"f": 256},
}


def wide(name: str) -> dict[str, Any]:
    """The symbols of a family's wide layer."""
    return {**WIDE, **({} if name in GROUPED else {"g": 1}), **APART.get(name, {})}


def test_which_convolution_when():
    """A row for every family, in the sections' order, whose ratios follow from the formulas."""
    table = rows("Which convolution when")
    links = [re.match(r"\[(\w+)\]\(#([\w-]+)\)", row[0]) for row in table]
    named = [(link.group(1), link.group(2)) for link in links if link]
    assert named == [(name, anchor(section.heading)) for name, section in families().items()]
    assert table[0][0].startswith("Dense")
    assert [row[1:3] for row in table if "dilation_rate" in row[0]]
    for row, link in zip(table, links):
        assert len(row) == 7 and all(row), row
        name = link.group(1) if link else row[0]
        symbols = wide(name)
        whole = symbols["k"] * symbols["c"] * symbols["f"]
        for said, kind, base in zip(
            row[2:4], ("Parameters", "Multiply-adds"), (whole, symbols["p"] * whole)
        ):
            if link:
                exact = evaluated(families()[name].formula(kind), symbols)
            elif name.startswith("Dense"):  # every output has a weight for every input
                exact = symbols["p"] * symbols["f"] * symbols["q"] * symbols["c"]
            else:
                exact = base
            ratio = evaluated(codes(said)[0], symbols)
            rough = name in ("DepthwiseCondConv", "Involution")  # small networks beside them
            assert ratio == pytest.approx(exact / base, rel=0.02 if rough else 0.005), (name, kind)


def test_pictures():
    """The page shows every picture that is drawn, and no other."""
    path = Path(__file__).resolve().parents[1] / "docs/pictures.py"
    spec = importlib.util.spec_from_file_location("docs_pictures", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    shown = re.findall(r"\]\(pictures/(\w+)\.svg\)", PAGE)
    assert sorted(shown) == sorted(module.pictures())


def test_links():
    """Links inside the page lead somewhere."""
    known = {anchor(heading) for heading in sections()}
    targets = re.findall(r"\]\(#([^)]+)\)", PAGE)
    assert targets and set(targets) <= known
