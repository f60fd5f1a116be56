"""The networks that have a peer, by the peer's name."""

from __future__ import annotations

import tfconv.models
from tfconv._compat import keras
from tfconv.blocks import Convention

PYTORCH, TENSORFLOW = Convention(epsilon=1e-3), Convention("same", epsilon=1e-3)
# The network and its own arguments.
CASES = {
    "rednet26": ("RedNet26", {}),
    "rednet50": ("RedNet50", {}),
    "internimage_t": ("InternImageT", {}),
    "internimage_s": ("InternImageS", {}),
    "internimage_b": ("InternImageB", {}),
    "flash_internimage_t": ("FlashInternImageT", {}),
    "flash_internimage_s": ("FlashInternImageS", {}),
    "flash_internimage_b": ("FlashInternImageB", {}),
    "resnet50": ("ResNet50", {}),
    "legacy_seresnet50": ("SEResNet50", {}),
    "deformable_resnet50": ("DeformableResNet50", {}),
    "deformable_resnet50_v1": ("DeformableResNet50", {"modulated": False}),
    "mobilenetv1_100": ("MobileNetV1", {}),
    "mobilenetv2_100": ("MobileNetV2", {}),
    "mobilenet_v2": ("MobileNetV2", {}),
    "mobilenetv2_050": ("MobileNetV2", {"width": 0.5}),
    "mobilenetv3_large_100": ("MobileNetV3Large", {}),
    "mobilenet_v3_large": ("MobileNetV3Large", {"convention": PYTORCH}),
    "mobilenetv3_small_100": ("MobileNetV3Small", {}),
    "tf_mobilenetv3_small_100": ("MobileNetV3Small", {"convention": TENSORFLOW}),
    "mobilenetv3_small_075": ("MobileNetV3Small", {"width": 0.75}),
    "mobilenet_v3_small": ("MobileNetV3Small", {"convention": PYTORCH}),
    "tf_efficientnet_cc_b0_4e": ("CondConvEfficientNetB0", {"num_experts": 4}),
    "tf_efficientnet_cc_b0_8e": ("CondConvEfficientNetB0", {}),
    "tf_efficientnet_cc_b1_8e": ("CondConvEfficientNetB1", {}),
    "shufflenet_v1_g3": ("ShuffleNetV1", {}),
    "shufflenet_v1_g8": ("ShuffleNetV1", {"groups": 8}),
    "shufflenet_v2_x1_0": ("ShuffleNetV2", {}),
    "shufflenet_v2_x0_5": ("ShuffleNetV2", {"width": 0.5}),
    "legacy_xception": ("Xception", {}),
    "googlenet": ("GoogLeNet", {}),
}


def network(name: str) -> keras.Model:
    """The network of a case; it gives logits."""
    function, arguments = CASES[name]
    return getattr(tfconv.models, function)(classifier_activation=None, **arguments)
