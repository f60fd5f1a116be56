"""Every network: its parameters, its multiply-adds, and the logits that its peer gives.

Each is built once. Where the analysis of tfconv counts products by what runs, here they are
counted by the shapes of the weights.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import tfconv
import tfconv.models
from tests.parity.cases import CASES, network
from tests.parity.recorded import record
from tests.parity.weights import random_image, random_weights
from tfconv import _compat
from tfconv._compat import keras
from tfconv.layers.deformable_aggregation import DeformableAggregation
from tfconv.layers.experts import Experts
from tfconv.layers.involution import Involution
from tfconv.surgery import load_torch_weights

# Trainable parameters, and multiply-adds of one image.
COSTS = {
    "rednet26": (9_233_166, 1.69e9),
    "rednet38": (12_386_986, 2.17e9),
    "rednet50": (15_540_806, 2.65e9),
    "rednet101": (25_652_950, 4.66e9),
    "rednet152": (33_984_582, 6.68e9),
    "internimage_t": (29_918_424, 4.81e9),
    "internimage_s": (50_079_880, 8.20e9),
    "internimage_b": (97_461_832, 16.03e9),
    "flash_internimage_t": (29_814_488, 4.79e9),
    "flash_internimage_s": (50_038_920, 8.20e9),
    "flash_internimage_b": (97_404_488, 16.03e9),
    "resnet50": (25_557_032, 4.09e9),
    "legacy_seresnet50": (28_088_024, 3.86e9),
    "mobilenetv1_100": (4_231_976, 568.7e6),
    "mobilenetv2_100": (3_504_872, 300.8e6),
    "mobilenet_v2": (3_504_872, 300.8e6),
    "mobilenetv2_050": (1_968_680, 97.1e6),
    "mobilenetv3_large_100": (5_483_032, 216.6e6),
    "mobilenet_v3_large": (5_483_032, 216.6e6),
    "mobilenetv3_small_100": (2_542_856, 56.5e6),
    "tf_mobilenetv3_small_100": (2_542_856, 56.5e6),
    "mobilenet_v3_small": (2_542_856, 56.5e6),
    "mobilenetv3_small_075": (2_041_872, 43.4e6),
    "tf_efficientnet_cc_b0_4e": (13_314_116, 396.5e6),
    "tf_efficientnet_cc_b0_8e": (24_013_284, 407.2e6),
    "tf_efficientnet_cc_b1_8e": (39_715_968, 723.3e6),
    "shufflenet_v1_g3": (1_864_728, 137.5e6),
    "shufflenet_v1_g8": (2_433_768, 138.4e6),
    "shufflenet_v2_x1_0": (2_278_604, 144.9e6),
    "shufflenet_v2_x0_5": (1_366_792, 40.5e6),
    "legacy_xception": (22_855_952, 8.36e9),
    "googlenet": (6_624_904, 1.50e9),
}
WITHOUT_PEER = {"rednet38": "RedNet38", "rednet101": "RedNet101", "rednet152": "RedNet152"}


# What is left out under Keras 2 shares all its code with what is here.
ONE_OF_A_KIND = """rednet26 deformable_resnet50 legacy_seresnet50 mobilenetv1_100 mobilenet_v2
    tf_mobilenetv3_small_100 tf_efficientnet_cc_b0_4e shufflenet_v1_g3 shufflenet_v2_x0_5
    legacy_xception googlenet""".split()
NAMES = [*CASES, *WITHOUT_PEER] if _compat.KERAS_3 else ONE_OF_A_KIND


def deformable_costs(modulated):
    """ResNet-50's costs and those of 27 or 18 offset filters in three stages."""
    made = 27 if modulated else 18
    stages = [(4, 128, 28), (6, 256, 14), (3, 512, 7)]  # blocks, channels, pixels along an axis
    more = [(n * (9 * c + 1) * made, n * 9 * c * made * size**2) for n, c, size in stages]
    plain, products = COSTS["resnet50"]
    return plain + sum(p for p, _ in more), products + sum(m for _, m in more)


COSTS["deformable_resnet50"] = deformable_costs(True)
COSTS["deformable_resnet50_v1"] = deformable_costs(False)


@pytest.fixture
def precision(name):
    """Networks in which float32's own rounding adds up to the bound are computed in float64."""
    before = keras.mixed_precision.global_policy()
    policy = "float64" if "_cc_" in name else "float32"
    keras.mixed_precision.set_global_policy(policy)
    yield policy
    keras.mixed_precision.set_global_policy(before)


@pytest.mark.dear
@pytest.mark.parametrize("name", NAMES)
def test_network(name, precision):
    """Its costs, and the logits of the peer with the same weights, at the full size."""
    if name in WITHOUT_PEER:
        model = getattr(tfconv.models, WITHOUT_PEER[name])()
    else:
        model = network(name)
    parameters, products = COSTS[name]
    assert sum(math.prod(variable.shape) for variable in model.trainable_weights) == parameters
    assert sum(map(multiply_adds, model.layers)) == pytest.approx(products, rel=0.01)
    if name in WITHOUT_PEER:
        return
    recorded = record(name)
    report = load_torch_weights(model, random_weights(recorded.shapes, recorded.gain))
    assert not report.missing and not report.unused
    image = random_image(model.input_shape[1]).astype(precision)
    difference = np.abs(model(image, training=False)[0] - recorded.logits)
    # More than what is promised, so that also weights that matter little are seen.
    assert difference.max() <= 1e-5 * np.abs(recorded.logits).max()


def multiply_adds(layer):
    """Products of a layer of a network for one image."""
    if isinstance(layer, keras.layers.BatchNormalization):
        return 0
    positions = math.prod(layer.output.shape[1:-1]) if layer.weights else 0
    if isinstance(layer, tfconv.SqueezeExcite):
        positions = 1
    total = positions * sum(math.prod(w.shape) for w in layer.trainable_weights if kernel(w))
    if isinstance(layer, (Involution, DeformableAggregation)):
        total += positions * layer.geometry.taps * layer.output.shape[-1]
    if isinstance(layer, Experts):  # one kernel is used; all are mixed
        mixed = math.prod(layer.kernel.shape)
        total = positions * mixed // layer.num_experts + mixed
    return total


def kernel(variable):
    return len(variable.shape) > 1
