"""Examples of a model's inputs: what the user gives, checked, or random ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

Arrays = dict[str, np.ndarray]

MOST = 128  # examples are used; more refine the ranges of integers no further
_UNKNOWN_SIZE = 32  # pixels along axes of any size, in random examples
_HELD_OUT = 4  # every so manieth example is kept for the comparison


@dataclasses.dataclass(frozen=True)
class Samples:
    """Examples, each with a batch of one.

    Attributes:
        calibration: Those that ranges of integers are measured on.
        held_out: Those that results are compared on; the same ones if there are few.
        are_random: Whether they are random numbers, for want of better ones.
    """

    calibration: list[Arrays]
    held_out: list[Arrays]
    are_random: bool = False

    def batch(self, count: int, first: int = 0) -> Arrays:
        """``count`` examples of one size together, taken again where there are too few."""
        start = self.held_out[first % len(self.held_out)]
        shapes = {name: array.shape for name, array in start.items()}
        rest = self.held_out[first:] + self.held_out[:first]
        fitting = [e for e in rest if {n: a.shape for n, a in e.items()} == shapes]
        chosen = [fitting[i % len(fitting)] for i in range(count)]
        return {name: np.concatenate([e[name] for e in chosen]) for name in start}


def batches(arrays: Arrays, size: int | None) -> list[Arrays]:
    """Arrays in batches of one size; as they are for None, or where there are no more examples."""
    count = max((len(array) for array in arrays.values()), default=0)
    if size is None or count <= size:
        return [arrays]
    return [
        {name: array[start : start + size] for name, array in arrays.items()}
        for start in range(0, count, size)
    ]


def given_samples(data: Any, inputs: Sequence[tf.TensorSpec]) -> Samples:
    """Reads what the user gives as ``representative_data``; see `tfconv.export.to_tflite`.

    Raises:
        ValueError: If it does not fit the inputs, holds no example, or infinite numbers or NaN.
    """
    examples: list[Arrays] = []
    for element in elements(data):
        arrays = _by_name(element, inputs)
        counts = {array.shape[0] for array in arrays.values()}
        if len(counts) != 1:
            raise _error("as many examples for each input", {n: a.shape for n, a in arrays.items()})
        for i in range(counts.pop()):
            examples.append({name: array[i : i + 1] for name, array in arrays.items()})
            if len(examples) == MOST:
                return _split(examples)
    return _split(examples)


def random_samples(inputs: Sequence[tf.TensorSpec], count: int = 8) -> Samples:
    """Examples of normally distributed numbers; 0 and 1 for integers and booleans."""
    rng = np.random.default_rng(0)

    def array(spec: tf.TensorSpec) -> np.ndarray:
        shape = [1, *(_UNKNOWN_SIZE if n is None else n for n in spec.shape[1:])]
        if spec.dtype.is_floating:
            return rng.standard_normal(shape).astype(spec.dtype.as_numpy_dtype)
        return rng.integers(0, 2, shape).astype(spec.dtype.as_numpy_dtype)

    examples = [{spec.name: array(spec) for spec in inputs} for _ in range(count)]
    return Samples(examples, examples, are_random=True)


def repeatable(data: Any) -> Any:
    """What the user gives, to be read from its start as often as need be."""
    if not isinstance(data, Iterator):
        return data
    read: list[Any] = []

    def again() -> Iterator[Any]:
        yield from read
        for element in data:
            read.append(element)
            yield element

    return again


def elements(data: Any) -> Iterator[Any]:
    """The batches in what the user gives: it is one itself, or has or makes them one by one."""
    if callable(data):
        data = data()
    if isinstance(data, (np.ndarray, tf.Tensor, dict, list, tuple)):
        yield data
    elif isinstance(data, Iterable):
        yield from data
    else:
        raise _error("arrays, a dataset, or an iterable or function that gives them", data)


def _by_name(element: Any, inputs: Sequence[tf.TensorSpec]) -> Arrays:
    """A batch by the names of the inputs, in their types."""
    names = [spec.name for spec in inputs]
    if isinstance(element, dict):
        if sorted(element) != sorted(names):
            raise _error(f"the inputs {names}", sorted(element))
    else:
        parts = element if isinstance(element, (list, tuple)) else [element]
        nested = any(isinstance(part, (dict, list, tuple)) for part in parts)
        if len(parts) != len(names) or (nested and isinstance(element, tuple)):
            needed = f"one array for each of the inputs {names}"
            if isinstance(element, tuple) and len(element) in (2, 3):
                needed += ", and no labels, which `.map(lambda x, y: x)` drops from a dataset"
            raise _error(needed, f"{len(parts)} arrays")
        element = dict(zip(names, parts))
    arrays = {}
    for spec in inputs:
        array = np.asarray(element[spec.name])
        if array.ndim == 0 or not spec.shape[1:].is_compatible_with(array.shape[1:]):
            raise _error(
                f"arrays of shape [examples, ...] = {spec.shape} for input `{spec.name}`",
                f"shape {array.shape}",
            )
        if array.dtype.kind not in "fiub":
            raise _error(f"numbers for input `{spec.name}`", f"an array of {array.dtype}")
        given, array = array, array.astype(spec.dtype.as_numpy_dtype)
        if not spec.dtype.is_floating and (array != given).any():
            raise _error(
                f"values of {spec.dtype.name} for input `{spec.name}`", f"others of {given.dtype}"
            )
        if spec.dtype.is_floating and not np.isfinite(array).all():
            raise _error(f"finite numbers for input `{spec.name}`", "NaN or infinity among them")
        arrays[spec.name] = array
    return arrays


def _split(examples: list[Arrays]) -> Samples:
    if not examples:
        raise _error("at least one example", "none")
    real = [x for example in examples for x in example.values() if x.dtype.kind == "f"]
    if real and not any(x.any() for x in real):
        raise _error("numbers as they will come", f"nothing but zeros in {len(examples)} examples")
    if len(examples) < 2 * _HELD_OUT:
        return Samples(examples, examples)
    held_out = examples[::_HELD_OUT]
    return Samples([e for i, e in enumerate(examples) if i % _HELD_OUT], held_out)


def _error(needed: str, received: Any) -> ValueError:
    return ValueError(f"`representative_data` needs {needed}. Received: {received}")
