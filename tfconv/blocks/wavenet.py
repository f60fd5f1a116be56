"""WaveNet's stack of gated convolutions, dilated more and more."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from tfconv._compat import keras
from tfconv.blocks.convolution import activated, named, positive_ints
from tfconv.layers import GatedConv1D, PointwiseConv1D


def wavenet_stack(
    x: Any,
    filters: int,
    skip_filters: int,
    dilations: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    kernel_size: int = 2,
    *,
    name: str | None = None,
) -> Any:
    """Gated causal convolutions with residual connections; gives the sum of what they skip.

    ``z_i = tanh(W * x_i) . sigmoid(V * x_i)``, ``x_{i+1} = x_i + conv1(z_i)`` and ``y =
    relu(sum_i conv1'(z_i))``, where ``*`` is a causal convolution with the i-th dilation. An
    output sees ``1 + (kernel_size - 1) * sum(dilations)`` steps.

    Args:
        x: A Keras tensor of signals, channels last.
        filters: Channels of the gated convolutions and the residual path.
        skip_filters: Output channels.
        dilations: Steps between neighbouring taps, one number a layer.
        kernel_size: Taps of the gated convolutions.
        name: Prefix of the layers' names.

    Returns:
        A Keras tensor of signals of the same length.

    Raises:
        ValueError: If an argument is not what is described above.

    Source: van den Oord et al., WaveNet, arXiv:1609.03499, section 2 and figure 4.

    Example:
        >>> inputs = tf.keras.Input((32, 4))
        >>> tuple(tfconv.blocks.wavenet_stack(inputs, 8, 16, (1, 2, 4)).shape)
        (None, 32, 16)
    """
    dilations = positive_ints(dilations, "dilations")
    pointwise = functools.partial(PointwiseConv1D, data_format="channels_last")
    if x.shape[-1] != filters:
        x = pointwise(filters, name=named(name, "start"))(x)
    skips = []
    for number, dilation in enumerate(dilations):
        layer = named(name, str(number))
        z = GatedConv1D(
            filters,
            kernel_size,
            padding="causal",
            data_format="channels_last",
            dilation_rate=dilation,
            activation="tanh",
            gate="feature",
            name=named(layer, "gated"),
        )(x)
        skips.append(pointwise(skip_filters, name=named(layer, "skip"))(z))
        if number < len(dilations) - 1:  # the last one's residual path would lead nowhere
            residual = pointwise(filters, name=named(layer, "residual"))(z)
            x = keras.layers.Add()([x, residual])
    return activated(keras.layers.Add()(skips) if len(skips) > 1 else skips[0], "relu")
