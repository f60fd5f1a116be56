"""AlexNet's convolutions, half of them in two groups."""

from __future__ import annotations

from typing import Any

from tfconv._compat import keras
from tfconv.blocks.convolution import initializer, named, pooled
from tfconv.layers import GroupConv2D

# Filters, kernel size, strides, whether in groups, and whether a max pooling follows.
_ROWS = [
    (96, 11, 4, False, True),
    (256, 5, 1, True, True),
    (384, 3, 1, False, False),
    (384, 3, 1, True, False),
    (256, 3, 1, True, True),
]


def alexnet_convolutions(x: Any, groups: int = 2, *, name: str | None = None) -> Any:
    """The five convolutions of AlexNet, three of which are grouped.

    ``relu(conv(x))`` five times, with overlapping max pooling behind the first, the second and
    the last. 2,334,080 parameters in two groups, 3,747,200 in one.

    Args:
        x: A Keras tensor of images, of 227 x 227 pixels in the paper.
        groups: Groups of the second, fourth and fifth convolution: one for each GPU of the paper.
        name: Prefix of the layers' names.

    Returns:
        A Keras tensor of images with 256 channels.

    Source: Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks,
    NeurIPS 2012, section 3.5. Its local response normalization is left out.

    Example:
        >>> inputs = tf.keras.Input((227, 227, 3))
        >>> tuple(tfconv.blocks.alexnet_convolutions(inputs).shape)
        (None, 6, 6, 256)
    """
    for number, (filters, size, strides, grouped, before_pooling) in enumerate(_ROWS, 1):
        x = GroupConv2D(
            filters,
            size,
            strides=strides,
            padding="valid" if strides > 1 else "same",
            groups=groups if grouped else 1,
            activation="relu",
            kernel_initializer=initializer(),
            name=named(name, f"conv{number}"),
        )(x)
        x = pooled(x, keras.layers.MaxPooling2D, 3, 2) if before_pooling else x
    return x
