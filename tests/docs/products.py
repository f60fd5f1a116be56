"""Products, counted: in the graph of a call, and by doing what a layer's definition says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import tfconv
from tests.reference import Window, window


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
