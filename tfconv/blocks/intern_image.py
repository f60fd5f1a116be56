"""The blocks of InternImage and FlashInternImage: deformable aggregations and dense layers."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfconv._compat import keras
from tfconv.blocks.convolution import activated, channel_axis, channels_of, named
from tfconv.layers import Conv2D, DeformableAggregation2D
from tfconv.layers.arguments import (
    boolean,
    known_data_format,
    number,
    optional,
    positive_int,
    resolved,
)
from tfconv.layers.base import BaseLayer, register, shape_for_keras, static_shape

EPSILON = 1e-6  # of layer normalizations, as in the authors' code


@register
class LayerScale(BaseLayer):
    """Scales every channel by a trained number: ``y[..., c] = gamma[c] * x[..., c]``.

    Args:
        initial_value: What the numbers start at.
        data_format: "channels_last" or "channels_first"; None takes Keras's setting.
        gamma_initializer: Initializer of the numbers, in the place of ``initial_value``.
        gamma_regularizer: Their regularizer.
        gamma_constraint: Their constraint.

    Input shape: [N, ..., C] (or [N, C, ...]).

    Output shape: That of the input.

    Weights:
        gamma: [C].

    Raises:
        ValueError: If an argument is not what is described above.

    Source: Touvron et al., Going deeper with Image Transformers, arXiv:2103.17239, equation 4.

    Example:
        >>> tfconv.blocks.LayerScale(0.5)(tf.ones([1, 2, 2, 1])).numpy().ravel()
        array([0.5, 0.5, 0.5, 0.5], dtype=float32)
    """

    def __init__(
        self,
        initial_value: float = 1e-5,
        data_format: str | None = None,
        *,
        gamma_initializer: Any = None,
        gamma_regularizer: Any = None,
        gamma_constraint: Any = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.take(number, initial_value=initial_value)
        self.take(known_data_format, data_format=data_format)
        self.take(optional(resolved), gamma_initializer=gamma_initializer)
        self.take(resolved, gamma_regularizer=gamma_regularizer, gamma_constraint=gamma_constraint)
        self.supports_masking = True

    def build(self, input_shape):
        initializer = self.gamma_initializer or keras.initializers.Constant(self.initial_value)
        shape = (self.pinned_channels(input_shape),)
        self.gamma = self.add_like(shape, "gamma", "gamma", initializer=initializer)
        self.built = True

    def call(self, inputs):
        gamma = self.computed(self.gamma)
        if self.channel_axis == -1:
            return inputs * gamma
        return inputs * tf.reshape(gamma, [-1, *[1] * (inputs.shape.rank - 2)])

    def compute_output_shape(self, input_shape):
        return shape_for_keras(static_shape(input_shape))


def layer_norm(x: Any, name: str | None = None) -> Any:
    """``x``, normalized over its channels at each position."""
    return keras.layers.LayerNormalization(axis=channel_axis(), epsilon=EPSILON, name=name)(x)


def _mixed(x: Any, filters: int, use_bias: bool, name: str | None) -> Any:
    """A dense layer at each position."""
    kernel_initializer = keras.initializers.TruncatedNormal(stddev=0.02)
    return Conv2D(filters, 1, use_bias=use_bias, kernel_initializer=kernel_initializer, name=name)(
        x
    )


def intern_image_block(
    x: Any,
    groups: int,
    *,
    flash: bool = False,
    mlp_ratio: float = 4.0,
    post_norm: bool = False,
    layer_scale: float | None = None,
    offset_scale: float = 1.0,
    depthwise_kernel_size: int | None = 3,
    drop_path_rate: float = 0.0,
    name: str | None = None,
) -> Any:
    """A deformable aggregation and two dense layers, each beside a residual connection.

    ``y = x + gamma1 * aggregation(norm(x))``, then ``y + gamma2 * mlp(norm(y))``.

    Args:
        x: A Keras tensor of images.
        groups: Groups of channels of the aggregation.
        flash: DCNv4 in the place of DCNv3: neither a softmax nor a normalization of the features,
            and no bias behind the aggregation and the dense layers.
        mlp_ratio: Channels between the dense layers, in multiples of those of ``x``.
        post_norm: Whether the normalizations come behind what they stand before otherwise.
        layer_scale: What gamma1 and gamma2 start at; None for none.
        offset_scale: As `tfconv.DeformableAggregation2D` takes it.
        depthwise_kernel_size: Of the depthwise convolution that offsets come from; None for none.
        drop_path_rate: Fraction of the examples that go along the residual connections only, in
            training; the others are scaled up.
        name: Name of the block, which its layers' names begin with.

    Returns:
        A Keras tensor of the same shape.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: Wang et al., InternImage, arXiv:2211.05778, figure 3; Xiong et al., Efficient
    Deformable ConvNets (DCNv4), arXiv:2401.06197, section 3.

    Example:
        >>> inputs = tf.keras.Input((14, 10, 32))
        >>> tuple(tfconv.blocks.intern_image_block(inputs, 2).shape)
        (None, 14, 10, 32)
    """
    positive_int(groups, "groups")
    for argument, value in (("flash", flash), ("post_norm", post_norm)):
        boolean(value, argument)
    number(mlp_ratio, "mlp_ratio")
    optional(number)(layer_scale, "layer_scale")
    number(drop_path_rate, "drop_path_rate", most=1)
    channels = channels_of(x)

    def aggregation(x):
        of_v4 = {"normalize_features": False, "softmax": False, "project_outputs": False}
        x = DeformableAggregation2D(
            3,
            groups=groups,
            offset_scale=offset_scale,
            depthwise_kernel_size=depthwise_kernel_size,
            name=named(name, "dcn"),
            **(of_v4 if flash else {}),
        )(x)
        if not flash:
            return x
        return Conv2D(channels, 1, use_bias=False, name=named(name, "dcn.output_proj"))(x)

    def mlp(x):
        x = _mixed(x, int(channels * mlp_ratio), True, named(name, "mlp.fc1"))
        return _mixed(activated(x, "gelu"), channels, not flash, named(name, "mlp.fc2"))

    for number_, part in ((1, aggregation), (2, mlp)):
        norm_name = named(name, f"norm{number_}.0")
        y = layer_norm(part(x), norm_name) if post_norm else part(layer_norm(x, norm_name))
        if layer_scale is not None:
            y = LayerScale(layer_scale, name=named(name, f"gamma{number_}"))(y)
        if drop_path_rate:
            y = keras.layers.Dropout(drop_path_rate, noise_shape=(None, 1, 1, 1))(y)
        x = keras.layers.Add()([x, y])
    return x
