"""Channel shuffle: lets the groups of group convolutions see each other."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfconv import _compat, ops
from tfconv._compat import keras
from tfconv.layers.base import boolean, known_channels, positive_int, register, static_shape


@register
class ChannelShuffle(keras.layers.Layer):
    """Takes the channels of all groups in turn, over any number of spatial axes.

    ``y[n, p, i * groups + g] = x[n, p, g * (C / groups) + i]``. A shuffle with ``C / groups``
    groups undoes one with ``groups``, and so does ``inverse=True``.

    Args:
        groups: Groups of neighbouring channels; must divide the input's channels.
        data_format: "channels_last" or "channels_first"; None takes Keras's setting.
        inverse: Whether to put channels back that were shuffled with the same ``groups``.
        **kwargs: Keras's own: ``name``, ``dtype``.

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
        self,
        groups: int,
        data_format: str | None = None,
        inverse: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.groups = positive_int(groups, "groups")
        self.data_format = _compat.standardized_data_format(data_format)
        self.inverse = boolean(inverse, "inverse")
        self.input_spec = keras.layers.InputSpec(min_ndim=2)

    def build(self, input_shape):
        axis = -1 if self.data_format == "channels_last" else 1
        count = known_channels(input_shape, axis, self)
        if count % self.groups:
            raise ValueError(
                "The number of input channels must be divisible by `groups`. "
                f"Received: groups={self.groups}, input_shape={static_shape(input_shape)}"
            )
        self._shuffled_groups = count // self.groups if self.inverse else self.groups
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={axis: count})
        self.built = True

    def call(self, inputs):
        x = tf.convert_to_tensor(inputs)
        return ops.channel_shuffle(x, self._shuffled_groups, data_format=self.data_format)

    def compute_output_shape(self, input_shape):
        return static_shape(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "groups": self.groups,
            "data_format": self.data_format,
            "inverse": self.inverse,
        }
