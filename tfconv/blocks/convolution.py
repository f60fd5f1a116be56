"""A convolution, its batch normalization and its activation: what the other blocks are made of."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tfconv import _compat
from tfconv._compat import keras
from tfconv.layers import Conv2D, DepthwiseConv2D
from tfconv.layers.arguments import (
    known_data_format,
    number,
    one_of,
    positive_int,
    positive_number,
    resolved,
)
from tfconv.layers.base import register, shape_for_keras, static_shape
from tfconv.layers.batch_norm import BatchNormalization
from tfconv.layers.calls import Rearranged
from tfconv.ops.geometry import is_int, standardized_padding


@dataclasses.dataclass(frozen=True)
class Convention:
    """What checkpoints of one architecture differ in by where they come from.

    Attributes:
        padding: "symmetric" pads both sides alike, as PyTorch does; "same" is TensorFlow's rule.
            They differ for strides above 1 only.
        epsilon: That of every batch normalization.
        momentum: That of every batch normalization, as Keras counts it.

    Raises:
        ValueError: If an attribute is something else.

    Example:
        >>> tfconv.blocks.Convention("same", epsilon=1e-3)
        Convention(padding='same', epsilon=0.001, momentum=0.9)
    """

    padding: str = "symmetric"
    epsilon: float = 1e-5
    momentum: float = 0.9

    def __post_init__(self):
        one_of(self.padding, "padding", ("symmetric", "same"))
        positive_number(self.epsilon, "epsilon")
        number(self.momentum, "momentum", most=1)

    def padding_of(self, kernel_size: int, strides: int) -> int | str:
        """The padding of a convolution, as tfconv's layers take it."""
        if strides == 1 or self.padding == "same":
            return "same"  # with one stride and an odd kernel, both rules say the same
        return (kernel_size - 1) // 2


PYTORCH = Convention()


def checked_convention(value: Any) -> Convention:
    """``value`` if it is a convention; ValueError names the argument otherwise."""
    if not isinstance(value, Convention):
        raise ValueError(
            f"`convention` must be a tfconv.blocks.Convention. Received: convention={value!r}"
        )
    return value


def positive_ints(values: Any, name: str, count: int | None = None) -> tuple[int, ...]:
    """``values`` as a tuple of ``count`` ints, or of one or more; ValueError names them."""
    try:
        result = tuple(values)
    except TypeError:
        result = ()
    if not result or count not in (None, len(result)) or not all(_is_positive(n) for n in result):
        raise ValueError(
            f"`{name}` must be {count or 'one or more'} positive integers. "
            f"Received: {name}={values!r}"
        )
    return result


def _is_positive(value: Any) -> bool:
    return is_int(value) and value > 0


@register
def hard_sigmoid(x: tf.Tensor) -> tf.Tensor:
    """``relu6(x + 3) / 6``; the hard sigmoid of Keras 2 has another slope.

    Args:
        x: A tensor.

    Returns:
        A tensor like ``x``, from 0 to 1.

    Source: Howard et al., Searching for MobileNetV3, arXiv:1905.02244, section 5.2.

    Example:
        >>> tfconv.blocks.hard_sigmoid(tf.constant([-4.0, 0.0, 1.5])).numpy()
        array([0.  , 0.5 , 0.75], dtype=float32)
    """
    return tf.nn.relu6(x + 3) / 6


@register
def hard_swish(x: tf.Tensor) -> tf.Tensor:
    """``x * relu6(x + 3) / 6``.

    Args:
        x: A tensor.

    Returns:
        A tensor like ``x``.

    Source: Howard et al., Searching for MobileNetV3, arXiv:1905.02244, section 5.2.

    Example:
        >>> tfconv.blocks.hard_swish(tf.constant([-4.0, 0.0, 3.0])).numpy()
        array([-0.,  0.,  3.], dtype=float32)
    """
    return x * hard_sigmoid(x)


@register
class HardSwish(keras.layers.Activation):
    """`tfconv.blocks.hard_swish` as a layer, which Keras 2 can load from .h5 files, too.

    Args:
        **kwargs: Keras's own: ``name``, ``dtype``.

    Source: Howard et al., Searching for MobileNetV3, arXiv:1905.02244, section 5.2.

    Example:
        >>> tfconv.blocks.HardSwish()(tf.constant([-4.0, 0.0, 3.0])).numpy()
        array([-0.,  0.,  3.], dtype=float32)
    """

    def __init__(self, **kwargs: Any):
        super().__init__(hard_swish, **kwargs)

    def get_config(self):
        config = super().get_config()
        del config["activation"]
        return config


def channel_axis() -> int:
    """The axis of an image's channels in Keras's data format."""
    return -1 if keras.backend.image_data_format() == "channels_last" else 1


def channels_of(x: Any) -> int:
    """The number of channels of a Keras tensor of images."""
    return x.shape[channel_axis()]


def initializer() -> Any:
    """He's, by the outputs, which suits depthwise kernels as well (arXiv:1502.01852)."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def named(name: str | None, part: str) -> str | None:
    """The name of a part of a block, None in a block without a name."""
    return None if name is None else f"{name}.{part}"


def activated(x: Any, activation: Any) -> Any:
    """``x`` behind an activation; layers in the place of what not every Keras knows or loads."""
    if activation is None:
        return x
    if activation is hard_swish:
        return HardSwish()(x)
    if activation == "relu6":
        return keras.layers.ReLU(6.0)(x)
    resolved(activation, "activation")  # raises
    return keras.layers.Activation(activation)(x)


def pooled(x: Any, pooling: type, *arguments: Any) -> Any:
    """``x`` behind one of Keras's 2-D poolings, which Keras 2 computes wrongly channels first.

    Without a GPU, its eager kernels take [N, C, H, W] for [N, H, W, C].
    """
    if _compat.KERAS_3 or channel_axis() == -1:
        return pooling(*arguments)(x)
    x = keras.layers.Permute((2, 3, 1))(x)
    x = pooling(*arguments, data_format="channels_last")(x)
    return keras.layers.Permute((3, 1, 2))(x)


def norm(
    x: Any, activation: Any = None, *, convention: Convention = PYTORCH, name: str | None = None
) -> Any:
    """Batch normalization, then an activation: ``activation(batch_norm(x))``.

    Args:
        x: A Keras tensor of images.
        activation: Name or function; None for none.
        convention: Epsilon and momentum.
        name: Name of the normalization.

    Returns:
        A Keras tensor of the same shape.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: Ioffe and Szegedy, Batch Normalization, arXiv:1502.03167.

    Example:
        >>> inputs = tf.keras.Input((8, 8, 4))
        >>> tuple(tfconv.blocks.norm(inputs, "relu").shape)
        (None, 8, 8, 4)
    """
    checked_convention(convention)
    x = BatchNormalization(
        channel_axis(), momentum=convention.momentum, epsilon=convention.epsilon, name=name
    )(x)
    return activated(x, activation)


def conv_norm(
    x: Any,
    filters: int,
    kernel_size: int = 1,
    strides: int = 1,
    *,
    groups: int = 1,
    activation: Any = "relu",
    padding: int | str | None = None,
    convention: Convention = PYTORCH,
    names: tuple[str | None, str | None] = (None, None),
) -> Any:
    """Convolution without bias, batch normalization, activation.

    ``activation(batch_norm(conv(x)))``.

    Args:
        x: A Keras tensor of images.
        filters: Output channels.
        kernel_size: Taps along both axes.
        strides: Pixels between neighbouring outputs.
        groups: Groups of channels that see only each other.
        activation: Name or function; None for none.
        padding: As tfconv's layers take it; None takes the convention's.
        convention: Padding, epsilon and momentum.
        names: Names of the convolution and the normalization.

    Returns:
        A Keras tensor of images with ``filters`` channels.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: Ioffe and Szegedy, Batch Normalization, arXiv:1502.03167, section 3.2.

    Example:
        >>> inputs = tf.keras.Input((8, 8, 4))
        >>> tuple(tfconv.blocks.conv_norm(inputs, 6, 3, strides=2).shape)
        (None, 4, 4, 6)
    """
    checked_convention(convention)
    x = Conv2D(
        filters,
        kernel_size,
        strides,
        convention.padding_of(kernel_size, strides) if padding is None else padding,
        groups=groups,
        use_bias=False,
        kernel_initializer=initializer(),
        name=names[0],
    )(x)
    return norm(x, activation, convention=convention, name=names[1])


def depthwise_norm(
    x: Any,
    kernel_size: int = 3,
    strides: int = 1,
    *,
    activation: Any = "relu",
    convention: Convention = PYTORCH,
    names: tuple[str | None, str | None] = (None, None),
) -> Any:
    """Depthwise convolution without bias, batch normalization, activation.

    ``activation(batch_norm(depthwise_conv(x)))``.

    Args:
        x: A Keras tensor of images.
        kernel_size: Taps along both axes.
        strides: Pixels between neighbouring outputs.
        activation: Name or function; None for none.
        convention: Padding, epsilon and momentum.
        names: Names of the convolution and the normalization.

    Returns:
        A Keras tensor of images with the channels of ``x``.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: Howard et al., MobileNets, arXiv:1704.04861, section 3.1.

    Example:
        >>> inputs = tf.keras.Input((8, 8, 4))
        >>> tuple(tfconv.blocks.depthwise_norm(inputs, strides=2).shape)
        (None, 4, 4, 4)
    """
    x = DepthwiseConv2D(
        kernel_size,
        strides,
        checked_convention(convention).padding_of(kernel_size, strides),
        use_bias=False,
        depthwise_initializer=initializer(),
        name=names[0],
    )(x)
    return norm(x, activation, convention=convention, name=names[1])


@register
class MirrorPadding2D(Rearranged):
    """Pads images with their own pixels, mirrored at the edge: ``y[-i] = x[i - 1]``.

    Max pooling of what it gives is that of an image padded with nothing, as PyTorch's: each
    window holds the pixels that its padding repeats.

    Args:
        padding: Pixels before and after both axes.
        data_format: "channels_last" or "channels_first"; None takes Keras's setting.

    Input shape: [N, H, W, C] (or [N, C, H, W]).

    Output shape: [N, before + H + after, before + W + after, C].

    Raises:
        ValueError: If an argument is not what is described above.

    Example:
        >>> layer = tfconv.blocks.MirrorPadding2D((0, 1))
        >>> layer(tf.constant([[[[1.0], [2.0]]]]))[0, 0, :, 0].numpy()
        array([1., 2., 2.], dtype=float32)
    """

    def __init__(self, padding: tuple[int, int] = (1, 1), data_format: str | None = None, **kwargs):
        super().__init__(**kwargs)
        self.take(_pair, padding=padding)
        self.take(known_data_format, data_format=data_format)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def _axes(self) -> tuple[int, int]:
        return (1, 2) if self.data_format == "channels_last" else (2, 3)

    def call(self, inputs):
        pads = [self.padding if axis in self._axes() else (0, 0) for axis in range(4)]
        return tf.pad(inputs, pads, "SYMMETRIC")

    def compute_output_shape(self, input_shape):
        shape = list(static_shape(input_shape))
        for axis in self._axes():
            shape[axis] = None if shape[axis] is None else shape[axis] + sum(self.padding)
        return shape_for_keras(shape)


def _pair(value: Any, name: str) -> tuple[int, int]:
    try:
        (pair,) = standardized_padding([value], 1)
    except ValueError as error:
        raise ValueError(
            f"`{name}` must be a pair (before, after) of ints of at least 0. "
            f"Received: {name}={value!r}"
        ) from error
    return pair


def max_pool(
    x: Any, size: int = 3, strides: int = 2, *, ceil: bool = False, nonnegative: bool = True
) -> Any:
    """Max pooling that pads as PyTorch does.

    ``y[p] = max_t x[p * strides - pad + t]`` over the t that fall into the image.

    Args:
        x: A Keras tensor of images.
        size: Pixels of a window along both axes.
        strides: Pixels between neighbouring windows.
        ceil: Nothing before the image, and windows that hang over its end (``ceil_mode``), by at
            most half their size or, of a nonnegative image, less than their size: ``strides`` are
            at most ``size // 2 + 1``, or ``size``. Otherwise ``size // 2`` pixels on all sides.
        nonnegative: Whether the image comes from a ReLU, so that padded zeros never win.

    Returns:
        A Keras tensor of images.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: PyTorch's ``MaxPool2d``.

    Example:
        >>> inputs = tf.keras.Input((9, 8, 4))
        >>> tuple(tfconv.blocks.max_pool(inputs).shape)
        (None, 5, 4, 4)
        >>> tuple(tfconv.blocks.max_pool(inputs, ceil=True).shape)
        (None, 4, 4, 4)
    """
    size, strides = positive_int(size, "size"), positive_int(strides, "strides")
    most = size if nonnegative else size // 2 + 1
    if ceil and strides > most:
        raise ValueError(
            f"`strides` must be at most {most} with this size and ceil=True. Received: "
            f"strides={strides}, size={size}, nonnegative={nonnegative}"
        )
    pads = (0, strides - 1) if ceil else (size // 2, size // 2)
    if nonnegative:
        x = keras.layers.ZeroPadding2D((pads, pads))(x)
    else:
        x = MirrorPadding2D(pads)(x)
    return pooled(x, keras.layers.MaxPooling2D, size, strides)
