"""Self-attention and squeeze-and-excitation."""

from __future__ import annotations

import math

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
from tfconv.layers.local_self_attention import LocalSelfAttention
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


@rule(LocalSelfAttention)
def local_self_attention(layer, inputs, outputs):
    """``(p + 2 * q) * c * f + 3 * p * k * f`` products; without embeddings ``p * k * f`` fewer."""
    width, read, window = channels(layer, inputs[0]), positions(layer, inputs[0]), geometry(layer)
    filters, made, places = layer.filters, values(outputs[0]), positions(layer, outputs[0])
    dense, logits = width * filters, places * window.taps * layer.num_heads
    embedded = layer.relative_positions == "keys"
    strided = math.prod(window.strides) > 1
    return Cost(
        multiply_adds=(places + 2 * read) * dense
        + (3 if embedded else 2) * places * window.taps * filters,
        # Means of blocks; biases of queries and values; of positions; the softmax.
        elementwise=(values(inputs[0]) if strided else 0)
        + biased(layer, (places + read) * filters)
        + logits * (2 if layer.relative_positions else 1)
        + activated(layer, made),
        weights=3 * dense,
        weight_products=(places + 2 * read) * dense,
        inside=(values(inputs[0]) // read * places if strided else 0)
        + (places + 2 * read) * filters
        + logits,
        field=lambda field: _seen(layer, field),
    )


def _seen(layer, field):
    """What windows and the blocks of queries see; at edges, shifted windows see other pixels."""
    flags = layer.causal if isinstance(layer.causal, tuple) else (layer.causal,) * layer.rank
    reads = []
    for k, s, d, causal in zip(layer.kernel_size, layer.strides, layer.dilation_rate, flags):
        before = (k - 1) * d // 2 if layer.edges == "masked" else k // 2 * d
        first = s - 1 - (k - 1) * d if causal else s // 2 - before
        taps = [first + t * d for t in range(k)]
        reads.append(lambda p, s=s, seen=(*taps, *range(s)): [p * s + n for n in seen])
    return field.through(reads, inputs=layer.strides)


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
