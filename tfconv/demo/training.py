"""Trains the demo's network with a progress bar."""

from __future__ import annotations

import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tfconv._compat import keras
from tfconv.demo.digits import Digits

_BATCH = 64
_LEARNING_RATE = 4e-3


def train(model: keras.Model, digits: Digits, epochs: int, console: Console) -> None:
    """Trains `model` on digits that are shifted by up to a pixel, differently every epoch."""
    count = len(digits.train_labels)
    steps = -(-count // _BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, epochs * steps)
    model.compile(
        keras.optimizers.Adam(schedule),
        keras.losses.SparseCategoricalCrossentropy(),
        metrics=["accuracy"],
    )
    data = (
        tf.data.Dataset.from_tensor_slices((digits.train_images, digits.train_labels))
        .shuffle(count)
        .map(_shifted)
        .batch(_BATCH)
        .prefetch(1)
    )
    columns = (
        TextColumn("Training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs  {task.fields[metrics]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=epochs, metrics="")

        def show(epoch: int, logs: dict[str, float]) -> None:
            text = f"loss {logs['loss']:.3f}  accuracy {logs['accuracy']:.1%}"
            progress.update(task, completed=epoch + 1, metrics=text)

        callback = keras.callbacks.LambdaCallback(on_epoch_end=show)
        model.fit(data, epochs=epochs, shuffle=False, verbose=0, callbacks=[callback])


def _shifted(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    padded = tf.pad(image, [[1, 1], [1, 1], [0, 0]])
    return tf.image.random_crop(padded, (8, 8, 1)), label
