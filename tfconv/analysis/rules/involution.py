"""Involution: kernels made from the input, one for each position and group of channels."""

from __future__ import annotations

import math

from tfconv.analysis.cost import Cost, rule
from tfconv.analysis.rules.sizes import activated, channels, geometry, positions, spatial, values
from tfconv.layers.involution import Involution


@rule(Involution)
def involution(layer, inputs, outputs):
    """``p * c * r + p * r * g * k`` products that make the kernels, ``p * k * c`` that use them."""
    window, width = geometry(layer), channels(layer, inputs[0])
    groups = layer.groups or width // layer.group_channels
    reduced = max(width // layer.reduction_ratio, 1)
    places = positions(layer, outputs[0])
    generator = width * reduced + reduced * groups * window.taps
    # The mean over each stride's pixels, normalization, ReLU and the bias of the last layer.
    pooled = values(inputs[0]) if math.prod(window.strides) > 1 else 0
    made = pooled + places * (3 * reduced + groups * window.taps)
    return Cost(
        multiply_adds=places * (generator + window.taps * width),
        elementwise=made + activated(layer, values(outputs[0])),
        weights=generator,
        weight_products=places * generator,
        kernel_rank=width,
        inside=places * (reduced + groups * window.taps),
        field=lambda field: field.slid(window, spatial(layer, inputs[0])),
    )
