"""InternImage, FlashInternImage and the records of their peer beside the authors' own code.

Where there are checkouts of their repositories: `tests.parity.authors` says how they are named.
"""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.parity import authors, peers
from tests.parity.cases import network
from tests.parity.recorded import record
from tests.parity.weights import random_image, random_weights
from tfconv._compat import keras
from tfconv.analysis import profile
from tfconv.layers import DeformableAggregation2D
from tfconv.surgery import load_torch_weights

V3, V4 = (
    pytest.mark.skipif(not authors.checkout(name), reason=f"needs a checkout: {name} names one")
    for name in ("TFCONV_INTERNIMAGE", "TFCONV_DCNV4")
)
NAMES = [pytest.param(name, marks=V4 if "flash" in name else V3) for name in authors.PLANS]


@pytest.mark.parametrize("name", NAMES)
def test_network(name):
    """Names, shapes and logits: theirs, those that are recorded, and ours."""
    theirs, model, recorded = authors.network(name), network(name), record(name)
    assert peers.shapes(theirs) == recorded.shapes
    parameters = sum(weight.numel() for weight in theirs.parameters()) - unused(theirs)
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == parameters
    image = random_image(model.input_shape[1])
    logits = peers.logits(theirs, random_weights(recorded.shapes, recorded.gain), image)
    bound = 1e-5 * np.abs(logits).max()
    np.testing.assert_allclose(logits[0], recorded.logits, rtol=0, atol=bound)
    report = load_torch_weights(model, theirs.state_dict())
    assert not report.missing and not report.unused
    np.testing.assert_allclose(model(image, training=False), logits, rtol=0, atol=bound)


def unused(theirs):
    """Parameters of the rows that DCNv4 rounds its offsets and weights up by."""
    modules = [module for module in theirs.modules() if hasattr(module, "offset_mask")]
    return sum((m.offset_mask.out_features - 3 * m.K) * (m.channels + 1) for m in modules)


@pytest.mark.parametrize("name", NAMES[:3])
def test_multiply_adds(name):
    """As PyTorch counts those of their convolutions and matrix products: two operations each."""
    model = network(name)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        authors.network(name).eval()(torch.zeros(1, 3, 224, 224))
    found = profile(model)
    sums = [row for row in found.rows if row.kind == "DeformableAggregation2D"]
    own = sum(row.multiply_adds - row.weight_products for row in sums)
    assert found.multiply_adds - own == counter.get_total_flops() // 2


# What the module takes, and the layer.
MODULES = [
    pytest.param({}, {}, marks=V3),
    pytest.param({"offset_scale": 0.5, "remove_center": True}, {}, marks=V3),
    pytest.param({"remove_center": True, "center_feature_scale": True}, {}, marks=V3),
    pytest.param(
        {"dw_kernel_size": 5, "dilation": 2, "pad": 2, "offset_scale": 2.0},
        {"depthwise_kernel_size": 5, "dilation_rate": 2},
        marks=V3,
    ),
    pytest.param({"kernel_size": 5, "pad": 2}, {"depthwise_kernel_size": 5}, marks=V3),
]


@pytest.mark.parametrize("theirs, ours", MODULES)
def test_dcnv3(theirs, ours):
    """Each argument of the module, on a map that is no square, and the input's gradient."""
    module = authors.modules_v3().opsm.DCNv3_pytorch(channels=24, group=3, **theirs)
    x, layer = check_layer(module, theirs, ours, module)
    x.requires_grad_()
    module(x).sin().sum().backward()
    inputs = tf.constant(x.detach().numpy())
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        total = tf.reduce_sum(tf.sin(layer(inputs)))
    expected = x.grad.numpy()
    bound = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(tape.gradient(total, inputs), expected, rtol=0, atol=bound)


V4_MODULES = [{}, {"remove_center": True}, {"offset_scale": 0.5, "dw_kernel_size": 3}]


@V4
@pytest.mark.parametrize("theirs", V4_MODULES)
def test_dcnv4(theirs):
    """The module around the definition of its core."""
    module = authors.modules_v4().DCNv4.DCNv4(channels=48, group=3, **theirs)
    ours = {"depthwise_kernel_size": None, "normalize_features": False, "softmax": False}
    if "dw_kernel_size" in theirs:
        ours["depthwise_kernel_size"] = theirs["dw_kernel_size"]

    def function(x):
        n, h, w, channels = x.shape
        return module(x.reshape(n, h * w, channels), shape=(h, w)).reshape(x.shape)

    check_layer(module, theirs, ours, function)


def check_layer(module, theirs, ours, function):
    """A layer with the weights of a module gives what the module does: the input and the layer."""
    shared = ("offset_scale", "remove_center", "center_feature_scale")
    ours = {**ours, **{name: theirs[name] for name in shared if name in theirs}}
    torch.manual_seed(0)
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    x = torch.randn(2, 9, 7, module.channels)
    with torch.no_grad():
        expected = function(x).numpy()
    layer = DeformableAggregation2D(
        theirs.get("kernel_size", 3), groups=module.group, name="dcn", **ours
    )
    model = keras.Sequential([keras.Input(tuple(x.shape[1:])), layer])
    state = {f"dcn.{key}": value for key, value in module.state_dict().items()}
    report = load_torch_weights(model, state)
    assert not report.missing and not report.unused
    bound = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(model(x.numpy()), expected, rtol=0, atol=bound)
    return x, layer
