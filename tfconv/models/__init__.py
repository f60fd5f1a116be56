"""Networks, with the signatures of `keras.applications` and the weights of public checkpoints."""

from tfconv.checkpoints import checkpoints
from tfconv.models.condconv_efficientnet import CondConvEfficientNetB0, CondConvEfficientNetB1
from tfconv.models.inception import GoogLeNet, Xception
from tfconv.models.intern_image import (
    FlashInternImageB,
    FlashInternImageS,
    FlashInternImageT,
    InternImageB,
    InternImageS,
    InternImageT,
)
from tfconv.models.mobilenet import (
    MobileNetV1,
    MobileNetV2,
    MobileNetV3Large,
    MobileNetV3Small,
)
from tfconv.models.preprocessing import decode_predictions, preprocess_input
from tfconv.models.rednet import RedNet26, RedNet38, RedNet50, RedNet101, RedNet152
from tfconv.models.resnet import DeformableResNet50, ResNet50, SEResNet50
from tfconv.models.shufflenet import ShuffleNetV1, ShuffleNetV2

__all__ = [
    "CondConvEfficientNetB0",
    "CondConvEfficientNetB1",
    "DeformableResNet50",
    "FlashInternImageB",
    "FlashInternImageS",
    "FlashInternImageT",
    "GoogLeNet",
    "InternImageB",
    "InternImageS",
    "InternImageT",
    "MobileNetV1",
    "MobileNetV2",
    "MobileNetV3Large",
    "MobileNetV3Small",
    "RedNet101",
    "RedNet152",
    "RedNet26",
    "RedNet38",
    "RedNet50",
    "ResNet50",
    "SEResNet50",
    "ShuffleNetV1",
    "ShuffleNetV2",
    "Xception",
    "checkpoints",
    "decode_predictions",
    "preprocess_input",
]
