"""The one network that all candidates are put into, and the one way in which it is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv._compat import all_layers, keras
from tfconv.callbacks import TemperatureAnnealing
from tfconv.evidence.candidates import CHANNELS, Candidate
from tfconv.evidence.data import BATCH, Images
from tfconv.layers.dynamic_conv import DynamicConv

LEARNING_RATE = 4e-3
_COOLED_AT = 2 / 3  # of all epochs


def build_network(candidate: Candidate, images: Images, seed: int) -> keras.Model:
    """A classifier with two of the candidates.

    A convolution to `CHANNELS`, the candidate, a pooling to half the size, the candidate again,
    the mean over all pixels, a dense layer. Batch normalization and ReLU follow the first three
    layers with weights. What is not the candidate starts with the same weights for everyone.
    """

    def normalized(x):
        return keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))

    def initializer():
        return keras.initializers.GlorotUniform(seed=seed)

    keras.utils.set_random_seed(seed)
    inputs = keras.Input(images.shape, name="image")
    stem = keras.layers.Conv2D(
        CHANNELS, 3, padding="same", use_bias=False, kernel_initializer=initializer(), name="stem"
    )
    x = normalized(stem(inputs))
    x = normalized(candidate.make()(x))
    x = keras.layers.AveragePooling2D(2)(x)
    x = normalized(candidate.make()(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    logits = keras.layers.Dense(images.classes, kernel_initializer=initializer(), name="logits")
    return keras.Model(inputs, logits(x), name=candidate.name.replace(".", "_"))


class Trainer:
    """A network in training.

    Args:
        candidate: What it is made of.
        images: What it learns from and is tested on: `Images`, or what has its attributes.
        epochs: How often it will see the training images.
        seed: Of weights, order of images and shifts.
        build: Makes the network of the first, the second and the fourth of these.

    Attributes:
        model: The network.
    """

    def __init__(
        self,
        candidate: Any,
        images: Any,
        epochs: int,
        seed: int,
        build: Callable[[Any, Any, int], keras.Model] = build_network,
    ):
        self.model = build(candidate, images, seed)
        self._images, self._seed = images, seed
        schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * images.steps)
        self._optimizer = keras.optimizers.Adam(schedule)
        self._optimizer.build(self.model.trainable_variables)
        self._loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self._annealing = None
        if any(isinstance(layer, DynamicConv) for layer in all_layers(self.model)):
            self._annealing = TemperatureAnnealing(epochs=max(int(_COOLED_AT * epochs), 1))
            self._annealing.set_model(self.model)
        inputs = tf.TensorSpec([BATCH, *images.shape], tf.float32)
        labels = tf.TensorSpec([BATCH], tf.int64)
        self._step = tf.function(self._update, input_signature=[inputs, labels])
        self._logits = tf.function(lambda tested: self.model(tested, training=False))
        first, classes = next(images.batches(seed, 0))
        self._batch = tf.constant(first), tf.constant(classes, tf.int64)

    def _update(self, inputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = self._loss(labels, self.model(inputs, training=True))
        weights = self.model.trainable_variables
        self._optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
        return loss

    def train(self, epoch: int) -> None:
        """Goes once through the training images: as epoch number ``epoch``, from 0."""
        if self._annealing is not None:
            self._annealing.on_epoch_begin(epoch)
        for images, labels in self._images.batches(self._seed, epoch):
            self._step(tf.constant(images), tf.constant(labels, tf.int64))

    def repeat_step(self) -> Any:
        """A training step on the same batch each time, for a clock; returns the loss."""
        return self._step(*self._batch)

    def correct(self) -> np.ndarray:
        """For each test image, whether it is put into its class."""
        logits = self._logits(tf.constant(self._images.test_images))
        return logits.numpy().argmax(1) == self._images.test_labels
