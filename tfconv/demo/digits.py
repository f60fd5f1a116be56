"""The demo's data: the handwritten digits that ship with scikit-learn."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfconv.demo.errors import needs

CLASSES = 10
_SPLIT_SEED = 0


@dataclasses.dataclass(frozen=True)
class Digits:
    """Images [N, 8, 8, 1] in 0..1 as float32 and their labels [N], in two parts."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_digits() -> Digits:
    """The 1,797 digits, a third of every class held out; the same parts every time.

    Raises:
        DemoError: If scikit-learn is not installed.
    """
    with needs("scikit-learn"):
        from sklearn import datasets, model_selection
    images, labels = datasets.load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    train_x, test_x, train_y, test_y = model_selection.train_test_split(
        images, labels, test_size=1 / 3, stratify=labels, random_state=_SPLIT_SEED
    )
    return Digits(train_x, train_y, test_x, test_y)
