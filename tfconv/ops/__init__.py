"""Functional API: what the layers compute, on tensors. See each function."""

from tfconv.ops.conv import conv
from tfconv.ops.deformable import deformable_conv2d, deformable_sample
from tfconv.ops.involution import involution
from tfconv.ops.per_example_conv import per_example_conv

__all__ = ["conv", "deformable_conv2d", "deformable_sample", "involution", "per_example_conv"]
