"""The records of tests/data/parity, which record.py makes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parents[1] / "data/parity"


@dataclasses.dataclass(frozen=True)
class Record:
    """What a peer makes of random weights and one image.

    Attributes:
        shapes: Shapes of its weights by their keys.
        gain: That of `tests.parity.weights.random_weights`.
        logits: [classes]
    """

    shapes: dict[str, tuple[int, ...]]
    gain: float
    logits: np.ndarray


def record(name: str) -> Record:
    """The record of a case."""
    with np.load(FOLDER / f"{name}.npz") as data:
        shapes = {key: tuple(shape) for key, shape in json.loads(str(data["shapes"])).items()}
        return Record(shapes, float(data["gain"]), data["logits"])
