"""ResNet-50, and the networks that share its plan: with squeeze-and-excitation, deformable."""

from __future__ import annotations

import functools
from typing import Any

from tfconv.blocks.convolution import conv_norm, max_pool
from tfconv.blocks.residual import bottleneck, convolution, deformable
from tfconv.models.network import network, stages

WIDTHS, DEPTHS, STRIDES = (64, 128, 256, 512), (3, 4, 6, 3), (1, 2, 2, 2)


def _stem(x: Any, names: tuple[str, str] = ("conv1", "bn1"), *, ceil: bool = False) -> Any:
    return max_pool(conv_norm(x, 64, 7, 2, names=names), ceil=ceil)


@network()
def ResNet50(x):
    """ResNet-50 with the strides in its 3x3 convolutions (version 1.5), as torchvision has it.

    25,557,032 parameters, 4.09 G multiply-adds at 224 x 224.

    Args:
        {common}

    Source: He et al., Deep Residual Learning, arXiv:1512.03385. Weights: torchvision or timm
    ``resnet50``.

    Example:
        >>> model = tfconv.models.ResNet50(include_top=False, input_shape=(64, 64, 3))
        >>> tuple(model.output_shape)
        (None, 2, 2, 2048)
    """
    return stages(_stem(x), bottleneck, WIDTHS, DEPTHS, STRIDES)


@network(classifier="last_linear")
def SEResNet50(x):
    """SE-ResNet-50: ResNet-50 with squeeze-and-excitation in every block, as in Caffe.

    28,088,024 parameters, 3.86 G multiply-adds at 224 x 224. The first convolution of a block
    has the strides.

    Args:
        {common}

    Source: Hu et al., Squeeze-and-Excitation Networks, arXiv:1709.01507. Weights: timm
    ``legacy_seresnet50``.

    Example:
        >>> model = tfconv.models.SEResNet50(include_top=False, input_shape=(64, 64, 3))
        >>> tuple(model.output_shape)
        (None, 2, 2, 2048)
    """
    x = _stem(x, ("layer0.conv1", "layer0.bn1"), ceil=True)
    block = functools.partial(bottleneck, reduction_ratio=16, stride_first=True)
    return stages(x, block, WIDTHS, DEPTHS, STRIDES)


@network()
def DeformableResNet50(x, *, modulated: bool = True, offset_groups: int = 1, mask_scale: float = 1):
    """ResNet-50 whose last three stages have deformable 3x3 convolutions, as mmcv has it.

    A 3x3 convolution of C channels at H x W outputs gains ``9 C (3 offset_groups 9) + 3
    offset_groups 9`` parameters (2 in the place of 3 if not modulated), and ``H W 9 C (3
    offset_groups 9)`` multiply-adds.

    Args:
        modulated: True for version 2 of the deformable convolution, with a mask.
        offset_groups: Groups of channels that have offsets of their own.
        mask_scale: Factor of the masks: 1 as in mmcv; with 2, a network that
            `tfconv.surgery.load_torch_weights` fills with the weights of `ResNet50` gives the same
            as it before training.
        {common}

    Source: Zhu et al., Deformable ConvNets v2, arXiv:1811.11168, section 3.1. Weights: mmcv's
    ``ResNet`` with ``dcn`` in ``stage_with_dcn=(False, True, True, True)``.

    Example:
        >>> model = tfconv.models.DeformableResNet50(include_top=False, input_shape=(64, 64, 3))
        >>> tuple(model.output_shape)
        (None, 2, 2, 2048)
    """

    moving = functools.partial(
        deformable, modulated=modulated, offset_groups=offset_groups, mask_scale=mask_scale
    )

    def block(x, filters, strides, *, name):
        middle = convolution if name.startswith("layer1.") else moving
        return bottleneck(x, filters, strides, middle=middle, name=name)

    return stages(_stem(x), block, WIDTHS, DEPTHS, STRIDES)
