"""Self-attention and squeeze-and-excitation."""

from __future__ import annotations

from tfconv import layers
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
from tfconv.layers.self_attention import SelfAttention


@rule(SelfAttention)
def self_attention(layer, inputs, outputs):
    """``q * c * h * (2 * d + v) + q * q * h * (d + v) + q * h * v * f`` products."""
    width, places = channels(layer, inputs[0]), positions(layer, inputs[0])
    heads, keys = layer.num_heads, layer.key_dim
    head = layer.value_dim or keys
    filters, made = channels(layer, outputs[0]), values(outputs[0])
    weights = width * heads * (2 * keys + head) + heads * head * filters
    logits = places * places * heads
    positioned = 1 if layer.relative_position_bias else 0
    return Cost(
        multiply_adds=places * weights + logits * (keys + head),
        # Biases; scaled queries; the softmax, and biases for positions.
        elementwise=biased(layer, places * heads * (keys + head) + made)
        + places * heads * keys
        + logits * (1 + positioned)
        + activated(layer, made),
        weights=weights,
        weight_products=places * weights,
        inside=places * heads * (2 * keys + 2 * head) + logits,
        field=lambda field: field.whole(spatial(layer, inputs[0])),
    )


@rule(layers.LocalSelfAttention2D)
def local_self_attention(layer, inputs, outputs):
    """``3 * p * c * f + 2 * p * k * f`` products."""
    width, places, window = channels(layer, inputs[0]), positions(layer, inputs[0]), geometry(layer)
    filters, made = layer.filters, values(outputs[0])
    weights, logits = 3 * width * filters, places * window.taps * layer.num_heads
    return Cost(
        multiply_adds=places * weights + 2 * places * window.taps * filters,
        # Biases of queries and values; keys plus positions; the softmax.
        elementwise=2 * biased(layer, made)
        + places * window.taps * filters
        + logits
        + activated(layer, made),
        weights=weights,
        weight_products=places * weights,
        inside=3 * places * filters + logits,
        field=lambda field: field.slid(window, spatial(layer, inputs[0])),
    )


@rule(layers.SqueezeExcite)
def squeeze_excite(layer, inputs, outputs):
    """``2 * c * r`` products of two dense layers, and one for each value of the input."""
    width, count = channels(layer, inputs[0]), values(inputs[0])
    squeezed = layer.squeeze_channels or max(width // layer.reduction_ratio, 1)
    sees = spatial(layer, inputs[0])
    return Cost(
        multiply_adds=2 * width * squeezed,
        gating=count,
        elementwise=count
        + biased(layer, squeezed + width)
        + activated(layer, squeezed)
        + activated(layer, width, "gate_activation"),
        weights=2 * width * squeezed,
        inside=2 * width + squeezed,
        field=lambda field: field.whole(sees),
    )
