"""What takes its turn in the network: a layer of every family, and layers of Keras beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import tfconv
from tfconv._compat import keras
from tfconv.catalog import family_name

CHANNELS = 32
BASELINE = "keras.Conv2D"
_BOTH, _SPACE, _CHANNELS, _NEITHER = "space, channels", "space", "channels", "nothing"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A layer that keeps sizes and channels.

    Attributes:
        name: Its family; "keras." and the class for a layer of Keras.
        setting: How it is put in, beyond what all have in common.
        mixes: What its outputs are sums over: pixels ("space"), channels.
        make: Makes a new one: something to call with a tensor.
    """

    name: str
    setting: str
    mixes: str
    make: Callable[[], Callable[[Any], Any]]


def candidates(names: Collection[str] = ()) -> list[Candidate]:
    """The candidates, what they are compared with first.

    Args:
        names: Only these and `BASELINE`: names of candidates or of layers, in any case; none
            for all.

    Raises:
        ValueError: If there is no candidate of such a name.
    """
    known = {layer.lower(): family_name(layer) for layer in tfconv.layers.__all__}
    known.update({candidate.name.lower(): candidate.name for candidate in _ALL})
    wanted = {BASELINE}
    for name in names:
        if name.lower() not in known:
            raise ValueError(
                f"`names` must be among {', '.join(each.name for each in _ALL)}. Received: {name!r}"
            )
        wanted.add(known[name.lower()])
    return [candidate for candidate in _ALL if not names or candidate.name in wanted]


def _conv(layer_class: Any, **arguments: Any) -> Callable[[], Any]:
    """Makes convolutions with 3x3 taps, without the bias that normalization would undo."""
    return lambda: layer_class(CHANNELS, 3, padding="same", use_bias=False, **arguments)


def _depthwise(layer_class: Any, **arguments: Any) -> Callable[[], Any]:
    return lambda: layer_class(3, padding="same", use_bias=False, **arguments)


def _one_after_the_other(*makers: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: keras.Sequential([make() for make in makers])


def _sum_with_conv() -> Callable[[Any], Any]:
    conv, total = _conv(tfconv.Conv2D)(), tfconv.WeightedSum()
    return lambda x: total([x, conv(x)])


def _two_kernel_sizes() -> Any:
    half = {"filters": CHANNELS // 2, "padding": "same", "use_bias": False}
    branches = [tfconv.Conv2D(kernel_size=size, **half) for size in (3, 5)]
    return tfconv.SplitTransformMerge(branches)


_ALL = [
    Candidate(BASELINE, "", _BOTH, _conv(keras.layers.Conv2D)),
    Candidate("keras.DepthwiseConv2D", "", _SPACE, _depthwise(keras.layers.DepthwiseConv2D)),
    Candidate("keras.SeparableConv2D", "", _BOTH, _conv(keras.layers.SeparableConv2D)),
    Candidate("nothing", "no layer at all", _NEITHER, lambda: lambda x: x),
    Candidate(
        "ChannelShuffle",
        "4 groups, behind a GroupConv",
        _BOTH,
        _one_after_the_other(
            _conv(tfconv.GroupConv2D, groups=4), lambda: tfconv.ChannelShuffle(groups=4)
        ),
    ),
    Candidate("CondConv", "4 experts", _BOTH, _conv(tfconv.CondConv2D, num_experts=4)),
    Candidate(
        "CondDense",
        "4 experts, at each pixel",
        _CHANNELS,
        lambda: tfconv.CondDense(CHANNELS, use_bias=False, num_experts=4),
    ),
    Candidate("Conv", "", _BOTH, _conv(tfconv.Conv2D)),
    Candidate("ConvTranspose", "stride 1", _BOTH, _conv(tfconv.Conv2DTranspose)),
    Candidate(
        "DeformableAggregation",
        "groups of 8 channels",
        _BOTH,
        lambda: tfconv.DeformableAggregation2D(3, group_channels=8),
    ),
    Candidate("DeformableConv", "modulated", _BOTH, _conv(tfconv.DeformableConv2D)),
    Candidate(
        "DepthwiseCondConv",
        "4 experts",
        _SPACE,
        _depthwise(tfconv.DepthwiseCondConv2D, num_experts=4),
    ),
    Candidate("DepthwiseConv", "", _SPACE, _depthwise(tfconv.DepthwiseConv2D)),
    Candidate(
        "DynamicConv",
        "4 kernels; cooled down to 1",
        _BOTH,
        _conv(tfconv.DynamicConv2D, num_experts=4),
    ),
    Candidate("FlattenedConv", "", _BOTH, _conv(tfconv.FlattenedConv2D)),
    Candidate("GatedConv", "GLU", _BOTH, _conv(tfconv.GatedConv2D)),
    Candidate("GroupConv", "4 groups", _BOTH, _conv(tfconv.GroupConv2D, groups=4)),
    Candidate(
        "Involution",
        "groups of 8 channels",
        _SPACE,
        lambda: tfconv.Involution2D(3, group_channels=8),
    ),
    Candidate(
        "LocalSelfAttention",
        "4 heads, 3x3 window",
        _BOTH,
        lambda: tfconv.LocalSelfAttention2D(CHANNELS, 3, num_heads=4),
    ),
    Candidate("LocallyConnected", "", _BOTH, _conv(tfconv.LocallyConnected2D)),
    Candidate("LowRankConv", "rank 8", _BOTH, _conv(tfconv.LowRankConv2D, kernel_rank=8)),
    Candidate(
        "PointwiseConv",
        "",
        _CHANNELS,
        lambda: tfconv.PointwiseConv2D(CHANNELS, use_bias=False),
    ),
    Candidate(
        "SelfAttention",
        "4 heads of 8, with positions",
        _BOTH,
        lambda: tfconv.SelfAttention2D(
            num_heads=4, key_dim=8, relative_position_bias=True, use_bias=False
        ),
    ),
    Candidate("SeparableConv", "", _BOTH, _conv(tfconv.SeparableConv2D)),
    Candidate("SplitTransformMerge", "halves: 3x3, 5x5", _BOTH, _two_kernel_sizes),
    Candidate(
        "SqueezeExcite",
        "ratio 4, behind a Conv",
        _BOTH,
        _one_after_the_other(_conv(tfconv.Conv2D), lambda: tfconv.SqueezeExcite(reduction_ratio=4)),
    ),
    Candidate("TuckerConv", "ranks 8", _BOTH, _conv(tfconv.TuckerConv2D, ranks=8)),
    Candidate("WeightedSum", "of the input and a Conv of it", _BOTH, _sum_with_conv),
]
