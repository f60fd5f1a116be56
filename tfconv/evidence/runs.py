"""Runs of experiments: each is one network with one seed, and a file once it is finished."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tfconv.analysis import profile
from tfconv.analysis.result import written
from tfconv.evidence.plan import Experiment, build
from tfconv.evidence.training import Trainer
from tfconv.machine import processor_name


@dataclasses.dataclass(frozen=True)
class Run:
    """A network, trained.

    Attributes:
        fingerprint: That of the plan.
        network: Its name there.
        seed: Of weights, order and drawing.
        parameters, multiply_adds: Of the whole network.
        curve: Percent of the test images right after every epoch.
        right: Of each test image in order, whether it was right at the end: bits, in hexadecimal.
        images: How many test images there are.
        seconds: What training took of processors, all threads together: other work that the
            machine has hardly counts.
        machine: The processor.
    """

    fingerprint: str
    network: str
    seed: int
    parameters: int
    multiply_adds: int
    curve: list[float]
    right: str
    images: int
    seconds: float
    machine: str

    @property
    def correct(self) -> np.ndarray:
        """[images], whether each was right."""
        return np.unpackbits(np.frombuffer(bytes.fromhex(self.right), np.uint8))[: self.images] > 0


def file_of(folder: Path, experiment: Experiment, network: str, seed: int) -> Path:
    """Where a run's file is."""
    words = re.sub(r"\W+", "_", network.lower()).strip("_")
    return folder / experiment.name / f"{words}-{seed}.json"


def finished(folder: Path, experiment: Experiment, seeds: int) -> dict[str, list[Run]]:
    """The runs that are there of the plan as it is, by network; seeds that all networks have."""
    found = {
        name: {seed: _read(file_of(folder, experiment, name, seed)) for seed in range(seeds)}
        for name in experiment.networks
    }
    fits = [
        seed
        for seed in range(seeds)
        if all(
            runs[seed] is not None and runs[seed].fingerprint == experiment.fingerprint
            for runs in found.values()
        )
    ]
    return {name: [runs[seed] for seed in fits] for name, runs in found.items()} if fits else {}


def _read(path: Path) -> Run | None:
    return Run(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def missing(folder: Path, experiment: Experiment, seeds: int) -> Iterator[tuple[int, str]]:
    """Seeds and networks whose runs are not there: all networks of a seed come together."""
    for seed in range(seeds):
        for name in experiment.networks:
            run = _read(file_of(folder, experiment, name, seed))
            if run is None or run.fingerprint != experiment.fingerprint:
                yield seed, name


def train(
    experiment: Experiment,
    network: str,
    seed: int,
    said: Callable[[int], None] = lambda epoch: None,
) -> Run:
    """Trains a network of an experiment."""
    task = experiment.task
    trainer = Trainer((experiment, network), task, experiment.epochs, seed, build)
    curve, right, seconds = [], np.zeros(0, bool), 0.0
    for epoch in range(experiment.epochs):
        said(epoch)
        begin = time.process_time()
        trainer.train(epoch)
        seconds += time.process_time() - begin
        right = trainer.correct()
        curve.append(round(100 * float(right.mean()), 3))
    cost = profile(trainer.model)
    return Run(
        fingerprint=experiment.fingerprint,
        network=network,
        seed=seed,
        parameters=cost.trainable,
        multiply_adds=cost.multiply_adds,
        curve=curve,
        right=np.packbits(right).tobytes().hex(),
        images=len(right),
        seconds=round(seconds, 1),
        machine=processor_name(),
    )


def keep(folder: Path, experiment: Experiment, run: Run) -> Path:
    """Writes a run's file; it appears when it is complete."""
    path = file_of(folder, experiment, run.network, run.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    written(json.dumps(dataclasses.asdict(run), indent=1) + "\n", path)
    return path
