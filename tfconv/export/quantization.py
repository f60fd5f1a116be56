"""Smaller numbers for TensorFlow Lite models, and what they cost each layer in accuracy."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv import _compat
from tfconv.export import tflite_file
from tfconv.export.errors import ExportError
from tfconv.export.lookup import with_tables
from tfconv.export.rewriting import with_float_products
from tfconv.export.samples import Arrays, Samples, batches
from tfconv.export.tracing import Traced, unit_layers
from tfconv.export.verification import Runner, relative_error

# The error that a layer may have at most, relative to the root mean square of its output: what
# has more is left in floating point or, for "int8", warned of.
BOUNDS = {
    None: 1e-5,
    "float16": 3e-3,
    "dynamic": 2e-2,
    "int8": 5e-2,
    "int16x8": 1e-2,
    "mixed": 4e-2,
}
NEED_DATA = ("int8", "int16x8", "mixed")
_MODEL_BOUND = 0.1  # of the outputs of a whole model; of one in integers, whatever its layers have
_MARGIN = 0.75  # of a bound, where there is the choice
_EXAMPLES = 8  # that a layer's error is measured on

Step = Callable[[str], None]


def converted(traced: Traced, quantize: str | None = None, keep_native: bool = False) -> bytes:
    """What TensorFlow's converter makes of a model by itself: in float32, "float16", "dynamic"."""
    converter = _converter(traced, quantize is not None)
    converter.allow_custom_ops = keep_native
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    try:
        return converter.convert()
    except Exception as error:  # of TensorFlow, whose text shows the code around each operation
        lacking = set(re.findall(r"'tf\.(\w+)' op is neither", str(error))) - {"Placeholder"}
        if not lacking:
            raise
        places = (f"{o.type} (at {o.name})" for o in traced.operations if o.type in lacking)
        raise ExportError(
            f"TensorFlow Lite has no operator for: {', '.join(places) or ', '.join(lacking)}."
        ) from error


def _converter(traced: Traced, optimized: bool, file: tflite_file.TFLiteFile | None = None) -> Any:
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced.function], traced.module)
    if optimized:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if file is not None:
        converter.allow_custom_ops = bool(file.custom_counts)
        if _scales_outweigh(file):
            _compat.scale_dense_layers_as_a_whole(converter)
    return converter


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A model in integers.

    Attributes:
        content: The model.
        errors: The error of each layer, with all others in float32.
        float_layers: Layers that compute in floating point, as a whole or in part.
    """

    content: bytes
    errors: dict[str, float]
    float_layers: list[str]


def dynamic(traced: Traced, samples: Samples, float_content: bytes, step: Step) -> Chosen:
    """The model with weights in integers, which it multiplies with integers made at run time.

    Where that would ruin a layer, such as by rounding what coordinates are made from, operators
    keep their weights in float32, the smallest first.
    """
    file = tflite_file.read(float_content, traced.model)
    content = _converter(traced, True, file).convert()
    hybrid = {
        operator.outputs[0].name
        for operator in tflite_file.read(content, traced.model).operators
        if operator.outputs
        and any(t is not None and t.is_constant and t.type == "INT8" for t in operator.inputs)
    }
    model = _Observed(file, float_content, traced, samples)
    allowed = _MARGIN * BOUNDS["dynamic"]
    errors, kept = {}, []
    for path in _in_turn(model.layers, step):
        operators = [op for op in model.layers[path] if hybrid.intersection(_names([op]))]

        def error(chosen, path=path):
            others = hybrid.difference(_names(chosen))
            return model.error(path, with_float_products(content, float_content, others))

        errors[path], integer = _largest_part(operators, error, allowed)
        kept += [operator for operator in operators if operator not in integer]
    in_float = [path for path, ops in model.layers.items() if any(op in kept for op in ops)]
    return Chosen(with_float_products(content, float_content, _names(kept)), errors, in_float)


def check_no_loops(content: bytes, quantize: str) -> None:
    """Raises an `ExportError` for a model with graphs of its own inside operators."""
    loops = {"WHILE", "IF"}.intersection(tflite_file.read(content).operator_counts)
    if loops:
        raise ExportError(
            f"quantize={quantize!r} does not work with loops ({', '.join(sorted(loops))}): the "
            "ranges inside them cannot be measured. `unroll=True` makes recurrent layers without "
            'a loop; quantize="dynamic" needs no ranges.'
        )


def full_integer(model: Calibrated, step: Step) -> Chosen:
    """The model in integers throughout, whatever that costs its layers."""
    errors = {path: model.error(path, model.layers[path]) for path in _in_turn(model.layers, step)}
    return Chosen(model.quantized(()), errors, [])


def sixteen_bits(traced: Traced, samples: Samples, float_content: bytes, step: Step) -> Chosen:
    """The model in integers of 16 bits, and weights of 8; the errors of layers add up."""
    file = tflite_file.read(float_content, traced.model)
    converter = _converter(traced, True, file)
    kinds = tf.lite.OpsSet
    converter.target_spec.supported_ops = [
        kinds.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
        kinds.TFLITE_BUILTINS,
    ]
    # Of 16 bits one is spared for inputs up to twice as large, which would be cut off otherwise.
    examples = [*samples.calibration, *map(_doubled, samples.calibration)]
    converter.representative_dataset = lambda: _calls(traced, examples)
    content = converter.convert()
    model = _Observed(file, float_content, traced, samples)
    errors = {path: model.error(path, content) for path in _in_turn(model.layers, step)}
    return Chosen(content, errors, [])


def mixed(model: Calibrated, step: Step) -> Chosen:
    """The model in integers, but for what they would ruin, or slow down.

    A layer whose error in integers is too large keeps only those of its operators with weights in
    integers, the largest first, that leave the error small.
    """
    allowed = _MARGIN * BOUNDS["mixed"]
    errors, floats, in_float = {}, [], []
    for path in _in_turn(model.layers, step):
        operators = model.layers[path]
        # Products of two things made at run time have no fast kernel for integers.
        integer = [op for op in operators if op.name != "BATCH_MATMUL" or weight_size(op)]
        errors[path] = model.error(path, integer)
        if not errors[path] <= allowed:
            weighted = [operator for operator in operators if weight_size(operator)]
            errors[path], integer = _largest_part(
                weighted, lambda chosen, path=path: model.error(path, chosen), allowed
            )
        if len(integer) < len(operators):
            in_float.append(path)
            floats += [operator for operator in operators if operator not in integer]
    return Chosen(model.quantized(floats), errors, in_float)


def _largest_part(
    operators: Sequence[tflite_file.Operator],
    error: Callable[[list[tflite_file.Operator]], float],
    allowed: float,
) -> tuple[float, list[tflite_file.Operator]]:
    """The operators with the largest weights whose error together is allowed, and that error."""
    operators = sorted(operators, key=weight_size, reverse=True)
    found = error(operators) if operators else 0.0
    if found <= allowed:
        return found, operators
    found, chosen = 0.0, []
    for operator in operators:
        if len(operators) > 1 and (more := error([*chosen, operator])) <= allowed:
            chosen.append(operator)
            found = more
    return found, chosen


def _in_turn(layers: dict[str, Any], step: Step) -> Iterator[str]:
    for number, path in enumerate(layers, 1):
        step(f"measuring layer {number} of {len(layers)}: {path}")
        yield path


def weight_size(operator: tflite_file.Operator) -> int:
    """Bytes of an operator's weights: constants of more than one axis that it computes with."""
    if operator.name not in _WEIGHTED:
        return 0
    tensors = filter(None, operator.inputs)
    return sum(t.size for t in tensors if t.is_constant and len(t.shape) > 1)


_WEIGHTED = {"BATCH_MATMUL", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}


def _names(operators: Iterable[tflite_file.Operator]) -> list[str]:
    return [operator.outputs[0].name for operator in operators if operator.outputs]


class _Observed:
    """What the layers of a model give, to compare with.

    Args:
        file: The model.
        content: The same, in bytes.
        traced: Where it comes from.
        samples: Examples, of which some are run.
    """

    def __init__(
        self, file: tflite_file.TFLiteFile, content: bytes, traced: Traced, samples: Samples
    ):
        self.operators = file.operators
        self.layers = operators_of_layers(file, traced)
        size = traced.fixed_batch or _EXAMPLES
        self._inputs = batches(samples.batch(-(-_EXAMPLES // size) * size), size)
        self._borders = {path: _border(file, ops) for path, ops in self.layers.items()}
        self._native = bool(file.custom_counts)
        run = Runner(content, native=self._native, observed=True)
        self._expected = self._given(run, [n for names in self._borders.values() for n in names])

    def error(self, path: str, content: bytes) -> float:
        """The error of a layer's outputs in another form of the model."""
        run = Runner(content, native=self._native, observed=True)
        if not run.can_run:
            return math.inf
        found = self._given(run, self._borders[path])
        return max((relative_error(found[n], self._expected[n]) for n in found), default=0.0)

    def _given(self, run: Runner, names: list[str]) -> Arrays:
        """What tensors held, of all batches side by side."""
        held = []
        for arrays in self._inputs:
            run(arrays)
            held.append(run.tensors(names))
        return {name: np.stack([tensors[name] for tensors in held]) for name in held[0]}


class Calibrated:
    """A model with the ranges of its tensors, from which any part can be put into integers."""

    def __init__(self, traced: Traced, samples: Samples, float_content: bytes):
        file = tflite_file.read(float_content, traced.model)
        converter = _converter(traced, True, file)
        converter.representative_dataset = lambda: _calls(traced, samples.calibration)
        self._content = _compat.calibrated_tflite(converter)
        self._dense_as_a_whole = _scales_outweigh(file)
        self._observed = _Observed(file, float_content, traced, samples)
        self.layers = self._observed.layers

    def quantized(self, in_float: Iterable[tflite_file.Operator]) -> bytes:
        """The model in integers, but for some operators."""
        names = _names(in_float)
        return with_tables(_compat.integer_tflite(self._content, names, self._dense_as_a_whole))

    def error(self, path: str, integer: Sequence[tflite_file.Operator]) -> float:
        """The error of a layer's outputs when only some of its operators are in integers."""
        chosen = set(_names(integer))
        others = [op for op in self._observed.operators if not chosen.intersection(_names([op]))]
        return self._observed.error(path, self.quantized(others))


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


def layers_in_float(file: tflite_file.TFLiteFile, traced: Traced) -> list[str]:
    """The layers with operators that compute in float32, such as those without integer kernels."""
    return [
        path
        for path, operators in operators_of_layers(file, traced).items()
        if any(op.outputs and op.outputs[0].type == "FLOAT32" for op in operators if _computes(op))
    ]


def _computes(operator: tflite_file.Operator) -> bool:
    return operator.name not in ("QUANTIZE", "DEQUANTIZE", "CAST")


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
            spec.name: example[spec.name].repeat(traced.fixed_batch or 1, axis=0)
            for spec in traced.inputs
        }


def _doubled(example: Arrays) -> Arrays:
    return {name: 2 * x if x.dtype.kind == "f" else x for name, x in example.items()}


def _scales_outweigh(file: tflite_file.TFLiteFile) -> bool:
    """Whether scales of all outputs of dense layers would be larger than many of their weights.

    They are where a few experts' kernels are mixed: a product with as many columns as weights.
    """
    weights = [op.inputs[1] for op in file.operators if op.name == "FULLY_CONNECTED"]
    shapes = [tensor.shape for tensor in weights if tensor.is_constant]
    return any(rows >= _MANY and columns < _BYTES_OF_SCALE for rows, columns in shapes)


_MANY = 1024
_BYTES_OF_SCALE = 12  # with its zero point, of 8 bytes


def model_bound(quantize: str | None, layers: int) -> float:
    """The error that a whole model may have: those of its layers add up like random numbers.

    What integers make of a layer says little of a model: that is judged by what it gives.
    """
    if quantize == "int8":
        return _MODEL_BOUND
    return min(BOUNDS[quantize] * math.sqrt(max(layers, 1)), _MODEL_BOUND)
