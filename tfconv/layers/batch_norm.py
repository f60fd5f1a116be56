"""Batch normalization that graphs can merge with the convolution before it."""

from __future__ import annotations

import tensorflow as tf

from tfconv import _compat
from tfconv._compat import keras
from tfconv.layers.base import register


@register
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch normalization, as one op of TensorFlow's outside training.

    ``y = gamma * (x - mean) / sqrt(variance + epsilon) + beta`` for each channel, with the batch's
    mean and variance in training and their moving averages otherwise.

    Keras 3 computes it by several ops, of which two read and write all of ``x``. TensorFlow's
    fused op reads it once, and graphs put it into the convolution before it and take in the ReLU
    behind it. It is used for float32 images, channels last, outside training; all else is
    computed as Keras does.

    Args, weights, shapes and errors: as those of ``keras.layers.BatchNormalization``.

    Source: Ioffe and Szegedy, Batch Normalization, arXiv:1502.03167.

    Example:
        >>> norm = tfconv.blocks.BatchNormalization(epsilon=1e-5)
        >>> norm(tf.zeros([2, 8, 8, 4])).shape
        TensorShape([2, 8, 8, 4])
    """

    def call(self, inputs, training=None, mask=None):
        if not self._is_fusible(inputs) or (training and self.trainable) or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        channels = inputs.shape[-1]
        result = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma if self.scale else tf.ones([channels]),
            offset=self.beta if self.center else tf.zeros([channels]),
            mean=self.moving_mean,
            variance=self.moving_variance,
            epsilon=self.epsilon,
            is_training=False,
        )
        return result.y

    def _is_fusible(self, inputs) -> bool:
        """Keras 2 uses that op itself."""
        axis = self.axis
        return (
            _compat.KERAS_3
            and isinstance(inputs, tf.Tensor)
            and inputs.dtype == tf.float32
            and self.compute_dtype == "float32"
            and self.variable_dtype == "float32"
            and inputs.shape.rank == 4
            and inputs.shape[-1] is not None
            and axis in (-1, 3)
            and self.epsilon > 0
        )
