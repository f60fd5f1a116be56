"""The recorded reference cases of tests/data in tfconv's layouts."""

from __future__ import annotations

import functools
import pathlib
from types import SimpleNamespace

import numpy as np

_FOLDER = pathlib.Path(__file__).parent / "data"
_IMAGES = ("x", "offset", "mask", "kernel", "out")


def _channels_last(
    name: str, value: np.ndarray, rank: int = 2
) -> np.ndarray | int | tuple[int, ...]:
    name = name.replace("grad_", "")
    if np.issubdtype(value.dtype, np.integer):
        return tuple(value.tolist()) if value.ndim else int(value)
    if name in _IMAGES:
        return np.moveaxis(value, 1, -1)
    if name == "weight":  # [..., O, I, *k] -> [..., *k, I, O]
        lead = value.ndim - rank - 2
        return value.transpose([*range(lead), *range(lead + 2, value.ndim), lead + 1, lead])
    return value


@functools.cache
def cases(name: str) -> list[SimpleNamespace]:
    """The cases of ``tests/data/<name>.npz``, in order; a field that is absent is None."""
    found: dict[str, dict] = {}
    with np.load(_FOLDER / f"{name}.npz") as data:
        for key in data.files:
            number, field = key.split("/")
            rank = int(data[f"{number}/nd"]) if f"{number}/nd" in data.files else 2
            found.setdefault(number, {})[field] = _channels_last(field, data[key], rank)
    fields = sorted({field for case in found.values() for field in case})
    absent = dict.fromkeys(fields)
    return [SimpleNamespace(**{**absent, **found[number]}) for number in sorted(found)]


def pairs(padding: int | tuple[int, ...], rank: int = 2) -> tuple[tuple[int, int], ...]:
    """PyTorch's symmetric padding as (before, after) pairs."""
    amounts = (padding,) * rank if isinstance(padding, int) else padding
    return tuple((amount, amount) for amount in amounts)
