"""Blocks: what they compute, their weights, and that models made of them train and are saved."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv import blocks
from tfconv._compat import keras
from tfconv.testing import check_layer


def model_of(block, shape):
    inputs = keras.Input(shape)
    return keras.Model(inputs, block(inputs))


def relu(x):
    return keras.layers.ReLU()(x)


# A block in one configuration, the shape of its input, and its trainable parameters.
BLOCKS = {
    "basic_block": (lambda x: blocks.basic_block(x, 4), (6, 6, 4), 2 * (9 * 16 + 8)),
    "basic_block with strides": (
        lambda x: blocks.basic_block(x, 8, 2),
        (6, 6, 4),
        (9 * 32 + 16) + (9 * 64 + 16) + (32 + 16),
    ),
    "bottleneck with squeeze-and-excitation": (
        lambda x: blocks.bottleneck(x, 4, squeeze_ratio=4),
        (6, 6, 16),
        (64 + 8) + (9 * 16 + 8) + (64 + 32) + (16 * 4 + 4 + 4 * 16 + 16),
    ),
    "bottleneck with involution": (
        lambda x: blocks.bottleneck(x, 16, 2, middle=blocks.involution, expansion=2),
        (6, 6, 16),
        (256 + 32) + (64 + 8 + 5 * 49 + 32) + (512 + 64) + (512 + 64),
    ),
    "bottleneck with deformable convolution": (
        lambda x: blocks.bottleneck(x, 4, middle=blocks.deformable),
        (6, 6, 16),
        (64 + 8) + (9 * 16 + 37 * 27 + 8) + (64 + 32),
    ),
    "depthwise_separable": (
        lambda x: blocks.depthwise_separable(
            x, 4, residual=True, squeeze_excite={"squeeze_channels": 2}
        ),
        (6, 6, 4),
        (36 + 8) + (8 + 2 + 8 + 4) + (16 + 8),
    ),
    "inverted_residual": (
        lambda x: blocks.inverted_residual(x, 4, 8, activation=blocks.hard_swish),
        (6, 6, 4),
        (32 + 16) + (72 + 16) + (32 + 8),
    ),
    "inverted_residual with experts": (
        lambda x: blocks.inverted_residual(x, 6, 8, 5, 2, num_experts=3),
        (6, 6, 4),
        (4 * 3 + 3) + (96 + 16) + (600 + 16) + (144 + 12),
    ),
    "shuffle_unit_v1": (
        lambda x: blocks.shuffle_unit_v1(x, 24, groups=3, strides=2),
        (6, 6, 12),
        (12 * 6 // 3 + 12) + (54 + 12) + (24 + 24),
    ),
    "shuffle_unit_v2": (
        lambda x: blocks.shuffle_unit_v2(x, 8),
        (6, 6, 8),
        2 * (16 + 8) + (36 + 8),
    ),
    "inception": (
        lambda x: blocks.inception(relu(x), (2, 3, 4, 1, 2, 2), large=5),
        (6, 6, 4),
        (8 + 4) + (12 + 6 + 108 + 8) + (4 + 2 + 50 + 4) + (8 + 4),
    ),
    "xception_module": (
        lambda x: blocks.xception_module(x, (4, 6), 2),
        (6, 6, 4),
        (36 + 16 + 8) + (36 + 24 + 12) + (24 + 12),
    ),
    "dense_block": (
        lambda x: blocks.transition(blocks.dense_block(x, 2, 4)),
        (6, 6, 4),
        (8 + 64 + 32 + 576) + (16 + 128 + 32 + 576) + (24 + 72),
    ),
    "wavenet_stack": (
        lambda x: blocks.wavenet_stack(x, 4, 6, (1, 2)),
        (12, 3),
        16 + 2 * (2 * (32 + 4) + 30) + 20,
    ),
    "fcn_head": (
        lambda x: blocks.fcn_head([keras.layers.MaxPooling2D(2)(x), x], 3, 4),
        (6, 6, 4),
        2 * 15 + 16 * 3 + 64 * 3,
    ),
    "alexnet_convolutions": (blocks.alexnet_convolutions, (67, 67, 3), 2_334_080),
    "weighted_skip": (
        lambda x: blocks.weighted_skip(x, tfconv.Involution2D(3, groups=1)),
        (6, 6, 4),
        2 + (4 + 2 + 9 + 9),
    ),
}


@pytest.mark.parametrize("name", list(BLOCKS))
def test_parameters_gradients_and_saving(name, tmp_path):
    """Every weight is there and is trained; what is loaded gives the same."""
    block, shape, parameters = BLOCKS[name]
    model = model_of(block, shape)
    assert sum(math.prod(v.shape) for v in model.trainable_variables) == parameters
    x = tf.random.normal([4, *shape])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(x, training=True) ** 3)  # not constant behind a normalization
    gradients = tape.gradient(loss, model.trainable_variables)
    untrained = [v.name for v, g in zip(model.trainable_variables, gradients) if not np.any(g)]
    assert not untrained
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("size", [6, 7])
def test_max_pool_of_negative_numbers(ceil, size, rng):
    """Nothing that is padded wins, and windows lie where PyTorch has them."""
    x = rng.standard_normal((2, size, size, 3)).astype(np.float32) - 5
    model = model_of(lambda x: blocks.max_pool(x, ceil=ceil, nonnegative=False), (None, None, 3))
    before = 0 if ceil else 1
    padded = np.pad(x, ((0, 0), (before, 2), (before, 2), (0, 0)), constant_values=-np.inf)
    count = math.ceil((size - 3) / 2) + 1 if ceil else (size + 2 - 3) // 2 + 1
    expected = [
        [padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2)) for j in range(count)]
        for i in range(count)
    ]
    np.testing.assert_array_equal(model(x), np.transpose(expected, (2, 0, 1, 3)))
    zeros = model_of(lambda x: blocks.max_pool(x, ceil=ceil), (None, None, 3))
    np.testing.assert_array_equal(zeros(x + 20), model(x + 20))


def test_convention_pads_strides_as_pytorch_or_tensorflow():
    same, symmetric = blocks.Convention("same"), blocks.Convention()
    assert [same.padding_of(3, s) for s in (1, 2)] == ["same", "same"]
    assert [symmetric.padding_of(k, 2) for k in (1, 3, 7)] == [0, 1, 3]
    with pytest.raises(ValueError, match="`padding` must be .*Received: padding='valid'"):
        blocks.Convention("valid")


def test_wavenet_is_causal_and_sees_what_it_says():
    model = model_of(lambda x: blocks.wavenet_stack(x, 4, 4, (1, 2, 4)), (16, 4))
    x = tf.random.normal([1, 16, 4])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(model(x)[:, 12])
    seen = np.flatnonzero(np.abs(tape.gradient(y, x)).sum((0, 2)))
    np.testing.assert_array_equal(seen, np.arange(12 - 7, 13))


def test_upsampled_starts_as_bilinear_interpolation():
    """Of a plane, it gives the plane, except at the border."""
    x = np.arange(6.0, dtype=np.float32)[None, :, None, None] * np.ones([1, 6, 6, 2], np.float32)
    model = model_of(lambda x: blocks.upsampled(x, 2, 4), (6, 6, 2))
    expected = (np.arange(24) + 0.5) / 4 - 0.5
    np.testing.assert_allclose(model(x)[0, 4:-4, 12, 0], expected[4:-4], rtol=1e-5)


def test_fewer_groups_have_more_parameters():
    assert model_of(lambda x: blocks.alexnet_convolutions(x, 1), (67, 67, 3)).count_params() == (
        3_747_200
    )


def test_mirror_padding():
    check_layer(blocks.MirrorPadding2D, (6, 5, 4), padding=(2, 1))


def test_channel_split(rng):
    x = rng.standard_normal((2, 6, 3)).astype(np.float32)
    parts = blocks.ChannelSplit(3, data_format="channels_first")(x)
    np.testing.assert_array_equal(np.stack(parts, 1), x.reshape(2, 3, 2, 3))


def test_channels_that_do_not_split():
    with pytest.raises(ValueError, match="divisible by `sections`.*Received: sections=4"):
        blocks.ChannelSplit(4)(tf.ones([1, 6]))
