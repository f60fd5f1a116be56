"""Functional API: what the layers compute, on tensors. See each function."""

from tfconv.ops.channel_shuffle import channel_shuffle
from tfconv.ops.conv import conv
from tfconv.ops.conv_matrix import conv_matrix
from tfconv.ops.conv_transpose import conv_transpose
from tfconv.ops.deformable import deformable_conv, deformable_conv2d, deformable_sample
from tfconv.ops.deformable_aggregation import deformable_aggregation
from tfconv.ops.involution import involution
from tfconv.ops.local_attention import local_attention
from tfconv.ops.per_example_conv import per_example_conv

__all__ = [
    "channel_shuffle",
    "conv",
    "conv_matrix",
    "conv_transpose",
    "deformable_aggregation",
    "deformable_conv",
    "deformable_conv2d",
    "deformable_sample",
    "involution",
    "local_attention",
    "per_example_conv",
]
