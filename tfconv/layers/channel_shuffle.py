"""Channel shuffle: lets the groups of group convolutions see each other."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfconv import ops
from tfconv._compat import keras
from tfconv.layers.arguments import boolean, known_data_format, positive_int
from tfconv.layers.base import register, shape_for_keras, static_shape
from tfconv.layers.calls import Rearranged


@register
class ChannelShuffle(Rearranged):
    """Takes the channels of all groups in turn, over any number of spatial axes.

    ``y[n, p, i * groups + g] = x[n, p, g * (C / groups) + i]``. A shuffle with ``C / groups``
    groups undoes one with ``groups``, and so does ``inverse=True``.

    Args:
        groups: Groups of neighbouring channels; must divide the input's channels.
        data_format: "channels_last" or "channels_first"; None takes Keras's setting.
        inverse: Whether to put channels back that were shuffled with the same ``groups``.

    Input shape: [N, *spatial, C] (or [N, C, *spatial]).

    Output shape: The input's.

    Raises:
        ValueError: If an argument is not what is described above, or ``groups`` does not divide
            the input's channels.

    Source: Zhang et al., ShuffleNet, arXiv:1707.01083, section 3.1.

    Example:
        >>> tfconv.ChannelShuffle(2)(tf.constant([[0.0, 1.0, 2.0, 3.0]])).numpy()
        array([[0., 2., 1., 3.]], dtype=float32)
    """

    def __init__(
        self, groups: int, data_format: str | None = None, inverse: bool = False, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.take(positive_int, groups=groups)
        self.take(known_data_format, data_format=data_format)
        self.take(boolean, inverse=inverse)
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        self.supports_masking = True  # positions stay where they are

    def build(self, input_shape):
        count = self.pinned_channels(input_shape, min_ndim=2)
        self.require_divisor("groups", count, input_shape)
        self._shuffled_groups = count // self.groups if self.inverse else self.groups
        self.built = True

    def call(self, inputs):
        x = tf.convert_to_tensor(inputs)
        return ops.channel_shuffle(x, self._shuffled_groups, data_format=self.data_format)

    def compute_output_shape(self, input_shape):
        return shape_for_keras(static_shape(input_shape))
