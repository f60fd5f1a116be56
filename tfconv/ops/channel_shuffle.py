"""Channel shuffle: the channels of all groups, taken in turn."""

from __future__ import annotations

import tensorflow as tf

from tfconv import _compat
from tfconv.ops.dispatch import invalid_argument
from tfconv.ops.geometry import examples, known_sizes


@tf.autograph.experimental.do_not_convert  # nothing to convert, and tracing stays fast
def channel_shuffle(x: tf.Tensor, groups: int, *, data_format: str | None = None) -> tf.Tensor:
    """Takes the channels of ``groups`` groups in turn: one of each group, then the next of each.

    ``y[..., i * groups + g] = x[..., g * (C / groups) + i]``. A shuffle with ``C / groups``
    groups undoes one with ``groups``.

    Args:
        x: [N, *spatial, C] tensor with any number of spatial axes, none included.
        groups: Groups of neighbouring channels; must divide C.
        data_format: "channels_last" or "channels_first", which holds for ``x`` and the result;
            None takes Keras's setting.

    Returns:
        A tensor of ``x``'s shape and type.

    Raises:
        ValueError: If ``data_format`` is not what is described above.
        tf.errors.InvalidArgumentError: If ``groups`` does not divide the channels.

    Source: Zhang et al., ShuffleNet, arXiv:1707.01083, section 3.1.

    Example:
        >>> tfconv.ops.channel_shuffle(tf.range(6)[None], 2).numpy()
        array([[0, 3, 1, 4, 2, 5]], dtype=int32)
    """
    x = tf.convert_to_tensor(x)
    data_format = _compat.standardized_data_format(data_format)
    if x.shape.rank is None or x.shape.rank < 2:
        raise invalid_argument(
            f"channel_shuffle needs x of rank 2 or more. Received: x of shape {x.shape}"
        )
    axis = 1 if data_format == "channels_first" else x.shape.rank - 1
    channels = x.shape[axis]
    if channels is None or groups < 1 or channels % groups:
        raise invalid_argument(
            f"channel_shuffle: {groups} groups do not divide the channels (axis {axis}) of x of "
            f"shape {x.shape}"
        )
    # Everything else in one axis: five dimensions suffice whatever the rank.
    if axis == 1:
        parts = tf.reshape(x, [-1, groups, channels // groups, _size(x, slice(2, None))])
        order = [0, 2, 1, 3]
    else:
        parts = tf.reshape(x, [-1, groups, channels // groups])
        order = [0, 2, 1]
    sizes = [examples(x), *known_sizes(x, slice(1, None))]
    return tf.reshape(tf.transpose(parts, order), sizes)


def _size(x: tf.Tensor, axes: slice):
    """Elements along ``axes``; an int where known."""
    static = x.shape[axes]
    return static.num_elements() if static.is_fully_defined() else tf.reduce_prod(tf.shape(x)[axes])
