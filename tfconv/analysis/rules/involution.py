"""Involution: kernels made from the input, one for each position and group of channels."""

from __future__ import annotations

import math

from tfconv.analysis.cost import Cost, rule
from tfconv.analysis.receptive_field import united
from tfconv.analysis.rules.sizes import activated, channels, geometry, positions, spatial, values
from tfconv.layers.involution import Involution
from tfconv.ops.geometry import Geometry


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
        field=lambda field: _seen(field, window, spatial(layer, inputs[0])),
    )


def _seen(field, window, sizes):
    """What the windows see, and what their kernels are made from: the means over strides."""
    values = field.slid(window, sizes)
    if values is None or field.everything or max(window.strides) == 1:
        return values
    if window.pads is not None:  # the means begin at the centre of the first window
        halves = [((n - 1) // 2, n // 2) for n in window.extent]
        moves = [(b - h, a - t) for (b, a), (h, t) in zip(window.pads, halves)]
        field = field.shifted([before for before, _ in moves])
        sizes = [n + sum(move) for n, move in zip(sizes, moves)]
    means = Geometry.of(window.strides, window.strides, "same", 1, len(sizes))
    made = field.slid(means, sizes)
    return united([values, made], [means.output_shape(sizes)] * 2) if made else None
