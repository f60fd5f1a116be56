"""Keras layers, one family a file."""

from tfconv.layers.cond_conv import CondConv2D, DepthwiseCondConv2D
from tfconv.layers.cond_dense import CondDense
from tfconv.layers.deformable_conv import DeformableConv2D
from tfconv.layers.involution import Involution1D, Involution2D, Involution3D
from tfconv.layers.squeeze_excite import SqueezeExcite

__all__ = [
    "CondConv2D",
    "CondDense",
    "DeformableConv2D",
    "DepthwiseCondConv2D",
    "Involution1D",
    "Involution2D",
    "Involution3D",
    "SqueezeExcite",
]
