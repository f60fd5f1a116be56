"""What a layer's padding puts around its input, where that is not zeros."""

import importlib.util

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv._compat import keras
from tfconv.layers.spatial import SpatialLayer
from tfconv.testing import assert_same

NUMPY = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
ARGUMENTS = {
    "CondConv": {"num_experts": 2},
    "DynamicConv": {"num_experts": 2},
    "GroupConv": {"groups": 2},
    "LowRankConv": {"kernel_rank": 2},
    "TuckerConv": {"ranks": 2},
    "Involution": {"groups": 2},
    "DeformableAggregation": {"groups": 2},
}
# The amounts that a row of sizes [5, 6, 7] with these arguments is padded by.
GEOMETRIES = [
    ({"padding": "same"}, (1, 1)),
    ({"padding": "full"}, (2, 2)),
    ({"padding": 2, "strides": 2}, (2, 2)),
    ({"padding": "same", "dilation_rate": 2}, (2, 2)),
]


def layers():
    for name in tfconv.layers.__all__:
        cls = getattr(tfconv, name)
        taken = "padding_mode" in cls.__signature__.parameters and "Transpose" not in name
        if issubclass(cls, SpatialLayer) and taken and not name.startswith("Pointwise"):
            yield name


@pytest.mark.dear
@pytest.mark.parametrize("name", list(layers()))
def test_padding_mode(name):
    """As a valid convolution of the input that NumPy pads; sizes known and not."""
    cls = getattr(tfconv, name)
    rank = cls.rank
    given = {"kernel_size": 3, **ARGUMENTS.get(name[:-2], {})}
    if "filters" in cls.__signature__.parameters:
        given["filters"] = 4
    x = np.random.default_rng(0).standard_normal((2, *(5, 6, 7)[:rank], 4)).astype("float32")
    for number, (mode, in_numpy) in enumerate(NUMPY.items()):
        geometry, amounts = GEOMETRIES[(number + rank) % len(GEOMETRIES)]
        if name.startswith("Involution"):  # has no kernels for positions around its input
            geometry, amounts = GEOMETRIES[0]
        layer = cls(**given, **geometry, padding_mode=mode)
        assert type(layer).from_config(layer.get_config()).padding_mode == mode
        y = layer(x)
        assert y.shape == tf.TensorShape(layer.compute_output_shape(x.shape))
        wide = np.pad(x, [(0, 0), *[amounts] * rank, (0, 0)], in_numpy)
        if not _looks_at_the_whole(name):
            plain = cls(**{**given, **geometry, "padding": "valid"})
            plain.build(wide.shape)
            plain.set_weights(layer.get_weights())
            assert_same(y, plain(wide), 1e-5)
        else:  # kernels are made from the input without what is around it
            assert (
                np.ptp(layer(np.ones_like(x)).numpy(), axis=tuple(range(1, rank + 1))).max() < 1e-5
            )
        if not name.startswith("LocallyConnected"):
            run = tf.function(
                layer.call, input_signature=[tf.TensorSpec([None] * (rank + 1) + [4])]
            )
            assert_same(run(x), y, 1e-5)


def _looks_at_the_whole(name):
    return name.startswith(("CondConv", "DepthwiseCond", "DynamicConv", "Involution"))


def test_sizes_that_are_too_small():
    """Mirrored and circular pixels have to exist; known when built, or when run."""
    for mode, pads, size in (("reflect", 3, 3), ("circular", 4, 3)):
        layer = tfconv.Conv1D(2, 3, padding=pads, padding_mode=mode)
        with pytest.raises(ValueError, match="padding_mode.*Received: padding"):
            layer.build((None, size, 4))
        run = tf.function(layer, input_signature=[tf.TensorSpec([None, None, 4])])
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match="padding_mode"):
            run(np.zeros((1, size, 4), "float32"))
        assert run(np.zeros((1, size + 1, 4), "float32")).shape[1] == size + 2 * pads - 1
    layer = tfconv.Conv1D(2, 3, padding=4, padding_mode="replicate")
    assert layer(np.zeros((1, 1, 4))).shape == (1, 7, 2)


@pytest.mark.parametrize("mode", list(NUMPY))
def test_gradients(mode):
    """Of second order too."""
    layer = tfconv.Conv2D(2, 3, padding="same", padding_mode=mode, dtype="float64")
    layer.build((1, 3, 4, 2))
    x = tf.constant(np.random.default_rng(0).standard_normal((1, 3, 4, 2)))

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(layer(x) ** 2)
        return tape.gradient(y, x)

    theory, numeric = tf.test.compute_gradient(gradient, [x])
    assert_same(theory[0], numeric[0], 1e-6)


def test_arguments():
    with pytest.raises(ValueError, match=r"`padding_mode` must be one of .*Received"):
        tfconv.Conv2D(2, 3, padding_mode="wrap")
    with pytest.raises(ValueError, match='`padding_mode` must be "zeros": .*Received'):
        tfconv.Conv2DTranspose(2, 3, padding_mode="reflect")
    for layer in (tfconv.Conv2D(2, 3), tfconv.Conv2DTranspose(2, 3, padding_mode="zeros")):
        assert "padding_mode" not in layer.get_config()


@pytest.mark.parametrize("rank", (1, 2, 3))
def test_exports(rank):
    """Built-in operators, in integers too, and the same results, which the conversion compares."""
    shape = (6, 5, 4)[:rank] + (4,)
    model = keras.Sequential([keras.Input(shape)])
    for mode in NUMPY:
        layer = getattr(tfconv, f"Conv{rank}D")(4, 3, padding="same", padding_mode=mode)
        model.add(layer)
    x = np.random.default_rng(0).standard_normal((8, *shape)).astype("float32")
    tfconv.export.to_tflite(model)
    tfconv.export.to_tflite(model, quantize="int8", representative_data=x)
    if importlib.util.find_spec("tf2onnx"):
        tfconv.export.to_onnx(model)
