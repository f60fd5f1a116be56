"""What the layers of `tfconv.models` are called in the checkpoints of different places.

The layers have the names of the modules in one public checkpoint of their network: timm's for the
MobileNets and CondConv-EfficientNets. torchvision's names for the MobileNets count the modules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping


@dataclasses.dataclass(frozen=True)
class Origin:
    """A place that checkpoints are from.

    Attributes:
        place: Its name.
        names: Its names of layers, where they differ from ours.
        epsilon: The epsilon of its batch normalizations, where it differs from ours.
    """

    place: str
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    epsilon: float | None = None

    def of(self, layer: str) -> str:
        """The place's name of a layer."""
        return self.names.get(layer, layer)


def origins(layers: list[str]) -> Iterator[Origin]:
    """The places that checkpoints for layers of these names may be from."""
    yield Origin("the layers")
    if "conv_stem" in layers and any(layer.endswith(".se") for layer in layers):
        yield Origin("torchvision's MobileNetV3", _mobilenet_v3(layers), 1e-3)
    elif "conv_stem" in layers:
        yield Origin("torchvision's MobileNetV2", _mobilenet_v2(layers))


def _blocks(layers: list[str]) -> Iterator[tuple[str, list[str]]]:
    """torchvision's name and our layers' names of every block, in order."""
    blocks: dict[str, list[str]] = {}
    for layer in layers:
        block, _, part = layer.rpartition(".")
        if block.startswith("blocks."):
            blocks.setdefault(block, []).append(part)
    for number, (block, parts) in enumerate(blocks.items(), 1):
        yield f"features.{number}", [f"{block}.{part}" for part in parts]


def _mobilenet_v2(layers: list[str]) -> dict[str, str]:
    names = {"conv_stem": "features.0.0", "bn1": "features.0.1", "classifier": "classifier.1"}
    blocks = list(_blocks(layers))
    for block, parts in blocks:
        pairs = len(parts) // 2 - 1  # a convolution and its normalization; the last are not in one
        for number, part in enumerate(parts):
            inside = f"{number // 2}.{number % 2}" if number < 2 * pairs else number - pairs
            names[part] = f"{block}.conv.{inside}"
    last = f"features.{len(blocks) + 1}"
    return {**names, "conv_head": f"{last}.0", "bn2": f"{last}.1"}


def _mobilenet_v3(layers: list[str]) -> dict[str, str]:
    names = {"conv_stem": "features.0.0", "bn1": "features.0.1"}
    for block, parts in _blocks(layers):
        number = -1
        for part in parts:
            kind = part.rpartition(".")[2]
            number += not kind.startswith("bn")
            end = "" if kind == "se" else f".{int(kind.startswith('bn'))}"
            names[part] = f"{block}.block.{number}{end}" if len(parts) > 2 else f"{block}{end}"
    return {**names, "conv_head": "classifier.0", "classifier": "classifier.3"}
