"""Batch normalization that graphs can merge with the convolution before it."""

from __future__ import annotations

import threading

import tensorflow as tf

from tfconv import _compat
from tfconv._compat import keras
from tfconv.layers.base import register
from tfconv.ops.dispatch import with_an_example

_CALLS = threading.local()  # strategies call a layer in several threads


@register
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch normalization, as one op of TensorFlow's outside training.

    ``y = gamma * (x - mean) / sqrt(variance + epsilon) + beta`` for each channel, with the batch's
    mean and variance in training and their moving averages otherwise.

    Keras 3 computes it by several ops, of which two read and write all of ``x``. TensorFlow's
    fused op reads it once, and graphs put it into the convolution before it and take in the ReLU
    behind it. It is used for float32 images, channels last, outside training; all else is
    computed as Keras does.

    A batch without examples has no statistics, and leaves the moving averages as they are.

    Args, weights, shapes and errors: as those of ``keras.layers.BatchNormalization``.

    Source: Ioffe and Szegedy, Batch Normalization, arXiv:1502.03167.

    Example:
        >>> norm = tfconv.blocks.BatchNormalization(epsilon=1e-5)
        >>> norm(tf.zeros([2, 8, 8, 4])).shape
        TensorShape([2, 8, 8, 4])
    """

    def call(self, inputs, training=None, mask=None):
        if mask is None and not inputs.shape[0]:
            if training and self.trainable:
                return self._of_any_number(inputs)
            if not _compat.KERAS_3 and inputs.shape.rank == 5:
                # TensorFlow's fused op gives a gradient of four axes for volumes of no examples.
                normalized = super().call
                return with_an_example(lambda x: normalized(x, training=training), inputs)
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

    def _of_any_number(self, inputs) -> tf.Tensor:
        """The outputs in training for a batch that may be empty."""
        dtype = tf.float64 if self.compute_dtype == "float64" else tf.float32
        momentum = tf.constant(self.momentum, dtype)
        _CALLS.momentum = tf.where(tf.shape(inputs)[0] > 0, momentum, tf.ones_like(momentum))
        try:
            normalized = super().call
            return with_an_example(lambda x: normalized(x, training=True), inputs)
        finally:
            del _CALLS.momentum

    @property
    def momentum(self):
        """The share of the moving averages that a batch keeps: all, if it has no examples."""
        return getattr(_CALLS, "momentum", self._momentum)

    @momentum.setter
    def momentum(self, value):
        self._momentum = value

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
