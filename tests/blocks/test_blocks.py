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
        lambda x: blocks.bottleneck(x, 4, reduction_ratio=4),
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
        lambda x: blocks.fcn_head(
            [tfconv.Conv2D(4, 1, 2, use_bias=False, name="half")(x), x], 3, 4
        ),
        (6, 6, 4),
        16 + 2 * 15 + 16 * 3 + 64 * 3,
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


@pytest.fixture
def channels_first():
    keras.backend.set_image_data_format("channels_first")
    yield
    keras.backend.set_image_data_format("channels_last")


@pytest.mark.parametrize("name", list(BLOCKS))
def test_channels_first(name, rng, channels_first):
    """The same, but for the order of the axes."""
    block, shape, _ = BLOCKS[name]
    image = len(shape) == 3
    given = model_of(block, (shape[-1], *shape[:-1]) if image else shape)
    keras.backend.set_image_data_format("channels_last")
    expected = model_of(block, shape)
    randomize(expected, rng)
    given.set_weights(expected.get_weights())
    x = rng.standard_normal((2, *shape)).astype(np.float32)
    y = expected(x).numpy()
    if image:
        x, y = x.transpose(0, 3, 1, 2), y.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(given(x), y, rtol=1e-4, atol=1e-4 * np.abs(y).max())


def randomize(model, rng):
    """Gives a model weights with which every part of it matters."""
    for variable in model.weights:
        value = rng.standard_normal(tuple(variable.shape)) / math.sqrt(
            math.prod(variable.shape[:-1])
        )
        positive = "variance" in variable.name
        variable.assign(0.5 + np.abs(value) if positive else value)


def basic_block(x, layer):
    y = tf.nn.relu(layer("bn1")(layer("conv1")(x)))
    y = layer("bn2")(layer("conv2")(y))
    return tf.nn.relu(y + layer("downsample.1")(layer("downsample.0")(x)))


def dense_block_and_transition(x, layer):
    for number in (1, 2):
        part = f"denselayer{number}"
        y = layer(f"{part}.conv1")(tf.nn.relu(layer(f"{part}.norm1")(x)))
        y = layer(f"{part}.conv2")(tf.nn.relu(layer(f"{part}.norm2")(y)))
        x = tf.concat([x, y], -1)
    x = layer("conv")(tf.nn.relu(layer("norm")(x)))
    return tf.nn.avg_pool2d(x, 2, 2, "VALID")


def fcn_head(x, layer):
    y = layer("upsampled1")(layer("score0")(x[:, ::2, ::2])) + layer("score1")(x)
    return layer("upsampled")(y)


def wavenet_stack(x, layer):
    x = layer("start")(x)
    z = layer("0.gated")(x)
    last = layer("1.gated")(x + layer("0.residual")(z))
    return tf.nn.relu(layer("0.skip")(z) + layer("1.skip")(last))


def alexnet_convolutions(x, layer):
    for number in range(1, 6):
        x = layer(f"conv{number}")(x)
        x = tf.nn.max_pool2d(x, 3, 2, "VALID") if number in (1, 2, 5) else x
    return x


# What a block computes, by its layers, the block, and the shape of its input.
REFERENCES = [
    (basic_block, lambda x: blocks.basic_block(x, 3, 2, name="b"), (6, 6, 4)),
    (
        dense_block_and_transition,
        lambda x: blocks.transition(blocks.dense_block(x, 2, 4, name="b"), name="b"),
        (6, 6, 4),
    ),
    (
        fcn_head,
        lambda x: blocks.fcn_head([keras.layers.AveragePooling2D(1, 2)(x), x], 3, 4, name="b"),
        (6, 6, 4),
    ),
    (wavenet_stack, lambda x: blocks.wavenet_stack(x, 4, 6, (1, 2), name="b"), (12, 3)),
    (alexnet_convolutions, lambda x: blocks.alexnet_convolutions(x, name="b"), (67, 67, 3)),
]


@pytest.mark.parametrize(
    "reference, block, shape", REFERENCES, ids=lambda x: getattr(x, "__name__", "")
)
def test_values(reference, block, shape, rng):
    model = model_of(block, shape)
    randomize(model, rng)
    x = rng.standard_normal((2, *shape)).astype(np.float32)
    expected = reference(x, lambda name: model.get_layer(f"b.{name}")).numpy()
    np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


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


@pytest.mark.parametrize("middle", [blocks.convolution, blocks.deformable, blocks.involution])
def test_convention_reaches_the_middle_of_a_bottleneck(middle):
    convention = blocks.Convention("same", epsilon=0.25, momentum=0.5)
    model = model_of(
        lambda x: blocks.bottleneck(x, 16, 2, middle=middle, convention=convention, name="b"),
        (6, 6, 16),
    )
    layer = model.get_layer("b.conv2")
    assert layer.padding == "same"
    if middle is blocks.involution:
        assert (layer.batch_norm_epsilon, layer.batch_norm_momentum) == (0.25, 0.5)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_hard_activations_are_saved(suffix, tmp_path):
    gate = tfconv.SqueezeExcite(squeeze_channels=2, gate_activation=blocks.hard_sigmoid)
    model = model_of(lambda x: gate(blocks.norm(x, blocks.hard_swish)), (2, 2, 3))
    model.save(tmp_path / f"model{suffix}")
    x = tf.random.normal([1, 2, 2, 3])
    loaded = keras.models.load_model(tmp_path / f"model{suffix}")
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-6)
    np.testing.assert_allclose(blocks.HardSwish()(x), blocks.hard_swish(x))


def images(channels):
    return keras.Input((8, 8, channels))


@pytest.mark.parametrize(
    "make, name",
    [
        (lambda: blocks.Convention("valid"), "padding"),
        (lambda: blocks.MirrorPadding2D((1, -1)), "padding"),
        (lambda: blocks.Convention(epsilon="x"), "epsilon"),
        (lambda: blocks.Convention(momentum=2), "momentum"),
        (lambda: blocks.max_pool(images(3), 3, 3, ceil=True, nonnegative=False), "strides"),
        (lambda: blocks.max_pool(images(3), 2, 3, ceil=True), "strides"),
        (lambda: blocks.shuffle_unit_v1(images(24), 12, 3, 2), "filters"),
        (lambda: blocks.shuffle_unit_v1(images(24), 12, 3), "filters"),
        (lambda: blocks.shuffle_unit_v2(images(12), 24), "filters"),
        (lambda: blocks.shuffle_unit_v2(images(12), 25, 2), "filters"),
        (lambda: blocks.wavenet_stack(keras.Input((8, 4)), 4, 4, ()), "dilations"),
        (lambda: blocks.fcn_head([], 3), "features"),
        (lambda: blocks.fcn_head(images(3), 3), "features"),
        (lambda: blocks.fcn_head([images(3)], 3, 0), "factor"),
        (lambda: blocks.wavenet_stack(keras.Input((8, 4)), 4, 4, 3), "dilations"),
        (lambda: blocks.wavenet_stack(keras.Input((8, 4)), 4, 4, (1, 0)), "dilations"),
        (lambda: blocks.bottleneck(images(8), 2, middle="involution"), "middle"),
        (lambda: blocks.bottleneck(images(8), 2, expansion=0.5), "expansion"),
        (lambda: blocks.bottleneck(images(8), 2, convention="same"), "convention"),
        (lambda: blocks.basic_block(images(8), 8, (1, 1)), "strides"),
        (lambda: blocks.basic_block(images(8), 8, convention="same"), "convention"),
        (lambda: blocks.convolution(8, convention="same"), "convention"),
        (lambda: blocks.involution(8, convention=None), "convention"),
        (lambda: blocks.conv_norm(images(8), 8, padding=0, convention="same"), "convention"),
        (lambda: blocks.depthwise_norm(images(8), convention="same"), "convention"),
        (lambda: blocks.norm(images(8), convention="same"), "convention"),
        (lambda: blocks.inverted_residual(images(8), 8, 16, convention="same"), "convention"),
        (lambda: blocks.inverted_residual(images(8), 8, 16, num_experts=0), "num_experts"),
        (lambda: blocks.inverted_residual(images(8), 8, 16, strides=(2, 2)), "strides"),
        (lambda: blocks.depthwise_separable(images(8), 8, strides=(2, 2)), "strides"),
        (lambda: blocks.divisible(8, 0), "divisor"),
        (lambda: blocks.divisible("8"), "channels"),
        (lambda: blocks.inception(images(8), (1, 2)), "filters"),
        (lambda: blocks.inception(images(8), 5), "filters"),
        (lambda: blocks.xception_module(images(8), ()), "widths"),
        (lambda: blocks.xception_module(images(8), (8,), "2"), "strides"),
        (lambda: blocks.dense_block(images(8), -1), "layers"),
        (lambda: blocks.dense_block(images(8), 1, growth="4"), "growth"),
        (lambda: blocks.dense_block(images(8), 1, squeeze=0), "squeeze"),
        (lambda: blocks.transition(images(8), "a"), "compression"),
        (lambda: blocks.shuffle_unit_v2(images(8), "8", 2), "filters"),
        (lambda: blocks.weighted_skip(images(8), None), "transform"),
        (lambda: blocks.norm(images(3), "bogus"), "activation"),
        (lambda: blocks.conv_norm(images(3), 4, activation=7), "activation"),
    ],
)
def test_refused(make, name):
    with pytest.raises(ValueError, match=f"`{name}` must be .*Received: .*{name}="):
        make()


def test_wavenet_is_causal_and_sees_what_it_says():
    model = model_of(lambda x: blocks.wavenet_stack(x, 4, 4, (1, 2, 4)), (16, 4))
    x = tf.random.normal([1, 16, 4])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(model(x)[:, 12])
    seen = np.flatnonzero(np.abs(tape.gradient(y, x)).sum((0, 2)))
    np.testing.assert_array_equal(seen, np.arange(12 - 7, 13))


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5])
def test_upsampled_starts_as_bilinear_interpolation(factor):
    """Of a plane, it gives the plane, except at the border."""
    x = np.arange(6.0, dtype=np.float32)[None, :, None, None] * np.ones([1, 6, 6, 2], np.float32)
    model = model_of(lambda x: blocks.upsampled(x, 2, factor), (6, 6, 2))
    expected = (np.arange(6 * factor) + 0.5) / factor - 0.5
    inner = slice(factor, -factor)
    given = model(x)[0, inner, 3 * factor, 0]
    np.testing.assert_allclose(given, expected[inner], rtol=1e-5)


@pytest.mark.parametrize("sizes", [(4,), (4, 2), (4, 2, 3)])
def test_bilinear_has_a_size_for_each_axis(sizes):
    tents = {4: [0.25, 0.75, 0.75, 0.25], 2: [0.5, 0.5], 3: [0.5, 1, 0.5]}
    kernel = blocks.Bilinear()((*sizes, 1, 2))
    expected = np.ones(())
    for size in sizes:
        expected = np.multiply.outer(expected, tents[size])
    for channel in range(2):
        np.testing.assert_array_equal(kernel[..., 0, channel], expected)


def test_fewer_groups_have_more_parameters():
    assert model_of(lambda x: blocks.alexnet_convolutions(x, 1), (67, 67, 3)).count_params() == (
        3_747_200
    )


def test_mirror_padding():
    check_layer(blocks.MirrorPadding2D, (6, 5, 4), padding=(2, 1))


def test_mirror_padding_says_what_it_takes():
    with pytest.raises(ValueError, match=r"must be a pair \(before, after\).*Received: padding=1"):
        blocks.MirrorPadding2D(1)


def test_channel_split(rng):
    x = rng.standard_normal((2, 6, 3)).astype(np.float32)
    parts = blocks.ChannelSplit(3, data_format="channels_first")(x)
    np.testing.assert_array_equal(np.stack(parts, 1), x.reshape(2, 3, 2, 3))


def test_arguments_of_layer_scale():
    """Those that Keras's layers have for a weight; without an initializer it is a constant."""
    layer = blocks.LayerScale(
        0.5, gamma_initializer="ones", gamma_regularizer="l2", gamma_constraint="non_neg"
    )
    for each in (layer, blocks.LayerScale.from_config(layer.get_config())):
        each.build((None, 3))
        np.testing.assert_array_equal(each.gamma, [1, 1, 1])
        np.testing.assert_allclose(each.losses, [0.03], rtol=1e-6)
        assert isinstance(each.gamma.constraint, keras.constraints.NonNeg)
    plain = blocks.LayerScale.from_config({"initial_value": 0.5})
    plain.build((None, 3))
    np.testing.assert_array_equal(plain.gamma, [0.5, 0.5, 0.5])


@pytest.mark.parametrize("layer_class", [blocks.ChannelSplit, blocks.LayerScale])
def test_masks_go_on(layer_class):
    """The positions stay where they are."""
    x = np.where([[[0.0], [1.0], [1.0]]], np.ones([2, 3, 4], np.float32), 0)
    for y in tf.nest.flatten(layer_class()(keras.layers.Masking()(x))):
        np.testing.assert_array_equal(y._keras_mask, [[False, True, True]] * 2)


@pytest.mark.parametrize(
    "layer", [blocks.ChannelSplit(2), blocks.LayerScale(), blocks.MirrorPadding2D()]
)
def test_computed_shapes_are_of_keras(layer):
    given = layer.compute_output_shape([2, 3, 3, 4])
    expected = keras.layers.ReLU().compute_output_shape((2, 3, 3, 4))
    for shape in given if isinstance(given, list) else [given]:
        assert type(shape) is type(expected)


def test_channels_that_do_not_split():
    layer = blocks.ChannelSplit(4)
    for split in (layer, lambda x: layer.compute_output_shape(x.shape)):
        with pytest.raises(ValueError, match="`sections` must divide.*Received: sections=4"):
            split(tf.ones([1, 6]))
    with pytest.raises(ValueError, match="needs the channel axis.*Received: input_shape="):
        layer.compute_output_shape((1, None))
