"""replace: which layers, by what, with which arguments and weights, and what is refused."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import tfconv
from tfconv._compat import KERAS_3, keras
from tfconv.surgery import Replaced, replace

layers = keras.layers
REGULARIZED = {"kernel_regularizer": "l2", "kernel_constraint": "max_norm"}


def doubled(x):
    return 2 * x


def nothing(x):
    return 0 * x


def single(layer, shape):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layer(inputs))


def with_experts(layer_class, **arguments):
    return functools.partial(layer_class, num_experts=3, **arguments)


# A layer, the shape of its inputs, and what can hold its kernel.
HELD = {
    "Conv1D": (
        lambda: layers.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="relu"),
        (9, 6),
        [
            tfconv.Conv1D,
            with_experts(tfconv.CondConv1D, routing_activation="softmax"),
            tfconv.DynamicConv1D,
            tfconv.DeformableConv1D,
            tfconv.LocallyConnected1D,
        ],
    ),
    "Conv2D": (
        lambda: layers.Conv2D(4, (3, 2), strides=(2, 1), padding="same", activation="tanh"),
        (6, 5, 6),
        [
            tfconv.Conv2D,
            tfconv.GroupConv2D,
            with_experts(tfconv.CondConv2D),
            with_experts(tfconv.CondConv2D, execution="mix_outputs"),
            tfconv.DynamicConv2D,
            tfconv.DeformableConv2D,
            functools.partial(tfconv.DeformableConv2D, mask_scale=1, offset_initializer="ones"),
            functools.partial(tfconv.DeformableConv2D, modulated=False, offset_groups=2),
            tfconv.LocallyConnected2D,
        ],
    ),
    "Conv2D with groups": (
        lambda: layers.Conv2D(4, 3, groups=2, use_bias=False),
        (6, 5, 6),
        [
            tfconv.GroupConv2D,
            tfconv.CondConv2D,
            tfconv.DeformableConv2D,
            tfconv.LocallyConnected2D,
            functools.partial(tfconv.Conv2D, use_bias=True),
        ],
    ),
    "Conv2D of one tap": (lambda: layers.Conv2D(4, 1), (6, 5, 6), [tfconv.PointwiseConv2D]),
    "Conv3D": (
        lambda: layers.Conv3D(4, 2),
        (4, 4, 4, 2),
        [tfconv.Conv3D, tfconv.CondConv3D, tfconv.DeformableConv3D],
    ),
    "DepthwiseConv2D": (
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu"),
        (6, 5, 3),
        [tfconv.DepthwiseConv2D, with_experts(tfconv.DepthwiseCondConv2D)],
    ),
    "DepthwiseConv2D without bias": (
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False),
        (6, 5, 3),
        [
            functools.partial(tfconv.DepthwiseConv2D, use_bias=True),
            with_experts(tfconv.DepthwiseCondConv2D, use_bias=True),
        ],
    ),
    "SeparableConv2D": (
        lambda: layers.SeparableConv2D(4, 3, depth_multiplier=2),
        (6, 5, 3),
        [tfconv.SeparableConv2D],
    ),
    "Conv2DTranspose": (
        lambda: layers.Conv2DTranspose(4, 3, strides=2, padding="same"),
        (4, 5, 3),
        [tfconv.Conv2DTranspose],
    ),
    "Conv2DTranspose without bias": (
        lambda: layers.Conv2DTranspose(5, 3, use_bias=False),
        (4, 5, 3),
        [functools.partial(tfconv.Conv2DTranspose, use_bias=True)],
    ),
    "Dense": (lambda: layers.Dense(4, activation=doubled), (7,), [with_experts(tfconv.CondDense)]),
    "Conv2D of tfconv": (
        lambda: tfconv.Conv2D(4, 3, padding="full"),
        (4, 5, 3),
        [tfconv.DeformableConv2D, functools.partial(tfconv.Conv2D, activation=None)],
    ),
    "Conv2D of mirrored inputs": (
        lambda: tfconv.Conv2D(4, 3, padding="same", padding_mode="reflect"),
        (4, 5, 3),
        [tfconv.DeformableConv2D, with_experts(tfconv.CondConv2D), tfconv.LocallyConnected2D],
    ),
}


@pytest.mark.parametrize("name", list(HELD))
def test_kernels_are_kept(name, rng):
    make, shape, classes = HELD[name]
    layer = make()
    model = single(layer, shape)
    model.set_weights([rng.standard_normal(w.shape) for w in model.get_weights()])
    x = rng.standard_normal([2, *shape]).astype(np.float32)
    for rule in classes:
        said = []
        made = replace(model, {layer.name: rule}, report=said.append)
        new_class = getattr(rule, "func", rule)
        assert said == [Replaced(layer.name, type(layer).__name__, new_class.__name__, kept=True)]
        assert type(made.layers[-1]) is new_class and made.layers[-1].name == layer.name
        np.testing.assert_allclose(made(x), model(x), rtol=1e-5, atol=1e-5)


def with_adapters(layer, rng):
    layer.enable_lora(2)
    for weight in layer.trainable_weights:
        weight.assign(rng.standard_normal(weight.shape))


# What is done to a layer of Keras 3, and how far what integers compute is from real numbers.
CHANGED = {
    "adapters": (with_adapters, 1e-5),
    "int8": (lambda layer, rng: layer.quantize("int8"), 0.02),
    "int4": (lambda layer, rng: layer.quantize("int4"), 0.02),
    "float8": (lambda layer, rng: layer.quantize("float8"), 0.2),
    "int8 and adapters": (
        lambda layer, rng: (layer.quantize("int8"), with_adapters(layer, rng)),
        0.02,
    ),
}


@pytest.mark.skipif(not KERAS_3, reason="Keras 2 has no adapters and does not quantize layers")
@pytest.mark.parametrize(
    "name, change",
    [
        *((name, "adapters") for name in ("Conv1D", "Conv2D", "Conv2D of one tap", "Conv3D")),
        *(("Dense", change) for change in CHANGED),
    ],
)
def test_effective_kernels_are_kept(name, change, rng):
    """Of layers with low-rank adapters, or quantized ones."""
    make, shape, classes = HELD[name]
    layer = make()
    (changed, tolerance), model = CHANGED[change], single(layer, shape)
    layer.set_weights([rng.standard_normal(w.shape) for w in layer.get_weights()])
    changed(layer, rng)
    other = single(layer, shape)
    x = rng.standard_normal([2, *shape]).astype(np.float32)
    expected = np.asarray(other(x))
    for rule in classes:
        said = []
        made = replace(model, {layer.name: rule}, report=said.append)
        assert said[0].kept
        scale = tolerance * np.abs(expected).max()
        np.testing.assert_allclose(made(x), expected, atol=scale, rtol=1e-5)
    made = replace(model, {layer.name: type(layer)})
    np.testing.assert_allclose(made(x), expected, rtol=1e-5, atol=1e-5)
    assert made.layers[-1].quantization_mode == layer.quantization_mode


def test_experts_do_not_stay_equal(rng):
    """With routing weights that are equal too, they would get the same gradients for ever."""
    made = replace(single(layers.Dense(2), (3,)), {layers.Dense: with_experts(tfconv.CondDense)})
    made.compile(keras.optimizers.SGD(0.1), "mse")
    made.train_on_batch(rng.standard_normal([8, 3]), rng.standard_normal([8, 2]))
    kernels = np.asarray(made.layers[-1].kernel)
    assert np.ptp(kernels, axis=0).min() > 1e-4


def test_masks_are_handed_on(rng):
    """By what takes a Dense's place, as by the Dense."""
    model = keras.Sequential(
        [keras.Input((5, 4)), layers.Masking(), layers.Dense(6), layers.GlobalAveragePooling1D()]
    )
    made = replace(model, {layers.Dense: with_experts(tfconv.CondDense)})
    x = rng.standard_normal([2, 5, 4]).astype(np.float32)
    x[:, 3:] = 0
    np.testing.assert_allclose(made(x), model(x), rtol=1e-5, atol=1e-5)


def test_what_a_subclass_computes_is_not_known():
    class Thrice(layers.Conv2D):
        def call(self, inputs):
            return 3 * super().call(inputs)

    said = []
    replace(single(Thrice(4, 3, name="c"), (6, 6, 4)), {"c": tfconv.Conv2D}, report=said.append)
    assert said == [Replaced("c", "Thrice", "Conv2D", kept=False)]


NEW_WEIGHTS = {
    "as many weights, other taps": functools.partial(tfconv.LocallyConnected2D, kernel_size=(1, 3)),
    "other taps": functools.partial(tfconv.CondConv2D, kernel_size=1, padding="same"),
    "groups": functools.partial(tfconv.GroupConv2D, groups=2),
    "no bias": functools.partial(tfconv.Conv2D, use_bias=False),
    "a gate": tfconv.GatedConv2D,
    "factors": functools.partial(tfconv.LowRankConv2D, kernel_rank=2),
    "experts that add up to 0": functools.partial(tfconv.CondConv2D, routing_activation=nothing),
}


@pytest.mark.parametrize("name", list(NEW_WEIGHTS))
def test_kernels_that_cannot_be_kept(name):
    said = []
    model = single(layers.Conv2D(4, (3, 1), padding="same", name="c"), (6, 6, 4))
    replace(model, {"c": NEW_WEIGHTS[name]}, report=said.append)
    assert [row.kept for row in said] == [False]
    assert str(said[0]).endswith("new weights")


def test_arguments_are_taken_over():
    old = layers.Conv2D(
        8,
        3,
        strides=2,
        padding="same",
        activation="relu",
        kernel_initializer="zeros",
        **REGULARIZED,
        dtype="mixed_bfloat16",
        name="old",
    )
    model = single(old, (8, 8, 8))
    old.trainable = False
    rule = functools.partial(tfconv.Involution2D, group_channels=4, reduction_ratio=2)
    involution = replace(model, {"old": rule}).layers[-1]
    assert (involution.kernel_size, involution.strides) == ((3, 3), (2, 2))
    assert (involution.group_channels, involution.reduction_ratio) == (4, 2)
    assert isinstance(involution.kernel_initializer, keras.initializers.Zeros)
    assert involution.activation is keras.activations.relu
    assert involution.compute_dtype == "bfloat16" and not involution.trainable
    rule = functools.partial(tfconv.DeformableAggregation2D, group_channels=4)
    aggregation = replace(model, {"old": rule}).layers[-1]
    assert (aggregation.group_channels, aggregation.groups, aggregation.filters) == (4, None, 8)
    separable = replace(model, {"old": tfconv.SeparableConv2D}).layers[-1].get_config()
    for weight in ("depthwise", "pointwise"):
        for what in ("regularizer", "constraint", "initializer"):
            assert (
                separable[f"{weight}_{what}"]
                == tfconv.Conv2D.from_config(old.get_config()).get_config()[f"kernel_{what}"]
            )


def stages():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="stem")(inputs)
    block = keras.Sequential(
        [keras.Input((6, 6, 4)), layers.Conv2D(4, 1, name="block_1"), layers.ReLU()], name="block"
    )
    x = layers.Conv2DTranspose(4, 2, name="up")(block(block(x)))
    return keras.Model(inputs, layers.Conv2D(2, 1, name="head")(x))


def test_rules():
    def one_tap(layer):
        return getattr(layer, "kernel_size", None) == (1, 1)

    said = []
    rules = [
        ("s?em", tfconv.CondConv2D),
        (one_tap, lambda layer: tfconv.PointwiseConv2D(layer.filters, name=layer.name)),
        (layers.Conv2DTranspose, tfconv.Conv2DTranspose),
    ]
    made = replace(stages(), rules, report=said.append)
    assert {row.name: row.new for row in said} == {
        "stem": "CondConv2D",
        "block_1": "PointwiseConv2D",
        "up": "Conv2DTranspose",
        "head": "PointwiseConv2D",
    }
    assert isinstance(made.get_layer("block").layers[0], tfconv.PointwiseConv2D)


def test_the_first_rule_that_fits():
    """Transposed convolutions are no convolutions, though Keras 2 makes them a subclass."""
    said = []
    rules = {"head": tfconv.DynamicConv2D, layers.Conv2D: tfconv.Conv2D}
    replace(stages(), rules, report=said.append)
    assert [(row.name, row.new) for row in said if row.new != "Conv2D"] == [
        ("head", "DynamicConv2D")
    ]
    assert len(said) == 3


@pytest.mark.skipif(not KERAS_3, reason="takes seconds, and differs in nothing in Keras 2")
def test_resnet_with_involutions():
    """The 3x3 convolutions of Keras's ResNet-50 as RedNet-50 has them."""
    model = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(32, 32, 3))
    involution = functools.partial(
        tfconv.Involution2D, kernel_size=7, group_channels=16, reduction_ratio=4
    )
    spatial = [layer.name for layer in model.layers if layer.name.endswith("_2_conv")]
    assert {model.get_layer(name).kernel_size for name in spatial} == {(3, 3)}
    made = replace(model, {"conv?_block?_2_conv": involution})
    counts = {}
    for layer in made.layers:
        if isinstance(layer, tfconv.Involution2D):
            stage = layer.name.split("_")[0]
            counts[stage] = counts.get(stage, 0) + layer.count_params()
    # arXiv:2103.06255, table 1: blocks of each stage and their channels. The kernel generator:
    # C x C/4, four weights of each normalized channel, C/4 x 49 C/16, 49 C/16.
    plan = {"conv2": (3, 64), "conv3": (4, 128), "conv4": (6, 256), "conv5": (3, 512)}
    assert counts == {
        stage: blocks * (c * c // 4 + c + c // 4 * (49 * c // 16) + 49 * c // 16)
        for stage, (blocks, c) in plan.items()
    }
    kept = model.get_layer("conv5_block3_1_conv").get_weights()
    for given, expected in zip(made.get_layer("conv5_block3_1_conv").get_weights(), kept):
        np.testing.assert_array_equal(given, expected)


def test_layers_of_several_inputs_or_outputs(rng):
    first, second = keras.Input((5, 4)), keras.Input((5, 4))
    inner = keras.Model([first, second], layers.Subtract()([first, second]), name="inner")
    x = layers.Add(name="add")([first, inner([first, second])])
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, second)
    x, *states = layers.LSTM(4, return_sequences=True, return_state=True, name="lstm")(x)
    model = keras.Model([first, second], [x, *states])
    said = []
    rules = {
        "add": tfconv.WeightedSum,
        "inner": lambda old: layers.Average(name=old.name),
        "attention": functools.partial(layers.MultiHeadAttention, num_heads=4),
        "lstm": functools.partial(layers.LSTM, activation="relu"),
    }
    made = replace(model, rules, report=said.append)
    kinds = {row.name: row.new for row in said}
    assert kinds == {
        "add": "WeightedSum",
        "inner": "Average",
        "attention": "MultiHeadAttention",
        "lstm": "LSTM",
    }
    a, b = rng.standard_normal([2, 1, 5, 4]).astype(np.float32)
    assert [x.shape for x in made([a, b])] == [x.shape for x in model([a, b])]
    with pytest.raises(ValueError, match=r"from \(None, 5, 4\), \(None, 5, 4\) it makes"):
        replace(model, {"add": layers.Concatenate})


REFUSED = {
    "no layer fits": ({"c*t": tfconv.Conv2D}, "must fit a layer .* Received: rule 'c.t'"),
    "no layer is left": (
        [(layers.Conv2D, tfconv.Conv2D), ("c", tfconv.CondConv2D)],
        "Received: rule 'c'",
    ),
    "no rule": ({3: tfconv.Conv2D}, "which layers are replaced. Received: 3"),
    "no pairs": ((layers.Conv2D, tfconv.Conv2D), "must be pairs .* Received: <class .*Conv2D"),
    "half a pair": ([(layers.Conv2D,)], "must be pairs .* Received: "),
    "nothing": (None, "must be pairs .* Received: None in rules=None"),
    "no layer": ({"c": "Conv2D"}, "a class of layers.*Received: 'Conv2D' for 'c'"),
    "a layer": ({"c": layers.ReLU()}, "a class of layers, .*Received"),
    "positional arguments": ({"c": functools.partial(tfconv.Conv2D, 4)}, "arguments by name"),
    "none made": ({"c": lambda layer: None}, r"'c' \(Conv2D\) cannot .* no new layer but None"),
    "the same": ({"c": lambda layer: layer}, "gives no new layer"),
    "constraint": ({"c": tfconv.PointwiseConv2D}, "only if the kernel has one tap"),
    "shape": (
        {"c": functools.partial(tfconv.Involution2D, groups=1)},
        r"'c' \(Conv2D\) cannot be replaced .* it makes \(None, 6, 6, 4\), not \(None, 6, 6, 8\)",
    ),
    "rank": ({"c": tfconv.Conv1D}, r"'c' \(Conv2D\) cannot be replaced"),
    "build": (
        {"c": functools.partial(tfconv.DeformableConv2D, offset_groups=3)},
        r"'c' \(Conv2D\) cannot be replaced with DeformableConv2D: .*`offset_groups` must divide",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_refused(name):
    rules, message = REFUSED[name]
    model = single(layers.Conv2D(8, 3, padding="same", name="c"), (6, 6, 4))
    with pytest.raises(ValueError, match=message):
        replace(model, rules)


def test_paddings_that_the_new_layer_does_not_know_are_refused():
    model = single(tfconv.Conv2D(8, 3, padding="same", padding_mode="reflect", name="c"), (6, 6, 4))
    with pytest.raises(ValueError, match="'c' .*Conv2D pads with zeros.*padding_mode='reflect'"):
        replace(model, {"c": layers.Conv2D})
    model = single(tfconv.Conv2D(8, 3, padding_mode="reflect", name="c"), (6, 6, 4))  # of no effect
    assert type(replace(model, {"c": layers.Conv2D}).layers[-1]) is layers.Conv2D
