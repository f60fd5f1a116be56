"""InternImage and FlashInternImage: networks of deformable aggregations, DCNv3 and DCNv4."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfconv.blocks.convolution import activated, conv_norm
from tfconv.blocks.intern_image import intern_image_block, layer_norm
from tfconv.layers import Conv2D
from tfconv.layers.arguments import number
from tfconv.models.network import network

GROUP_CHANNELS = 16


def _features(
    x: Any, channels: int, depths: tuple[int, ...], drop_path_rate: float, **block: Any
) -> Any:
    """A stem of two convolutions, four stages with a strided one between them, and the head."""
    number(drop_path_rate, "drop_path_rate", most=1)
    rates = iter(np.linspace(0, drop_path_rate, sum(depths)).tolist())
    x = _strided(x, channels // 2, "patch_embed.conv1", "patch_embed.norm1.1")
    x = _strided(activated(x, "gelu"), channels, "patch_embed.conv2", "patch_embed.norm2.1")
    for stage, depth in enumerate(depths):
        name, width = f"levels.{stage}", channels * 2**stage
        if stage:
            before = f"levels.{stage - 1}.downsample"
            x = _strided(x, width, f"{before}.conv", f"{before}.norm.1", use_bias=False)
        for place in range(depth):
            x = intern_image_block(
                x,
                width // GROUP_CHANNELS,
                drop_path_rate=next(rates),
                name=f"{name}.blocks.{place}",
                **block,
            )
        if not block.get("post_norm"):
            x = layer_norm(x, f"{name}.norm.0")
    return conv_norm(x, 12 * channels, activation="gelu", names=("conv_head.0", "conv_head.1.0"))


def _strided(x: Any, filters: int, conv: str, norm: str, *, use_bias: bool = True) -> Any:
    return layer_norm(Conv2D(filters, 3, 2, 1, use_bias=use_bias, name=conv)(x), norm)


@network(classifier="head")
def InternImageT(x, *, drop_path_rate: float = 0.1):
    """InternImage-T: 29,918,424 parameters, 4.81 G multiply-adds at 224 x 224.

    Args:
        drop_path_rate: Fraction of the examples that skip a part of the last block in training;
            it grows from block to block.
        {common}

    Source: Wang et al., InternImage, arXiv:2211.05778, table 1. Weights: the authors'
    ``internimage_t_1k_224``.

    Example:
        >>> model = tfconv.models.InternImageT(include_top=False, input_shape=(64, 96, 3))
        >>> tuple(model.output_shape)
        (None, 2, 3, 768)
    """
    return _features(x, 64, (4, 4, 18, 4), drop_path_rate)


@network(classifier="head")
def InternImageS(x, *, drop_path_rate: float = 0.4):
    """InternImage-S: 50,079,880 parameters, 8.20 G multiply-adds at 224 x 224.

    Args:
        drop_path_rate: As of `InternImageT`.
        {common}

    Source: Wang et al., InternImage, arXiv:2211.05778, table 1. Weights: the authors'
    ``internimage_s_1k_224``.
    """
    return _features(x, 80, (4, 4, 21, 4), drop_path_rate, post_norm=True, layer_scale=1e-5)


@network(classifier="head")
def InternImageB(x, *, drop_path_rate: float = 0.5):
    """InternImage-B: 97,461,832 parameters, 16.03 G multiply-adds at 224 x 224.

    Args:
        drop_path_rate: As of `InternImageT`.
        {common}

    Source: Wang et al., InternImage, arXiv:2211.05778, table 1. Weights: the authors'
    ``internimage_b_1k_224``.
    """
    return _features(x, 112, (4, 4, 21, 4), drop_path_rate, post_norm=True, layer_scale=1e-5)


@network(classifier="head")
def FlashInternImageT(x, *, drop_path_rate: float = 0.1):
    """FlashInternImage-T: 29,814,488 parameters, 4.79 G multiply-adds at 224 x 224.

    Args:
        drop_path_rate: As of `InternImageT`.
        {common}

    Source: Xiong et al., Efficient Deformable ConvNets (DCNv4), arXiv:2401.06197, section 4.2.
    Weights: the authors' ``flash_intern_image_t_1k_224``.

    Example:
        >>> model = tfconv.models.FlashInternImageT(include_top=False, input_shape=(64, 96, 3))
        >>> tuple(model.output_shape)
        (None, 2, 3, 768)
    """
    return _features(x, 64, (4, 4, 18, 4), drop_path_rate, flash=True, depthwise_kernel_size=None)


@network(classifier="head")
def FlashInternImageS(x, *, drop_path_rate: float = 0.4):
    """FlashInternImage-S: 50,038,920 parameters, 8.20 G multiply-adds at 224 x 224.

    Args:
        drop_path_rate: As of `InternImageT`.
        {common}

    Source: Xiong et al., Efficient Deformable ConvNets (DCNv4), arXiv:2401.06197, section 4.2.
    Weights: the authors' ``flash_intern_image_s_1k_224``.
    """
    return _features(
        x, 80, (4, 4, 21, 4), drop_path_rate, flash=True, post_norm=True, layer_scale=1e-5
    )


@network(classifier="head")
def FlashInternImageB(x, *, drop_path_rate: float = 0.5):
    """FlashInternImage-B: 97,404,488 parameters, 16.03 G multiply-adds at 224 x 224.

    Args:
        drop_path_rate: As of `InternImageT`.
        {common}

    Source: Xiong et al., Efficient Deformable ConvNets (DCNv4), arXiv:2401.06197, section 4.2.
    Weights: the authors' ``flash_intern_image_b_1k_224``.
    """
    return _features(
        x,
        112,
        (4, 4, 21, 4),
        drop_path_rate,
        flash=True,
        post_norm=True,
        layer_scale=1e-5,
        offset_scale=0.5,
    )
