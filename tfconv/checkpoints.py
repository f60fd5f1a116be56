"""Public checkpoints of the networks in `tfconv.models`: where they are and what they want.

It is read without TensorFlow, by the command line as well. What is fetched and how is in
`tfconv.models.hub`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

IMAGENET = "imagenet"
STATISTICS = {  # mean and standard deviation of values from 0 to 1, by the mode of preprocessing
    "torch": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "tf": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
IN_TRAINING = ("drop_path_rate",)  # arguments that no checkpoint depends on


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Weights that somebody published, trained on ImageNet's 1,000 classes.

    Attributes:
        name: What `weights` calls it; "imagenet" is the first one that fits the network.
        network: The function of `tfconv.models` that it is for.
        address: Where it is published.
        licence: What the place says, or None where it says nothing.
        top1: Accuracy on ImageNet's validation images, in percent, as the place has it.
        file: Its name there.
        repository: That on the Hugging Face hub; None where it has to be downloaded by hand.
        mode: That of `tfconv.models.preprocess_input`.
        size: Height and width of an image.
        crop: Fraction of the shorter side that the middle of an image is cut out with.
        interpolation: How images are resized.
        arguments: The network's own arguments that it needs; ``convention`` by its attributes.
    """

    name: str
    network: str
    address: str
    licence: str | None
    top1: float
    file: str = "model.safetensors"
    repository: str | None = None
    mode: str = "torch"
    size: int = 224
    crop: float = 0.875
    interpolation: str = "bicubic"
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def local_name(self) -> str:
        """What the file is called in a folder of weights that were fetched by hand."""
        return self.name + self.file[self.file.rindex(".") :]

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean of each colour, of values from 0 to 1."""
        return STATISTICS[self.mode][0]

    @property
    def std(self) -> tuple[float, ...]:
        """The standard deviation of each colour, of values from 0 to 1."""
        return STATISTICS[self.mode][1]


def _timm(
    name: str, network: str, top1: float, *, licence: str = "Apache-2.0", **more: Any
) -> Checkpoint:
    """One of those that timm has on the hub, in a repository of its own."""
    repository = f"timm/{name}"
    address = f"https://huggingface.co/{repository}"
    return Checkpoint(name, network, address, licence, top1, repository=repository, **more)


def _hub(repository: str, name: str, network: str, top1: float, licence: str | None) -> Checkpoint:
    """One of several in a repository of the hub."""
    address = f"https://huggingface.co/{repository}"
    file = f"{name}.pth"
    return Checkpoint(name, network, address, licence, top1, file, repository)


def _rednet(depth: int, top1: float) -> Checkpoint:
    address = "https://github.com/d-li14/involution"  # its table has the links
    name = f"rednet{depth}"
    return Checkpoint(
        name, f"RedNet{depth}", address, "MIT", top1, f"{name}.pth", interpolation="bilinear"
    )


def _elsewhere(
    name: str, network: str, top1: float, address: str, licence: str, **more: Any
) -> Checkpoint:
    file = address.rpartition("/")[2]
    return Checkpoint(name, network, address, licence, top1, file, **more)


_TF = {"convention": {"padding": "same", "epsilon": 1e-3}}
_TORCH = "https://download.pytorch.org/models"
_CADENE = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-cadene"
_DEEP, _BILINEAR = {"mode": "tf"}, {"interpolation": "bilinear"}

# Of each network the one that "imagenet" takes comes first. Accuracies: timm's results on
# ImageNet, the authors' tables, torchvision's documentation.
CHECKPOINTS = (
    _rednet(26, 75.96),
    _rednet(38, 77.48),
    _rednet(50, 78.35),
    _rednet(101, 78.92),
    _rednet(152, 79.12),
    _hub("OpenGVLab/InternImage", "internimage_t_1k_224", "InternImageT", 83.5, "MIT"),
    _hub("OpenGVLab/InternImage", "internimage_s_1k_224", "InternImageS", 84.2, "MIT"),
    _hub("OpenGVLab/InternImage", "internimage_b_1k_224", "InternImageB", 84.9, "MIT"),
    _hub("OpenGVLab/DCNv4", "flash_intern_image_t_1k_224", "FlashInternImageT", 83.6, None),
    _hub("OpenGVLab/DCNv4", "flash_intern_image_s_1k_224", "FlashInternImageS", 84.4, None),
    _hub("OpenGVLab/DCNv4", "flash_intern_image_b_1k_224", "FlashInternImageB", 84.9, None),
    _timm("resnet50.a1_in1k", "ResNet50", 80.38, crop=0.95),
    _timm("resnet50.tv_in1k", "ResNet50", 76.16, licence="BSD-3-Clause", **_BILINEAR),
    _elsewhere(
        "legacy_seresnet50",
        "SEResNet50",
        77.65,
        f"{_CADENE}/se_resnet50-ce0d4300.pth",
        "Apache-2.0",
        **_BILINEAR,
    ),
    _timm("mobilenetv1_100.ra4_e3600_r224_in1k", "MobileNetV1", 75.39, **_DEEP),
    _timm("mobilenetv2_100.ra_in1k", "MobileNetV2", 72.91),
    _timm("mobilenetv2_050.lamb_in1k", "MobileNetV2", 65.93, arguments={"width": 0.5}),
    _timm("mobilenetv2_140.ra_in1k", "MobileNetV2", 76.53, arguments={"width": 1.4}),
    _timm("mobilenetv3_large_100.ra_in1k", "MobileNetV3Large", 75.78),
    _timm(
        "tf_mobilenetv3_large_100.in1k",
        "MobileNetV3Large",
        75.51,
        arguments=_TF,
        **_DEEP,
        **_BILINEAR,
    ),
    _timm(
        "tf_mobilenetv3_large_075.in1k",
        "MobileNetV3Large",
        73.44,
        arguments={"width": 0.75, **_TF},
        **_DEEP,
        **_BILINEAR,
    ),
    _timm("mobilenetv3_small_100.lamb_in1k", "MobileNetV3Small", 67.64),
    _timm("mobilenetv3_small_075.lamb_in1k", "MobileNetV3Small", 65.28, arguments={"width": 0.75}),
    _timm("mobilenetv3_small_050.lamb_in1k", "MobileNetV3Small", 57.92, arguments={"width": 0.5}),
    _timm(
        "tf_mobilenetv3_small_100.in1k",
        "MobileNetV3Small",
        67.92,
        arguments=_TF,
        **_DEEP,
        **_BILINEAR,
    ),
    _timm(
        "tf_mobilenetv3_small_075.in1k",
        "MobileNetV3Small",
        65.71,
        arguments={"width": 0.75, **_TF},
        **_DEEP,
        **_BILINEAR,
    ),
    _timm("tf_efficientnet_cc_b0_8e.in1k", "CondConvEfficientNetB0", 77.96, **_DEEP),
    _timm(
        "tf_efficientnet_cc_b0_4e.in1k",
        "CondConvEfficientNetB0",
        77.32,
        arguments={"num_experts": 4},
        **_DEEP,
    ),
    _timm(
        "tf_efficientnet_cc_b1_8e.in1k",
        "CondConvEfficientNetB1",
        79.32,
        size=240,
        crop=0.882,
        **_DEEP,
    ),
    _elsewhere(
        "shufflenet_v2_x1_0",
        "ShuffleNetV2",
        69.36,
        f"{_TORCH}/shufflenetv2_x1-5666bf0f80.pth",
        "BSD-3-Clause",
        **_BILINEAR,
    ),
    _elsewhere(
        "shufflenet_v2_x0_5",
        "ShuffleNetV2",
        60.55,
        f"{_TORCH}/shufflenetv2_x0.5-f707e7126e.pth",
        "BSD-3-Clause",
        arguments={"width": 0.5},
        **_BILINEAR,
    ),
    _elsewhere(
        "shufflenet_v2_x1_5",
        "ShuffleNetV2",
        73.0,
        f"{_TORCH}/shufflenetv2_x1_5-3c479a10.pth",
        "BSD-3-Clause",
        crop=0.965,
        arguments={"width": 1.5},
        **_BILINEAR,
    ),
    _elsewhere(
        "shufflenet_v2_x2_0",
        "ShuffleNetV2",
        76.23,
        f"{_TORCH}/shufflenetv2_x2_0-8be3c8ee.pth",
        "BSD-3-Clause",
        crop=0.965,
        arguments={"width": 2.0},
        **_BILINEAR,
    ),
    _elsewhere(
        "googlenet",
        "GoogLeNet",
        69.78,
        f"{_TORCH}/googlenet-1378be20.pth",
        "BSD-3-Clause",
        **_DEEP,
        **_BILINEAR,
    ),
    _elsewhere(
        "legacy_xception",
        "Xception",
        79.06,
        f"{_CADENE}/xception-43020ad28.pth",
        "Apache-2.0",
        size=299,
        crop=0.8975,
        **_DEEP,
    ),
)


def checkpoints(network: str | None = None) -> list[Checkpoint]:
    """The public checkpoints that `weights` knows by name.

    Args:
        network: A function of `tfconv.models`, by its name; None for all.

    Example:
        >>> [each.name for each in tfconv.models.checkpoints("CondConvEfficientNetB0")]
        ['tf_efficientnet_cc_b0_8e.in1k', 'tf_efficientnet_cc_b0_4e.in1k']
    """
    return [each for each in CHECKPOINTS if network in (None, each.network)]
