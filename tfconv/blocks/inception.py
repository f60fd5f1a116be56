"""Blocks of GoogLeNet and Xception."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfconv._compat import keras
from tfconv.blocks.convolution import (
    PYTORCH,
    Convention,
    activated,
    channel_axis,
    channels_of,
    conv_norm,
    initializer,
    max_pool,
    named,
    norm,
    pooled,
    positive_ints,
)
from tfconv.layers import SeparableConv2D
from tfconv.layers.arguments import positive_int


def inception(
    x: Any,
    filters: Sequence[int],
    *,
    large: int = 3,
    convention: Convention = PYTORCH,
    name: str | None = None,
) -> Any:
    """The Inception module with dimension reduction: four branches side by side.

    ``concat(conv1x1(x), conv3x3(conv1x1(x)), large(conv1x1(x)), conv1x1(max_pool3x3(x)))``, with
    batch normalization and ReLU behind every convolution.

    Args:
        x: A Keras tensor of images behind a ReLU.
        filters: Channels of the 1x1 branch, of reduction and convolution of the second and third
            branch, and of the branch behind the pooling: six numbers.
        large: Kernel size in the third branch: 5 in the paper, 3 in torchvision's weights.
        convention: Padding, epsilon and momentum.
        name: Prefix of the layers' names.

    Returns:
        A Keras tensor of images.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: Szegedy et al., Going Deeper with Convolutions, arXiv:1409.4842, figure 2b.

    Example:
        >>> inputs = tf.keras.Input((8, 8, 4))
        >>> tuple(tfconv.blocks.inception(inputs, (2, 3, 4, 1, 2, 2), large=5).shape)
        (None, 8, 8, 10)
    """

    def conv(x, filters, size, part):
        names = (named(name, f"{part}.conv"), named(name, f"{part}.bn"))
        return conv_norm(x, filters, size, convention=convention, names=names)

    one, reduce3, conv3, reduce5, conv5, behind_pooling = positive_ints(filters, "filters", 6)
    branches = [
        conv(x, one, 1, "branch1"),
        conv(conv(x, reduce3, 1, "branch2.0"), conv3, 3, "branch2.1"),
        conv(conv(x, reduce5, 1, "branch3.0"), conv5, large, "branch3.1"),
        conv(pooled(x, keras.layers.MaxPooling2D, 3, 1, "same"), behind_pooling, 1, "branch4.1"),
    ]
    return keras.layers.Concatenate(channel_axis())(branches)


def separable_norm(
    x: Any,
    filters: int,
    *,
    activation: Any = None,
    convention: Convention = PYTORCH,
    names: tuple[str | None, str | None] = (None, None),
) -> Any:
    """3x3 separable convolution without bias, batch normalization, activation.

    ``activation(batch_norm(pointwise(depthwise(x))))``.

    Args:
        x: A Keras tensor of images.
        filters: Output channels.
        activation: Name or function; None for none.
        convention: Epsilon and momentum.
        names: Names of the convolution and the normalization.

    Returns:
        A Keras tensor of images with ``filters`` channels.

    Source: Chollet, Xception, arXiv:1610.02357, section 3.

    Example:
        >>> inputs = tf.keras.Input((8, 8, 4))
        >>> tuple(tfconv.blocks.separable_norm(inputs, 6).shape)
        (None, 8, 8, 6)
    """
    x = SeparableConv2D(
        filters,
        3,
        padding="same",
        use_bias=False,
        depthwise_initializer=initializer(),
        pointwise_initializer=initializer(),
        name=names[0],
    )(x)
    return norm(x, activation, convention=convention, name=names[1])


def xception_module(
    x: Any,
    widths: Sequence[int],
    strides: int = 1,
    *,
    start_with_relu: bool = True,
    convention: Convention = PYTORCH,
    name: str | None = None,
) -> Any:
    """The module of Xception: separable convolutions behind ReLUs, and a way around them.

    ``shortcut(x) + max_pool(bn(separable(relu(... bn(separable(relu(x)))))))``.

    Args:
        x: A Keras tensor of images.
        widths: Output channels of each separable convolution.
        strides: Those of the max pooling at the end, above 1 only, and of the shortcut.
        start_with_relu: Whether there is a ReLU before the first convolution.
        convention: Epsilon and momentum.
        name: Prefix of the layers' names.

    Returns:
        A Keras tensor of images with ``widths[-1]`` channels.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: Chollet, Xception, arXiv:1610.02357, figure 5.

    Example:
        >>> inputs = tf.keras.Input((8, 8, 4))
        >>> tuple(tfconv.blocks.xception_module(inputs, (6, 6), strides=2).shape)
        (None, 4, 4, 6)
    """
    widths, strides = positive_ints(widths, "widths"), positive_int(strides, "strides")
    around, rep = x, named(name, "rep")
    if strides > 1 or channels_of(x) != widths[-1]:
        names = (named(name, "skip"), named(name, "skipbn"))
        around = conv_norm(
            x, widths[-1], 1, strides, activation=None, convention=convention, names=names
        )
    for number, filters in enumerate(widths):
        if number or start_with_relu:
            x = activated(x, "relu")
        place = 3 * number + start_with_relu  # PyTorch counts the ReLUs as well
        names = (named(rep, str(place)), named(rep, str(place + 1)))
        x = separable_norm(x, filters, convention=convention, names=names)
    if strides > 1:
        x = max_pool(x, 3, strides, nonnegative=False)
    return keras.layers.Add()([x, around])
