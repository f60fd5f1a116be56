"""MobileNet v1, v2 and v3, with width multipliers."""

from __future__ import annotations

import functools
from typing import Any

from tfconv._compat import keras
from tfconv.blocks.convolution import (
    PYTORCH,
    Convention,
    activated,
    channels_of,
    conv_norm,
    hard_sigmoid,
    hard_swish,
)
from tfconv.blocks.mobile import depthwise_separable, divisible, inverted_residual
from tfconv.layers.arguments import positive_number
from tfconv.models.network import network


@network(classifier="classifier", normalization="tf")
def MobileNetV1(x, *, width: float = 1.0, convention: Convention = PYTORCH):
    """MobileNet v1: depthwise separable convolutions only.

    4,231,976 parameters, 568.7 M multiply-adds at 224 x 224. For the resolution multiplier, give
    an `input_shape`.

    Args:
        width: Factor of all channels, rounded to multiples of 8.
        convention: Padding and epsilon, which follow where the weights come from.
        {common}

    Source: Howard et al., MobileNets, arXiv:1704.04861, table 1. Weights: timm
    ``mobilenetv1_100``.

    Example:
        >>> model = tfconv.models.MobileNetV1(width=0.25, include_top=False, pooling="avg")
        >>> tuple(model.output_shape)
        (None, 256)
    """
    positive_number(width, "width")
    x = _stem(x, 32 * width, "relu6", convention)
    stages = ([64], [128] * 2, [256] * 2, [512] * 6, [1024] * 2)
    for stage, widths in enumerate(stages):
        for number, filters in enumerate(widths):
            x = depthwise_separable(
                x,
                divisible(filters * width),
                strides=2 if stage and not number else 1,
                last_activation="relu6",
                convention=convention,
                name=f"blocks.{stage}.{number}",
            )
    return x


@network(classifier="classifier", dropout=0.2)
def MobileNetV2(x, *, width: float = 1.0, convention: Convention = PYTORCH):
    """MobileNet v2: inverted residuals with linear bottlenecks.

    3,504,872 parameters, 300.8 M multiply-adds at 224 x 224. For the resolution multiplier, give
    an `input_shape`.

    Args:
        width: Factor of all channels, rounded to multiples of 8; the last ones grow only.
        convention: Padding and epsilon, which follow where the weights come from.
        {common}

    Source: Sandler et al., MobileNetV2, arXiv:1801.04381, table 2. Weights: torchvision
    ``mobilenet_v2``, timm ``mobilenetv2_100``.

    Example:
        >>> model = tfconv.models.MobileNetV2(width=0.35, include_top=False, pooling="avg")
        >>> tuple(model.output_shape)
        (None, 1280)
    """
    positive_number(width, "width")
    x = _stem(x, 32 * width, "relu6", convention)
    x = depthwise_separable(x, divisible(16 * width), convention=convention, name="blocks.0.0")
    rows = [(2, 24, 2), (3, 32, 2), (4, 64, 2), (3, 96, 1), (3, 160, 2), (1, 320, 1)]
    for stage, (depth, filters, strides) in enumerate(rows, 1):
        for number in range(depth):
            x = inverted_residual(
                x,
                divisible(filters * width),
                6 * channels_of(x),
                strides=1 if number else strides,
                convention=convention,
                name=f"blocks.{stage}.{number}",
            )
    last = divisible(1280 * max(1.0, width))
    return conv_norm(x, last, activation="relu6", convention=convention, names=("conv_head", "bn2"))


def _stem(x: Any, filters: float, activation: Any, convention: Convention) -> Any:
    """The strided convolution before the blocks."""
    return conv_norm(
        x,
        divisible(filters),
        3,
        2,
        activation=activation,
        convention=convention,
        names=("conv_stem", "bn1"),
    )


# Of every stage the blocks: kernel size, strides, expansion, channels, and whether they have
# squeeze-and-excitation and the hard swish. Expansion 1: depthwise separable.
LARGE = [
    [(3, 1, 1, 16, False, False)],
    [(3, 2, 4, 24, False, False), (3, 1, 3, 24, False, False)],
    [(5, 2, 3, 40, True, False), (5, 1, 3, 40, True, False), (5, 1, 3, 40, True, False)],
    [
        (3, 2, 6, 80, False, True),
        (3, 1, 2.5, 80, False, True),
        (3, 1, 2.3, 80, False, True),
        (3, 1, 2.3, 80, False, True),
    ],
    [(3, 1, 6, 112, True, True), (3, 1, 6, 112, True, True)],
    [(5, 2, 6, 160, True, True), (5, 1, 6, 160, True, True), (5, 1, 6, 160, True, True)],
]
SMALL = [
    [(3, 2, 1, 16, True, False)],
    [(3, 2, 4.5, 24, False, False), (3, 1, 3.67, 24, False, False)],
    [(5, 2, 4, 40, True, True), (5, 1, 6, 40, True, True), (5, 1, 6, 40, True, True)],
    [(5, 1, 3, 48, True, True), (5, 1, 3, 48, True, True)],
    [(5, 2, 6, 96, True, True), (5, 1, 6, 96, True, True), (5, 1, 6, 96, True, True)],
]


def _v3_features(x: Any, stages: list, last: int, width: float, convention: Convention) -> Any:
    positive_number(width, "width")
    x = _stem(x, 16 * width if width >= 0.75 else 16, hard_swish, convention)
    for stage, rows in enumerate(stages):
        for number, (size, strides, expansion, filters, squeezed, hard) in enumerate(rows):
            expanded = divisible(expansion * channels_of(x))
            shared = {
                "activation": hard_swish if hard else "relu",
                "squeeze_excite": _squeeze(expanded) if squeezed else None,
                "convention": convention,
                "name": f"blocks.{stage}.{number}",
            }
            filters = divisible(filters * width)
            if expansion == 1:
                x = depthwise_separable(x, filters, size, strides, residual=True, **shared)
            else:
                x = inverted_residual(x, filters, expanded, size, strides, **shared)
    name = f"blocks.{len(stages)}.0"
    names = (f"{name}.conv", f"{name}.bn1")
    last = divisible(last * width)
    return conv_norm(x, last, activation=hard_swish, convention=convention, names=names)


def _squeeze(channels: int) -> dict[str, Any]:
    return {"squeeze_channels": divisible(channels / 4), "gate_activation": hard_sigmoid}


def _v3_head(units: int, x: Any, width: float, convention: Convention) -> Any:
    units = divisible(units * max(1.0, width))
    return activated(keras.layers.Dense(units, name="conv_head")(x), hard_swish)


@network(classifier="classifier", dropout=0.2, head=functools.partial(_v3_head, 1280))
def MobileNetV3Large(x, *, width: float = 1.0, convention: Convention = PYTORCH):
    """MobileNet v3, large: inverted residuals with squeeze-and-excitation and hard swish.

    5,483,032 parameters, 216.6 M multiply-adds at 224 x 224.

    Args:
        width: Factor of all channels, rounded to multiples of 8; those of the dense layer grow
            only, and below 0.75 the first convolution keeps its 16.
        convention: Padding and epsilon, which follow where the weights come from: torchvision's
            need ``Convention(epsilon=1e-3)``, those that timm has from TensorFlow
            ``Convention("same", epsilon=1e-3)``.
        {common}

    Weights that timm has from TensorFlow want ``preprocess_input(x, mode="tf")``.

    Source: Howard et al., Searching for MobileNetV3, arXiv:1905.02244, table 1. Weights: timm
    ``mobilenetv3_large_100`` and ``tf_mobilenetv3_large_100``, torchvision
    ``mobilenet_v3_large``.

    Example:
        >>> model = tfconv.models.MobileNetV3Large(include_top=False, pooling="avg")
        >>> tuple(model.output_shape)
        (None, 960)
    """
    return _v3_features(x, LARGE, 960, width, convention)


@network(classifier="classifier", dropout=0.2, head=functools.partial(_v3_head, 1024))
def MobileNetV3Small(x, *, width: float = 1.0, convention: Convention = PYTORCH):
    """MobileNet v3, small: inverted residuals with squeeze-and-excitation and hard swish.

    2,542,856 parameters, 56.5 M multiply-adds at 224 x 224.

    Args:
        width: Factor of all channels, rounded to multiples of 8; those of the dense layer grow
            only, and below 0.75 the first convolution keeps its 16.
        convention: Padding and epsilon, which follow where the weights come from: torchvision's
            need ``Convention(epsilon=1e-3)``, those that timm has from TensorFlow
            ``Convention("same", epsilon=1e-3)``.
        {common}

    Weights that timm has from TensorFlow want ``preprocess_input(x, mode="tf")``.

    Source: Howard et al., Searching for MobileNetV3, arXiv:1905.02244, table 2. Weights: timm
    ``mobilenetv3_small_100`` and ``tf_mobilenetv3_small_100``, torchvision
    ``mobilenet_v3_small``.

    Example:
        >>> model = tfconv.models.MobileNetV3Small(include_top=False, pooling="avg")
        >>> tuple(model.output_shape)
        (None, 576)
    """
    return _v3_features(x, SMALL, 576, width, convention)
