"""Residual blocks: plain, and bottlenecks around any layer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from tfconv._compat import keras
from tfconv.blocks.convolution import (
    PYTORCH,
    Convention,
    activated,
    channels_of,
    checked_convention,
    conv_norm,
    initializer,
    named,
    norm,
)
from tfconv.layers import Conv2D, DeformableConv2D, Involution2D, SqueezeExcite, WeightedSum
from tfconv.layers.arguments import positive_int

Middle = Callable[[int, int, "str | None"], Any]


def convolution(
    filters: int,
    strides: int = 1,
    name: str | None = None,
    *,
    convention: Convention = PYTORCH,
) -> Any:
    """The 3x3 convolution in the middle of a plain bottleneck.

    Args:
        filters: Output channels.
        strides: Pixels between neighbouring outputs.
        name: The layer's name.
        convention: Padding.

    Returns:
        A `tfconv.Conv2D`.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: He et al., Deep Residual Learning, arXiv:1512.03385, figure 5.

    Example:
        >>> tfconv.blocks.convolution(8, 2)(tf.ones([1, 6, 6, 4])).shape
        TensorShape([1, 3, 3, 8])
    """
    return Conv2D(filters, 3, strides, name=name, **_middle(3, strides, convention))


def deformable(
    filters: int,
    strides: int = 1,
    name: str | None = None,
    *,
    convention: Convention = PYTORCH,
    **arguments: Any,
) -> Any:
    """The 3x3 deformable convolution in the middle of a deformable bottleneck.

    Args:
        filters: Output channels.
        strides: Pixels between neighbouring outputs.
        name: The layer's name.
        convention: Padding.
        **arguments: Others of `tfconv.DeformableConv2D`.

    Returns:
        A `tfconv.DeformableConv2D`.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: Zhu et al., Deformable ConvNets v2, arXiv:1811.11168, section 3.1.

    Example:
        >>> tfconv.blocks.deformable(8, 2)(tf.ones([1, 6, 6, 4])).shape
        TensorShape([1, 3, 3, 8])
    """
    arguments = {**_middle(3, strides, convention), **arguments}
    return DeformableConv2D(filters, 3, strides=strides, name=name, **arguments)


def involution(
    filters: int,
    strides: int = 1,
    name: str | None = None,
    *,
    convention: Convention = PYTORCH,
) -> Any:
    """The 7x7 involution in the middle of RedNet's bottleneck.

    Args:
        filters: Channels of its input and output.
        strides: Pixels between neighbouring outputs.
        name: The layer's name.
        convention: Padding, and epsilon and momentum of the batch normalization inside it.

    Returns:
        A `tfconv.Involution2D`.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: Li et al., Involution, arXiv:2103.06255, section 4.1.

    Example:
        >>> tfconv.blocks.involution(16, 2)(tf.ones([1, 6, 6, 16])).shape
        TensorShape([1, 3, 3, 16])
    """
    return Involution2D(
        7,
        strides=strides,
        padding=checked_convention(convention).padding_of(7, strides),
        batch_norm_epsilon=convention.epsilon,
        batch_norm_momentum=convention.momentum,
        name=name,
    )


def _middle(kernel_size: int, strides: int, convention: Convention) -> dict[str, Any]:
    """What the convolutions in the middle share."""
    return {
        "padding": checked_convention(convention).padding_of(kernel_size, strides),
        "use_bias": False,
        "kernel_initializer": initializer(),
    }


def _shortcut(x: Any, filters: int, strides: int, convention: Convention, name: str | None) -> Any:
    """The way around a block: a projection where the shapes before and behind it differ."""
    if positive_int(strides, "strides") == 1 and channels_of(x) == filters:
        return x
    names = (named(name, "downsample.0"), named(name, "downsample.1"))
    return conv_norm(x, filters, 1, strides, activation=None, convention=convention, names=names)


def _check_callable(value: Any, name: str) -> None:
    if not callable(value):
        raise ValueError(f"`{name}` must be a function. Received: {name}={value!r}")


def basic_block(
    x: Any,
    filters: int,
    strides: int = 1,
    *,
    convention: Convention = PYTORCH,
    name: str | None = None,
) -> Any:
    """The plain residual block: ``relu(shortcut(x) + bn(conv3x3(relu(bn(conv3x3(x))))))``.

    Args:
        x: A Keras tensor of images.
        filters: Output channels.
        strides: Those of the first convolution; above 1 the shortcut is a 1x1 convolution.
        convention: Padding, epsilon and momentum.
        name: Prefix of the layers' names.

    Returns:
        A Keras tensor of images with ``filters`` channels.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: He et al., Deep Residual Learning, arXiv:1512.03385, figure 2.

    Example:
        >>> inputs = tf.keras.Input((8, 8, 4))
        >>> tuple(tfconv.blocks.basic_block(inputs, 8, strides=2).shape)
        (None, 4, 4, 8)
    """
    around = _shortcut(x, filters, strides, convention, name)
    names = (named(name, "conv1"), named(name, "bn1"))
    x = conv_norm(x, filters, 3, strides, convention=convention, names=names)
    names = (named(name, "conv2"), named(name, "bn2"))
    x = conv_norm(x, filters, 3, activation=None, convention=convention, names=names)
    return activated(keras.layers.Add()([x, around]), "relu")


def bottleneck(
    x: Any,
    filters: int,
    strides: int = 1,
    *,
    middle: Middle = convolution,
    expansion: int = 4,
    reduction_ratio: int | None = None,
    stride_first: bool = False,
    convention: Convention = PYTORCH,
    name: str | None = None,
) -> Any:
    """The bottleneck: a layer between two 1x1 convolutions, and a way around all three.

    ``relu(shortcut(x) + se(bn(conv1x1(relu(bn(middle(relu(bn(conv1x1(x)))))))))``.

    Args:
        x: A Keras tensor of images.
        filters: Channels in the middle.
        strides: Those of the middle; above 1 the shortcut is a 1x1 convolution.
        middle: ``middle(filters, strides, name)`` makes the layer in the middle:
            `tfconv.blocks.convolution`, `tfconv.blocks.involution`, or any other. If it takes a
            ``convention`` as well, it gets the block's.
        expansion: The block gives ``expansion * filters`` channels.
        reduction_ratio: With squeeze-and-excitation of this ratio before the sum; None without.
        stride_first: Whether the first 1x1 convolution has the strides, as in Caffe's networks.
        convention: Padding, epsilon and momentum.
        name: Prefix of the layers' names.

    Returns:
        A Keras tensor of images.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: He et al., arXiv:1512.03385, figure 5; with squeeze-and-excitation Hu et al.,
    arXiv:1709.01507, figure 3; with involution Li et al., arXiv:2103.06255, section 4.1.

    Example:
        >>> inputs = tf.keras.Input((8, 8, 64))
        >>> y = tfconv.blocks.bottleneck(inputs, 16, 2, middle=tfconv.blocks.involution)
        >>> tuple(y.shape)
        (None, 4, 4, 64)
    """
    filters, expansion = positive_int(filters, "filters"), positive_int(expansion, "expansion")
    _check_callable(middle, "middle")
    around = _shortcut(x, filters * expansion, strides, checked_convention(convention), name)
    if "convention" in inspect.signature(middle).parameters:
        middle = functools.partial(middle, convention=convention)
    first, second = (strides, 1) if stride_first else (1, strides)
    names = (named(name, "conv1"), named(name, "bn1"))
    x = conv_norm(x, filters, 1, first, convention=convention, names=names)
    x = middle(filters, second, named(name, "conv2"))(x)
    x = norm(x, "relu", convention=convention, name=named(name, "bn2"))
    names = (named(name, "conv3"), named(name, "bn3"))
    x = conv_norm(x, filters * expansion, activation=None, convention=convention, names=names)
    if reduction_ratio is not None:
        x = SqueezeExcite(reduction_ratio=reduction_ratio, name=named(name, "se_module"))(x)
    return activated(keras.layers.Add()([x, around]), "relu")


def weighted_skip(x: Any, transform: Callable[[Any], Any], normalization: str | None = None) -> Any:
    """A residual connection with learned weights: ``v_0 x + v_1 transform(x)``.

    Args:
        x: A Keras tensor.
        transform: A layer or a function that gives a tensor of the same shape.
        normalization: What makes v of the learned weights, which start at 1; see
            `tfconv.WeightedSum`.

    Returns:
        A Keras tensor of the same shape.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: Shen and Zeng, Weighted Residuals for Very Deep Networks, arXiv:1605.08831, section 3;
    Tan et al., EfficientDet, arXiv:1911.09070, section 3.3.

    Example:
        >>> inputs = tf.keras.Input((8, 8, 4))
        >>> y = tfconv.blocks.weighted_skip(inputs, tfconv.Conv2D(4, 3, padding="same"))
        >>> tuple(y.shape)
        (None, 8, 8, 4)
    """
    _check_callable(transform, "transform")
    return WeightedSum(normalization)([x, transform(x)])
