"""Layers inside layers: what was done to one of them by itself comes back from files and clones.

That all of them are frozen with the layer around them is one of `tfconv.testing.CHECKS`.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests.layers.test_bad_arguments import layer_of
from tfconv import blocks
from tfconv._compat import KERAS_3, child_layers, keras, policy_of
from tfconv.testing import randomize

SHAPE = (6, 6, 4)
# With the names of dense layers inside, which Keras quantizes and adapts.
LAYERS = {
    "CondConv1D": (lambda **k: tfconv.CondConv1D(4, 3, num_experts=2, **k), ["routing"]),
    "CondConv2D": (lambda **k: tfconv.CondConv2D(4, 3, num_experts=2, **k), ["routing"]),
    "DepthwiseCondConv2D": (
        lambda **k: tfconv.DepthwiseCondConv2D(3, num_experts=2, **k),
        ["routing"],
    ),
    "CondDense": (lambda **k: tfconv.CondDense(4, num_experts=2, **k), ["routing"]),
    "DynamicConv2D": (lambda **k: tfconv.DynamicConv2D(4, 3, **k), ["squeeze", "attend"]),
    "SqueezeExcite": (
        lambda **k: tfconv.SqueezeExcite(reduction_ratio=2, activation="tanh", **k),
        ["squeeze", "excite"],
    ),
    "SelfAttention2D": (
        lambda **k: tfconv.SelfAttention2D(num_heads=2, key_dim=2, **k),
        ["query", "key", "value", "project"],
    ),
    "Involution2D": (lambda **k: tfconv.Involution2D(3, groups=2, **k), []),
    "LocalSelfAttention2D": (lambda **k: tfconv.LocalSelfAttention2D(4, 3, num_heads=2, **k), []),
    "SplitTransformMerge": (
        lambda **k: tfconv.SplitTransformMerge(
            keras.Sequential([keras.layers.Dense(2), keras.layers.Dense(2)]),
            groups=2,
            merge="weighted_sum",
            **k,
        ),
        ["transforms.0.layers.0", "transforms.1.layers.1"],
    ),
}
over_layers = pytest.mark.parametrize("name", LAYERS)
over_dense = pytest.mark.parametrize("name", [name for name in LAYERS if LAYERS[name][1]])
keras_3 = pytest.mark.skipif(not KERAS_3, reason="Keras 2 quantizes and adapts no layers")


def network(layer):
    """A model with the layer, randomized."""
    shape = SHAPE[1:] if getattr(layer, "rank", 2) == 1 else SHAPE
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layer(inputs))
    randomize(model)
    return model


def inside(layer, path):
    """A layer in a layer: "routing", "transforms.0"."""
    for part in path.split("."):
        layer = layer[int(part)] if part.isdigit() else getattr(layer, part)
    return layer


def loaded(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.models.load_model(tmp_path / "model.keras")


def outputs(model):
    x = np.random.default_rng(0).standard_normal((3, *model.input_shape[1:]))
    return np.asarray(model(tf.constant(x, tf.float32)))


@keras_3
@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@over_dense
def test_quantized(name, mode, tmp_path):
    if mode != "int8" and name not in ("CondConv2D", "SplitTransformMerge"):
        return  # the rest is Keras's
    make, _ = LAYERS[name]
    model = network(make())
    before = outputs(model)
    model.quantize(mode)
    expected = outputs(model)
    if mode == "int8":
        assert 0 < np.abs(expected - before).max() < 0.1 * np.abs(before).max()
    copy = loaded(model, tmp_path)
    np.testing.assert_allclose(outputs(copy), expected, atol=1e-6 * np.abs(expected).max())
    again = loaded(copy, tmp_path)
    np.testing.assert_allclose(outputs(again), expected, atol=1e-6 * np.abs(expected).max())
    policies = [policy_of(part).name for part in model._flatten_layers()]
    assert [policy_of(part).name for part in keras.models.clone_model(copy)._flatten_layers()] == (
        policies
    )


POLICIES = ("int8", "int4", "float8", "gptq/4/128", "awq/4/128")


@keras_3
def test_policies_of_quantized_layers():
    """Layers of ours have none: one line says so, whenever the policy comes."""
    for mode in POLICIES:
        policy = f"{mode}_from_float32"
        try:
            keras.dtype_policies.get(policy)
        except ValueError:
            continue  # of later versions of Keras
        for name in tfconv.layers.__all__:
            with pytest.raises(ValueError, match=f"{name} has no quantized form.*dtype={policy}"):
                layer_of(name, dtype=policy)
    policies = keras.dtype_policies.DTypePolicyMap(default_policy="float32")
    policies["late"] = "int8_from_float32"
    layer = tfconv.Conv2D(3, 3, name="late", dtype=policies)
    with pytest.raises(ValueError, match="no quantized form.*dtype=int8_from_float32 .* 'late'"):
        layer(np.ones((1, 5, 5, 2), np.float32))


@keras_3
@over_dense
def test_low_rank_adaptation(name, tmp_path):
    make, paths = LAYERS[name]
    model = network(make())
    adapted = inside(model.layers[1], paths[-1])
    adapted.enable_lora(2)
    randomize(model)
    copy = loaded(model, tmp_path)
    assert inside(copy.layers[1], paths[-1]).lora_rank == 2
    np.testing.assert_allclose(outputs(copy), outputs(model), rtol=1e-5, atol=1e-5)
    assert len(copy.trainable_weights) == len(model.trainable_weights)


@over_layers
def test_frozen_by_itself(name, tmp_path):
    """One layer inside, or one in a copy; and set free again."""
    make, paths = LAYERS[name]
    path = paths[-1] if paths else child_layers(network(make()).layers[1])[0].name
    model = network(make())
    free = len(model.trainable_weights)
    part = inside(model.layers[1], path)
    part.trainable = False
    weights = len(part.weights)
    for copy in (loaded(model, tmp_path), keras.models.clone_model(model)):
        layer = copy.layers[1]
        assert not inside(layer, path).trainable
        assert len(copy.trainable_weights) == free - weights
        assert layer.trainable
        layer.trainable = True
        inside(layer, path).trainable = True
        assert len(copy.trainable_weights) == free


@over_layers
def test_frozen_around_and_inside(name, tmp_path):
    """Frozen as a whole, a layer forgets which parts were, as Keras's layers do."""
    make, paths = LAYERS[name]
    model = network(make())
    free = len(model.trainable_weights)
    if paths:
        inside(model.layers[1], paths[0]).trainable = False
    model.layers[1].trainable = False
    copy = loaded(model, tmp_path)
    assert not copy.trainable_weights
    copy.layers[1].trainable = True
    assert len(copy.trainable_weights) == free


def test_patterns_stay_patterns(tmp_path):
    """Copies as the pattern makes them are not written one by one."""
    make, _ = LAYERS["SplitTransformMerge"]
    model = network(make())
    assert isinstance(model.layers[1].get_config()["transform"], dict)
    model.layers[1].trainable = False
    assert isinstance(model.layers[1].get_config()["transform"], dict)
    model.layers[1].trainable = True
    inside(model.layers[1], "transforms.1").trainable = False
    assert len(model.layers[1].get_config()["transform"]) == 2


@keras_3
@pytest.mark.parametrize(
    "name", ["CondConv2D", "DynamicConv2D", "SelfAttention2D", "SqueezeExcite"]
)
def test_policies_by_path(name, tmp_path):
    """A DTypePolicyMap reaches the layers inside, and comes back."""
    make, (path, *_) = LAYERS[name]
    layer = network(make(name="around")).layers[1]
    policy = keras.dtype_policies.DTypePolicyMap(default_policy="float32")
    policy[inside(layer, path).path] = "mixed_bfloat16"
    model = network(make(name="around", dtype=policy))
    layer = model.layers[1]
    assert inside(layer, path).compute_dtype == "bfloat16"
    assert layer.compute_dtype == "float32"
    copy = loaded(model, tmp_path)
    assert inside(copy.layers[1], path).compute_dtype == "bfloat16"
    np.testing.assert_array_equal(outputs(copy), outputs(model))


@keras_3
@pytest.mark.parametrize("built", [False, True])
def test_policies_by_path_in_copies(built, tmp_path):
    """They reach the layers of a Sequential, also of one that is built before there is a path."""

    def make(**arguments):
        layers = [keras.layers.Dense(2, name="first"), keras.layers.Dense(2, name="second")]
        pattern = keras.Sequential([*[keras.Input((6, 6, 2))] * built, *layers])
        layer = tfconv.SplitTransformMerge(pattern, groups=2, name="around", **arguments)
        inputs = keras.Input(SHAPE)
        return keras.Model(inputs, layer(inputs))

    policy = keras.dtype_policies.DTypePolicyMap(default_policy="float32")
    policy["around/transform_1/first"] = "mixed_bfloat16"
    policy["around/transform_0/second"] = "int8_from_float32"
    model = make(dtype=policy)
    copy = loaded(model, tmp_path)
    for each in (model, copy, keras.models.clone_model(copy)):
        layer = each.layers[1]
        found = [inside(layer, f"transforms.{i}.layers.{j}") for i in (0, 1) for j in (0, 1)]
        types = [part.quantization_mode or part.compute_dtype for part in found]
        assert types == ["float32", "int8", "bfloat16", "float32"]
    np.testing.assert_array_equal(outputs(copy), outputs(model))


@keras_3
@over_dense
def test_quantized_under_a_map(name, tmp_path):
    """Of Keras's own layers, those that have a map themselves cannot be quantized."""
    make, paths = LAYERS[name]
    policy = keras.dtype_policies.DTypePolicyMap(default_policy="float32")
    model = network(make(dtype=policy))
    before = outputs(model)
    model.quantize("int8")
    assert inside(model.layers[1], paths[-1]).quantization_mode == "int8"
    expected = outputs(model)
    assert 0 < np.abs(expected - before).max() < 0.1 * np.abs(before).max()
    copy = loaded(model, tmp_path)
    again = loaded(copy, tmp_path)
    for each in (copy, again):
        assert inside(each.layers[1], paths[-1]).quantization_mode == "int8"
        np.testing.assert_allclose(outputs(each), expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", [*tfconv.layers.__all__, "ChannelSplit", "MirrorPadding2D"])
def test_activity_regularizers_are_kept(name):
    make = functools.partial(layer_of, name) if hasattr(tfconv, name) else getattr(blocks, name)
    layer = make(activity_regularizer=keras.regularizers.L2(0.5))
    copy = type(layer).from_config(layer.get_config())
    assert copy.activity_regularizer.get_config() == layer.activity_regularizer.get_config()


@pytest.mark.parametrize("name", ["CondDense", "Involution2D"])
def test_in_wrappers_of_keras(name, tmp_path):
    """Keras 2's wrappers do not look for the names that layers are registered by."""
    make, _ = LAYERS[name]
    inputs = keras.Input((2, *SHAPE))
    model = keras.Model(inputs, keras.layers.TimeDistributed(make())(inputs))
    randomize(model)
    x = np.random.default_rng(0).standard_normal((3, 2, *SHAPE)).astype("float32")
    for file in ("model.keras", "model.h5"):
        model.save(tmp_path / file)
        again = keras.models.load_model(tmp_path / file)
        assert type(again.layers[-1].layer) is type(model.layers[-1].layer)
        np.testing.assert_allclose(again(x), model(x), rtol=0, atol=1e-6)
