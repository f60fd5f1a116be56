"""Blocks of the MobileNets and EfficientNets: depthwise separable, inverted residual."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfconv._compat import keras
from tfconv.blocks.convolution import (
    PYTORCH,
    Convention,
    channels_of,
    checked_convention,
    conv_norm,
    depthwise_norm,
    initializer,
    named,
    norm,
)
from tfconv.layers import CondConv2D, Conv2D, DepthwiseCondConv2D, DepthwiseConv2D, SqueezeExcite
from tfconv.layers.arguments import number, positive_int


def divisible(channels: float, divisor: int = 8) -> int:
    """The multiple of ``divisor`` next to a number of channels, at least 0.9 times it.

    Args:
        channels: A number of channels, such as a width times a multiplier.
        divisor: What the result is a multiple of.

    Returns:
        ``max(divisor, round(channels / divisor) * divisor)``, or the next multiple.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: The MobileNets' reference code.

    Example:
        >>> [tfconv.blocks.divisible(n) for n in (3, 24 * 0.75, 24 * 3.67)]
        [8, 24, 88]
    """
    channels, divisor = number(channels, "channels"), positive_int(divisor, "divisor")
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


def depthwise_separable(
    x: Any,
    filters: int,
    kernel_size: int = 3,
    strides: int = 1,
    *,
    activation: Any = "relu6",
    last_activation: Any = None,
    squeeze_excite: Mapping[str, Any] | None = None,
    residual: bool = False,
    convention: Convention = PYTORCH,
    name: str | None = None,
) -> Any:
    """Depthwise convolution, then a pointwise one, each with batch normalization.

    ``last_activation(bn(conv1x1(se(activation(bn(depthwise(x)))))))``.

    Args:
        x: A Keras tensor of images.
        filters: Output channels.
        kernel_size: Taps along both axes.
        strides: Those of the depthwise convolution.
        activation: Activation between the convolutions.
        last_activation: Activation of the outputs; None for a linear bottleneck.
        squeeze_excite: Arguments of `tfconv.SqueezeExcite` between the convolutions; None for
            none.
        residual: Whether the input is added where it has the outputs' shape.
        convention: Padding, epsilon and momentum.
        name: Prefix of the layers' names.

    Returns:
        A Keras tensor of images with ``filters`` channels.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: Howard et al., MobileNets, arXiv:1704.04861, figure 3.

    Example:
        >>> inputs = tf.keras.Input((8, 8, 4))
        >>> tuple(tfconv.blocks.depthwise_separable(inputs, 6, strides=2).shape)
        (None, 4, 4, 6)
    """
    before, strides = x, positive_int(strides, "strides")
    x = depthwise_norm(
        x,
        kernel_size,
        strides,
        activation=activation,
        convention=convention,
        names=(named(name, "conv_dw"), named(name, "bn1")),
    )
    if squeeze_excite is not None:
        x = SqueezeExcite(**squeeze_excite, name=named(name, "se"))(x)
    x = conv_norm(
        x,
        filters,
        activation=last_activation,
        convention=convention,
        names=(named(name, "conv_pw"), named(name, "bn2")),
    )
    return _around(before, x, strides) if residual else x


def inverted_residual(
    x: Any,
    filters: int,
    expanded: int,
    kernel_size: int = 3,
    strides: int = 1,
    *,
    activation: Any = "relu6",
    squeeze_excite: Mapping[str, Any] | None = None,
    num_experts: int | None = None,
    convention: Convention = PYTORCH,
    name: str | None = None,
) -> Any:
    """The inverted residual with a linear bottleneck: expand, depthwise, project, and add.

    ``x + bn(conv1x1(se(activation(bn(depthwise(activation(bn(conv1x1(x)))))))))``; without the
    sum where the shapes differ.

    Args:
        x: A Keras tensor of images.
        filters: Output channels.
        expanded: Channels of the depthwise convolution.
        kernel_size: Its taps along both axes.
        strides: Its strides.
        activation: Activation of all but the outputs.
        squeeze_excite: Arguments of `tfconv.SqueezeExcite` before the projection; None for none.
        num_experts: With CondConv: all three convolutions are mixed from so many experts, by one
            routing ``sigmoid(Dense(mean(x)))``. None for plain ones.
        convention: Padding, epsilon and momentum.
        name: Prefix of the layers' names.

    Returns:
        A Keras tensor of images with ``filters`` channels.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: Sandler et al., MobileNetV2, arXiv:1801.04381, figure 4; Howard et al., MobileNetV3,
    arXiv:1905.02244, figure 4; with CondConv Yang et al., arXiv:1904.04971, section 4.1.

    Example:
        >>> inputs = tf.keras.Input((8, 8, 4))
        >>> y = tfconv.blocks.inverted_residual(inputs, 4, 16, num_experts=2)
        >>> tuple(y.shape)
        (None, 8, 8, 4)
    """
    before, routing, experts = x, {}, {}
    strides, convention = positive_int(strides, "strides"), checked_convention(convention)
    conv, depthwise = Conv2D, DepthwiseConv2D
    if num_experts is not None:
        num_experts = positive_int(num_experts, "num_experts")
        conv, depthwise = CondConv2D, DepthwiseCondConv2D
        dense = keras.layers.Dense(num_experts, "sigmoid", name=named(name, "routing_fn"))
        routing = {"routing_weights": dense(keras.layers.GlobalAveragePooling2D()(x))}
        experts = {"num_experts": num_experts}

    def pointwise(filters, part):
        return conv(
            filters,
            1,
            use_bias=False,
            kernel_initializer=initializer(),
            name=named(name, part),
            **experts,
        )

    x = pointwise(expanded, "conv_pw")(x, **routing)
    x = norm(x, activation, convention=convention, name=named(name, "bn1"))
    x = depthwise(
        kernel_size,
        strides=strides,
        padding=convention.padding_of(kernel_size, strides),
        use_bias=False,
        depthwise_initializer=initializer(),
        name=named(name, "conv_dw"),
        **experts,
    )(x, **routing)
    x = norm(x, activation, convention=convention, name=named(name, "bn2"))
    if squeeze_excite is not None:
        x = SqueezeExcite(**squeeze_excite, name=named(name, "se"))(x)
    x = pointwise(filters, "conv_pwl")(x, **routing)
    x = norm(x, convention=convention, name=named(name, "bn3"))
    return _around(before, x, strides)


def _around(before: Any, after: Any, strides: int) -> Any:
    """The sum of what is before and behind a block, where their shapes are the same."""
    if strides > 1 or channels_of(before) != channels_of(after):
        return after
    return keras.layers.Add()([after, before])
