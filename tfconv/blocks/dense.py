"""Densely connected blocks: every layer sees the outputs of all before it."""

from __future__ import annotations

from typing import Any

from tfconv._compat import keras
from tfconv.blocks.convolution import (
    PYTORCH,
    Convention,
    channel_axis,
    channels_of,
    initializer,
    named,
    norm,
    pooled,
)
from tfconv.layers import Conv2D
from tfconv.layers.arguments import positive_int, positive_number


def _norm_conv(x: Any, filters: int, size: int, convention: Convention, names: Any) -> Any:
    """``conv(relu(batch_norm(x)))``."""
    x = norm(x, "relu", convention=convention, name=names[0])
    return Conv2D(
        filters,
        size,
        padding="same",
        use_bias=False,
        kernel_initializer=initializer(),
        name=names[1],
    )(x)


def dense_block(
    x: Any,
    layers: int,
    growth: int = 32,
    *,
    squeeze: int = 4,
    convention: Convention = PYTORCH,
    name: str | None = None,
) -> Any:
    """A densely connected block: ``x_i = concat(x_0, ..., f(x_{i-1}))``.

    ``f`` is ``conv3x3(relu(bn(conv1x1(relu(bn(x))))))``.

    Args:
        x: A Keras tensor of images.
        layers: How many layers.
        growth: Channels that each of them adds.
        squeeze: The 1x1 convolutions have ``squeeze * growth`` channels.
        convention: Epsilon and momentum.
        name: Prefix of the layers' names.

    Returns:
        A Keras tensor of images with ``layers * growth`` more channels than ``x``.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: Huang et al., Densely Connected Convolutional Networks, arXiv:1608.06993, section 3.

    Example:
        >>> inputs = tf.keras.Input((8, 8, 16))
        >>> tuple(tfconv.blocks.dense_block(inputs, layers=3, growth=4).shape)
        (None, 8, 8, 28)
    """
    layers, growth = positive_int(layers, "layers"), positive_int(growth, "growth")
    squeeze = positive_int(squeeze, "squeeze")
    for number in range(1, layers + 1):
        layer = named(name, f"denselayer{number}")
        names = (named(layer, "norm1"), named(layer, "conv1"))
        y = _norm_conv(x, squeeze * growth, 1, convention, names)
        names = (named(layer, "norm2"), named(layer, "conv2"))
        y = _norm_conv(y, growth, 3, convention, names)
        x = keras.layers.Concatenate(channel_axis())([x, y])
    return x


def transition(
    x: Any,
    compression: float = 0.5,
    *,
    convention: Convention = PYTORCH,
    name: str | None = None,
) -> Any:
    """What stands between dense blocks: ``avg_pool2x2(conv1x1(relu(bn(x))))``.

    Args:
        x: A Keras tensor of images.
        compression: Output channels for each of the input's.
        convention: Epsilon and momentum.
        name: Prefix of the layers' names.

    Returns:
        A Keras tensor of images of half the size.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: Huang et al., arXiv:1608.06993, section 3.

    Example:
        >>> inputs = tf.keras.Input((8, 8, 16))
        >>> tuple(tfconv.blocks.transition(inputs).shape)
        (None, 4, 4, 8)
    """
    names = (named(name, "norm"), named(name, "conv"))
    filters = int(channels_of(x) * positive_number(compression, "compression"))
    x = _norm_conv(x, filters, 1, convention, names)
    return pooled(x, keras.layers.AveragePooling2D, 2)
