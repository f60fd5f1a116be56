"""What the networks take: keras.applications' arguments and their own."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import tensorflow as tf

import tfconv
import tfconv.models
from tfconv._compat import keras
from tfconv.blocks import Convention, conv_norm
from tfconv.models.network import network

ARGUMENTS = ["include_top", "weights", "input_shape", "pooling", "classes"]
ARGUMENTS += ["classifier_activation", "name"]


TENSORFLOW = Convention("same", epsilon=1e-3)


def _head(x, width, convention):
    return keras.layers.Dense(5 * width, name="dense")(x)


@network(size=8, head=_head)
def Small(x, *, width: int = 2, convention: Convention = TENSORFLOW):
    """A network that is made at once."""
    return conv_norm(x, 2 * width, 3, 2, convention=convention, names=("conv.0", "conv.1"))


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
        ({"classifier_activation": "bogus"}, "classifier_activation"),
        ({"classifier_activation": 7}, "classifier_activation"),
        ({"convention": "same"}, "convention"),
        ({"convention": None}, "convention"),
    ],
)
def test_refused(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}` must be .*Received: "):
        Small(**arguments)


@pytest.mark.parametrize(
    "function, arguments",
    [
        ("ShuffleNetV1", {"groups": 5}),
        ("ShuffleNetV1", {"groups": [3]}),
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
    state = {"conv.0.weight": np.zeros([4, 3, 3, 3])}
    monkeypatch.setattr(torch_weights, "_read", lambda file: state)
    with pytest.raises(ValueError, match="`weights` leaves out .* Received: weights="):
        Small(weights=file)


@pytest.mark.parametrize("prefix", ["", "module.backbone."])
@pytest.mark.parametrize(
    "more, include_top, refused",
    [
        ("conv.2.weight", False, True),  # of a deeper network
        ("conv.2.weight", True, True),
        ("conv_head.weight", True, True),  # of another one
        ("aux1.fc.weight", True, False),
        ("fc.bias", False, False),
    ],
)
def test_weights_of_larger_networks(more, include_top, refused, prefix, monkeypatch, tmp_path):
    from tfconv.surgery import torch_weights

    file = tmp_path / "larger.pth"
    file.touch()
    shapes = {"conv.0.weight": (4, 3, 3, 3), "dense.weight": (10, 4), "fc.weight": (1000, 10)}
    shapes |= {f"conv.1.{end}": (4,) for end in ("weight", "bias", "running_mean", "running_var")}
    shapes |= {"dense.bias": (10,), "fc.bias": (1000,)}
    state = {prefix + key: np.zeros(shape) for key, shape in {more: (1000,), **shapes}.items()}
    monkeypatch.setattr(torch_weights, "_read", lambda file: state)
    arguments = {"weights": file, "include_top": include_top}
    if refused:
        with pytest.raises(ValueError, match=f"`weights` must be .*'{prefix}{more}'.* Received: "):
            Small(**arguments)
    else:
        assert Small(**arguments).built


@pytest.mark.parametrize("width, filters", [(0.5, 16), (1.5, 24)])
def test_narrow_mobilenets_keep_their_first_convolution(width, filters, monkeypatch):
    """As timm's mobilenetv3_small_050 does."""
    from tfconv.models import mobilenet

    monkeypatch.setattr(mobilenet, "SMALL", [])
    model = tfconv.models.MobileNetV3Small(width=width, include_top=False)
    assert model.get_layer("conv_stem").filters == filters
