"""Figures that stand in textbooks and papers."""

from __future__ import annotations

import pytest

import tfconv
from tfconv._compat import keras
from tfconv.analysis import compare, profile
from tfconv.analysis.cost import rule_for


def same(layer_class, *arguments, **more):
    return layer_class(*arguments, padding="same", use_bias=False, **more)


@pytest.mark.parametrize("package", [tfconv, keras.layers])
def test_an_image_of_64_pixels_and_32_filters(package):
    """64x64x3 and 32 filters of 5x5."""
    found = compare(
        [same(package.Conv2D, 32, 5), same(package.SeparableConv2D, 32, 5)], (64, 64, 3)
    )
    plain, separable = found.profiles
    assert (plain.multiply_adds, plain.parameters) == (9830400, 2400)
    assert (separable.multiply_adds, separable.parameters) == (700416, 171)


def test_a_dense_layer_in_its_place():
    """By the rule alone: the layer would have 6 GB of weights."""
    layer = keras.layers.Dense(64 * 64 * 32, use_bias=False)
    cost = rule_for(layer)(layer, [(1, 64 * 64 * 3)], [(1, 64 * 64 * 32)])
    assert cost.multiply_adds == cost.weights == 1610612736


def test_four_filters_on_five_pixels():
    """5x5x3 to 4 filters of 3x3: 108 weights, or 27 + 12."""
    layer = same(tfconv.SeparableConv2D, 4, 3)
    found = compare([same(tfconv.Conv2D, 4, 3), layer], (5, 5, 3))
    assert [each.parameters for each in found.profiles] == [108, 39]
    assert [layer.depthwise_kernel.shape.num_elements(), 4 * 3] == [27, 12]


@pytest.mark.parametrize("filters", [64, 128, 256, 512, 1024])
def test_separable_convolutions_of_mobilenet(filters):
    """3x3: 8 to 9 times fewer multiply-adds, which is 1 / (1 / f + 1 / 9)."""
    found = compare(
        [same(tfconv.Conv2D, filters, 3), same(tfconv.SeparableConv2D, filters, 3)], (14, 14, 32)
    )
    plain, separable = (each.multiply_adds for each in found.profiles)
    assert 7.8 < plain / separable < 9
    assert plain / separable == pytest.approx(1 / (1 / filters + 1 / 9))


@pytest.mark.dear
def test_networks_of_the_papers():
    """MobileNet's 569 and MobileNetV2's 300 million multiply-adds."""
    for network, products, weights in (
        (keras.applications.MobileNet, 568740352, 4253864),
        (keras.applications.MobileNetV2, 300774272, 3538984),
    ):
        found = profile(network(weights=None))
        assert (found.multiply_adds, found.parameters) == (products, weights)
        assert not found.unknown
