"""Keras layers, one family a file."""

# ruff: noqa: F401

from tfconv.layers.channel_shuffle import ChannelShuffle
from tfconv.layers.cond_conv import CondConv1D, CondConv2D, CondConv3D, DepthwiseCondConv2D
from tfconv.layers.cond_dense import CondDense
from tfconv.layers.conv import Conv1D, Conv2D, Conv3D
from tfconv.layers.conv_transpose import Conv1DTranspose, Conv2DTranspose, Conv3DTranspose
from tfconv.layers.deformable_aggregation import (
    DeformableAggregation1D,
    DeformableAggregation2D,
    DeformableAggregation3D,
)
from tfconv.layers.deformable_conv import DeformableConv1D, DeformableConv2D, DeformableConv3D
from tfconv.layers.depthwise_conv import DepthwiseConv1D, DepthwiseConv2D, DepthwiseConv3D
from tfconv.layers.dynamic_conv import DynamicConv1D, DynamicConv2D, DynamicConv3D
from tfconv.layers.flattened_conv import FlattenedConv1D, FlattenedConv2D, FlattenedConv3D
from tfconv.layers.gated_conv import GatedConv1D, GatedConv2D, GatedConv3D
from tfconv.layers.group_conv import GroupConv1D, GroupConv2D, GroupConv3D
from tfconv.layers.involution import Involution1D, Involution2D, Involution3D
from tfconv.layers.local_self_attention import (
    LocalSelfAttention1D,
    LocalSelfAttention2D,
    LocalSelfAttention3D,
)
from tfconv.layers.locally_connected import LocallyConnected1D, LocallyConnected2D
from tfconv.layers.low_rank_conv import LowRankConv1D, LowRankConv2D, LowRankConv3D
from tfconv.layers.pointwise_conv import PointwiseConv1D, PointwiseConv2D, PointwiseConv3D
from tfconv.layers.self_attention import SelfAttention1D, SelfAttention2D, SelfAttention3D
from tfconv.layers.separable_conv import SeparableConv1D, SeparableConv2D, SeparableConv3D
from tfconv.layers.split_transform_merge import SplitTransformMerge
from tfconv.layers.squeeze_excite import SqueezeExcite
from tfconv.layers.tucker_conv import TuckerConv1D, TuckerConv2D, TuckerConv3D
from tfconv.layers.weighted_sum import WeightedSum

__all__ = sorted(name for name in globals() if name[0].isupper())
