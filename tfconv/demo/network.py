"""The demo's network: one layer of each family between stock Keras layers."""

from __future__ import annotations

import tfconv
from tfconv._compat import keras
from tfconv.demo.digits import CLASSES


def build_network() -> keras.Model:
    """A classifier of 8x8 digits with four of tfconv's layers, named after their families."""

    def normalized(x):
        return keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))

    inputs = keras.Input((8, 8, 1), name="digit")
    x = keras.layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = normalized(x)
    x = tfconv.DeformableConv2D(24, 3, padding="same", use_bias=False, name="deformable")(x)
    x = normalized(x)
    x = tfconv.Involution2D(5, group_channels=8, name="involution")(x)
    x = normalized(x)
    x = tfconv.CondConv2D(
        48, 3, strides=2, padding="same", use_bias=False, num_experts=4, name="condconv"
    )(x)
    x = normalized(x)
    x = tfconv.SqueezeExcite(reduction_ratio=4, name="squeeze_excite")(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dropout(0.3)(x)
    outputs = keras.layers.Dense(CLASSES, activation="softmax", name="probabilities")(x)
    return keras.Model(inputs, outputs, name="digits")
