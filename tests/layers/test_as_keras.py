"""Keras's convolutions and ours side by side, argument by argument and method by method.

What is compared comes from Keras's own signatures: an argument or a method that a later Keras adds
fails here until ours has it too.
"""

import inspect

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv._compat import KERAS_3, keras
from tfconv.testing import assert_same

NAMES = [n for n in tfconv.layers.__all__ if "Conv" in n and hasattr(keras.layers, n)]
over_layers = pytest.mark.parametrize("name", NAMES)

# Values to give an argument, by its name or the end of it, with what else they need.
VALUES = {
    "filters": [{"filters": 4}],
    "kernel_size": [{"kernel_size": 2}, {"kernel_size": [1]}],
    "strides": [{"strides": 2}],
    "padding": [{"padding": "same"}, {"padding": "VALID"}],
    "output_padding": [{"output_padding": 1, "strides": 2}],
    "data_format": [{"data_format": "channels_last"}, {"data_format": None}],
    "dilation_rate": [{"dilation_rate": 2, "padding": "same"}],
    "depth_multiplier": [{"depth_multiplier": 2}],
    "groups": [{"groups": 2}],
    "activation": [{"activation": "relu"}, {"activation": tf.nn.relu}],
    "use_bias": [{"use_bias": False}],
    "initializer": ["he_normal", "ones"],
    "regularizer": ["l2", None],
    "constraint": ["max_norm", None],
    "lora_rank": [{"lora_rank": 2}],
    "lora_alpha": [{"lora_alpha": 3, "lora_rank": 2}],
    "trainable": [{"trainable": False}],
    "name": [{"name": "named"}],
}
KINDS = ("initializer", "regularizer", "constraint")
# Of Keras 2's base class only: a leftover, and attributes that hold what `build` found.
INSIDE = {"self", "rank", "conv_op"}


def classes(name):
    """The classes of Keras that make a layer, without those that all layers have."""
    mro = getattr(keras.layers, name).__mro__
    return mro[: mro.index(keras.layers.Layer)]


def arguments(name):
    """The arguments that Keras's constructors name, and their defaults."""
    found = {}
    for base in classes(name):
        for parameter in inspect.signature(base.__init__).parameters.values():
            if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
                found.setdefault(parameter.name, parameter.default)
    hidden = {"filters", "groups", "kernel_initializer", "kernel_regularizer", "kernel_constraint"}
    own = inspect.signature(getattr(keras.layers, name)).parameters
    # Keras 2's layers inherit arguments that they do not use, and Conv3DTranspose has one.
    unused = set() if KERAS_3 or name in ("Conv1D", "Conv2D", "Conv3D") else hidden - set(own)
    if not KERAS_3 and name == "Conv3DTranspose":
        unused.add("dilation_rate")
    return {k: v for k, v in found.items() if k not in INSIDE | unused}


def values(argument):
    kind = argument.rpartition("_")[2]
    if kind in KINDS:
        return [{argument: value} for value in VALUES[kind]]
    assert argument in VALUES, f"Keras has a new argument, {argument}: give it values here"
    return VALUES[argument]


def rank_of(name):
    return int(name[name.index("D", 4) - 1])


def both(name, /, **given):
    """Keras's layer and ours with these arguments, built, with the same weights."""
    rank = rank_of(name)
    given = {key: value * rank if value == [1] else value for key, value in given.items()}
    given = {"kernel_size": 3, **given}
    if "Depthwise" not in name:
        given.setdefault("filters", 6)
    made = []
    for module in (keras.layers, tfconv):
        layer = getattr(module, name)(**given)
        layer.build((None, *[6] * rank, 4))
        made.append(layer)
    theirs, ours = made
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(w.shape) for w in theirs.get_weights()]
    for layer in made:
        assert [w.shape for w in layer.get_weights()] == [w.shape for w in weights]
        layer.set_weights(weights)
    return theirs, ours


def inputs(name, batch=2):
    shape = (batch, *[6] * rank_of(name), 4)
    return np.random.default_rng(1).standard_normal(shape).astype("float32")


def plain(value):
    """A value that can be compared: objects of Keras by their configurations."""
    if hasattr(value, "get_config"):
        return type(value).__name__, plain(value.get_config())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key != "build_config"}
    return tuple(map(plain, value)) if isinstance(value, (list, tuple)) else value


@over_layers
def test_arguments(name):
    """Each argument: kept, in the configuration, with the same weights, losses and outputs."""
    x = inputs(name)
    taken = inspect.signature(getattr(tfconv, name)).parameters
    for argument, default in arguments(name).items():
        if argument in taken:
            ours = taken[argument].default
            same = (ours, (ours,) * rank_of(name), "channels_last" if ours is None else ours)
            assert default in same, argument
        for given in values(argument):
            theirs, ours = both(name, **given)
            assert plain(getattr(ours, argument)) == plain(getattr(theirs, argument)), given
            config, expected = ours.get_config(), theirs.get_config()
            if argument in expected and argument != "name":
                assert plain(config[argument]) == plain(expected[argument]), given
            trainable = [len(layer.trainable_weights) for layer in (theirs, ours)]
            assert trainable[0] == trainable[1], given
            assert_same(ours(x), theirs(x), 1e-5)
            assert_same(
                np.sum(list(map(float, ours.losses))), np.sum(list(map(float, theirs.losses))), 1e-5
            )
            shapes = [layer.compute_output_shape(x.shape) for layer in (ours, theirs)]
            assert tuple(shapes[0]) == tuple(shapes[1])
            assert isinstance(shapes[0], tuple if KERAS_3 else tf.TensorShape)
            again = type(ours).from_config(expected).get_config()
            assert {key: plain(again[key]) for key in config} == plain(
                {**config, "name": expected["name"]}
            )


@over_layers
def test_order_of_arguments(name):
    """What Keras takes by position, in its order."""
    theirs, ours = (inspect.signature(getattr(m, name)).parameters for m in (keras.layers, tfconv))
    theirs = [n for n, p in theirs.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    if name == "Conv3DTranspose" and KERAS_3:  # which has these two in the other order, alone
        theirs[4:6] = reversed(theirs[4:6])
    assert list(ours)[: len(theirs)] == theirs or (
        set(theirs) - set(ours) <= {"groups", "trainable", "name"} and not KERAS_3
    )


@over_layers
def test_attributes_and_methods(name):
    """What a layer of Keras has, when it is built, ours has too; methods take the same."""
    theirs, ours = both(name)
    lacking = {n for n in dir(theirs) if n[0] != "_"} - set(dir(ours))
    if not KERAS_3:  # of its base class, and unused
        lacking -= {n for n in lacking if n.startswith("kernel_") or n in ("groups", "filters")}
    assert not lacking
    for base in classes(name):
        for method, function in vars(base).items():
            if method[0] == "_" or not inspect.isfunction(function):
                continue
            found = inspect.signature(getattr(type(ours), method)).parameters
            assert list(found)[1:] == list(inspect.signature(function).parameters)[1:], method


@over_layers
def test_too_large_kernels(name):
    """`build` raises for a kernel that the input does not hold, where Keras's does."""
    shape = (None, *[4] * rank_of(name), 2)
    given = {"kernel_size": 5} if "Depthwise" in name else {"filters": 2, "kernel_size": 5}
    if not name.endswith("Transpose"):
        with pytest.raises(ValueError, match="kernel_size"):
            getattr(tfconv, name)(**given).build(shape)
    else:
        getattr(tfconv, name)(**given).build(shape)


ONE_KERNEL = [
    name.format(rank)
    for rank in (1, 2, 3)
    for name in ("Conv{}D", "Conv{}DTranspose", "DepthwiseConv{}D", "PointwiseConv{}D")
] + ["LocallyConnected1D", "LocallyConnected2D"]


@pytest.mark.parametrize("name", ONE_KERNEL)
def test_convolution_op(name):
    """The hook that subclasses override, in both data formats."""
    plain_class = getattr(tfconv, name)

    class Halved(plain_class):
        def convolution_op(self, inputs, kernel):
            return 2 * super().convolution_op(inputs, kernel / 4)

    given = {} if "Depthwise" in name else {"filters": 2}
    if "Pointwise" not in name:
        given["kernel_size"] = 2
    for data_format in ("channels_last", "channels_first"):
        layers = [
            cls(**given, data_format=data_format, bias_initializer="ones")
            for cls in (plain_class, Halved)
        ]
        x = inputs(name)
        x = x if data_format == "channels_last" else np.moveaxis(x, -1, 1)
        for layer in layers:
            layer.build(x.shape)
        layers[1].set_weights(layers[0].get_weights())
        assert_same(layers[1](x) - 1, (layers[0](x) - 1) / 2, 1e-5)


@pytest.mark.skipif(not KERAS_3, reason="Keras 2 has no low-rank adaptation")
@pytest.mark.parametrize("rank", (1, 2, 3))
def test_low_rank_adaptation(rank, tmp_path):
    """Enabled, trained by one step and saved as Keras's own; files go both ways."""
    name = f"Conv{rank}D"
    x = inputs(name)
    models, layers = [], both(name, activation="tanh", kernel_regularizer="l2")
    before = [layer(x) for layer in layers]
    for layer, y in zip(layers, before):
        layer.enable_lora(2, lora_alpha=3)
        assert_same(layer(x), y, 1e-6)
        layer.lora_kernel_a.assign(
            np.linspace(-1, 1, num=np.size(layer.lora_kernel_a)).reshape(layer.lora_kernel_a.shape)
        )
        models.append(keras.Sequential([keras.Input(x.shape[1:]), layer]))
        models[-1].compile(keras.optimizers.SGD(0.1), "mse")
        models[-1].train_on_batch(x, np.ones(y.shape))
    theirs, ours = layers
    assert ours.lora_kernel_a.path.endswith("/lora_kernel_a")
    for a, b in zip(ours.weights, theirs.weights):
        assert a.trainable == b.trainable and a.dtype == b.dtype
        assert_same(a, b, 1e-5)
    for i, model in enumerate(models):
        model.save(tmp_path / f"{i}.keras")
        model.save_weights(tmp_path / f"{i}.weights.h5")
        again = keras.models.load_model(tmp_path / f"{i}.keras")
        assert again.layers[-1].lora_enabled
        assert_same(again(x), model(x), 1e-5)
    for i, model in enumerate(models):  # what the other one has saved
        expected = models[1 - i](x)
        model.layers[-1].lora_kernel_b.assign(np.ones(theirs.lora_kernel_b.shape))
        model.load_weights(tmp_path / f"{1 - i}.weights.h5")
        assert_same(model(x), expected, 1e-5)


@pytest.mark.skipif(not KERAS_3, reason="Keras 2 does not quantize")
def test_quantization():
    """Keras's convolutions are not quantized, and say so; nor are ours."""
    for layer in both("Conv2D"):
        with pytest.raises(NotImplementedError):
            layer.quantize("int8")


@over_layers
def test_masks(name):
    """What Keras's layer does with a mask before it."""
    if rank_of(name) > 1:
        return
    x = inputs(name)
    x[:, 4:] = 0
    layers = both(name, padding="same")
    assert len({layer.supports_masking for layer in layers}) == 1
    theirs, ours = (
        keras.Sequential([keras.Input(x.shape[1:]), keras.layers.Masking(), layer])
        for layer in layers
    )
    assert_same(ours(x), theirs(x), 1e-5)
    assert (getattr(ours(x), "_keras_mask", None) is None) == (
        getattr(theirs(x), "_keras_mask", None) is None
    )
