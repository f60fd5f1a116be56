"""Moving the channel axis: every kernel of tfconv works on channels-last tensors."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tfconv import _compat


def to_last(x: tf.Tensor) -> tf.Tensor:
    """[N, C, *spatial] -> [N, *spatial, C]."""
    return tf.transpose(x, [0, *range(2, x.shape.rank), 1])


def to_first(x: tf.Tensor) -> tf.Tensor:
    """[N, *spatial, C] -> [N, C, *spatial]."""
    return tf.transpose(x, [0, x.shape.rank - 1, *range(1, x.shape.rank - 1)])


def in_channels_last(
    function: Callable[..., tf.Tensor], data_format: str | None, *tensors: tf.Tensor | None
) -> tf.Tensor:
    """``function(*tensors)``, transposed on the way in and out for "channels_first"."""
    if _compat.standardized_data_format(data_format) == "channels_last":
        return function(*tensors)
    return to_first(function(*(None if t is None else to_last(t) for t in tensors)))
