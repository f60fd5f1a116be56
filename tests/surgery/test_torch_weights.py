"""load_torch_weights: layouts of every layer that it knows, origins, files, and what is refused."""

from __future__ import annotations

import importlib.util
import sys
import types

import numpy as np
import pytest

import tfconv
from tfconv._compat import KERAS_3, keras
from tfconv.surgery import LoadReport, load_torch_weights
from tfconv.surgery.torch_names import origins

needs_safetensors = pytest.mark.skipif(
    importlib.util.find_spec("safetensors") is None, reason="safetensors is not installed"
)


def model_of(layer, shape):
    return keras.Sequential([keras.Input(shape), layer])


def by_definition(x, weight, groups):
    """A convolution of [N, H, W, C] with a kernel in PyTorch's layout [O, C / groups, kh, kw]."""
    filters, width, height, length = weight.shape
    y = np.zeros((len(x), x.shape[1] - height + 1, x.shape[2] - length + 1, filters))
    for f in range(filters):
        first = f // (filters // groups) * width
        for p in np.ndindex(*y.shape[1:3]):
            window = x[:, p[0] : p[0] + height, p[1] : p[1] + length, first : first + width]
            y[:, p[0], p[1], f] = np.einsum("nhwc,chw->n", window, weight[f])
    return y


CONVOLUTIONS = {
    "Conv2D": (lambda: tfconv.Conv2D(6, (3, 2), use_bias=False, name="c"), 1),
    "groups": (lambda: tfconv.Conv2D(6, (3, 2), groups=2, use_bias=False, name="c"), 2),
    "Keras's Conv2D": (lambda: keras.layers.Conv2D(6, (3, 2), use_bias=False, name="c"), 1),
    "DepthwiseConv2D": (
        lambda: tfconv.DepthwiseConv2D((3, 2), depth_multiplier=3, use_bias=False, name="c"),
        4,
    ),
    "Keras's DepthwiseConv2D": (
        lambda: keras.layers.DepthwiseConv2D((3, 2), depth_multiplier=2, use_bias=False, name="c"),
        4,
    ),
}


@pytest.mark.parametrize("name", list(CONVOLUTIONS))
def test_convolutions(name, rng):
    make, groups = CONVOLUTIONS[name]
    model = model_of(make(), (5, 4, 4))
    weight = rng.standard_normal((model.output_shape[-1], 4 // groups, 3, 2)).astype(np.float32)
    report = load_torch_weights(model, {"c.weight": weight})
    assert report == LoadReport(["c.weight"], [], [])
    x = rng.standard_normal((2, 5, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(model(x), by_definition(x, weight, groups), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("depthwise", [False, True])
def test_experts(depthwise, rng):
    """Each expert is a kernel in PyTorch's layout."""
    if depthwise:
        layer = tfconv.DepthwiseCondConv2D(3, depth_multiplier=2, num_experts=2, name="c")
    else:
        layer = tfconv.CondConv2D(8, 3, num_experts=2, name="c")
    model = model_of(layer, (4, 4, 4))
    kernels = rng.standard_normal((2, 8, 1 if depthwise else 4, 3, 3)).astype(np.float32)
    state = {
        "c.weight": kernels.reshape(2, -1),
        "c.bias": np.zeros([2, 8]),
        "c.routing_fn.weight": np.zeros([2, 4]),
        "c.routing_fn.bias": np.array([100.0, -100.0]),  # the first expert only
    }
    assert not load_torch_weights(model, state).missing
    x = rng.standard_normal((2, 4, 4, 4)).astype(np.float32)
    expected = by_definition(x, kernels[0], 4 if depthwise else 1)
    np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-5)


def test_separable(rng):
    model = model_of(tfconv.SeparableConv2D(5, 3, use_bias=False, name="c"), (4, 4, 3))
    depthwise, pointwise = rng.standard_normal((3, 1, 3, 3)), rng.standard_normal((5, 3, 1, 1))
    load_torch_weights(model, {"c.conv1.weight": depthwise, "c.pointwise.weight": pointwise})
    x = rng.standard_normal((1, 4, 4, 3)).astype(np.float32)
    expected = by_definition(by_definition(x, depthwise, 3), pointwise, 1)
    np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-5)


def test_layers_that_have_other_names_for_their_weights(rng):
    """As PyTorch's LayerNorm, GroupNorm, PReLU (of one slope or more) and Embedding."""
    layers = keras.layers
    parts = {
        "n": [layers.LayerNormalization(name="n"), {"weight": 4, "bias": 4}],
        "g": [layers.GroupNormalization(2, name="g"), {"weight": 4, "bias": 4}],
        "p": [layers.PReLU(shared_axes=[1, 2], name="p"), {"weight": 4}],
        "q": [layers.PReLU(name="q"), {"weight": 1}],
        "r": [layers.PReLU(shared_axes=[2, 3], name="r"), {"weight": 2}],
    }
    model = keras.Sequential([keras.Input((2, 3, 4)), *(layer for layer, _ in parts.values())])
    state = {
        f"{name}.{weight}": rng.standard_normal(size)
        for name, (_, sizes) in parts.items()
        for weight, size in sizes.items()
    }
    assert load_torch_weights(model, state) == LoadReport(list(state), [], [])
    for name, (layer, sizes) in parts.items():
        for weight, found in zip(sizes, layer.get_weights()):
            expected = np.broadcast_to(state[f"{name}.{weight}"], np.squeeze(found).shape)
            np.testing.assert_allclose(np.squeeze(found), expected, rtol=1e-6)
    table = rng.standard_normal((5, 3))
    embedding = model_of(layers.Embedding(5, 3, name="e"), (2,))
    load_torch_weights(embedding, {"e.weight": table})
    np.testing.assert_allclose(embedding(np.array([[4, 0]])), table[None, [4, 0]], rtol=1e-6)


def test_dense_layers_and_1x1_convolutions_stand_for_each_other():
    weight = np.arange(6.0).reshape(2, 3)
    dense = model_of(keras.layers.Dense(2, name="fc"), (3,))
    load_torch_weights(dense, {"fc.weight": weight[..., None, None], "fc.bias": np.zeros(2)})
    conv = model_of(tfconv.Conv2D(2, 1, use_bias=False, name="fc"), (1, 1, 3))
    load_torch_weights(conv, {"fc.weight": weight})
    for model in (dense, conv):
        kernel = np.reshape(model.get_weights()[0], (3, 2))
        np.testing.assert_array_equal(kernel, weight.T)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_dense_layers_behind_flatten(data_format, rng):
    """PyTorch flattens [C, H, W]; Keras, whatever the data format, [H, W, C]."""
    x = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)  # N, C, H, W
    given = x if data_format == "channels_first" else x.transpose(0, 2, 3, 1)
    layers = [
        keras.layers.Flatten(data_format),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(2, use_bias=False, name="fc"),
        keras.layers.Dense(2, use_bias=False, name="last"),
    ]
    model = keras.Sequential([keras.Input(given.shape[1:]), *layers])
    weight, last = rng.standard_normal((2, 60)), rng.standard_normal((2, 2))
    for first in (weight, weight.reshape(2, 3, 4, 5)):  # of a dense layer, of a convolution
        load_torch_weights(model, {"fc.weight": first, "last.weight": last})
        expected = x.reshape(2, 60) @ weight.T @ last.T
        np.testing.assert_allclose(model(given), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="'fc.weight' does not fit"):
        load_torch_weights(model, {"fc.weight": weight.T})


@pytest.mark.skipif(not KERAS_3, reason="Keras 2 has no adapters and does not quantize layers")
@pytest.mark.parametrize(
    "layer, shape, changes",
    [
        (lambda: keras.layers.Dense(2, name="c"), (3,), ["int8", "int4", "float8"]),
        (lambda: keras.layers.Embedding(2, 3, name="c"), (), ["int8", "int4"]),
        (lambda: keras.layers.Conv2D(2, 3, name="c"), (3, 3, 3), []),
        (lambda: tfconv.CondDense(2, num_experts=1, name="c"), (3,), ["int8", "float8"]),
    ],
    ids=["Dense", "Embedding", "Conv2D", "CondDense"],
)
def test_layers_that_would_compute_with_other_weights(layer, shape, changes):
    """They are refused by name; new adapters add nothing. What is in a layer counts, too."""
    for change in [*changes, "adapters", "new adapters"]:
        made = layer()
        check_change(model_of(made, shape), made, change)


def check_change(model, made, change):
    part = getattr(made, "routing", made)
    if "adapters" in change:
        part.enable_lora(1)
        if change == "adapters":
            part.trainable_weights[-1].assign_add(part.trainable_weights[-1] + 1)
    else:
        part.quantize(change)
    kernel = {"Dense": [2, 3], "Embedding": [2, 3], "Conv2D": [2, 3, 3, 3], "CondDense": [1, 6]}
    state = {"c.weight": np.ones(kernel[type(made).__name__])}
    if change == "new adapters":
        assert load_torch_weights(model, state).used == ["c.weight"]
        weight = np.asarray(made.expert_kernels if made is not part else model.weights[0])
        np.testing.assert_array_equal(weight, np.ones(weight.shape))
    else:
        before = model.get_weights()
        words = "adapters" if change == "adapters" else rf"quantized \({change}"
        with pytest.raises(ValueError, match=f"The layer 'c' of `model` .*{words}.*Received: "):
            load_torch_weights(model, state)
        for value, old in zip(model.get_weights(), before):
            np.testing.assert_array_equal(value, old)


def test_float64_is_kept():
    model = model_of(keras.layers.Dense(1, use_bias=False, name="fc", dtype="float64"), (1,))
    load_torch_weights(model, {"fc.weight": np.full([1, 1], 1 + 1e-12)})
    assert model.get_weights()[0] == 1 + 1e-12


def test_report_names_what_is_left():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="fc")])
    state = {"fc.weight": np.ones([2, 3]), "aux.bias": np.ones(2), "bn.num_batches_tracked": 1}
    report = load_torch_weights(model, state)
    assert report == LoadReport(["fc.weight"], ["aux.bias"], ["fc.bias"])
    assert str(report) == "1 used, 1 unused, 1 missing"


def test_wrappers_and_prefixes():
    model = model_of(keras.layers.Dense(2, use_bias=False, name="fc"), (3,))
    weight, bias = np.ones([2, 3]), np.ones(2)
    state = {"module.head.fc.weight": weight, "module.backbone.fc.bias": bias}
    report = load_torch_weights(model, {"epoch": 3, "state_dict": state})
    assert report == LoadReport(["module.head.fc.weight"], ["module.backbone.fc.bias"], [])
    head = model_of(keras.layers.Dense(2, use_bias=False, name="head.fc"), (3,))
    assert load_torch_weights(head, {"head.fc.weight": weight}).used == ["head.fc.weight"]


def test_prefixes_of_the_layers_stay():
    weight = np.ones([2, 2])
    layers = [
        keras.layers.Dense(2, use_bias=False, name=name) for name in ("module.fc", "backbone.fc")
    ]
    model = keras.Sequential([keras.Input((2,)), *layers])
    keys = ["module.fc.weight", "backbone.fc.weight"]
    assert load_torch_weights(model, dict.fromkeys(keys, weight)).used == keys


def test_prefixes_that_tell_keys_apart_stay():
    model = model_of(keras.layers.Dense(2, use_bias=False, name="fc"), (3,))
    state = {"backbone.fc.weight": np.ones([2, 3]), "head.fc.weight": np.zeros([2, 3])}
    with pytest.raises(ValueError, match="None of the checkpoint's weights belong"):
        load_torch_weights(model, state)


def test_models_inside_models():
    inside = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, use_bias=False, name="fc")], name="inside"
    )
    model = keras.Sequential([keras.Input((3,)), inside])
    load_torch_weights(model, {"fc.weight": np.ones([2, 3])})
    np.testing.assert_array_equal(model(np.ones([1, 3], np.float32)), [[3, 3]])


def test_wrong_shapes_change_nothing():
    model = model_of(keras.layers.Dense(2, name="fc"), (3,))
    before = model.get_weights()
    state = {"fc.weight": np.ones([2, 3]), "fc.bias": np.ones(5)}
    with pytest.raises(ValueError, match=r"'fc.bias' does not fit.*\(2,\). Received: shape \(5,\)"):
        load_torch_weights(model, state)
    for value, old in zip(model.get_weights(), before):
        np.testing.assert_array_equal(value, old)


@pytest.mark.parametrize(
    "layer, shape, given",
    [
        (lambda: tfconv.Conv2D(4, (1, 3), use_bias=False, name="c"), (5, 5, 2), (4, 2, 3, 1)),
        (lambda: keras.layers.Dense(5, use_bias=False, name="c"), (1,), (1, 5)),
    ],
)
def test_sizes_at_other_axes(layer, shape, given):
    with pytest.raises(ValueError, match="'c.weight' does not fit"):
        load_torch_weights(model_of(layer(), shape), {"c.weight": np.ones(given)})


V2 = {  # a block of each kind, ours and torchvision's
    "conv_stem": "features.0.0",
    "bn1": "features.0.1",
    "blocks.0.0.conv_dw": "features.1.conv.0.0",
    "blocks.0.0.bn1": "features.1.conv.0.1",
    "blocks.0.0.conv_pw": "features.1.conv.1",
    "blocks.0.0.bn2": "features.1.conv.2",
    "blocks.1.0.conv_pw": "features.2.conv.0.0",
    "blocks.1.0.bn1": "features.2.conv.0.1",
    "blocks.1.0.conv_dw": "features.2.conv.1.0",
    "blocks.1.0.bn2": "features.2.conv.1.1",
    "blocks.1.0.conv_pwl": "features.2.conv.2",
    "blocks.1.0.bn3": "features.2.conv.3",
    "conv_head": "features.3.0",
    "bn2": "features.3.1",
    "classifier": "classifier.1",
}
V3 = {
    "conv_stem": "features.0.0",
    "bn1": "features.0.1",
    "blocks.0.0.conv_dw": "features.1.block.0.0",
    "blocks.0.0.bn1": "features.1.block.0.1",
    "blocks.0.0.se": "features.1.block.1",
    "blocks.0.0.conv_pw": "features.1.block.2.0",
    "blocks.0.0.bn2": "features.1.block.2.1",
    "blocks.1.0.conv": "features.2.0",
    "blocks.1.0.bn1": "features.2.1",
    "conv_head": "classifier.0",
    "classifier": "classifier.3",
}


@pytest.mark.parametrize("names, epsilon", [(V2, None), (V3, 1e-3)], ids=["V2", "V3"])
def test_names_of_torchvision(names, epsilon):
    own, other = origins(list(names))
    assert {layer: other.of(layer) for layer in names} == names
    assert [own.of(layer) for layer in names] == list(names)
    assert "torchvision" in other.place and other.epsilon == epsilon


def test_models_that_are_not_built():
    with pytest.raises(ValueError, match="`model` must be built.* Received: "):
        load_torch_weights(keras.Sequential([keras.layers.Dense(2, name="fc")]), {})


def test_checkpoints_of_something_else():
    model = model_of(keras.layers.Dense(2, name="fc"), (3,))
    with pytest.raises(ValueError, match="None of the checkpoint's weights belong"):
        load_torch_weights(model, {"encoder.weight": np.ones([2, 3])})


@pytest.mark.parametrize("given", ["weights.h5", 3, {3: np.ones(2)}])
def test_unknown_files(given):
    model = model_of(keras.layers.Dense(2, name="fc"), (3,))
    with pytest.raises(ValueError, match="`state_dict_or_file` must be .* Received: "):
        load_torch_weights(model, given)


@pytest.mark.parametrize("suffix, package", [(".pth", "torch"), (".safetensors", "safetensors")])
def test_missing_packages_are_named(suffix, package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.numpy", None)
    model = model_of(keras.layers.Dense(2, name="fc"), (3,))
    file = tmp_path / f"weights{suffix}"
    with pytest.raises(
        ValueError, match=f"a file that exists: there is no such .*Received: .*{suffix}"
    ):
        load_torch_weights(model, file)
    file.touch()
    with pytest.raises(ImportError, match=f"pip install {package}"):
        load_torch_weights(model, file)


def test_pth_files_are_read_by_torch(monkeypatch, tmp_path):
    """Onto the CPU, and without running code that they hold."""
    given = {}

    def load(file, **arguments):
        given.update(arguments, file=file)
        return {"fc.weight": np.ones([2, 3])}

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=load))
    model = model_of(keras.layers.Dense(2, use_bias=False, name="fc"), (3,))
    file = tmp_path / "weights.pth"
    file.touch()
    assert load_torch_weights(model, file).used == ["fc.weight"]
    assert given == {"file": file, "map_location": "cpu", "weights_only": True}


def test_pth_files_of_something_else(monkeypatch, tmp_path):
    torch = types.SimpleNamespace(load=lambda file, **arguments: np.ones([2, 3]))
    monkeypatch.setitem(sys.modules, "torch", torch)
    model = model_of(keras.layers.Dense(2, name="fc"), (3,))
    file = tmp_path / "weights.pth"
    file.touch()
    with pytest.raises(ValueError, match="hold a mapping.* Received: .*pth, a file with ndarray"):
        load_torch_weights(model, file)


@needs_safetensors
def test_safetensors(tmp_path):
    from safetensors.numpy import save_file

    save_file({"fc.weight": np.ones([2, 3], np.float32)}, tmp_path / "weights.safetensors")
    model = model_of(keras.layers.Dense(2, use_bias=False, name="fc"), (3,))
    load_torch_weights(model, tmp_path / "weights.safetensors")
    np.testing.assert_array_equal(model(np.ones([1, 3], np.float32)), [[3, 3]])


def test_torchvisions_mobilenet_needs_its_epsilon():
    """timm and torchvision have different epsilons, and the keys say which of them it is."""

    def mobile(epsilon):
        layers = [
            tfconv.Conv2D(4, 1, use_bias=False, name="conv_stem"),
            keras.layers.BatchNormalization(epsilon=epsilon, name="bn1"),
            tfconv.SqueezeExcite(reduction_ratio=4, name="blocks.0.0.se"),
        ]
        return keras.Sequential([keras.Input((2, 2, 3)), *layers])

    state = {"features.0.0.weight": np.zeros([4, 3, 1, 1])}
    with pytest.raises(ValueError, match=r"Convention\(epsilon=0.001\).*epsilon=1e-05"):
        load_torch_weights(mobile(1e-5), state)
    assert load_torch_weights(mobile(1e-3), state).used == ["features.0.0.weight"]
    timm = {"conv_stem.weight": state["features.0.0.weight"]}
    assert load_torch_weights(mobile(1e-5), timm).used == ["conv_stem.weight"]
