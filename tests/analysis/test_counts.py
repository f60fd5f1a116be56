"""Every layer of tfconv: weights, products, ranks and maps, against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests import test_docs
from tests.analysis.definitions import DEFINITIONS, Products
from tests.test_docs import configurations, families, values
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
    return layer


def test_every_family_has_a_definition():
    assert NAMES == sorted(families())


@pytest.mark.parametrize("name", NAMES)
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
            samples = x.shape[-1] * layer.geometry.taps * np.prod(y.shape[1:3])
            count -= 4 * samples + found.gating
        symbols = values(formula, layer, x, y)
        if "u_i" in symbols:
            symbols["u_i"] = [
                part.multiply_adds + part.gating
                for part in (
                    profile(each, (*x.shape[1:-1], x.shape[-1] // layer.groups))
                    for each in layer.transforms
                )
            ]
        assert count == test_docs.evaluated(formula, symbols)


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
