"""Blocks of networks: functions that put layers between Keras tensors, and layers for them."""

from tfconv.blocks.alexnet import alexnet_convolutions
from tfconv.blocks.convolution import (
    Convention,
    HardSwish,
    MirrorPadding2D,
    conv_norm,
    depthwise_norm,
    hard_sigmoid,
    hard_swish,
    max_pool,
    norm,
)
from tfconv.blocks.dense import dense_block, transition
from tfconv.blocks.inception import inception, separable_norm, xception_module
from tfconv.blocks.intern_image import LayerScale, intern_image_block
from tfconv.blocks.mobile import depthwise_separable, divisible, inverted_residual
from tfconv.blocks.residual import (
    basic_block,
    bottleneck,
    convolution,
    deformable,
    involution,
    weighted_skip,
)
from tfconv.blocks.segmentation import Bilinear, fcn_head, upsampled
from tfconv.blocks.shuffle import ChannelSplit, shuffle_unit_v1, shuffle_unit_v2
from tfconv.blocks.wavenet import wavenet_stack
from tfconv.layers.batch_norm import BatchNormalization

__all__ = [
    "BatchNormalization",
    "Bilinear",
    "ChannelSplit",
    "Convention",
    "HardSwish",
    "LayerScale",
    "MirrorPadding2D",
    "alexnet_convolutions",
    "basic_block",
    "bottleneck",
    "conv_norm",
    "convolution",
    "deformable",
    "dense_block",
    "depthwise_norm",
    "depthwise_separable",
    "divisible",
    "fcn_head",
    "hard_sigmoid",
    "hard_swish",
    "inception",
    "intern_image_block",
    "inverted_residual",
    "involution",
    "max_pool",
    "norm",
    "separable_norm",
    "shuffle_unit_v1",
    "shuffle_unit_v2",
    "transition",
    "upsampled",
    "wavenet_stack",
    "weighted_skip",
    "xception_module",
]
