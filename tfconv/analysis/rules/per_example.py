"""Layers whose weights are mixed for every example."""

from __future__ import annotations

from typing import Any

from tfconv import layers
from tfconv.analysis.cost import Cost, rule
from tfconv.analysis.rules.conv import grouped_rank
from tfconv.analysis.rules.sizes import (
    activated,
    biased,
    channels,
    geometry,
    positions,
    spatial,
    values,
)
from tfconv.layers.cond_conv import CondConv
from tfconv.layers.dynamic_conv import DynamicConv
from tfconv.ops.per_example_conv import cheaper_execution


def _mixed(
    layer: Any, inputs: Any, outputs: Any, experts: int, kernel: int, rank: int, routing: Cost
) -> Cost:
    """A convolution with a mixture of kernels, in the order that the layer takes."""
    window, made = geometry(layer), values(outputs[0])
    filters, places = channels(layer, outputs[0]), positions(layer, outputs[0])
    order = layer.execution
    if order == "auto":
        order = cheaper_execution((experts, kernel), filters, places)
    if order == "mix_kernels":
        products, inside, used = (experts + places) * kernel, kernel, experts * kernel
    else:
        products, inside = experts * places * (kernel + filters), experts * made
        used = experts * places * kernel
    biases = biased(layer, experts * filters)
    sees = spatial(layer, inputs[0])
    return Cost(
        multiply_adds=products + biases + routing.multiply_adds,
        elementwise=routing.elementwise + biased(layer, made) + activated(layer, made),
        weights=experts * kernel + biases + routing.weights,
        weight_products=used + biases + routing.weights,
        kernel_rank=rank,
        inside=inside,
        # The routing sees everything.
        field=lambda field: field.whole(sees) if routing.weights else field.slid(window, sees),
    )


def _routing(layer: Any, inputs: Any, axis: int) -> Cost:
    """Means over the positions, and a dense layer to a number for each expert."""
    if len(inputs) > 1:  # given with the call
        return Cost()
    weights = inputs[0][axis] * layer.num_experts
    mean = values(inputs[0]) if len(inputs[0]) > 2 else 0
    activation = activated(layer, layer.num_experts, "routing_activation")
    return Cost(weights, elementwise=mean + layer.num_experts + activation, weights=weights)


@rule(CondConv)
def cond_conv(layer, inputs, outputs):
    """Routing, mixing ``e`` kernels, and one convolution; or ``e`` convolutions and mixing."""
    window, width = geometry(layer), channels(layer, inputs[0])
    kernel = window.taps * width // layer.groups * layer.filters
    rank = grouped_rank(window.taps, width, layer.filters, layer.groups)
    routing = _routing(layer, inputs, layer.channel_axis)
    return _mixed(layer, inputs, outputs, layer.num_experts, kernel, rank, routing)


@rule(layers.DepthwiseCondConv2D)
def depthwise_cond_conv(layer, inputs, outputs):
    """The same for a depthwise convolution."""
    window, width = geometry(layer), channels(layer, inputs[0])
    kernel = window.taps * width * layer.depth_multiplier
    rank = width * min(window.taps, layer.depth_multiplier)
    routing = _routing(layer, inputs, layer.channel_axis)
    return _mixed(layer, inputs, outputs, layer.num_experts, kernel, rank, routing)


@rule(DynamicConv)
def dynamic_conv(layer, inputs, outputs):
    """The same with two dense layers and a softmax for routing."""
    window, width = geometry(layer), channels(layer, inputs[0])
    kernel = window.taps * width // layer.groups * layer.filters
    rank = grouped_rank(window.taps, width, layer.filters, layer.groups)
    hidden, count = max(width // layer.reduction_ratio, 1), layer.num_experts
    dense = width * hidden + hidden * count
    # The mean, biases, ReLU, the division by the temperature and the softmax.
    work = values(inputs[0]) + 2 * hidden + 3 * count
    routing = Cost(dense, elementwise=work, weights=dense)
    return _mixed(layer, inputs, outputs, count, kernel, rank, routing)


@rule(layers.CondDense)
def cond_dense(layer, inputs, outputs):
    """Routing, mixing ``e`` kernels, and a dense layer."""
    routing = _routing(layer, inputs, -1)
    width, experts, units = inputs[0][-1], layer.num_experts, layer.units
    rows, kernel = values(inputs[0]) // width, width * units
    biases, made = biased(layer, experts * units), values(outputs[0])
    sees = inputs[0][1:-1]
    return Cost(
        multiply_adds=(experts + rows) * kernel + biases + routing.multiply_adds,
        elementwise=routing.elementwise + biased(layer, made) + activated(layer, made),
        weights=experts * kernel + biases + routing.weights,
        weight_products=experts * kernel + biases + routing.weights,
        kernel_rank=min(width, units),
        inside=kernel,
        field=lambda field: field.whole(sees) if routing.weights and sees else field,
    )
