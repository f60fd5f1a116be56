"""Smaller numbers for TensorFlow Lite models, and what they cost each layer in accuracy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfconv import _compat
from tfconv.export import tflite_file
from tfconv.export.errors import ExportError
from tfconv.export.samples import Arrays, Samples
from tfconv.export.tracing import Traced, unit_layers
from tfconv.export.verification import Runner, relative_error

# The error that a layer may have at most, relative to the root mean square of its output.
BOUNDS = {None: 1e-5, "float16": 3e-3, "dynamic": 2e-2, "int8": 5e-2, "mixed": 4e-2}
NEED_DATA = ("int8", "mixed")
_MARGIN = 0.75  # of a bound, where there is the choice
_EXAMPLES = 8  # that a layer's error is measured on

Step = Callable[[str], None]


def converted(traced: Traced, quantize: str | None = None, keep_native: bool = False) -> bytes:
    """What TensorFlow's converter makes of a model: in float32, "float16" or "dynamic"."""
    converter = _converter(traced)
    converter.allow_custom_ops = keep_native
    if quantize is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def _converter(traced: Traced) -> Any:
    return tf.lite.TFLiteConverter.from_concrete_functions([traced.function], traced.module)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A model in integers.

    Attributes:
        content: The model.
        errors: The error of each layer, with all others in float32.
        float_layers: Layers that are in floating point, as a whole or in part.
    """

    content: bytes
    errors: dict[str, float]
    float_layers: list[str]


def full_integer(traced: Traced, samples: Samples, float_content: bytes, step: Step) -> Chosen:
    """The model in integers throughout.

    Raises:
        ExportError: If that costs a layer more accuracy than is allowed.
    """
    model = _Calibrated(traced, samples, float_content, step)
    errors = {}
    for number, (path, operators) in enumerate(model.layers.items(), 1):
        step(f"measuring layer {number} of {len(model.layers)}: {path}")
        errors[path] = model.error(path, operators)
    worst = max(errors, key=errors.get, default=None)
    if worst is not None and not errors[worst] <= BOUNDS["int8"]:
        raise ExportError(
            f'quantize="int8" ruins layer `{worst}`: its error is {errors[worst]:.1%} of its '
            f"output, where at most {BOUNDS['int8']:.0%} is allowed. "
            'quantize="mixed" leaves in floating point what integers would ruin.'
        )
    return Chosen(model.quantized(()), errors, [])


def mixed(traced: Traced, samples: Samples, float_content: bytes, step: Step) -> Chosen:
    """The model in integers, but for what they would ruin.

    A layer whose error in integers is too large keeps only those of its operators with weights in
    integers, the largest first, that leave the error small.
    """
    model = _Calibrated(traced, samples, float_content, step)
    allowed = _MARGIN * BOUNDS["mixed"]
    errors, in_float, float_layers = {}, [], []
    for number, (path, operators) in enumerate(model.layers.items(), 1):
        step(f"measuring layer {number} of {len(model.layers)}: {path}")
        errors[path] = model.error(path, operators)
        if errors[path] <= allowed:
            continue
        float_layers.append(path)
        integer: list[tflite_file.Operator] = []
        errors[path] = 0.0
        for operator in sorted(operators, key=weight_size, reverse=True):
            if weight_size(operator):
                error = model.error(path, [*integer, operator])
                if error <= allowed:
                    integer.append(operator)
                    errors[path] = error
        in_float += [operator for operator in operators if operator not in integer]
    return Chosen(model.quantized(in_float), errors, float_layers)


def weight_size(operator: tflite_file.Operator) -> int:
    """Bytes of an operator's weights: constants of more than one axis that it computes with."""
    if operator.name not in _WEIGHTED:
        return 0
    tensors = filter(None, operator.inputs)
    return sum(t.size for t in tensors if t.is_constant and len(t.shape) > 1)


_WEIGHTED = {"BATCH_MATMUL", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}


class _Calibrated:
    """A model with the ranges of its tensors, from which any part can be put into integers."""

    def __init__(self, traced: Traced, samples: Samples, float_content: bytes, step: Step):
        step("measuring ranges")
        converter = _converter(traced)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: _calls(traced, samples.calibration)
        self._content = _compat.calibrated_tflite(converter)
        file = tflite_file.read(float_content, traced.model)
        self._operators = file.operators
        self.layers = operators_of_layers(file, traced)
        self._inputs = samples.batch(traced.fixed_batch or _EXAMPLES)
        run = Runner(float_content, observed=True)
        run(self._inputs)
        self._borders = {p: _border(file, ops) for p, ops in self.layers.items()}
        self._expected = run.tensors([name for names in self._borders.values() for name in names])

    def quantized(self, in_float: Iterable[tflite_file.Operator]) -> bytes:
        """The model in integers, but for some operators."""
        return _compat.integer_tflite(
            self._content, [operator.outputs[0].name for operator in in_float]
        )

    def error(self, path: str, integer: Sequence[tflite_file.Operator]) -> float:
        """The error of a layer's outputs when only some of its operators are in integers."""
        kept = {operator.outputs[0].name for operator in integer}
        others = [op for op in self._operators if op.outputs[0].name not in kept]
        run = Runner(self.quantized(others), observed=True)
        run(self._inputs)
        found = run.tensors(self._borders[path])
        errors = (relative_error(found[name], self._expected[name]) for name in found)
        return max(errors, default=0.0)


def operators_of_layers(
    file: tflite_file.TFLiteFile, traced: Traced
) -> dict[str, list[tflite_file.Operator]]:
    """The operators of each of `unit_layers`, by the layer's path."""
    units = unit_layers(traced.model)
    found: dict[str, list[tflite_file.Operator]] = {}
    for operator in file.operators:
        path = operator.origin
        while path and path not in units:
            path = path.rpartition("/")[0]
        if path:
            found.setdefault(path, []).append(operator)
    return found


def _border(file: tflite_file.TFLiteFile, operators: list[tflite_file.Operator]) -> list[str]:
    """Names of the tensors that operators give to others."""
    mine = {tensor.name for operator in operators for tensor in operator.outputs}
    others = [operator for operator in file.operators if operator not in operators]
    read = {t.name for operator in others for t in operator.inputs if t is not None}
    read |= {tensor.name for tensor in file.outputs}
    return sorted(mine & read)


def _calls(traced: Traced, examples: list[Arrays]) -> Iterator[dict[str, Any]]:
    for example in examples:
        # The batch of a model that has a fixed one is filled with the same example.
        yield {
            spec.name: example[spec.name].repeat(spec.shape[0] or 1, axis=0)
            for spec in traced.inputs
        }


def model_bound(quantize: str | None, layers: int) -> float:
    """The error that a whole model may have: those of its layers add up like random numbers."""
    return BOUNDS[quantize] * math.sqrt(max(layers, 1))
