"""Evidence on real data: a layer of every family in one small network, trained in one way.

`compare` puts each candidate into the network, trains it with several seeds, converts it to
TensorFlow Lite and times it. `tfconv compare` prints what comes of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from tfconv.analysis import profile
from tfconv.evidence.candidates import Candidate, candidates
from tfconv.evidence.data import BATCH, SETS, Images, load_images
from tfconv.evidence.picture import check_picture
from tfconv.evidence.report import Report, Row, difference
from tfconv.evidence.timing import take_turns
from tfconv.evidence.training import LEARNING_RATE, Trainer
from tfconv.export import to_tflite
from tfconv.export.verification import RUNTIME, Runner
from tfconv.layers.arguments import positive_int

__all__ = [
    "SETS",
    "Candidate",
    "Images",
    "Report",
    "candidates",
    "check_picture",
    "compare",
    "load_images",
]


def compare(
    chosen: Sequence[Candidate],
    images: Images,
    epochs: int = 15,
    seeds: int = 3,
    rounds: int = 15,
    progress: Callable[[int, int, str], None] = lambda *_: None,
) -> Report:
    """Trains the network with each candidate and measures what it costs.

    Args:
        chosen: The candidates; the others are compared with the first.
        images: What they learn from and are tested on.
        epochs: How often they see the training images.
        seeds: How often each is trained: with the seeds 0, 1 and so on.
        rounds: Rounds of timing.
        progress: Is told how many steps are done, of how many, and what comes next.

    Raises:
        ExportError: If a network does not give the same in TensorFlow Lite.
        ValueError: If there are no candidates, or a number is not positive.
    """
    if not chosen:
        raise ValueError(f"`chosen` must have candidates. Received: chosen={chosen!r}")
    epochs, seeds = positive_int(epochs, "epochs"), positive_int(seeds, "seeds")
    rounds = positive_int(rounds, "rounds")
    count = itertools.count()
    total = len(chosen) * (seeds * epochs + 1) + 2 * rounds

    def said(what: str) -> None:
        progress(next(count), total, what)

    right: dict[str, list[np.ndarray]] = {candidate.name: [] for candidate in chosen}
    kept: dict[str, Trainer] = {}
    for seed in range(seeds):
        for candidate in chosen:
            trainer = Trainer(candidate, images, epochs, seed)
            for epoch in range(epochs):
                said(f"seed {seed + 1} of {seeds}: {candidate.name}")
                trainer.train(epoch)
            right[candidate.name].append(trainer.correct())
            kept.setdefault(candidate.name, trainer)
    calls = {}
    for name, trainer in kept.items():
        said(f"to TensorFlow Lite: {name}")
        calls[name] = _interpreted(trainer, images)
    latencies = take_turns(calls, rounds, lambda: said("timing TensorFlow Lite"))
    steps = {name: trainer.repeat_step for name, trainer in kept.items()}
    times = take_turns(steps, rounds, lambda: said("timing training steps"))
    first = np.stack(right[chosen[0].name])
    rows = []
    for candidate in chosen:
        name = candidate.name
        mine = np.stack(right[name])
        cost = profile(kept[name].model)
        rows.append(
            Row(
                name=name,
                setting=candidate.setting,
                mixes=candidate.mixes,
                parameters=cost.trainable,
                multiply_adds=cost.multiply_adds,
                accuracies=[100 * float(part) for part in mine.mean(1)],
                difference=None if candidate is chosen[0] else difference(mine, first),
                step=times[name],
                latency=latencies[name],
            )
        )
    facts = {
        "Images": f"{images.name}, {'x'.join(map(str, images.shape[:2]))} pixels; "
        f"{len(images.train_labels):,} to learn from, {len(images.test_labels):,} to test on",
        "Training": f"{epochs} epochs of {images.steps} batches of {BATCH}, Adam, learning rate "
        f"{LEARNING_RATE} falling to 0 along a cosine, shifts of up to a pixel; seeds: {seeds}",
        "Times": f"medians of {rounds} rounds, in each of which everyone has a turn; a training "
        f"step has {BATCH} images; TFLite ({RUNTIME}) runs one image on one thread, in float32",
    }
    return Report(facts, rows)


def _interpreted(trainer: Trainer, images: Images) -> Callable[[], object]:
    """The network in TensorFlow Lite's interpreter, as a call for one image."""
    report = to_tflite(trainer.model, representative_data=images.test_images)
    run, arrays = Runner(report.content), {report.inputs[0]: images.test_images[:1]}
    return lambda: run(arrays)
