"""Draws the pictures of docs/show.md: trains a network on digits of all sizes, and shows it.

    python docs/show_pictures.py docs/show

Takes about two minutes. Leaves the network and what it is shown in build/show, as digits.keras and
digits.npz.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import tfconv  # noqa: E402
from tfconv import visual  # noqa: E402
from tfconv._compat import keras  # noqa: E402
from tfconv.demo.digits import load_digits  # noqa: E402

SIZE = 48
BUILD = Path(__file__).resolve().parents[1] / "build" / "show"


def scattered(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[N, 48, 48, 1]: every digit in a size of its own, from 14 to 40 pixels, anywhere on noise."""
    canvas = rng.normal(0.15, 0.08, [len(images), SIZE, SIZE, 1])
    for image, place in zip(images, canvas):
        size = rng.integers(14, 41)
        top, left = rng.integers(0, SIZE - size + 1, 2)
        grown = tf.image.resize(image, [size, size]).numpy()
        place[top : top + size, left : left + size] += 0.8 * grown
    return canvas.clip(0, 1).astype(np.float32)


def network() -> keras.Model:
    """Two plain convolutions, two deformable ones, an involution and a CondConv."""

    def normalized(x):
        return keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))

    inputs = keras.Input((SIZE, SIZE, 1))
    x = normalized(tfconv.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(inputs))
    x = normalized(tfconv.Conv2D(32, 3, strides=2, padding="same", use_bias=False)(x))
    for name in ("deformable_1", "deformable_2"):
        x = normalized(tfconv.DeformableConv2D(32, 3, padding="same", name=name)(x))
    x = normalized(tfconv.Involution2D(5, group_channels=8, name="involution")(x))
    x = normalized(tfconv.CondConv2D(48, 3, strides=2, num_experts=4, name="condconv")(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x), name="digits")


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws the pictures of docs/show.md.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    digits = load_digits()
    model = network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    BUILD.mkdir(parents=True, exist_ok=True)
    for _ in range(arguments.epochs):  # digits in other sizes and places every time
        model.fit(scattered(digits.train_images, rng), digits.train_labels, 32, verbose=2)
    images, labels = scattered(digits.test_images, rng), digits.test_labels
    print("held out: accuracy", model.evaluate(images, labels, verbose=0)[1])
    model.save(BUILD / "digits.keras")
    np.savez_compressed(BUILD / "digits.npz", images=images, labels=labels)
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    image, at = images[0], [(12, 12), (24, 24), (36, 36)]
    drawn = {
        "sampling": visual.sampling_points(model, image, position=at),
        "levels": visual.sampling_points(model, image, "deformable_2", at, levels=2),
        "kernels": visual.involution_kernels(model, image, position=at),
        "routing": visual.routing_weights(model, images, labels=labels),
        "receptive-field": visual.effective_receptive_field(model, images[:64], "deformable_2"),
    }
    for name, found in drawn.items():
        found.plot(folder / f"{name}.png")


if __name__ == "__main__":
    main()
