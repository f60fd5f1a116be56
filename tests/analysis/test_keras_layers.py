"""The layers of Keras that networks are made of: what each costs, counted by hand."""

from __future__ import annotations

import pytest

from tfconv._compat import keras
from tfconv.analysis import profile

L = keras.layers

# A layer, its input, multiply-adds, gating, elementwise operations, weights, the kernel's rank.
LAYERS = {
    "Conv1D": (lambda: L.Conv1D(6, 3, 2, "same", groups=2), (9, 4), 5 * 3 * 2 * 6, 0, 30, 42, 6),
    "Conv1D, causal": (lambda: L.Conv1D(2, 3, padding="causal"), (5, 4), 120, 0, 10, 26, 2),
    "Conv2D": (lambda: L.Conv2D(5, (3, 2), 2), (7, 6, 4), 9 * 6 * 4 * 5, 0, 45, 125, 5),
    "Conv2D, relu": (
        lambda: L.Conv2D(5, 3, activation="relu", use_bias=False, dilation_rate=2),
        (7, 6, 4),
        6 * 180,
        0,
        30,
        180,
        5,
    ),
    "Conv3D": (lambda: L.Conv3D(2, (1, 2, 2)), (3, 4, 4, 3), 27 * 4 * 3 * 2, 0, 54, 26, 2),
    "DepthwiseConv1D": (
        lambda: L.DepthwiseConv1D(3, depth_multiplier=2),
        (6, 4),
        4 * 24,
        0,
        32,
        32,
        8,
    ),
    "DepthwiseConv2D": (lambda: L.DepthwiseConv2D(3, 2, "same"), (7, 6, 4), 432, 0, 48, 40, 4),
    "SeparableConv1D": (
        lambda: L.SeparableConv1D(5, 3, depth_multiplier=2),
        (6, 2),
        4 * (12 + 20),
        0,
        20,
        37,
        4,
    ),
    "SeparableConv2D": (lambda: L.SeparableConv2D(5, 3), (5, 5, 2), 9 * 28, 0, 45, 33, 2),
    "Conv1DTranspose": (lambda: L.Conv1DTranspose(5, 3, 2), (6, 2), 6 * 30, 0, 65, 35, 4),
    "Conv2DTranspose": (
        lambda: L.Conv2DTranspose(5, 4, 2, "same", use_bias=False),
        (4, 3, 2),
        12 * 160,
        0,
        0,
        160,
        5,
    ),
    "Conv3DTranspose": (lambda: L.Conv3DTranspose(1, 2, 2), (2, 2, 2, 3), 192, 0, 64, 25, 1),
    "Dense": (lambda: L.Dense(5, activation="tanh"), (4, 3), 60, 0, 40, 20, 3),
    "Dense, linear": (lambda: L.Dense(5, use_bias=False), (7,), 35, 0, 0, 35, 5),
    "EinsumDense": (
        lambda: L.EinsumDense("...ac,cde->...ade", (6, 2, 5), bias_axes="e"),
        (4, 6, 3),
        4 * 6 * 30,
        0,
        240,
        35,
        None,
    ),
    "Embedding": (lambda: L.Embedding(10, 4), (6,), 0, 0, 0, 40, None),
    "MaxPooling1D": (lambda: L.MaxPooling1D(2), (6, 4), 0, 0, 12, 0, None),
    "MaxPooling2D": (lambda: L.MaxPooling2D(3, 2), (7, 7, 4), 0, 0, 9 * 4 * 8, 0, None),
    "MaxPooling3D": (lambda: L.MaxPooling3D(2), (4, 4, 4, 1), 0, 0, 56, 0, None),
    "AveragePooling1D": (lambda: L.AveragePooling1D(2), (6, 4), 0, 0, 24, 0, None),
    "AveragePooling2D": (lambda: L.AveragePooling2D(2), (6, 4, 3), 0, 0, 72, 0, None),
    "AveragePooling3D": (lambda: L.AveragePooling3D(2), (4, 4, 4, 1), 0, 0, 64, 0, None),
    "GlobalMaxPooling2D": (lambda: L.GlobalMaxPooling2D(), (4, 4, 3), 0, 0, 45, 0, None),
    "GlobalMaxPooling1D": (lambda: L.GlobalMaxPooling1D(), (4, 3), 0, 0, 9, 0, None),
    "GlobalMaxPooling3D": (lambda: L.GlobalMaxPooling3D(), (2, 2, 2, 3), 0, 0, 21, 0, None),
    "GlobalAveragePooling1D": (lambda: L.GlobalAveragePooling1D(), (4, 3), 0, 0, 12, 0, None),
    "GlobalAveragePooling2D": (
        lambda: L.GlobalAveragePooling2D(keepdims=True),
        (4, 4, 3),
        0,
        0,
        48,
        0,
        None,
    ),
    "GlobalAveragePooling3D": (lambda: L.GlobalAveragePooling3D(), (2, 2, 2, 3), 0, 0, 24, 0, None),
    "BatchNormalization": (lambda: L.BatchNormalization(), (4, 3), 0, 0, 24, 12, None),
    "LayerNormalization": (lambda: L.LayerNormalization(), (4, 3), 0, 0, 84, 6, None),
    "LayerNormalization, bare": (
        lambda: L.LayerNormalization(center=False, scale=False),
        (4, 3),
        0,
        0,
        60,
        0,
        None,
    ),
    "GroupNormalization": (lambda: L.GroupNormalization(2), (4, 4), 0, 0, 112, 8, None),
    "Rescaling": (lambda: L.Rescaling(1 / 255), (4, 3), 0, 0, 24, 0, None),
    "Activation": (lambda: L.Activation("relu"), (4, 3), 0, 0, 12, 0, None),
    "Activation, linear": (lambda: L.Activation("linear"), (4, 3), 0, 0, 0, 0, None),
    "ReLU": (lambda: L.ReLU(6.0), (4, 3), 0, 0, 12, 0, None),
    "LeakyReLU": (lambda: L.LeakyReLU(), (4, 3), 0, 0, 12, 0, None),
    "PReLU": (lambda: L.PReLU(shared_axes=[1]), (4, 3), 0, 0, 12, 3, None),
    "ELU": (lambda: L.ELU(), (4, 3), 0, 0, 12, 0, None),
    "Softmax": (lambda: L.Softmax(), (4, 3), 0, 0, 12, 0, None),
    "Add": (lambda: L.Add(), [(4, 3)] * 3, 0, 0, 24, 0, None),
    "Subtract": (lambda: L.Subtract(), [(4, 3)] * 2, 0, 0, 12, 0, None),
    "Maximum": (lambda: L.Maximum(), [(4, 3)] * 2, 0, 0, 12, 0, None),
    "Minimum": (lambda: L.Minimum(), [(4, 3)] * 2, 0, 0, 12, 0, None),
    "Average": (lambda: L.Average(), [(4, 3)] * 3, 0, 0, 36, 0, None),
    "Multiply": (lambda: L.Multiply(), [(4, 4, 3), (1, 1, 3)], 0, 48, 0, 0, None),
    "Concatenate": (lambda: L.Concatenate(), [(4, 3), (4, 2)], 0, 0, 0, 0, None),
    "Dropout": (lambda: L.Dropout(0.5), (4, 3), 0, 0, 0, 0, None),
    "SpatialDropout2D": (lambda: L.SpatialDropout2D(0.5), (4, 4, 3), 0, 0, 0, 0, None),
    "GaussianNoise": (lambda: L.GaussianNoise(0.5), (4, 3), 0, 0, 0, 0, None),
    "ZeroPadding1D": (lambda: L.ZeroPadding1D(2), (4, 3), 0, 0, 0, 0, None),
    "ZeroPadding2D": (lambda: L.ZeroPadding2D(((1, 0), (2, 2))), (4, 4, 3), 0, 0, 0, 0, None),
    "ZeroPadding3D": (lambda: L.ZeroPadding3D(1), (2, 2, 2, 3), 0, 0, 0, 0, None),
    "Cropping1D": (lambda: L.Cropping1D(1), (4, 3), 0, 0, 0, 0, None),
    "Cropping2D": (lambda: L.Cropping2D(1), (4, 4, 3), 0, 0, 0, 0, None),
    "Cropping3D": (lambda: L.Cropping3D(1), (4, 4, 4, 3), 0, 0, 0, 0, None),
    "UpSampling1D": (lambda: L.UpSampling1D(3), (4, 3), 0, 0, 0, 0, None),
    "UpSampling2D": (lambda: L.UpSampling2D(2), (4, 4, 3), 0, 0, 0, 0, None),
    "UpSampling2D, bilinear": (
        lambda: L.UpSampling2D(2, interpolation="bilinear"),
        (2, 2, 3),
        0,
        0,
        7 * 48,
        0,
        None,
    ),
    "UpSampling3D": (lambda: L.UpSampling3D(2), (2, 2, 2, 3), 0, 0, 0, 0, None),
    "Reshape": (lambda: L.Reshape((6, 2)), (4, 3), 0, 0, 0, 0, None),
    "Flatten": (lambda: L.Flatten(), (4, 3), 0, 0, 0, 0, None),
    "Permute": (lambda: L.Permute((2, 1)), (4, 3), 0, 0, 0, 0, None),
    "RepeatVector": (lambda: L.RepeatVector(4), (3,), 0, 0, 0, 0, None),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name):
    make, shape, products, gating, elementwise, weights, rank = LAYERS[name]
    layer = make()
    found = profile(layer, shape)
    (row,) = found.rows
    assert row.kind == type(layer).__name__ == name.split(",")[0]
    assert (row.multiply_adds, row.gating, row.elementwise) == (products, gating, elementwise)
    assert (row.parameters, row.kernel_rank) == (weights, rank)
    assert row.flops == 2 * products + gating + elementwise
    assert not found.unknown


NO_COST = ("Dropout", "SpatialDropout2D", "GaussianNoise", "Reshape", "Flatten")


@pytest.mark.parametrize("name", LAYERS)
def test_memory(name):
    """Outputs take memory, except where they are the input."""
    make, shape, *_ = LAYERS[name]
    row = profile(make(), shape).rows[0]
    values = 1
    for size in row.output_shapes[0]:
        values *= size
    if name in (*NO_COST, "Activation, linear"):
        assert row.memory == 0
    elif "Separable" in name:
        assert row.memory > 4 * values
    else:
        assert row.memory == 4 * values


def test_attention():
    """MultiHeadAttention is looked into: four projections and two products of matrices."""
    layer = L.MultiHeadAttention(num_heads=2, key_dim=3)
    x = keras.Input((5, 4))
    found = profile(keras.Model(x, layer(x, x)))
    assert found.parameters == layer.count_params()
    assert found.multiply_adds == 5 * (3 * 4 * 6 + 6 * 4) + 2 * 5 * 5 * 6
    assert not found.unknown
