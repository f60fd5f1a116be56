"""Trains plain and deformable convolutions on volumes with bent tubes, into deformable_volumes.md.

    python docs/deformable_volumes.py

Some minutes on two cores.
"""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np  # noqa: E402

import tfconv  # noqa: E402
from tfconv._compat import keras, tensorflow_version  # noqa: E402
from tfconv.export.files import replacing  # noqa: E402

PAGE = Path(__file__).resolve().parent / "deformable_volumes.md"
SIZES = (10, 16, 16)
NOISE = 0.8
COUNT, HELD_OUT = 128, 64
EPOCHS = 12
SEEDS = (0, 1, 2, 3, 4)
_BATCH = 8
_RATE = 4e-3
# Of the two layers in the middle.
LAYERS = {
    "Conv3D": lambda: tfconv.Conv3D(8, 3, padding="same", activation="relu"),
    "Conv3D, 20 filters": lambda: tfconv.Conv3D(20, 3, padding="same", activation="relu"),
    "DeformableConv3D": lambda: tfconv.DeformableConv3D(8, 3, padding="same", activation="relu"),
}


def volumes(
    count: int, sizes: Sequence[int], seed: int, noise: float = NOISE
) -> tuple[np.ndarray, np.ndarray]:
    """Volumes with a bent tube and two ellipsoids, all equally bright, under noise.

    Returns:
        [count, *sizes, 1] arrays of float32: the volumes, and 1 where the tubes are.
    """
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), -1).astype(np.float64)
    largest = np.array(sizes) - 1.0
    along = np.linspace(0, 1, 4 * max(sizes))[:, None]
    x, tubes = np.zeros((count, *sizes), bool), np.zeros((count, *sizes), bool)
    for number in range(count):
        start, bend, end = rng.uniform(0, 1, (3, 3)) * largest
        start[-1], end[-1] = 0, largest[-1]
        curve = (1 - along) ** 2 * start + 2 * along * (1 - along) * bend + along**2 * end
        distances = ((grid[..., None, :] - curve) ** 2).sum(-1).min(-1)
        tubes[number] = distances < 1.3**2
        for centre, axes in zip(rng.uniform(0, 1, (2, 3)) * largest, rng.uniform(1.5, 4, (2, 3))):
            x[number] |= (((grid - centre) / axes) ** 2).sum(-1) < 1
    x = (x | tubes) + rng.normal(0, noise, x.shape)
    return x[..., None].astype(np.float32), tubes[..., None].astype(np.float32)


def network(layer: str, sizes: Sequence[int]) -> keras.Model:
    """Four convolutions, the two in the middle of the kind that is compared."""
    return keras.Sequential(
        [
            keras.Input((*sizes, 1)),
            tfconv.Conv3D(8, 3, padding="same", activation="relu"),
            LAYERS[layer](),
            LAYERS[layer](),
            tfconv.PointwiseConv3D(1),
        ]
    )


def overlap(model: keras.Model, x: np.ndarray, tubes: np.ndarray) -> float:
    """How much of what is a tube, or is said to be one, is both (intersection over union)."""
    said = np.concatenate([model(x[i : i + _BATCH]).numpy() > 0 for i in range(0, len(x), _BATCH)])
    return float((said & (tubes > 0)).sum() / max(1, (said | (tubes > 0)).sum()))


@dataclasses.dataclass(frozen=True)
class Run:
    """One network, trained: its overlap on volumes held out, and the seconds that it took."""

    overlap: float
    seconds: float
    parameters: int


def train(layer: str, seed: int, sizes: Sequence[int], count: int, epochs: int) -> Run:
    """Trains a network with one of `LAYERS`; a seed has other volumes, the same for every layer."""
    x, tubes = volumes(count, sizes, seed)
    held_out = volumes(max(1, count * HELD_OUT // COUNT), sizes, 1000 + seed)
    keras.utils.set_random_seed(seed)
    model = network(layer, sizes)
    rate = keras.optimizers.schedules.CosineDecay(_RATE, epochs * -(-count // _BATCH))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, jit_compile=False)
    begin = time.perf_counter()
    model.fit(x, tubes, batch_size=_BATCH, epochs=epochs, verbose=0)
    seconds = time.perf_counter() - begin
    return Run(overlap(model, *held_out), seconds, model.count_params())


def interval(values: Sequence[float]) -> float:
    """Half of a rough interval of 95% of the mean."""
    return 1.96 * statistics.stdev(values) / math.sqrt(len(values))


_HEAD = f"""# Bent tubes in volumes

Made by `docs/deformable_volumes.py` with TensorFlow {tensorflow_version()}. Each of
{COUNT} volumes of {"x".join(map(str, SIZES))} voxels holds a bent tube and two ellipsoids
that are as bright, under normal noise of {NOISE} times that brightness; the network says of
every voxel whether it belongs to the tube. Of its four convolutions, the two in the middle are of
the kind in the first column, with 8 filters unless it says so. Overlap is intersection over union
on {HELD_OUT} other volumes, after {EPOCHS} epochs: the mean of {len(SEEDS)} seeds, which have
volumes of their own, with a rough interval of 95%. The difference is from Conv3D's with the same
seed.

| layers | parameters | training | overlap | difference |
|---|---|---|---|---|
"""


def page(runs: dict[str, list[Run]]) -> str:
    """The page, from the runs of each layer in the order of the seeds."""
    lines, base = _HEAD.splitlines(), [run.overlap for run in next(iter(runs.values()))]
    for layer, mine in runs.items():
        overlaps = [run.overlap for run in mine]
        apart = [own - other for own, other in zip(overlaps, base)]
        cells = [
            layer,
            f"{mine[0].parameters:,}",
            f"{statistics.median(run.seconds for run in mine):.0f} s",
            f"{statistics.mean(overlaps):.3f} ± {interval(overlaps):.3f}",
            f"{statistics.mean(apart):+.3f} ± {interval(apart):.3f}" if any(apart) else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def measured(
    seeds: Sequence[int] = SEEDS,
    sizes: Sequence[int] = SIZES,
    count: int = COUNT,
    epochs: int = EPOCHS,
) -> dict[str, list[Run]]:
    """The runs of all layers and seeds."""
    return {layer: [train(layer, seed, sizes, count, epochs) for seed in seeds] for layer in LAYERS}


if __name__ == "__main__":
    found = page(measured())
    print(found)
    with replacing(PAGE) as path:
        path.write_text(found, encoding="utf-8")
