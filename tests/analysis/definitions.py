"""What every family of layers computes, product by product, for one example.

Each function takes a layer and its input without the batch, gives the layer's output before bias
and activation (or after, where more follows), and multiplies with nothing but the two counters:
``times`` for products that go into sums, ``gate`` for products of two computed values at one place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.docs import page, products
from tests.docs.products import Products, convolved, pointwise, window_of

Definition = Callable[[Products, Products, Any, Any], np.ndarray]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def matrix(times: Products, x: np.ndarray, kernel: Any) -> np.ndarray:
    """``y[..., f] = sum_c x[..., c] * kernel[c, f]``."""
    kernel = np.asarray(kernel)
    return times(x[..., :, None], kernel.reshape(x.shape[-1], -1)).sum(-2)


def dense(times: Products, x: np.ndarray, layer: Any) -> np.ndarray:
    """A Dense or 1x1 layer, bias included."""
    bias = 0 if layer.bias is None else np.asarray(layer.bias)
    return matrix(times, x, layer.kernel) + bias


def of_docs(name: str) -> Definition:
    """The definition that tests/docs has."""
    definition = products.DEFINITIONS[name]
    return lambda times, gate, layer, x: biased(layer, definition(times, layer, x))


def biased(layer: Any, y: np.ndarray) -> np.ndarray:
    return y + np.asarray(layer.bias) if layer.use_bias else y


def plain(times, gate, layer, x):
    kernel = np.asarray(layer.kernel)
    if getattr(layer, "share_kernel", False):
        kernel = np.tile(kernel, layer.groups)
    return biased(layer, convolved(times, x, kernel, window_of(layer, x), layer.groups))


def locally_connected(times, gate, layer, x):
    places, kernel = window_of(layer, x), np.asarray(layer.kernel)
    y = np.zeros(kernel.shape[: x.ndim - 1] + (layer.filters,))
    width, each = x.shape[-1] // layer.groups, layer.filters // layer.groups
    for position in np.ndindex(*y.shape[:-1]):
        for number, tap in enumerate(places.taps):
            pixel = places.pixel(position, tap)
            inside = all(0 <= i < n for i, n in zip(pixel, x.shape))
            values = x[pixel] if inside else np.zeros(x.shape[-1])
            for group in range(layer.groups):
                weights = kernel[position][number * width : (number + 1) * width]
                outputs = slice(group * each, (group + 1) * each)
                seen = values[group * width : (group + 1) * width, None]
                y[position][outputs] += times(seen, weights[:, outputs]).sum(0)
    return biased(layer, y)


def tucker(times, gate, layer, x):
    y = pointwise(times, x, np.asarray(layer.input_kernel), layer.groups)
    core = np.asarray(layer.core_kernel)
    y = convolved(times, y, core, window_of(layer, y), layer.groups)
    return biased(layer, pointwise(times, y, np.asarray(layer.output_kernel), layer.groups))


def gated(times, gate, layer, x):
    parts = []
    for kernel, bias in ((layer.kernel, layer.bias), (layer.gate_kernel, layer.gate_bias)):
        y = convolved(times, x, np.asarray(kernel), window_of(layer, x), layer.groups)
        parts.append(y if bias is None else y + np.asarray(bias))
    features = parts[0] if layer.gate == "glu" else np.asarray(layer.activation(parts[0]))
    return gate(features, sigmoid(parts[1]))


def deformable(times, gate, layer, x):
    """Every sample is corners times their weights; then it meets its mask, if there is one."""
    places, taps, groups = window_of(layer, x), math.prod(layer.kernel_size), layer.offset_groups
    rank = len(layer.kernel_size)
    made = convolved(times, x, np.asarray(layer.offset_kernel), places, 1)
    made = made + np.asarray(layer.offset_bias)
    offsets = made[..., : groups * taps * rank]
    offsets = offsets.reshape(*made.shape[:-1], groups, taps, rank)
    masks = layer.mask_scale * sigmoid(made[..., groups * taps * rank :])
    kernel, width = np.asarray(layer.kernel), x.shape[-1] // groups
    y = np.zeros((*made.shape[:-1], layer.filters))
    inputs, each = x.shape[-1] // layer.groups, layer.filters // layer.groups
    for position in np.ndindex(*y.shape[:-1]):
        for number, tap in enumerate(places.taps):
            sample = np.zeros(x.shape[-1])
            for o in range(groups):
                mine = slice(o * width, (o + 1) * width)
                at = places.pixel(position, tap) + offsets[position][o, number]
                low = np.floor(at).astype(int)
                for corner in np.ndindex(*[2] * rank):
                    pixel = tuple(low + corner)
                    inside = all(0 <= i < n for i, n in zip(pixel, x.shape))
                    near = np.prod(1 - np.abs(at - pixel))
                    sample[mine] += times(x[pixel][mine] if inside else np.zeros(width), near)
                if layer.modulated:
                    sample[mine] = gate(sample[mine], masks[position][o * taps + number])
            for g in range(layer.groups):
                outputs = slice(g * each, (g + 1) * each)
                seen = sample[g * inputs : (g + 1) * inputs, None]
                y[position][outputs] += times(seen, kernel[tap][:, outputs]).sum(0)
    return biased(layer, y)


def squeeze_excite(times, gate, layer, x):
    mean = x.reshape(-1, x.shape[-1]).mean(0)
    hidden = np.maximum(dense(times, mean, layer.squeeze), 0)
    return gate(x, sigmoid(dense(times, hidden, layer.excite)))


def weighted_sum(times, gate, layer, x):
    weights = np.asarray(layer.normalized_weights())
    return sum(gate(each, weight) for each, weight in zip(x, weights))


def split_transform_merge(times, gate, layer, x):
    parts = []
    for transform, part in zip(layer.transforms, np.split(x, layer.groups, axis=-1)):
        name = page.family(type(transform).__name__)
        parts.append(DEFINITIONS[name](times, gate, transform, part))
    if layer.merge == "weighted_sum":
        return weighted_sum(times, gate, layer.weighted_sum, parts)
    return np.mean(parts, 0) if layer.merge == "mean" else np.concatenate(parts, -1)


def mixed(times, layer, x, routing, experts, groups):
    """The order with fewer products: kernels mixed and one convolution, or one for each expert."""
    places = window_of(layer, x)
    shape = (len(routing), *layer.kernel_size, x.shape[-1] // groups, -1)
    experts = np.asarray(experts).reshape(shape)
    one, many = Products(), Products()
    kernel = one(routing.reshape([-1] + [1] * (experts.ndim - 1)), experts).sum(0)
    y = convolved(one, x, kernel, places, groups)
    each = [convolved(many, x, kernel, places, groups) for kernel in experts]
    other = sum(many(y, weight) for y, weight in zip(each, routing))
    np.testing.assert_allclose(y, other, atol=1e-4)
    times.total += min(one.total, many.total)
    return y


def with_bias(times, layer, y, routing):
    if layer.expert_biases is None:
        return y
    return y + times(routing[:, None], np.asarray(layer.expert_biases)).sum(0)


def routed(times, layer, x):
    return sigmoid(dense(times, x.reshape(-1, x.shape[-1]).mean(0), layer.routing))


def cond_conv(times, gate, layer, x):
    groups = getattr(layer, "groups", x.shape[-1])  # each channel, for depthwise layers
    routing = routed(times, layer, x)
    y = mixed(times, layer, x, routing, layer.expert_kernels, groups)
    return with_bias(times, layer, y, routing)


def dynamic_conv(times, gate, layer, x):
    mean = x.reshape(-1, x.shape[-1]).mean(0)
    logits = dense(times, np.maximum(dense(times, mean, layer.squeeze), 0), layer.attend)
    routing = softmax(logits / np.asarray(layer.temperature))
    y = mixed(times, layer, x, routing, layer.expert_kernels, layer.groups)
    return with_bias(times, layer, y, routing)


def cond_dense(times, gate, layer, x):
    routing = routed(times, layer, x)
    kernel = times(routing[:, None], np.asarray(layer.expert_kernels)).sum(0)
    return with_bias(times, layer, matrix(times, x, kernel), routing)


def involution(times, gate, layer, x):
    """Kernels from the pixels at the windows' centres, or their means with strides."""
    places, width = window_of(layer, x), x.shape[-1]
    groups, taps = layer.groups or width // layer.group_channels, len(places.taps)
    y = np.zeros((*places.outputs(x.shape[:-1]), width))
    strided = max(layer.strides) > 1
    for position in np.ndindex(*y.shape[:-1]):
        if strided:  # "same": the stride's pixels
            cells = [slice(i * s, (i + 1) * s) for i, s in zip(position, layer.strides)]
            origin = x[tuple(cells)].reshape(-1, width).mean(0)
        else:
            centre = [(n - 1) // 2 for n in layer.kernel_size]
            origin = x[places.pixel(position, centre)]
        hidden = matrix(times, origin, layer.reduce.kernel)
        hidden = np.maximum(hidden / np.sqrt(1 + layer.batch_norm_epsilon), 0)
        kernel = dense(times, hidden, layer.span).reshape(groups, taps)
        for number, tap in enumerate(places.taps):
            pixel = places.pixel(position, tap)
            inside = all(0 <= i < n for i, n in zip(pixel, x.shape))
            values = x[pixel] if inside else np.zeros(width)
            y[position] += times(values, np.repeat(kernel[:, number], width // groups))
    return y


def aggregation(times, gate, layer, x):
    """Every sample is its corners times their weights, and goes times its own into the sum."""
    places, rank, width = window_of(layer, x), x.ndim - 1, x.shape[-1]
    groups, taps = layer.groups_of(width), len(places.taps)
    value = dense(times, x, layer.input_projection) if layer.project_inputs else x
    outputs = places.outputs(x.shape[:-1])
    y = np.zeros((*outputs, width))
    mine = [slice(g * width // groups, (g + 1) * width // groups) for g in range(groups)]
    for position in np.ndindex(*outputs):
        centre = places.pixel(position, [(k - 1) // 2 for k in layer.kernel_size])
        features = np.zeros(width)
        size = layer.depthwise_kernel_size or (1,) * rank
        kernel = np.ones((*size, 1))
        if layer.depthwise_kernel_size:
            kernel = np.asarray(layer.depthwise.depthwise_kernel)[..., 0]
        for tap in np.ndindex(*size):
            pixel = tuple(c - (s - 1) // 2 + t for c, s, t in zip(centre, size, tap))
            inside = all(0 <= i < n for i, n in zip(pixel, x.shape))
            seen = x[pixel] if inside else np.zeros(width)
            features += times(seen, kernel[tap]) if layer.depthwise_kernel_size else seen
        if layer.depthwise_kernel_size:
            features += np.asarray(layer.depthwise.bias)
        if layer.normalize_features:
            features = features - features.mean()
            features = features / np.sqrt((features**2).mean() + 1e-6)
            features = features * np.asarray(layer.gamma) + np.asarray(layer.beta)
            features *= [0.5 * (1 + math.erf(f / math.sqrt(2))) for f in features]
        offsets = dense(times, features, layer.offset_projection).reshape(groups, taps, rank)
        weights = dense(times, features, layer.weight_projection).reshape(groups, taps)
        weights = softmax(weights) if layer.softmax else weights
        for number, tap in enumerate(places.taps):
            for g in range(groups):
                at = places.pixel(position, tap) + offsets[g, number]
                low, sample = np.floor(at).astype(int), np.zeros(width // groups)
                for corner in np.ndindex(*[2] * rank):
                    pixel = tuple(low + corner)
                    inside = all(0 <= i < n for i, n in zip(pixel, x.shape))
                    seen = value[pixel][mine[g]] if inside else np.zeros(width // groups)
                    sample += times(seen, np.prod(1 - np.abs(at - pixel)))
                y[position][mine[g]] += times(sample, weights[g, number])
    return dense(times, y, layer.output_projection) if layer.project_outputs else y


def self_attention(times, gate, layer, x):
    flat, heads = x.reshape(-1, x.shape[-1]), layer.num_heads
    query, key, value = (
        dense(times, flat, part).reshape(len(flat), heads, -1)
        for part in (layer.query, layer.key, layer.value)
    )
    logits = times(query[:, None], key[None]).sum(-1) * layer.key_dim**-0.5  # [p, q, heads]
    attention = softmax(logits.transpose(0, 2, 1)).transpose(0, 2, 1)
    seen = times(attention[..., None], value[None]).sum(1).reshape(len(flat), -1)
    return dense(times, seen, layer.project).reshape(*x.shape[:-1], -1)


def local_self_attention(times, gate, layer, x):
    sizes, heads, rank = x.shape[:-1], layer.num_heads, layer.rank
    key, value = (
        dense(times, x, part).reshape(*sizes, heads, -1) for part in (layer.key, layer.value)
    )
    names = {1: ["position"], 2: ["row", "column"], 3: ["depth", "row", "column"]}[rank]
    parts = [getattr(layer, f"{name}_embedding") for name in names]
    y = np.zeros((*(-(-n // s) for n, s in zip(sizes, layer.strides)), *value.shape[rank:]))
    for position in np.ndindex(*y.shape[:rank]):
        block = tuple(slice(i * s, (i + 1) * s) for i, s in zip(position, layer.strides))
        mean = x[block].reshape(-1, x.shape[-1]).mean(0)
        query = dense(times, mean, layer.query).reshape(heads, -1)
        axes = [taps_of_axis(layer, axis, sizes[axis], i) for axis, i in enumerate(position)]
        logits, values = [], []
        for number, tap in enumerate(np.ndindex(*layer.kernel_size)):
            pixel, inside = zip(*(taps[t] for taps, t in zip(axes, tap)))
            logit = (
                times(query, key[pixel]).sum(-1) if all(inside) else times(query, 0 * query).sum(-1)
            )
            if layer.relative_positions == "keys":
                r = np.concatenate([np.asarray(e)[t] for e, t in zip(parts, tap)], -1)
                logit = logit + times(query, r).sum(-1)
            elif layer.relative_positions == "bias":
                logit = logit + np.asarray(layer.position_bias)[:, number]
            logits.append(logit if all(inside) else np.full(heads, -1e9))
            values.append(value[pixel])
        attention = softmax(np.stack(logits, -1))  # [heads, taps]
        y[position] = times(attention[..., None], np.stack(values, 1)).sum(1)
    return y.reshape(*y.shape[:rank], -1)


def taps_of_axis(layer, axis, size, place):
    """(pixel, whether it takes part) of each tap along an axis; those outside are clipped."""
    k, s, d = (v[axis] for v in (layer.kernel_size, layer.strides, layer.dilation_rate))
    causal = layer.causal if isinstance(layer.causal, bool) else layer.causal[axis]
    centre = min(place * s + (s - 1 if causal else s // 2), size - 1)
    if causal:
        first = centre - (k - 1) * d
    elif layer.edges == "masked":
        first = centre - (k - 1) * d // 2
    else:
        alike = list(range(centre % d, size, d))  # pixels that windows of this phase may take
        first = alike[max(min(centre // d - k // 2, len(alike) - k), 0)]
    last = centre if causal else size - 1
    pixels = [first + t * d for t in range(k)]
    return [(min(max(p, 0), size - 1), 0 <= p <= last) for p in pixels]


def channel_shuffle(times, gate, layer, x):
    groups = layer.groups
    shape = (-1, groups) if layer.inverse else (groups, -1)
    return np.swapaxes(x.reshape(*x.shape[:-1], *shape), -1, -2).reshape(x.shape)


DEFINITIONS: dict[str, Definition] = {
    **{
        name: of_docs(name)
        for name in ("DepthwiseConv", "SeparableConv", "LowRankConv", "FlattenedConv")
    },
    "ChannelShuffle": channel_shuffle,
    "CondConv": cond_conv,
    "CondDense": cond_dense,
    "Conv": plain,
    "ConvTranspose": of_docs("ConvTranspose"),
    "DeformableAggregation": aggregation,
    "DeformableConv": deformable,
    "DepthwiseCondConv": cond_conv,
    "DynamicConv": dynamic_conv,
    "GatedConv": gated,
    "GroupConv": plain,
    "Involution": involution,
    "LocalSelfAttention": local_self_attention,
    "LocallyConnected": locally_connected,
    "PointwiseConv": plain,
    "SelfAttention": self_attention,
    "SplitTransformMerge": split_transform_merge,
    "SqueezeExcite": squeeze_excite,
    "TuckerConv": tucker,
    "WeightedSum": weighted_sum,
}
