"""ShuffleNet v1 and v2."""

from __future__ import annotations

from tfconv.blocks.convolution import conv_norm, max_pool
from tfconv.blocks.shuffle import shuffle_unit_v1, shuffle_unit_v2
from tfconv.layers.arguments import positive_int, positive_number
from tfconv.models.network import network

DEPTHS = (4, 8, 4)
V1_CHANNELS = {
    1: (144, 288, 576),
    2: (200, 400, 800),
    3: (240, 480, 960),
    4: (272, 544, 1088),
    8: (384, 768, 1536),
}
V2_CHANNELS = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}


@network(classifier="classifier.0", use_bias=False, normalization="bgr")
def ShuffleNetV1(x, *, groups: int = 3):
    """ShuffleNet v1: grouped 1x1 convolutions and channel shuffles.

    1.9 M parameters with 3 groups, 2.4 M with 8, 138 M multiply-adds at 224 x 224. With more
    groups the layers are wider, so that the work stays the same.

    Args:
        groups: Groups of the 1x1 convolutions: 1, 2, 3, 4 or 8.
        {common}

    Source: Zhang et al., ShuffleNet, arXiv:1707.01083, table 1. Weights: the authors'
    ``ShuffleNetV1`` (Megvii's ShuffleNet-Series), with 3 and 8 groups.

    Example:
        >>> model = tfconv.models.ShuffleNetV1(groups=8, include_top=False)
        >>> tuple(model.output_shape)
        (None, 7, 7, 1536)
    """
    channels = _of(V1_CHANNELS, positive_int(groups, "groups"), "groups")
    x = max_pool(conv_norm(x, 24, 3, 2, names=("first_conv.0", "first_conv.1")))
    number = 0
    for filters, depth in zip(channels, DEPTHS):
        for unit in range(depth):
            x = shuffle_unit_v1(
                x,
                filters,
                groups,
                1 if unit else 2,
                first_groups=None if number else 1,
                name=f"features.{number}",
            )
            number += 1
    return x


@network()
def ShuffleNetV2(x, *, width: float = 1.0):
    """ShuffleNet v2: half of the channels pass each unit as they are.

    2,278,604 parameters and 144.9 M multiply-adds at 224 x 224 with width 1; 1,366,792 and 40.5 M
    with width 0.5.

    Args:
        width: Which of the paper's widths: 0.5, 1, 1.5 or 2.
        {common}

    Source: Ma et al., ShuffleNet V2, arXiv:1807.11164, table 5. Weights: torchvision
    ``shufflenet_v2_x1_0`` and its siblings.

    Example:
        >>> model = tfconv.models.ShuffleNetV2(width=0.5, include_top=False)
        >>> tuple(model.output_shape)
        (None, 7, 7, 1024)
    """
    *channels, last = _of(V2_CHANNELS, positive_number(width, "width"), "width")
    x = max_pool(conv_norm(x, 24, 3, 2, names=("conv1.0", "conv1.1")))
    for stage, (filters, depth) in enumerate(zip(channels, DEPTHS), 2):
        for unit in range(depth):
            x = shuffle_unit_v2(x, filters, 1 if unit else 2, name=f"stage{stage}.{unit}")
    return conv_norm(x, last, names=("conv5.0", "conv5.1"))


def _of(table: dict, value: float, name: str) -> tuple[int, ...]:
    """The row of a table; ValueError names the argument where there is none."""
    if value not in table:
        raise ValueError(f"`{name}` must be one of {list(table)}. Received: {name}={value!r}")
    return table[value]
