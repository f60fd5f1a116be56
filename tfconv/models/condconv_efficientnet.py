"""EfficientNets whose last blocks have CondConv."""

from __future__ import annotations

import math
from typing import Any

from tfconv.blocks.convolution import Convention, channels_of, conv_norm
from tfconv.blocks.mobile import depthwise_separable, inverted_residual
from tfconv.layers.arguments import positive_int
from tfconv.models.network import network

TENSORFLOW = Convention("same", epsilon=1e-3)

# Of every stage after the first: blocks, kernel size, strides, channels, whether with experts.
STAGES = [
    (2, 3, 2, 24, False),
    (2, 5, 2, 40, False),
    (3, 3, 2, 80, False),
    (3, 5, 1, 112, True),
    (4, 5, 2, 192, True),
    (1, 3, 1, 320, True),
]


def _features(x: Any, depth: float, num_experts: int, convention: Convention) -> Any:
    """The plan of EfficientNet-B0 with ``depth`` times as many blocks in every stage."""
    num_experts = positive_int(num_experts, "num_experts")
    shared = {"activation": "swish", "convention": convention}
    x = conv_norm(x, 32, 3, 2, names=("conv_stem", "bn1"), **shared)
    for number in range(math.ceil(depth)):
        x = depthwise_separable(
            x,
            16,
            squeeze_excite=_squeeze(x),
            residual=True,
            name=f"blocks.0.{number}",
            **shared,
        )
    for stage, (blocks, size, strides, filters, experts) in enumerate(STAGES, 1):
        for number in range(math.ceil(blocks * depth)):
            x = inverted_residual(
                x,
                filters,
                6 * channels_of(x),
                size,
                1 if number else strides,
                squeeze_excite=_squeeze(x),
                num_experts=num_experts if experts else None,
                name=f"blocks.{stage}.{number}",
                **shared,
            )
    return conv_norm(x, 1280, names=("conv_head", "bn2"), **shared)


def _squeeze(x: Any) -> dict[str, Any]:
    """Squeeze-and-excitation to a quarter of a block's input."""
    return {"squeeze_channels": max(1, channels_of(x) // 4), "activation": "swish"}


@network(classifier="classifier", dropout=0.25, normalization="tf")
def CondConvEfficientNetB0(x, *, num_experts: int = 8, convention: Convention = TENSORFLOW):
    """EfficientNet-B0 with CondConv in its last three stages.

    24,013,284 parameters and 407.2 M multiply-adds at 224 x 224 with 8 experts; 13,314,116 and
    396.5 M with 4.

    Args:
        num_experts: Experts of each convolution in the last three stages.
        convention: Padding and epsilon, which follow where the weights come from.
        {common}

    Source: Yang et al., CondConv, arXiv:1904.04971, section 4.1. Weights: timm
    ``tf_efficientnet_cc_b0_8e`` and ``tf_efficientnet_cc_b0_4e``.

    Example:
        >>> model = tfconv.models.CondConvEfficientNetB0(num_experts=2, include_top=False)
        >>> tuple(model.output_shape)
        (None, 7, 7, 1280)
    """
    return _features(x, 1.0, num_experts, convention)


@network(size=240, classifier="classifier", dropout=0.25, normalization="tf")
def CondConvEfficientNetB1(x, *, num_experts: int = 8, convention: Convention = TENSORFLOW):
    """EfficientNet-B1 with CondConv in its last three stages.

    39,715,968 parameters and 723.3 M multiply-adds at 240 x 240 with 8 experts.

    Args:
        num_experts: Experts of each convolution in the last three stages.
        convention: Padding and epsilon, which follow where the weights come from.
        {common}

    Source: Yang et al., CondConv, arXiv:1904.04971, section 4.1. Weights: timm
    ``tf_efficientnet_cc_b1_8e``.

    Example:
        >>> model = tfconv.models.CondConvEfficientNetB1(num_experts=2, include_top=False)
        >>> tuple(model.output_shape)
        (None, 8, 8, 1280)
    """
    return _features(x, 1.1, num_experts, convention)
