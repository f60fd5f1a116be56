"""Random weights and images that need no file: the same for a network and its peer, anywhere."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping

import numpy as np


@functools.cache
def _pool() -> np.ndarray:
    return np.random.RandomState(0).standard_normal(1 << 20).astype(np.float32)


def _normal(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Normally distributed numbers that the key determines."""
    return np.resize(np.roll(_pool(), zlib.crc32(key.encode())), shape)


def random_weight(key: str, shape: tuple[int, ...], gain: float) -> np.ndarray:
    """A weight of PyTorch's layout, about as a trained network has it."""
    value = _normal(key, shape)
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith("running_var"):
        return 0.5 + np.abs(value)
    if key.endswith((".bias", "running_mean")):
        return 0.1 * value
    if len(shape) == 1:  # of a batch normalization
        return gain * (0.8 + 0.2 * value)
    if len(shape) == 2 and ".conv_" in key:  # experts, one a row
        return (0.6 if "conv_dw" in key else 0.1) / np.sqrt(shape[0]) * value
    made = ("conv2.conv.", "conv_offset", "offset_mask.")  # kernels and offsets
    small = 0.1 if any(part in key for part in made) else 1.0
    return small * np.sqrt(2 / np.prod(shape[1:])) * value


def random_weights(
    shapes: Mapping[str, tuple[int, ...]], gain: float = 1.0
) -> dict[str, np.ndarray]:
    """A state dict of random weights.

    Args:
        shapes: Shapes by their keys.
        gain: Factor of all batch normalizations. The right one lets the image through to the
            logits, so that they show every mistake on the way: see record.py.
    """
    return {key: random_weight(key, tuple(shape), gain) for key, shape in shapes.items()}


def random_image(size: int) -> np.ndarray:
    """[1, size, size, 3]"""
    return _normal("image", (1, size, size, 3))
