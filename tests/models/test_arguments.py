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

NETWORKS = [name for name in tfconv.models.__all__ if name[0].isupper()]
ARGUMENTS = list(inspect.signature(keras.applications.ResNet50).parameters)[:6]
ARGUMENTS += ["classifier_activation", "name"]  # not named in Keras 2's signature

TENSORFLOW = Convention("same", epsilon=1e-3)


def _head(x, width, convention):
    return keras.layers.Dense(5 * width, name="dense")(x)


@network(size=8, head=_head)
def Small(x, *, width: int = 2, convention: Convention = TENSORFLOW):
    """A network that is made at once."""
    return conv_norm(x, 2 * width, 3, 2, convention=convention, names=("conv.0", "conv.1"))


@pytest.mark.parametrize("name", NETWORKS)
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


def test_all_arguments_by_position():
    assert Small(False, None, None, (6, 4, 3), "avg", 3, None, "mine").name == "mine"
    assert Small(False, None, None, (6, 4, 3)).input_shape == (None, 6, 4, 3)


@pytest.mark.parametrize("include_top", [True, False])
def test_input_tensor(include_top):
    """Alone it is the model's input; with layers before it, theirs is."""
    plain = Small(include_top, input_shape=(8, 6, 3))
    picture = keras.Input((8, 6, 3), name="picture")
    alone = Small(include_top, None, picture)
    behind = Small(include_top, input_tensor=keras.layers.Rescaling(0.5)(picture))
    x = np.random.default_rng(0).normal(size=[2, 8, 6, 3]).astype(np.float32)
    for model, factor in ((alone, 1), (behind, 0.5)):
        keras.Model(picture, model.output)  # raises unless that is the input
        model.set_weights(plain.get_weights())
        np.testing.assert_allclose(model(x), plain(factor * x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("mode", ["torch", "tf", "caffe", "bgr"])
def test_preprocessing(mode, data_format):
    pixels = np.random.default_rng(0).integers(0, 256, [2, 4, 5, 3], np.uint8)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = {
        "torch": (pixels / 255 - mean) / deviation,
        "tf": pixels / 127.5 - 1,
        "caffe": pixels[..., ::-1] - np.array([103.939, 116.779, 123.68]),
        "bgr": pixels[..., ::-1],
    }[mode]
    first = data_format == "channels_first"
    given = np.moveaxis(pixels, -1, 1) if first else pixels
    for x in (given, given.astype(np.float32), tf.constant(given), given[0]):
        before = np.array(x)
        y = np.asarray(tfconv.models.preprocess_input(x, data_format, mode))
        assert y.dtype == np.float32
        y = np.moveaxis(y, -3, -1) if first else y
        np.testing.assert_allclose(y, expected if y.ndim == 4 else expected[0], atol=1e-4)
        np.testing.assert_array_equal(x, before)


def test_preprocessing_of_networks():
    x = np.full([1, 1, 1, 3], 255.0, np.float32)
    tops = {name: getattr(tfconv.models, name).preprocess_input(x).max() for name in NETWORKS}
    own = {"MobileNetV1", "GoogLeNet", "Xception", "CondConvEfficientNetB0"}
    own.add("CondConvEfficientNetB1")
    for name, top in tops.items():
        expected = 1 if name in own else 255 if name == "ShuffleNetV1" else (1 - 0.406) / 0.225
        assert top == pytest.approx(expected), name
    with pytest.raises(ValueError, match="`mode` must be .*Received: "):
        tfconv.models.preprocess_input(x, mode="imagenet")


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
        ({"input_tensor": np.ones([1, 8, 8, 3])}, "input_tensor"),
        ({"input_tensor": keras.Input([8, 8, 3]), "input_shape": (9, 9, 3)}, "input_shape"),
        ({"input_tensor": keras.Input([8])}, "input_shape"),
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
    "weights, why",
    [
        ("imagenet", "none by name; docs/networks.md"),
        (3, "a file's path"),
        ("wieghts.h5", "no such file in .*, but weights.h5"),
        ("other/weights.h5", "there is no folder other"),
        (".", "it is a folder"),
    ],
)
def test_weights_that_are_no_file(weights, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.h5").touch()
    with pytest.raises(ValueError, match=f"`weights` must be None or .*{why}.* Received: "):
        Small(weights=weights)


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
