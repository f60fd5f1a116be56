"""Batch normalization as one op, which graphs can merge with the convolution before it."""

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
    """Keras's batch normalization, as one op of TensorFlow's.

    ``y = gamma * (x - mean) / sqrt(variance + epsilon) + beta`` for each channel, with the batch's
    mean and variance in training and their moving averages otherwise.

    Keras 3 computes it by several ops, each of which reads and writes all of ``x``: two, and a
    dozen in training. TensorFlow's fused op reads it once or twice, and outside training graphs put
    it into the convolution before it and take in the ReLU behind it. It is used for float32 and
    bfloat16 with weights in float32, channels last: for images, and in training for sequences and
    volumes too. All else (masks, ``synchronized``, ``renorm``) is computed as Keras does.

    A batch without examples has no statistics, and leaves the moving averages as they are.

    Args, weights, shapes and errors: as those of ``keras.layers.BatchNormalization``.

    Source: Ioffe and Szegedy, Batch Normalization, arXiv:1502.03167.

    Example:
        >>> norm = tfconv.blocks.BatchNormalization(epsilon=1e-5)
        >>> norm(tf.zeros([2, 8, 8, 4])).shape
        TensorShape([2, 8, 8, 4])
    """

    def call(self, inputs, training=None, mask=None):
        if mask is not None or (inputs.shape[0] and not _compat.KERAS_3):
            return super().call(inputs, training=training, mask=mask)
        learns = training and self.trainable
        if not inputs.shape[0]:
            if learns:
                return self._of_any_number(inputs)
            if not _compat.KERAS_3 and inputs.shape.rank == 5:
                # TensorFlow's fused op gives a gradient of four axes for volumes of no examples.
                normalized = super().call
                return with_an_example(lambda x: normalized(x, training=training), inputs)
        if not self._is_fusible(inputs, learns):
            return super().call(inputs, training=training)
        return self._of_the_batch(inputs) if learns else self._fused(inputs, False).y

    def _fused(self, images, training: bool):
        """The results of TensorFlow's op, for four axes."""
        channels = images.shape[-1]
        no_averages = [tf.zeros([0])] * 2
        mean, variance = no_averages if training else (self.moving_mean, self.moving_variance)
        return tf.raw_ops.FusedBatchNormV3(
            x=images,
            scale=self.gamma if self.scale else tf.ones([channels]),
            offset=self.beta if self.center else tf.zeros([channels]),
            mean=mean,
            variance=variance,
            epsilon=self.epsilon,
            is_training=training,
        )

    def _of_the_batch(self, inputs) -> tf.Tensor:
        """The outputs in training, with the moving averages' next values."""
        images, channels = inputs, inputs.shape[-1]
        if inputs.shape.rank != 4:
            images = tf.reshape(inputs, [tf.shape(inputs)[0], -1, 1, channels])
        result = self._fused(images, True)
        # The op's variance is that of a sample, over n - 1, and NaN on GPUs if n is 1; Keras keeps
        # that of the batch.
        count = tf.reduce_prod(tf.cast(tf.shape(images)[:-1], tf.float32))
        variance = tf.where(count > 1, result.batch_variance * ((count - 1) / count), 0.0)
        for average, own in (
            (self.moving_mean, result.batch_mean),
            (self.moving_variance, variance),
        ):
            average.assign(average * self.momentum + own * (1.0 - self.momentum))
        return result.y if images is inputs else tf.reshape(result.y, tf.shape(inputs))

    def _of_any_number(self, inputs) -> tf.Tensor:
        """The outputs in training for a batch that may be empty."""
        dtype = tf.float64 if self.compute_dtype == "float64" else tf.float32
        momentum = tf.constant(self.momentum, dtype)
        _CALLS.momentum = tf.where(tf.shape(inputs)[0] > 0, momentum, tf.ones_like(momentum))
        own = super().call
        try:
            if self._is_fusible(inputs, True):
                return with_an_example(self._of_the_batch, inputs)
            return with_an_example(lambda x: own(x, training=True), inputs)
        finally:
            del _CALLS.momentum

    @property
    def momentum(self):
        """The share of the moving averages that a batch keeps: all, if it has no examples."""
        return getattr(_CALLS, "momentum", self._momentum)

    @momentum.setter
    def momentum(self, value):
        self._momentum = value

    def _is_fusible(self, inputs, learns: bool) -> bool:
        """Keras 2 uses that op itself."""
        rank = inputs.shape.rank
        return (
            _compat.KERAS_3
            and isinstance(inputs, tf.Tensor)
            and inputs.dtype.name == self.compute_dtype
            and self.compute_dtype in ("float32", "bfloat16")
            and self.variable_dtype == "float32"
            and (rank == 4 or (learns and rank in (3, 5)))
            and inputs.shape[-1] is not None
            and 0 not in inputs.shape.as_list()[1:]
            and self.axis in (-1, rank - 1)
            and self.epsilon > 0
            and not (learns and (self.synchronized or getattr(self, "renorm", False)))
        )
