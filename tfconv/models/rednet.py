"""RedNet: residual networks whose spatial convolutions are involutions."""

from __future__ import annotations

import functools
from typing import Any

from tfconv.blocks.convolution import conv_norm, max_pool, norm
from tfconv.blocks.residual import bottleneck, involution
from tfconv.layers import Involution2D
from tfconv.models.network import network, stages


def _features(x: Any, depths: tuple[int, ...]) -> Any:
    """A stem with a 3x3 involution between two convolutions, then bottlenecks."""
    x = conv_norm(x, 32, 3, 2, names=("stem.0.conv", "stem.0.bn"))
    x = norm(Involution2D(3, name="stem.1")(x), "relu", name="stem.2")
    x = max_pool(conv_norm(x, 64, 3, names=("stem.4.conv", "stem.4.bn")))
    block = functools.partial(bottleneck, middle=involution)
    return stages(x, block, (64, 128, 256, 512), depths, (1, 2, 2, 2))


@network()
def RedNet26(x):
    """RedNet-26: 9,233,166 parameters, 1.69 G multiply-adds at 224 x 224.

    Args:
        {common}

    Source: Li et al., Involution, arXiv:2103.06255, section 4.1. Weights: the authors'
    ``rednet26``.

    Example:
        >>> model = tfconv.models.RedNet26(include_top=False, input_shape=(64, 64, 3))
        >>> tuple(model.output_shape)
        (None, 2, 2, 2048)
    """
    return _features(x, (1, 2, 4, 1))


@network()
def RedNet38(x):
    """RedNet-38: 12,386,986 parameters, 2.17 G multiply-adds at 224 x 224.

    Args:
        {common}

    Source: Li et al., Involution, arXiv:2103.06255, section 4.1. Weights: the authors'
    ``rednet38``.
    """
    return _features(x, (2, 3, 5, 2))


@network()
def RedNet50(x):
    """RedNet-50: 15,540,806 parameters, 2.65 G multiply-adds at 224 x 224.

    Args:
        {common}

    Source: Li et al., Involution, arXiv:2103.06255, section 4.1. Weights: the authors'
    ``rednet50``.

    Example:
        >>> model = tfconv.models.RedNet50(include_top=False, input_shape=(64, 64, 3))
        >>> tuple(model.output_shape)
        (None, 2, 2, 2048)
    """
    return _features(x, (3, 4, 6, 3))


@network()
def RedNet101(x):
    """RedNet-101: 25,652,950 parameters, 4.66 G multiply-adds at 224 x 224.

    Args:
        {common}

    Source: Li et al., Involution, arXiv:2103.06255, section 4.1. Weights: the authors'
    ``rednet101``.
    """
    return _features(x, (3, 4, 23, 3))


@network()
def RedNet152(x):
    """RedNet-152: 33,984,582 parameters, 6.68 G multiply-adds at 224 x 224.

    Args:
        {common}

    Source: Li et al., Involution, arXiv:2103.06255, section 4.1. Weights: the authors'
    ``rednet152``.
    """
    return _features(x, (3, 8, 36, 3))
