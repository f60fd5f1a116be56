"""Convolutions whose kernel is one tensor: plain, grouped, depthwise, transposed, unshared."""

from __future__ import annotations

import math
from typing import Any

import tfconv.layers.conv
import tfconv.layers.depthwise_conv
import tfconv.layers.locally_connected
from tfconv._compat import keras
from tfconv.analysis.cost import Cost, rule
from tfconv.analysis.rules.sizes import (
    activated,
    biased,
    channels,
    geometry,
    positions,
    spatial,
    values,
)
from tfconv.layers import conv_transpose, deformable_conv, gated_conv, separable_conv
from tfconv.ops.conv_transpose import transposed_crops


def outputs_work(layer: Any, count: int) -> int:
    """Operations of bias and activation."""
    return biased(layer, count) + activated(layer, count)


def grouped_rank(taps: int, inputs: int, filters: int, groups: int) -> int:
    """Largest rank of a kernel: each group has a block [taps * inputs, filters] of its own."""
    return groups * min(taps * inputs // groups, filters // groups)


@rule(
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    tfconv.layers.conv.Conv,
)
def conv(layer, inputs, outputs):
    """``p * k * c / g * f`` products: every tap of every output."""
    window, width = geometry(layer), channels(layer, inputs[0])
    kernel = window.taps * width // layer.groups * layer.filters
    shared = getattr(layer, "share_kernel", False)
    return Cost(
        multiply_adds=positions(layer, outputs[0]) * kernel,
        elementwise=outputs_work(layer, values(outputs[0])),
        weights=kernel // layer.groups if shared else kernel,
        kernel_rank=grouped_rank(window.taps, width, layer.filters, layer.groups),
        field=lambda field: field.slid(window, spatial(layer, inputs[0])),
    )


@rule(
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    tfconv.layers.depthwise_conv.DepthwiseConv,
)
def depthwise(layer, inputs, outputs):
    """``p * k * c * m`` products."""
    window, width = geometry(layer), channels(layer, inputs[0])
    kernel = window.taps * width * layer.depth_multiplier
    return Cost(
        multiply_adds=positions(layer, outputs[0]) * kernel,
        elementwise=outputs_work(layer, values(outputs[0])),
        weights=kernel,
        kernel_rank=width * min(window.taps, layer.depth_multiplier),
        field=lambda field: field.slid(window, spatial(layer, inputs[0])),
    )


@rule(
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
    separable_conv.SeparableConv,
)
def separable(layer, inputs, outputs):
    """``p * k * c * m + p * c * m * f`` products."""
    window, width = geometry(layer), channels(layer, inputs[0])
    between = width * layer.depth_multiplier
    kernels = window.taps * between + between * layer.filters
    places = positions(layer, outputs[0])
    return Cost(
        multiply_adds=places * kernels,
        elementwise=outputs_work(layer, values(outputs[0])),
        weights=kernels,
        kernel_rank=min(width * min(window.taps, layer.depth_multiplier), layer.filters),
        inside=places * between,
        field=lambda field: field.slid(window, spatial(layer, inputs[0])),
    )


@rule(
    *(
        getattr(keras.layers, name)
        for name in ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
    ),
    conv_transpose.ConvTranspose,
)
def transposed(layer, inputs, outputs):
    """``q * k * f / g * c`` products: every input pixel paints the kernel."""
    window, width = geometry(layer), channels(layer, inputs[0])
    groups = getattr(layer, "groups", 1)
    kernel = window.taps * width * layer.filters // groups
    crops = transposed_crops(window, layer.padding, layer.output_padding)
    # Taps that meet in one output, of the one where most do.
    meeting = math.prod(
        math.ceil(k / (s // math.gcd(s, d)))
        for k, s, d in zip(window.kernel_size, window.strides, window.dilation_rate)
    )
    return Cost(
        multiply_adds=positions(layer, inputs[0]) * kernel,
        elementwise=outputs_work(layer, values(outputs[0])),
        weights=kernel,
        kernel_rank=grouped_rank(meeting, width, layer.filters, groups),
        field=lambda field: field.transposed(window, [before for before, _ in crops]),
    )


@rule(
    *(
        getattr(keras.layers, name)
        for name in ("LocallyConnected1D", "LocallyConnected2D")
        if hasattr(keras.layers, name)  # Keras 2 only
    ),
    tfconv.layers.locally_connected.LocallyConnected,
)
def locally_connected(layer, inputs, outputs):
    """``p * k * c / g * f`` products, each with a weight of its own."""
    window, width = geometry(layer), channels(layer, inputs[0])
    groups = getattr(layer, "groups", 1)
    products = positions(layer, outputs[0]) * window.taps * width // groups * layer.filters
    return Cost(
        multiply_adds=products,
        elementwise=outputs_work(layer, values(outputs[0])),
        weights=products,
        kernel_rank=grouped_rank(window.taps, width, layer.filters, groups),
        field=lambda field: field.slid(window, spatial(layer, inputs[0])),
    )


@rule(gated_conv.GatedConv)
def gated(layer, inputs, outputs):
    """Two convolutions, a sigmoid, and ``p * f`` products of features and gates."""
    window, width = geometry(layer), channels(layer, inputs[0])
    kernel = window.taps * width // layer.groups * layer.filters
    made = values(outputs[0])
    return Cost(
        multiply_adds=2 * positions(layer, outputs[0]) * kernel,
        gating=made,
        elementwise=2 * biased(layer, made) + activated(layer, made) + made,
        weights=2 * kernel,
        kernel_rank=grouped_rank(window.taps, width, layer.filters, layer.groups),
        inside=2 * made,
        field=lambda field: field.slid(window, spatial(layer, inputs[0])),
    )


@rule(deformable_conv.DeformableConv)
def deformable(layer, inputs, outputs):
    """A convolution of samples, a product for each corner of a sample, the offsets' convolution."""
    window, width = geometry(layer), channels(layer, inputs[0])
    kernel = window.taps * width // layer.groups * layer.filters
    places = positions(layer, outputs[0])
    samples = places * window.taps * width
    moves = layer.offset_groups * window.taps
    given = len(inputs) > 1
    parts = 0 if given else layer.rank + layer.modulated
    offsets = window.taps * width * moves * parts
    modulated = len(inputs) > 2 if given else layer.modulated
    masks = places * moves if modulated and not given else 0
    return Cost(
        multiply_adds=places * (kernel + offsets) + 2**layer.rank * samples,
        gating=samples if modulated else 0,
        elementwise=outputs_work(layer, values(outputs[0])) + places * moves * parts + 2 * masks,
        weights=kernel + offsets,
        weight_products=places * (kernel + offsets),
        kernel_rank=grouped_rank(window.taps, width, layer.filters, layer.groups),
        inside=places * moves * parts,
        field=lambda field: field.slid(window, spatial(layer, inputs[0])),
    )
