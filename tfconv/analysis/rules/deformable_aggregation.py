"""Deformable aggregation: samples, their weights, and what makes both."""

from __future__ import annotations

import math

from tfconv.analysis.cost import Cost, rule
from tfconv.analysis.receptive_field import united
from tfconv.analysis.rules.sizes import (
    activated,
    biased,
    channels,
    geometry,
    positions,
    spatial,
    values,
)
from tfconv.layers.deformable_aggregation import DeformableAggregation
from tfconv.ops.geometry import Geometry


@rule(DeformableAggregation)
def deformable_aggregation(layer, inputs, outputs):
    """``p * k * c`` products of samples, which take one for each corner, and the convolutions."""
    window, width = geometry(layer), channels(layer, inputs[0])
    before, places = positions(layer, inputs[0]), positions(layer, outputs[0])
    taps, axes, groups = layer.sampled_taps, layer.rank, layer.groups_of(width)
    depthwise = math.prod(layer.depthwise_kernel_size or (0,)) * width
    mixing = groups if layer.center_feature_scale else 0
    made = groups * taps * (axes + 1) + mixing
    filters = layer.output_channels(width)
    first, last = width * width * layer.project_inputs, width * filters * layer.project_outputs
    weights = first + last + depthwise + width * made
    products = before * first + places * (weights - first)
    normalized = 3 * places * width if layer.normalize_features else 0
    return Cost(
        multiply_adds=products + places * window.taps * width * (2**axes + 1),
        gating=places * width if mixing else 0,
        # Biases; normalization and GELU; the softmax; the sigmoid and what it weighs.
        elementwise=biased(layer, before * width * layer.project_inputs)
        + biased(layer, places * filters * layer.project_outputs)
        + (places * width if depthwise else 0)
        + places * made
        + normalized
        + (places * groups * taps if layer.softmax else 0)
        + (places * (groups + 2 * width) if mixing else 0)
        + activated(layer, values(outputs[0])),
        weights=weights,
        weight_products=products,
        kernel_rank=width,
        inside=before * width * layer.project_inputs
        + places * made
        + places * width * (bool(depthwise) + layer.project_outputs),
        field=lambda field: _seen(field, layer, window, spatial(layer, inputs[0])),
    )


def _seen(field, layer, window, sizes):
    """What the windows see where taps have not moved, and what their offsets are made from."""
    values = field.slid(window, sizes)
    made_from = layer.depthwise_kernel_size or (1,) * layer.rank
    if values is None or field.everything or all(map(int.__le__, made_from, window.extent)):
        return values
    pads = tuple(
        (before - (extent - 1) // 2 + (taps - 1) // 2, after - extent // 2 + taps // 2)
        for (before, after), extent, taps in zip(
            window.pad_amounts(sizes), window.extent, made_from
        )
    )
    made = Geometry(made_from, window.strides, (1,) * layer.rank, pads)
    return united([values, field.slid(made, sizes)], [window.output_shape(sizes)] * 2)
