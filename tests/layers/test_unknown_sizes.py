"""Sizes that are not known when a layer is traced: what does not fit is refused when it runs."""

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv._compat import keras

FIRST = {"data_format": "channels_first"}

# Layers, the shape that they are built for, and another that they refuse.
PINNED = {
    "LocallyConnected1D": ({"filters": 2, "kernel_size": 3}, (8, 4), (16, 4)),
    "LocallyConnected2D": ({"filters": 2, "kernel_size": 3, **FIRST}, (4, 6, 6), (4, 4, 9)),
    "SelfAttention1D": (
        {"num_heads": 2, "key_dim": 2, "relative_position_bias": True},
        (6, 4),
        (5, 4),
    ),
    "SelfAttention2D": (
        {"num_heads": 2, "key_dim": 2, "relative_position_bias": True, **FIRST},
        (4, 6, 6),
        (4, 4, 9),
    ),
}
# Layers that an image of 4x4 pixels is too small for.
TOO_SMALL = {
    "Conv1D": {"filters": 4, "kernel_size": 5},
    "Conv2DTranspose": {"filters": 4, "kernel_size": 3, "padding": 3},
    "Conv3D": {"filters": 4, "kernel_size": 5, "groups": 2},
    "DepthwiseConv2D": {"kernel_size": 5},
    "SeparableConv1D": {"filters": 4, "kernel_size": 5},
    "FlattenedConv2D": {"filters": 4, "kernel_size": 5},
    "LowRankConv2D": {"filters": 4, "kernel_size": 5, "kernel_rank": 2},
    "TuckerConv2D": {"filters": 4, "kernel_size": 5, "ranks": 2},
    "GatedConv2D": {"filters": 4, "kernel_size": 5},
    "GroupConv2D": {"filters": 4, "kernel_size": 5, "groups": 2, "share_kernel": True},
    "CondConv2D": {"filters": 4, "kernel_size": 5, "execution": "mix_outputs"},
    "DepthwiseCondConv2D": {"kernel_size": 5},
    "DynamicConv2D": {"filters": 4, "kernel_size": 5},
    "DeformableConv2D": {"filters": 4, "kernel_size": 5},
    "DeformableConv3D": {"filters": 2, "kernel_size": 5},
    "Involution2D": {"kernel_size": 5, "groups": 2, "padding": "valid"},
}
ROWS = {
    **PINNED,
    **{
        name: (arguments, (*[7] * rank, 4), (*[4] * rank, 4))
        for name, arguments in TOO_SMALL.items()
        for rank in [next(int(letter) for letter in name if letter.isdigit())]
    },
}


@pytest.mark.dear
@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "XLA"])
@pytest.mark.parametrize("name", ROWS)
def test_inputs(name, compiled, implementation):
    arguments, good, bad = ROWS[name]
    layer = getattr(tfconv, name)(**arguments)
    x = tf.random.normal((3, *good))
    expected = layer(x)
    # Not even the channels are known: the layer knows them since it was built.
    traced = tf.function(
        lambda x: layer(x),
        input_signature=[tf.TensorSpec([None] * (len(good) + 1))],
        jit_compile=compiled,
    )
    np.testing.assert_allclose(traced(x), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError):
        traced(tf.ones((4, *bad)))
    channels = -1 if "data_format" not in arguments else 0
    other = [n + (i == channels % len(good)) for i, n in enumerate(good)]
    with pytest.raises(tf.errors.InvalidArgumentError):
        traced(tf.ones((4, *other)))


@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "XLA"])
@pytest.mark.parametrize(
    "layer",
    [
        tfconv.CondConv2D(4, 3, num_experts=2, execution="mix_outputs"),
        tfconv.CondConv2D(4, 3, num_experts=2, execution="mix_kernels"),
        tfconv.DepthwiseCondConv2D(3, num_experts=2),
        tfconv.CondDense(4, num_experts=2),
    ],
    ids=lambda layer: layer.name,
)
def test_routing_weights_of_another_batch(layer, compiled, implementation):
    traced = tf.function(
        lambda x, routing: layer(x, routing_weights=routing),
        input_signature=[tf.TensorSpec([None, 5, 5, 4]), tf.TensorSpec([None, 2])],
        jit_compile=compiled,
    )
    x = tf.ones([2, 5, 5, 4])
    assert traced(x, tf.ones([2, 2])).shape[0] == 2
    for count in (1, 3):
        with pytest.raises(tf.errors.InvalidArgumentError):
            traced(x, tf.ones([count, 2]))


def test_exported_layers_refuse_masks_of_another_batch():
    """TensorFlow Lite knows no assertions."""
    inputs = [keras.Input(shape) for shape in ((5, 5, 4), (5, 5, 18), (5, 5, 9))]
    y = tfconv.DeformableConv2D(4, 3, padding="same")(inputs[0], inputs[1], inputs[2])
    model = keras.Model(inputs, y)
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    for examples in (2, 1):
        interpreter = tf.lite.Interpreter(model_content=content)
        for detail in interpreter.get_input_details():
            shape = detail["shape"].tolist()
            count = examples if shape[-1] == 9 else 2
            interpreter.resize_tensor_input(detail["index"], [count, *shape[1:]])

        def run(interpreter=interpreter):
            interpreter.allocate_tensors()
            for detail in interpreter.get_input_details():
                interpreter.set_tensor(detail["index"], np.ones(detail["shape"], np.float32))
            interpreter.invoke()

        if examples == 2:
            run()
        else:
            with pytest.raises(RuntimeError):
                run()
