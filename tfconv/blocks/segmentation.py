"""The head of fully convolutional networks: scores that grow to the image's size."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv._compat import keras
from tfconv.blocks.convolution import named
from tfconv.layers import Conv2DTranspose, PointwiseConv2D
from tfconv.layers.arguments import positive_int
from tfconv.layers.base import register


@register
class Bilinear(keras.initializers.Initializer):
    """Initializer of transposed convolutions, one a channel: bilinear interpolation.

    ``kernel[i, j, 0, c] = (1 - |i - m| / s) (1 - |j - m| / s)`` with s half the kernel's size
    along an axis, rounded up, and m its centre. In one and in three axes linear and trilinear.

    Source: Long et al., Fully Convolutional Networks, arXiv:1411.4038, section 3.3.

    Example:
        >>> tfconv.blocks.Bilinear()((4, 4, 1, 1))[1, :, 0, 0].numpy()
        array([0.1875, 0.5625, 0.5625, 0.1875], dtype=float32)
    """

    def __call__(self, shape: Sequence[int], dtype: Any = None, **kwargs: Any) -> tf.Tensor:
        tents = [1 - np.abs(np.arange(n) - (n - 1) / 2) / ((n + 1) // 2) for n in shape[:-2]]
        kernel = functools.reduce(np.multiply.outer, tents)[..., None, None]
        kernel = np.broadcast_to(kernel, tuple(shape))
        return tf.convert_to_tensor(kernel, dtype or "float32")

    def get_config(self):
        return {}


def upsampled(x: Any, classes: int, factor: int, *, name: str | None = None) -> Any:
    """A transposed convolution for each channel that starts as bilinear interpolation.

    Args:
        x: A Keras tensor of images with ``classes`` channels.
        classes: Their number.
        factor: How many times as high and wide the result is.
        name: The layer's name.

    Returns:
        A Keras tensor of images.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: Long et al., arXiv:1411.4038, section 3.3.

    Example:
        >>> inputs = tf.keras.Input((4, 4, 3))
        >>> tuple(tfconv.blocks.upsampled(inputs, 3, factor=8).shape)
        (None, 32, 32, 3)
    """
    factor = positive_int(factor, "factor")
    return Conv2DTranspose(
        classes,
        2 * factor - factor % 2,  # with as many outputs on both sides of an input's centre
        factor,
        "same",
        groups=classes,
        use_bias=False,
        kernel_initializer=Bilinear(),
        name=name,
    )(x)


def fcn_head(
    features: Sequence[Any], classes: int, factor: int = 8, *, name: str | None = None
) -> Any:
    """The head of a fully convolutional network: scores of every pixel.

    ``s_0 = conv1x1(features[0])``, ``s_i = upsampled(s_{i-1}, 2) + conv1x1(features[i])``; the
    last one is upsampled by ``factor``.

    Args:
        features: Keras tensors of images, the deepest first, each twice as high and wide as the
            one before it. One of stride 32 and ``factor=32`` make FCN-32s; strides 32, 16, 8 and
            ``factor=8`` make FCN-8s.
        classes: Classes of pixels.
        factor: The stride of the last features.
        name: Prefix of the layers' names.

    Returns:
        A Keras tensor of [N, H, W, classes] logits.

    Raises:
        ValueError: If there are no features, or ``factor`` is not a positive integer.

    Source: Long et al., Fully Convolutional Networks, arXiv:1411.4038, figure 3.

    Example:
        >>> deep, shallow = tf.keras.Input((4, 4, 16)), tf.keras.Input((8, 8, 8))
        >>> tuple(tfconv.blocks.fcn_head([deep, shallow], classes=5, factor=16).shape)
        (None, 128, 128, 5)
    """
    if not isinstance(features, (list, tuple)) or not features:
        raise ValueError(
            f"`features` must be a list of one tensor or more. Received: features={features!r}"
        )
    scores = None
    for number, x in enumerate(features):
        score = PointwiseConv2D(classes, name=named(name, f"score{number}"))(x)
        if scores is None:
            scores = score
        else:
            scores = upsampled(scores, classes, 2, name=named(name, f"upsampled{number}"))
            scores = keras.layers.Add()([scores, score])
    return upsampled(scores, classes, factor, name=named(name, "upsampled"))
