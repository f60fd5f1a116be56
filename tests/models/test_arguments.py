"""What the networks take: keras.applications' arguments and their own."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import tensorflow as tf

import tfconv
import tfconv.models
from tfconv._compat import keras
from tfconv.blocks import conv_norm
from tfconv.models.network import network

ARGUMENTS = ["include_top", "weights", "input_shape", "pooling", "classes"]
ARGUMENTS += ["classifier_activation", "name"]


@network(size=8, head=lambda x, width: keras.layers.Dense(5 * width)(x))
def Small(x, *, width: int = 2):
    """A network that is made at once."""
    return conv_norm(x, 2 * width, 3, 2, names=("conv", "bn"))


@pytest.mark.parametrize("name", tfconv.models.__all__)
def test_signatures(name):
    function = getattr(tfconv.models, name)
    assert list(inspect.signature(function).parameters)[: len(ARGUMENTS)] == ARGUMENTS
    assert "{" not in function.__doc__ and "include_top:" in function.__doc__


@pytest.mark.parametrize(
    "arguments, shape",
    [
        ({}, (None, 1000)),
        ({"width": 3, "include_top": False}, (None, 4, 4, 6)),
        ({"classes": 7}, (None, 7)),
        ({"include_top": False}, (None, 4, 4, 4)),
        ({"include_top": False, "pooling": "avg"}, (None, 4)),
        ({"include_top": False, "pooling": "max"}, (None, 4)),
        ({"include_top": False, "input_shape": (None, None, 1)}, (None, None, None, 4)),
    ],
)
def test_outputs(arguments, shape):
    assert tuple(Small(**arguments).output_shape) == shape


def test_activation_and_name():
    model = Small(name="mine", classes=5)
    assert model.name == "mine"
    np.testing.assert_allclose(np.sum(model(tf.ones([2, 8, 8, 3])), -1), [1, 1], rtol=1e-5)
    assert Small().name == "small"


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"include_top": 1}, "include_top"),
        ({"pooling": "mean"}, "pooling"),
        ({"classes": 0}, "classes"),
        ({"input_shape": (8, 8)}, "input_shape"),
        ({"input_shape": (8, 8, None)}, "input_shape"),
        ({"input_shape": 32}, "input_shape"),
        ({"weights": "imagenet"}, "weights"),
    ],
)
def test_refused(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}` must be .*Received: "):
        Small(**arguments)


@pytest.mark.parametrize(
    "function, arguments",
    [
        ("ShuffleNetV1", {"groups": 5}),
        ("ShuffleNetV2", {"width": 0.7}),
        ("MobileNetV1", {"width": 0}),
        ("MobileNetV2", {"width": -1}),
        ("MobileNetV3Small", {"width": "wide"}),
        ("CondConvEfficientNetB0", {"num_experts": 0}),
        ("DeformableResNet50", {"offset_groups": 0}),
    ],
)
def test_own_arguments_refused(function, arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}` must be .*Received: "):
        getattr(tfconv.models, function)(**arguments)


def test_weights_of_files(tmp_path):
    """Keras's files and PyTorch's."""
    model = Small()
    file = str(tmp_path / "model.weights.h5")
    model.save_weights(file)
    x = tf.random.normal([1, 8, 8, 3])
    np.testing.assert_array_equal(Small(weights=file)(x), model(x))
    (tmp_path / "part.pth").write_bytes(b"")
    with pytest.raises((ImportError, RuntimeError, EOFError)):
        Small(weights=tmp_path / "part.pth")


def test_weights_that_leave_some_out(monkeypatch, tmp_path):
    """A network is not left half random."""
    from tfconv.surgery import torch_weights

    file = tmp_path / "part.pth"
    file.touch()
    state = {"conv.weight": np.zeros([4, 3, 3, 3])}
    monkeypatch.setattr(torch_weights, "_read", lambda file: state)
    with pytest.raises(ValueError, match="`weights` leaves out .* Received: weights="):
        Small(weights=file)
