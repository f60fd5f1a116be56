"""Every layer of tfconv: weights, products, ranks and maps, against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests.analysis.definitions import DEFINITIONS, Products
from tests.conftest import kinds
from tests.docs import page
from tests.docs.configurations import configurations, values
from tests.docs.page import families
from tfconv.analysis import profile
from tfconv.testing import layer_cases

NAMES = sorted(DEFINITIONS)
# What an output sees goes into its weights, too; and layers without a kernel.
NOT_LINEAR = {
    *(getattr(tfconv, name) for name in tfconv.layers.__all__ if "Cond" in name),
    *(getattr(tfconv, name) for name in tfconv.layers.__all__ if "Attention" in name),
    *(getattr(tfconv, name) for name in tfconv.layers.__all__ if "Dynamic" in name),
    *(getattr(tfconv, name) for name in tfconv.layers.__all__ if "Gated" in name),
    *(getattr(tfconv, name) for name in tfconv.layers.__all__ if "Involution" in name),
    *(getattr(tfconv, name) for name in tfconv.layers.__all__ if "Aggregation" in name),
    tfconv.ChannelShuffle,
    tfconv.SplitTransformMerge,
    tfconv.SqueezeExcite,
    tfconv.WeightedSum,
}


# For a class each, one configuration that takes its channels first.
FIRST_OF_THEIR_CLASS = {
    case.layer_class: case
    for case in layer_cases()
    if "data_format" in case.layer().get_config() and not case.extra and not case.as_list
}.values()


def given(x):
    """The shape or shapes of an input, as `profile` takes them."""
    return [tuple(each.shape[1:]) for each in x] if isinstance(x, list) else tuple(x.shape[1:])


def varied(layer):
    """Offsets that lie between pixels."""
    if hasattr(layer, "offset_kernel"):
        layer.offset_bias.assign(tf.linspace(-0.9, 0.9, layer.offset_bias.shape[0]))
    if hasattr(layer, "offset_projection"):
        for bias in (layer.offset_projection.bias, layer.weight_projection.bias):
            bias.assign(tf.linspace(-0.9, 0.9, bias.shape[0]))
    return layer


def test_every_family_has_a_definition():
    assert NAMES == sorted(families())


@pytest.mark.parametrize("name", kinds(NAMES))
def test_products_of_the_definition(name):
    """What the loops multiply is what is counted, and gives what the layer gives."""
    for row, layer, x, _ in configurations(name):
        if row is None:  # the page's examples are larger
            continue
        y = varied(layer)(x).numpy()[0]
        one = [each.numpy()[0] for each in x] if isinstance(x, list) else x.numpy()[0]
        times, gate = Products(), Products()
        result = DEFINITIONS[name](times, gate, layer, one)
        np.testing.assert_allclose(y, result, rtol=0, atol=1e-4)
        found = profile(layer, given(x))
        assert found.multiply_adds == times.total, layer.get_config()
        assert found.gating == gate.total, layer.get_config()
        assert not found.unknown


@pytest.mark.parametrize("name", NAMES)
def test_formulas_of_the_page(name):
    """docs/layers.md counts gates among the multiply-adds, and no interpolation."""
    formula = families()[name].formula("Multiply-adds")
    for _, layer, x, y in configurations(name):
        found = profile(layer, given(x))
        count = found.multiply_adds + found.gating
        if name == "DeformableConv":
            samples = x.shape[-1] * layer.geometry.taps * np.prod(y.shape[1:-1])
            count -= 2**layer.rank * samples + found.gating
        if name == "DeformableAggregation":
            samples = x.shape[-1] * layer.geometry.taps * np.prod(y.shape[1:-1])
            count -= 2**layer.rank * samples
        symbols = values(formula, layer, x, y)
        if "u_i" in symbols:
            symbols["u_i"] = [
                part.multiply_adds + part.gating
                for part in (
                    profile(each, (*x.shape[1:-1], x.shape[-1] // layer.groups))
                    for each in layer.transforms
                )
            ]
        assert count == page.evaluated(formula, symbols)


@pytest.mark.parametrize("case", layer_cases(), ids=lambda case: case.layer_class.__name__)
def test_every_configuration(case):
    """All weights stand in a row; with channels first, all numbers are the same."""
    model = case.model()
    found = profile(model)
    assert found.parameters == model.count_params()
    assert found.rows[-1].output_shapes == (tuple(model.output_shape[1:]),)
    assert not found.unknown
    assert found.memory >= found.rows[-1].memory > 0
    if case not in FIRST_OF_THEIR_CLASS:
        return
    first = profile(
        case.layer(data_format="channels_first"), (case.input_shape[-1], *case.input_shape[:-1])
    )
    for number in ("multiply_adds", "flops", "parameters", "memory", "peak_memory", "weight_reuse"):
        assert getattr(first, number) == getattr(found, number), number
    assert [row.kernel_rank for row in first.rows] == [row.kernel_rank for row in found.rows]
    assert first.field == found.field


@pytest.mark.parametrize("case", layer_cases(), ids=lambda case: case.layer_class.__name__)
def test_kernel_rank(case):
    """The rank of the matrix from what a pixel in the middle sees to its channels."""
    if case.extra or case.as_list or case.layer_class in NOT_LINEAR:
        return
    layer = case.layer(**({"activation": None} if "activation" in case.kwargs else {}))
    layer(np.zeros([1, *case.input_shape], np.float32))
    for weight in layer.trainable_weights:  # initial values may be zero
        if "offset" not in weight.name:
            weight.assign(tf.random.normal(weight.shape))
    (row,) = profile(layer, case.input_shape).rows
    count = math.prod(case.input_shape)
    pixels = np.concatenate([np.zeros([1, count]), np.eye(count)]).astype(np.float32)
    y = layer(pixels.reshape(-1, *case.input_shape)).numpy()
    matrices = (y[1:] - y[:1]).reshape(count, -1, y.shape[-1]).transpose(1, 0, 2)
    assert row.kernel_rank == max(np.linalg.matrix_rank(each, tol=1e-4) for each in matrices)


# A layer, its input, and by hand: elementwise operations, values of maps inside it, products that
# its weights take part in, and the weights. Outputs are of 3x3 windows on 4x5 pixels, so of 2x3, or
# of 1x1 windows, or as large as inputs of 3x2.
BY_HAND = [
    (tfconv.Conv2D(4, 3, activation="tanh"), (4, 5, 3), 24 + 24, 0, 6 * 108, 108),
    (tfconv.GroupConv2D(4, 1, groups=2, share_kernel=True, use_bias=False), (3, 2, 4), 0, 0, 48, 4),
    (tfconv.DepthwiseConv2D(3, depth_multiplier=2), (4, 5, 3), 36, 0, 6 * 54, 54),
    (tfconv.SeparableConv2D(5, 3, depth_multiplier=2, activation="relu"), (4, 5, 3), 30 + 30, 36)
    + (6 * 84, 54 + 30),
    (tfconv.Conv2DTranspose(4, 3), (2, 3, 5), 80, 0, 6 * 180, 180),
    (tfconv.LocallyConnected2D(4, 3), (4, 5, 2), 24, 0, 6 * 72, 6 * 72),
    # Two biases and the sigmoid; the feature's activation.
    (tfconv.GatedConv2D(4, 3), (4, 5, 2), 3 * 24, 2 * 24, 6 * 144, 2 * 72),
    (tfconv.GatedConv2D(4, 3, gate="feature", activation="tanh"), (4, 5, 2), 4 * 24, 48, 864, 144),
    # Bias and activation; the biases of 9 * 3 offsets and masks; the masks' sigmoid and scale.
    (tfconv.DeformableConv2D(4, 3, padding="same", activation="relu"), (3, 2, 2))
    + (24 + 24 + 6 * 27 + 2 * 6 * 9, 6 * 27, 6 * (72 + 486), 72 + 486),
    (tfconv.DeformableConv2D(4, 3, padding="same", modulated=False, use_bias=False), (3, 2, 2))
    + (6 * 18, 6 * 18, 6 * (72 + 324), 72 + 324),
    # 2 taps: the biases of 2 * 2 offsets and masks, and the masks' sigmoid and scale; 8 taps.
    (tfconv.DeformableConv1D(4, 2, padding="same"), (3, 2))
    + (12 + 3 * 4 + 2 * 3 * 2, 3 * 4, 3 * (16 + 16), 16 + 16),
    (tfconv.DeformableConv3D(4, 2, padding="same", modulated=False), (3, 2, 1, 2))
    + (24 + 6 * 24, 6 * 24, 6 * (64 + 384), 64 + 384),
    # Filtered along rows, 2x5 pixels are left.
    (tfconv.FlattenedConv2D(4, 3), (4, 5, 3), 24, 20 * 4 + 10 * 4, 12 * (20 + 10 + 6), 3 * 12),
    (tfconv.LowRankConv2D(4, 3, kernel_rank=2), (4, 5, 3), 24, 20 * 2 + 10 * 2 + 6 * 2)
    + (6 * (20 + 10 + 6) + 6 * 8, 3 * 6 + 8),
    (tfconv.TuckerConv2D(4, 3, ranks=(2, 3)), (4, 5, 3), 24, 20 * 2 + 6 * 3)
    + (20 * 6 + 6 * 54 + 6 * 12, 6 + 54 + 12),
    # Normalization and ReLU of 2 channels; the biases of 2 groups' kernels; the mean of strides.
    (tfconv.Involution2D(3, groups=2, reduction_ratio=2), (4, 5, 4), 20 * (3 * 2 + 18))
    + (20 * (2 + 18), 20 * (8 + 36), 8 + 36),
    (tfconv.Involution2D(3, strides=2, groups=2, reduction_ratio=2, activation="relu"), (4, 5, 4))
    + (80 + 6 * (3 * 2 + 18) + 24, 6 * (2 + 18), 6 * (8 + 36), 8 + 36),
    # Biases of values, features, 27 numbers a group, and outputs; normalization, GELU; the softmax.
    (tfconv.DeformableAggregation2D(3, strides=2, groups=2), (4, 5, 4))
    + (80 + 6 * (4 + 2 * 27 + 4 + 3 * 4 + 18), 80 + 6 * (4 + 2 * 27 + 4))
    + (20 * 16 + 6 * (36 + 4 * 54 + 16), 16 + 36 + 4 * 54 + 16),
    # Routing: the mean, biases and sigmoids; then bias and activation.
    (tfconv.CondConv2D(4, 3, num_experts=2, execution="mix_kernels", activation="tanh"), (4, 5, 3))
    + (60 + 2 + 2 + 24 + 24, 108, 2 * 108 + 8 + 6, 2 * 108 + 8 + 6),
    (tfconv.CondConv2D(4, 3, num_experts=2, execution="mix_outputs"), (4, 5, 3))
    + (60 + 2 + 2 + 24, 2 * 24, 2 * 6 * 108 + 8 + 6, 2 * 108 + 8 + 6),
    (tfconv.DepthwiseCondConv2D(3, num_experts=2, execution="mix_kernels"), (4, 5, 3))
    + (60 + 2 + 2 + 18, 27, 2 * 27 + 6 + 6, 2 * 27 + 6 + 6),
    # The mean; bias and ReLU of 3 channels; bias, temperature and softmax of 2 kernels.
    (tfconv.DynamicConv2D(4, 3, num_kernels=2, ratio=1, execution="mix_kernels"), (4, 5, 3))
    + (60 + 2 * 3 + 3 * 2 + 24, 108, 2 * 108 + 8 + 9 + 6, 2 * 108 + 8 + 9 + 6),
    (tfconv.CondDense(5, num_experts=2), (3,), 2 + 2 + 5, 15, 30 + 10 + 6, 30 + 10 + 6),
    (tfconv.CondDense(5, num_experts=2, activation="tanh"), (4, 3), 12 + 2 + 2 + 20 + 20, 15)
    + (30 + 10 + 6, 30 + 10 + 6),
    # Biases of queries, values and outputs; scaled queries; the softmax, and biases of positions.
    (tfconv.SelfAttention1D(num_heads=2, key_dim=3, value_dim=2, filters=5, activation="tanh")
     , (4, 6), 4 * 2 * (3 + 2) + 20 + 24 + 32 + 20, 4 * 2 * (3 + 3 + 2 + 2) + 32)
    + (4 * (96 + 20), 96 + 20),
    (tfconv.SelfAttention1D(num_heads=2, key_dim=3, relative_position_bias=True, use_bias=False)
     , (4, 6), 24 + 2 * 32, 4 * 2 * 4 * 3 + 32, 4 * (108 + 36), 108 + 36),
    # Biases of queries and values; of positions; the softmax.
    (tfconv.LocalSelfAttention2D(4, 3, num_heads=2, use_bias=True), (3, 2, 5))
    + (2 * 24 + 2 * 108, 3 * 24 + 108, 6 * 60, 60),
    # Means of 2x1 blocks, which queries are made from.
    (tfconv.LocalSelfAttention2D(4, 3, num_heads=2, strides=2, relative_positions=None), (3, 2, 5))
    + (30 + 36, 10 + 14 * 4 + 36, 14 * 20, 60),
]  # fmt: skip


@pytest.mark.parametrize("given", kinds(BY_HAND, lambda given: type(given[0]).__name__))
def test_numbers_by_hand(given):
    layer, shape, elementwise, inside, products, weights = given
    (row,) = profile(layer, shape).rows
    assert row.elementwise == elementwise
    assert row.memory == 4 * (inside + math.prod(row.output_shapes[0]))
    assert row.weight_reuse == products / weights
