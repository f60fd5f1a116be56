"""Units of ShuffleNet v1 and v2: groups or halves of channels that a shuffle mixes."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfconv._compat import keras
from tfconv.blocks.convolution import (
    activated,
    channel_axis,
    channels_of,
    conv_norm,
    depthwise_norm,
    named,
    pooled,
)
from tfconv.layers import ChannelShuffle
from tfconv.layers.arguments import known_data_format, positive_int
from tfconv.layers.base import known_channels, register, shape_for_keras, static_shape
from tfconv.layers.calls import Rearranged


@register
class ChannelSplit(Rearranged):
    """Cuts channels into equal parts: ``y_i[n, p, c] = x[n, p, i * C / sections + c]``.

    Args:
        sections: How many parts; must divide the input's channels.
        data_format: "channels_last" or "channels_first"; None takes Keras's setting.

    Input shape: [N, *spatial, C] (or [N, C, *spatial]).

    Output shape: A list of shapes [N, *spatial, C / sections].

    Raises:
        ValueError: If an argument is not what is described above, or ``sections`` does not
            divide the input's channels.

    Source: Ma et al., ShuffleNet V2, arXiv:1807.11164, figure 3c.

    Example:
        >>> [part.numpy().tolist() for part in tfconv.blocks.ChannelSplit(2)(tf.eye(2, 4))]
        [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]
    """

    def __init__(self, sections: int = 2, data_format: str | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.take(positive_int, sections=sections)
        self.take(known_data_format, data_format=data_format)
        self.input_spec = keras.layers.InputSpec(min_ndim=2)

    def build(self, input_shape):
        self._part(input_shape)
        self.built = True

    def _part(self, input_shape: Any) -> int:
        """How many channels a part has."""
        channels = known_channels(input_shape, self.channel_axis, self)
        self.require_divisor("sections", channels, input_shape)
        return channels // self.sections

    def call(self, inputs):
        return tf.split(inputs, self.sections, axis=self.channel_axis)

    def compute_output_shape(self, input_shape):
        shape = list(static_shape(input_shape))
        shape[self.channel_axis] = self._part(shape)
        return [shape_for_keras(shape)] * self.sections

    def compute_mask(self, inputs, mask=None):
        """That of the positions, which are in each part where they were."""
        return None if mask is None or self.channel_axis == 1 else [mask] * self.sections


def _check_filters(x: Any, filters: int, strides: int) -> None:
    """Raises where a unit without strides is asked for other channels than it gets."""
    positive_int(filters, "filters")
    if positive_int(strides, "strides") == 1 and filters != channels_of(x):
        raise ValueError(
            f"`filters` must be the channels of `x`, {channels_of(x)}, without strides. Received: "
            f"filters={filters!r}"
        )


def shuffle_unit_v1(
    x: Any,
    filters: int,
    groups: int,
    strides: int = 1,
    *,
    first_groups: int | None = None,
    name: str | None = None,
) -> Any:
    """The unit of ShuffleNet v1: grouped 1x1 convolutions with a shuffle between them.

    ``relu(x + z)`` with ``z = bn(gconv1x1(shuffle(bn(depthwise(relu(bn(gconv1x1(x))))))))``; with
    strides ``concat(avg_pool(x), relu(z))``. The shuffle stands where the authors' code has it; on
    the other side of the depthwise convolution, as in the paper, it does the same.

    Args:
        x: A Keras tensor of images.
        filters: Output channels; without strides those of ``x``, with strides more.
        groups: Groups of the 1x1 convolutions.
        strides: 1, or 2 to halve the image.
        first_groups: Groups of the first convolution; None for ``groups``. The first unit of the
            network has 1.
        name: Prefix of the layers' names.

    Returns:
        A Keras tensor of images with ``filters`` channels.

    Raises:
        ValueError: If ``filters`` are not what is described above.

    Source: Zhang et al., ShuffleNet, arXiv:1707.01083, figure 2.

    Example:
        >>> inputs = tf.keras.Input((8, 8, 12))
        >>> tuple(tfconv.blocks.shuffle_unit_v1(inputs, 24, groups=3, strides=2).shape)
        (None, 4, 4, 24)
    """
    _check_filters(x, filters, strides)
    before, middle = x, filters // 4
    made = filters if strides == 1 else filters - channels_of(x)
    if made < 1:
        raise ValueError(
            f"`filters` must be above the channels of `x`, {channels_of(x)}, with strides. "
            f"Received: filters={filters}"
        )
    main, last = named(name, "branch_main_1"), named(name, "branch_main_2")
    names = (named(main, "0"), named(main, "1"))
    x = conv_norm(x, middle, groups=first_groups or groups, names=names)
    names = (named(main, "3"), named(main, "4"))
    x = depthwise_norm(x, 3, strides, activation=None, names=names)
    x = ChannelShuffle(groups)(x) if groups > 1 else x
    names = (named(last, "0"), named(last, "1"))
    x = conv_norm(x, made, groups=groups, activation=None, names=names)
    if strides == 1:
        return activated(keras.layers.Add()([x, before]), "relu")
    before = keras.layers.ZeroPadding2D(1)(before)
    before = pooled(before, keras.layers.AveragePooling2D, 3, strides)
    return keras.layers.Concatenate(channel_axis())([before, activated(x, "relu")])


def shuffle_unit_v2(x: Any, filters: int, strides: int = 1, *, name: str | None = None) -> Any:
    """The unit of ShuffleNet v2: half of the channels pass, the other half is convolved.

    ``shuffle(concat(x_1, branch(x_2)))`` with ``branch = relu bn conv1x1 bn depthwise relu bn
    conv1x1``; with strides both halves are made of all channels, the first by ``relu bn conv1x1
    bn depthwise``.

    Args:
        x: A Keras tensor of images.
        filters: Output channels, an even number; without strides those of ``x``.
        strides: 1, or 2 to halve the image.
        name: Prefix of the layers' names.

    Returns:
        A Keras tensor of images with ``filters`` channels.

    Raises:
        ValueError: If ``filters`` are not what is described above.

    Source: Ma et al., ShuffleNet V2, arXiv:1807.11164, figure 3.

    Example:
        >>> inputs = tf.keras.Input((8, 8, 12))
        >>> tuple(tfconv.blocks.shuffle_unit_v2(inputs, 24, strides=2).shape)
        (None, 4, 4, 24)
    """
    _check_filters(x, filters, strides)
    if filters % 2:
        raise ValueError(f"`filters` must be an even number. Received: filters={filters}")
    half = filters // 2
    if strides == 1:
        first, x = ChannelSplit(2)(x)
    else:
        branch = named(name, "branch1")
        names = (named(branch, "0"), named(branch, "1"))
        first = depthwise_norm(x, 3, strides, activation=None, names=names)
        first = conv_norm(first, half, names=(named(branch, "2"), named(branch, "3")))
    branch = named(name, "branch2")
    x = conv_norm(x, half, names=(named(branch, "0"), named(branch, "1")))
    names = (named(branch, "3"), named(branch, "4"))
    x = depthwise_norm(x, 3, strides, activation=None, names=names)
    x = conv_norm(x, half, names=(named(branch, "5"), named(branch, "6")))
    x = keras.layers.Concatenate(channel_axis())([first, x])
    return ChannelShuffle(2)(x)
