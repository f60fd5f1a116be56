"""Runs TensorFlow Lite models and compares them with the models that they came from."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv.export.errors import ExportError
from tfconv.export.samples import Arrays, Samples, batches
from tfconv.export.tflite_file import NATIVE_PREFIX
from tfconv.export.tracing import Traced

try:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    RUNTIME = "LiteRT"
except ImportError:  # LiteRT as a package of its own came after TensorFlow 2.15
    Interpreter, OpResolverType = tf.lite.Interpreter, tf.lite.experimental.OpResolverType
    RUNTIME = "tf.lite"

BATCHES = (1, 1, 6)  # the second time with another input, on the same interpreter
_REPEATS = 30
_SECONDS = 1.0
_LARGEST_SCALE = 1e30
_PLAIN = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


class Runner:
    """A TensorFlow Lite model in the interpreter.

    Args:
        content: The model.
        threads: How many it may use.
        native: Whether it has tfconv's custom operators.
        observed: Whether `tensors` can be asked for: without XNNPACK, hence slower.
    """

    def __init__(
        self, content: bytes, threads: int = 1, native: bool = False, observed: bool = False
    ):
        options: dict[str, Any] = {}
        if native:
            from tfconv import lite

            options["experimental_delegates"] = [lite.load_delegate()]
        if observed:
            options["experimental_op_resolver_type"] = _PLAIN
        self._interpreter = Interpreter(
            model_content=content,
            num_threads=threads,
            experimental_preserve_all_tensors=observed,
            **options,
        )
        self._signature = None
        self._inputs = self._interpreter.get_signature_runner().get_input_details()
        self.batch = max((_batch_of(d) for d in self._inputs.values()), default=0) or None

    def __call__(self, arrays: Arrays) -> Arrays:
        """The outputs by name for inputs by name, both as real numbers where integers stand for
        these; sizes may change from call to call. A model of one size of the batch takes turns.
        """
        if not self.batch:
            return self._call(arrays)
        parts = [self._call(part) for part in batches(arrays, self.batch)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _call(self, arrays: Arrays) -> Arrays:
        if self._signature is None:
            # In TensorFlow 2.15 a signature by itself would run without XNNPACK.
            for name, detail in self._inputs.items():
                self._interpreter.resize_tensor_input(detail["index"], arrays[name].shape)
            self._interpreter.allocate_tensors()
            self._signature = self._interpreter.get_signature_runner()
            self._outputs = self._signature.get_output_details()
        given = {name: _integers(x, self._inputs[name]) for name, x in arrays.items()}
        outputs = self._signature(**given)
        return {
            name: _real(y, self._outputs[name]["quantization_parameters"])
            for name, y in outputs.items()
        }

    def tensors(self, names: Sequence[str]) -> Arrays:
        """What tensors held in the last call of one batch, as real numbers."""
        wanted, found = set(names), {}
        for detail in self._details():
            if detail["name"] in wanted:
                found[detail["name"]] = _real(
                    self._interpreter.get_tensor(detail["index"]), detail["quantization_parameters"]
                )
        return found

    @property
    def can_run(self) -> bool:
        """False if a number stands for so much that the kernels for integers would abort."""
        scales = (d["quantization_parameters"]["scales"] for d in self._details())
        return all(np.all(scale < _LARGEST_SCALE) for scale in scales)

    def _details(self) -> list[dict[str, Any]]:
        return self._interpreter.get_tensor_details()

    def milliseconds(self, arrays: Arrays) -> float:
        """The median time of a call."""
        self(arrays)
        times: list[float] = []
        while len(times) < 3 or (len(times) < _REPEATS and sum(times) < _SECONDS):
            start = time.perf_counter()
            self(arrays)
            times.append(time.perf_counter() - start)
        return 1e3 * statistics.median(times)

    def delegated(self) -> int:
        """How many of the model's operators XNNPACK has taken."""
        operators = self._interpreter._get_ops_details()  # the only way to them
        taken = set()
        own = [op for op in operators if not op["op_name"].startswith(("DELEGATE", NATIVE_PREFIX))]
        makers = {i: op for op in own for i in op["outputs"]}
        for delegate in (op for op in operators if op["op_name"] == "DELEGATE"):
            todo, seen = list(delegate["outputs"]), set(delegate["inputs"])
            while todo:
                tensor = todo.pop()
                if tensor in makers and tensor not in seen:
                    seen.add(tensor)
                    taken.add(makers[tensor]["index"])
                    todo.extend(makers[tensor]["inputs"])
        return len(taken)


def _batch_of(detail: dict[str, Any]) -> int:
    """The size of the batch that an input has; 0 if it takes any."""
    shape = detail["shape_signature"]
    return max(int(shape[0]), 0) if len(shape) else 0


def _integers(array: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """Real numbers as the integers that stand for them, where an input takes such."""
    array = np.asarray(array)
    scales, zeros = (detail["quantization_parameters"][key] for key in ("scales", "zero_points"))
    if array.dtype.kind != "f" or scales.size != 1:
        return array
    limits = np.iinfo(detail["dtype"])
    return np.clip(np.round(array / scales[0]) + zeros[0], limits.min, limits.max).astype(
        detail["dtype"]
    )


def _real(array: np.ndarray, quantization: dict[str, Any]) -> np.ndarray:
    scales, zeros = quantization["scales"], quantization["zero_points"]
    if scales.size != 1:
        return array
    return (array.astype(np.float32) - np.float32(zeros[0])) * np.float32(scales[0])


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """The root mean square of the difference, as a share of that of what is expected."""
    return _pooled([(actual, expected)])


def _pooled(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """The `relative_error` of all pairs of what is and what should be together."""
    if any(actual.shape != expected.shape for actual, expected in pairs):
        return math.inf
    actual, expected = (np.concatenate([p.ravel() for p in side]) for side in zip(*pairs))
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    if not expected.any():
        return float(np.abs(actual).max(initial=0))
    error = np.sqrt(np.sum((actual - expected) ** 2) / np.sum(expected**2))
    return float(error) if np.isfinite(error) else math.inf


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far a model's outputs are from those of the model that it came from.

    Attributes:
        errors: The `relative_error` of each output.
        agreement: Of each output that looks like scores of classes, the share of the examples
            whose largest score is that of the same class.
    """

    errors: dict[str, float]
    agreement: dict[str, float]


def compared(
    run: Runner, traced: Traced, samples: Samples, all_examples: bool = False
) -> Comparison:
    """Compares over several inputs and sizes of the batch, or on all examples that are held out."""
    fixed = traced.fixed_batch or 1
    pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    counts = list(BATCHES)
    if all_examples:
        counts[-1] = max(counts[-1], len(samples.held_out))
    for number, count in enumerate(counts):
        arrays = samples.batch(-(-count // fixed) * fixed, first=number)
        expected = traced.expected(arrays)
        for name, y in expected.items():
            if y.dtype.kind == "f" and not np.isfinite(y).all():
                given = "random inputs" if samples.are_random else "`representative_data`"
                raise ExportError(
                    f"The Keras model itself gives NaN or infinity for {given}, as its output "
                    f"`{name}`: there is nothing to compare with."
                )
        for name, actual in run(arrays).items():
            pairs.setdefault(name, []).append((actual, expected[name]))
    agreement = {name: _same_class(both) for name, both in pairs.items() if _are_scores(both)}
    return Comparison({name: _pooled(both) for name, both in pairs.items()}, agreement)


def _are_scores(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> bool:
    return all(
        actual.shape == expected.shape and expected.ndim == 2 and expected.shape[1] > 1
        for actual, expected in pairs
    )


def _same_class(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    return float(np.mean(np.concatenate([a.argmax(1) == e.argmax(1) for a, e in pairs])))


def worst_layer(run: Runner, traced: Traced, samples: Samples) -> tuple[str, float] | None:
    """The layer at which errors grow most, and the error of its output; None if there is none.

    Args:
        run: The conversion of ``traced``.
        traced: A model traced with the outputs of its layers.
        samples: What it is run on.
    """
    arrays = samples.batch(traced.fixed_batch or 1)
    actual = run(arrays)
    expected = traced.function(*(tf.constant(arrays[spec.name]) for spec in traced.inputs))
    return largest_growth(
        (path, relative_error(actual[name], expected[name].numpy()))
        for name, path in traced.layers.items()
    )


def largest_growth(errors: Iterable[tuple[str, float]]) -> tuple[str, float] | None:
    """The layer at which errors grow most, of layers in their order and errors that add up."""
    before, found, growth = 0.0, None, 0.0
    for path, error in errors:
        if error - before > growth:
            found, growth = (path, error), error - before
        before = max(before, error)
    return found
