"""Keras callbacks for layers that change while they are trained."""

from __future__ import annotations

from typing import Any

from tfconv._compat import all_layers, keras
from tfconv.layers.arguments import positive_int, positive_number
from tfconv.layers.dynamic_conv import DynamicConv


class TemperatureAnnealing(keras.callbacks.Callback):
    """Lowers the temperature of all dynamic convolutions of a model, epoch by epoch.

    ``temperature(epoch) = start + (end - start) * min(epoch / epochs, 1)``, set when an epoch
    begins; the first is epoch 0.

    Args:
        start: Temperature in the first epoch.
        end: Temperature from epoch number ``epochs`` on.
        epochs: Epochs that it takes from ``start`` to ``end``.

    Raises:
        ValueError: If an argument is not a positive number (an int for ``epochs``), or when
            training begins with a model that has no dynamic convolution.

    Source: Chen et al., Dynamic Convolution: Attention over Convolution Kernels,
    arXiv:1912.03458, section 3.3.

    Example:
        >>> layer = tfconv.DynamicConv2D(4, 3)
        >>> model = tf.keras.Sequential(
        ...     [tf.keras.Input((6, 6, 2)), layer, tf.keras.layers.GlobalAveragePooling2D()]
        ... )
        >>> model.compile("sgd", "mse")
        >>> annealing = tfconv.callbacks.TemperatureAnnealing(start=30, end=1, epochs=2)
        >>> x, y = tf.ones([4, 6, 6, 2]), tf.ones([4, 4])
        >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=[annealing])
        >>> float(layer.temperature)
        15.5
    """

    def __init__(self, start: float = 30.0, end: float = 1.0, epochs: int = 10):
        super().__init__()
        self.start = positive_number(start, "start")
        self.end = positive_number(end, "end")
        self.epochs = positive_int(epochs, "epochs")

    def temperature(self, epoch: int) -> float:
        """The temperature of an epoch, counted from 0."""
        return self.start + (self.end - self.start) * min(epoch / self.epochs, 1)

    def on_train_begin(self, logs: Any = None) -> None:
        if not self._layers():
            raise ValueError(
                "TemperatureAnnealing needs a model with at least one DynamicConv layer. "
                f"Received: model={self.model.name!r}"
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        for layer in self._layers():
            layer.set_temperature(self.temperature(epoch))

    def _layers(self) -> list[DynamicConv]:
        return [layer for layer in all_layers(self.model) if isinstance(layer, DynamicConv)]
