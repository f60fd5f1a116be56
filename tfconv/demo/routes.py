"""The ways a trained model leaves Python: each is taken, run on the test set and compared."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import tfconv
from tfconv._compat import keras
from tfconv.demo import c_api_runner
from tfconv.demo.errors import DemoError
from tfconv.export import ExportError, to_saved_model, to_tflite
from tfconv.export.files import replacing, size_on_disk
from tfconv.export.quiet import quiet
from tfconv.export.verification import Runner

BATCHES = (1, 64)
_REPEATS = 30
_RUNNER_SECONDS = 300


@dataclasses.dataclass(frozen=True)
class Route:
    """A way to run the model, and what came of it.

    Attributes:
        name: What runs it.
        ops: "native", "portable" (tfconv's twins, in Python) or "stock" (exported).
        probabilities: [N, classes] for the test set.
        milliseconds: Time per image for each of `BATCHES`.
        path: The file or folder it runs from, or None.
        note: What is worth knowing about it.
    """

    name: str
    ops: str
    probabilities: np.ndarray
    milliseconds: tuple[float, ...]
    path: Path | None = None
    note: str = ""

    @property
    def size(self) -> int | None:
        """Bytes on disk."""
        return None if self.path is None else size_on_disk(self.path)

    def accuracy(self, labels: np.ndarray) -> float:
        """Share of images that are put into their class."""
        return float(np.mean(self.probabilities.argmax(1) == labels))

    def difference(self, other: Route) -> float:
        """Largest difference of any probability from `other`'s."""
        return float(np.max(np.abs(self.probabilities - other.probabilities)))

    def disagreements(self, other: Route) -> int:
        """Number of images that `other` puts into another class."""
        mine, others = self.probabilities.argmax(1), other.probabilities.argmax(1)
        return int(np.count_nonzero(mine != others))


def in_memory(model: keras.Model, images: np.ndarray, name: str, path: Path | None = None) -> Route:
    """The model as TensorFlow runs it in this process and this scope."""
    ops = tfconv.native_status().in_force

    @tf.function(input_signature=[tf.TensorSpec([None, *images.shape[1:]], tf.float32)])
    def compiled(x):
        return model(x, training=False)

    def call(x: np.ndarray) -> np.ndarray:
        return compiled(tf.constant(x)).numpy()

    return _route(name, ops, call, images, path)


def keras_file(model: keras.Model, images: np.ndarray, path: Path) -> Route:
    """Saved as a `.keras` file and loaded again."""
    with replacing(path) as made, _quiet("Saving the .keras file"):
        model.save(made)
    with _quiet("Loading the .keras file"):
        loaded = keras.models.load_model(path)
    return in_memory(loaded, images, ".keras, reloaded", path)


def tflite(model: keras.Model, images: np.ndarray, path: Path) -> Route:
    """Converted by `tfconv.export`, run by the TFLite interpreter."""
    try:
        report = to_tflite(model, path, representative_data=images)
    except ExportError as error:
        raise DemoError(f"The conversion to TFLite failed: {error}") from error
    with _quiet("Running the TFLite model"):
        run = Runner(report.content)

        def call(x: np.ndarray) -> np.ndarray:
            (y,) = run({report.inputs[0]: x}).values()
            return y

        return _route(f"TFLite ({report.runtime})", "stock", call, images, path)


def saved_model(model: keras.Model, folder: Path) -> Path:
    """Exports version 1 for TF Serving, checks that its ops are TensorFlow's; returns its path."""
    with replacing(folder) as made, _quiet("The export of the SavedModel"):
        report = to_saved_model(model, made)
    if report.native_ops:
        raise DemoError(f"The SavedModel holds tfconv's native ops: {folder}")
    return folder / report.path.name


def c_api(images: np.ndarray, path: Path) -> Route | None:
    """The SavedModel in a process that has neither TensorFlow's Python nor tfconv.

    Returns:
        The route; None where TensorFlow comes without the libraries of its C API.
    """
    folder = Path(tf.sysconfig.get_lib())
    if c_api_runner.libraries(folder) is None:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        inputs, outputs = Path(scratch, "inputs.npy"), Path(scratch, "outputs.npy")
        np.save(inputs, images)
        command = [sys.executable, "-I", c_api_runner.__file__, path, inputs, outputs]
        command += ["--libraries", folder, "--repeats", _REPEATS, "--batches", *BATCHES]
        try:
            done = subprocess.run(
                [os.fspath(c) if isinstance(c, Path) else str(c) for c in command],
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_RUNNER_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise DemoError(f"The C API did not answer in {error.timeout:.0f} s.") from error
        if done.returncode:
            raise DemoError(
                f"The SavedModel does not run through TensorFlow's C API (exit status "
                f"{done.returncode}):\n{done.stderr.strip()}"
            )
        report = json.loads(done.stdout.splitlines()[-1])
        probabilities = np.load(outputs)
    return Route(
        "SavedModel (C API)",
        "stock",
        probabilities,
        tuple(report["milliseconds"]),
        path,
        "a process without TensorFlow's Python and without tfconv",
    )


def _route(
    name: str, ops: str, call: Callable[[np.ndarray], np.ndarray], images: np.ndarray, path: Any
) -> Route:
    probabilities = call(images)
    times = (c_api_runner.milliseconds(call, images[:n], _REPEATS) for n in BATCHES)
    return Route(name, ops, probabilities, tuple(times), path)


def _quiet(what: str) -> contextlib.AbstractContextManager[Any]:
    return quiet(what, DemoError)
