"""Keras models as TensorFlow Lite models: converted, made smaller, and proven."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from rich.console import Console

from tfconv.export import borders, quantization, tflite_file, tracing, verification
from tfconv.export.errors import ExportError
from tfconv.export.files import checked_file, write
from tfconv.export.metadata import check as check_metadata
from tfconv.export.metadata import with_metadata
from tfconv.export.quiet import quiet
from tfconv.export.rewriting import in_order_of_use, with_unique_names
from tfconv.export.samples import Samples, repeatable
from tfconv.export.tflite_report import TFLiteReport
from tfconv.ops.dispatch import keep_native as keeping_native
from tfconv.ops.dispatch import keeps_native

_THREADS = 1


def to_tflite(
    model: Any,
    path: str | os.PathLike[str] | None = None,
    quantize: str | None = None,
    representative_data: Any = None,
    keep_native: bool = False,
    verify: bool = True,
    *,
    batch_size: int | None = 1,
    input_shape: Any = None,
    io_dtype: str | None = None,
    tolerance: float | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> TFLiteReport:
    """Converts a Keras model to TensorFlow Lite and compares the two.

    The result holds builtin operators only and runs wherever TensorFlow Lite (LiteRT) does. Its
    inputs and outputs are the model's, under their names (the signature "serving_default"); by
    index they are sorted otherwise. It takes one example at a time, since not every runtime can
    resize what a file says. Real numbers are in float32, in which layers of other types (mixed
    precision, float64) compute as well.

    ``quantize`` says which numbers it computes with, and so how far each layer's output may be
    from the model's (the root mean square of the difference, as a share of that of the output):

    - None: float32; 1e-5.
    - "float16": weights in float16, half the size; 0.3%.
    - "dynamic": weights in 8-bit integers, other numbers as well while they are multiplied; 2%.
    - "int8": everything in 8-bit integers; the report warns of layers with more than 5%.
    - "int16x8": the same with 16 bits for all but weights, for what 8 bits ruin; 1%. Slower: few
      runtimes have more than plain kernels for it.
    - "mixed": 8-bit integers where each layer stays within 4%, float32 where they would ruin
      it: coordinates of deformable convolutions, kernels made at run time.

    A whole model may have the error of one layer times the root of the number of its layers, but
    no more than 10%; one in integers may have 10%, whatever its layers have. A model with more is
    refused.

    Args:
        model: A functional, sequential or subclassed Keras model. For the last,
            ``representative_data`` shows what it takes.
        path: The file to write; None for none. It is there once everything has succeeded.
        quantize: None, "float16", "dynamic", "int8", "int16x8" or "mixed".
        representative_data: Inputs as they will come, a hundred or so; needed for "int8",
            "int16x8" and "mixed". An array [examples, ...], for several inputs a list of one array
            each or a dictionary by the inputs' names; or a `tf.data.Dataset` or another iterable of
            such batches, or a function that gives one. Every fourth example is kept out of the
            measuring of ranges, and compared on. Without it, random numbers are compared on.
        keep_native: Whether involution and deformable operations become custom operators for the
            delegate of `tfconv.lite`, which the interpreter then needs. Inside
            `tfconv.keep_native()` they do.
        verify: Whether the result is run and compared with the model, for several inputs and
            sizes of the batch, and timed. What is not run is not refused.
        batch_size: How many examples the file takes at a time; None for any number, which some
            runtimes cannot do, and others do slower. A model that takes one number only keeps it.
        input_shape: The shape of an example, such as (224, 224, 3), of a model whose height and
            width may be any. Of several inputs a list, in their order, or a dictionary by name.
        io_dtype: The type of inputs and outputs that are real numbers in the model: with "int8"
            also "int8" or "uint8", whose scales and zero points stand in the file; None or
            "float32" for real numbers.
        tolerance: The error that the outputs may have; None for what is said above.
        metadata: What apps read out of the file, in the schema of TFLite Support: a dict with some
            of "name", "description", "version", "author" and "license"; "labels", the names of
            the classes, for several outputs a dict of them by name; and "mean" and "std", which
            pixel values x of 0 to 255 become the input by, as (x - mean) / std, numbers or one for
            each channel.

    Returns:
        A `TFLiteReport`: the model in bytes, its operators, size, error and time.

    Raises:
        ValueError: If an argument is not what is described above.
        OSError: If the file cannot be written.
        ExportError: If the conversion fails, or an error is larger than is allowed: the message
            names the layer. If the delegate that ``keep_native`` needs has not been built. Or if
            what reads an input or writes an output has no form in integers, as ``io_dtype`` wants.

    Source: https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/post_training_quantization

    Example:
        >>> layers = [tf.keras.Input([8, 8, 4]), tfconv.Involution2D(3, groups=2)]
        >>> model = tf.keras.Sequential(layers)
        >>> report = tfconv.export.to_tflite(model, quantize="float16")
        >>> report.error < 0.003, report.custom_operators
        (True, {})
    """
    keep_native = keep_native or keeps_native()
    if quantize not in quantization.BOUNDS:
        kinds = ", ".join(map(repr, quantization.BOUNDS))
        raise ValueError(f"`quantize` must be one of {kinds}. Received: quantize={quantize!r}")
    if quantize in quantization.NEED_DATA:
        if keep_native:
            raise ValueError(
                "`keep_native` works with quantize=None, 'float16' and 'dynamic': custom operators "
                f"compute in floating point. Received: quantize={quantize!r}"
            )
        if representative_data is None:
            raise ValueError(
                f"`representative_data` is needed for quantize={quantize!r}: the ranges of its "
                "integers are measured on it. Received: representative_data=None"
            )
    _check_numbers(quantize, io_dtype, tolerance)
    check_metadata(metadata)
    if path is not None:
        path = checked_file(path)
    scope = quiet("The conversion to TensorFlow Lite", model=model)
    with scope as terminal, _steps(terminal) as step:
        wanted = _Wanted(quantize, io_dtype, tolerance, batch_size, input_shape, metadata)
        report = _converted(model, path, wanted, representative_data, keep_native, verify, step)
    for warning in report.warnings:
        warnings.warn(warning, stacklevel=2)
    if path is not None:
        write(path, lambda made: made.write_bytes(report.content))
    return report


def _check_numbers(quantize: str | None, io_dtype: str | None, tolerance: float | None) -> None:
    kinds = (None, "float32", *borders.TYPES)
    if io_dtype not in kinds:
        raise ValueError(
            f"`io_dtype` must be one of {', '.join(map(repr, kinds))}. "
            f"Received: io_dtype={io_dtype!r}"
        )
    if io_dtype in borders.TYPES and quantize != "int8":
        raise ValueError(
            'integers as inputs and outputs need a model in integers: `io_dtype` must be "float32" '
            f'without quantize="int8". Received: io_dtype={io_dtype!r}, quantize={quantize!r}'
        )
    is_number = isinstance(tolerance, (int, float)) and not isinstance(tolerance, bool)
    if tolerance is not None and not (is_number and tolerance > 0):
        raise ValueError(
            f"`tolerance` must be a positive number or None. Received: tolerance={tolerance!r}"
        )


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """What is asked of a conversion, as `to_tflite` takes it."""

    quantize: str | None
    io_dtype: str | None
    tolerance: float | None
    batch_size: int | None
    input_shape: Any
    metadata: Mapping[str, Any] | None


def _converted(model, path, wanted, data, keep_native, verify, step):
    step("tracing the model")
    quantize = wanted.quantize
    data = repeatable(data)
    inputs = tracing.model_inputs(model, data)
    inputs = tracing.with_sizes(inputs, wanted.batch_size, wanted.input_shape)
    samples = tracing.samples_of(model, inputs, data, run=verify or quantize == "dynamic")
    with keeping_native() if keep_native else contextlib.nullcontext():
        traced = tracing.trace(model, inputs, to_tflite=True)
    step("converting")
    chosen = None
    plain = quantize if quantize == "float16" else None
    content = quantization.converted(traced, plain, keep_native)
    if quantize != plain:
        if quantize == "dynamic":
            chosen = quantization.dynamic(traced, samples, content, step)
        else:
            step("measuring ranges")
            quantization.check_no_loops(content, quantize)
            if quantize == "int16x8":
                chosen = quantization.sixteen_bits(traced, samples, content, step)
            else:
                calibrated = quantization.Calibrated(traced, samples, content)
                choose = quantization.mixed if quantize == "mixed" else quantization.full_integer
                chosen = choose(calibrated, step)
        content = chosen.content
    content = in_order_of_use(with_unique_names(_with_borders(content, wanted.io_dtype)))
    if wanted.metadata is not None:
        content = with_metadata(content, wanted.metadata)
    file = tflite_file.read(content, model)
    layers = len(quantization.operators_of_layers(file, traced))
    bound = wanted.tolerance or quantization.model_bound(quantize, layers)
    error = delegated = milliseconds = None
    agreement = {}
    if verify:
        step("comparing")
        native = bool(file.custom_counts)
        run = verification.Runner(content, _THREADS, native)
        in_integers = quantize in quantization.NEED_DATA
        found = verification.compared(run, traced, samples, all_examples=in_integers)
        error = max(found.errors.values())
        agreement = {} if samples.are_random else found.agreement
        if not error <= bound:
            step("looking for the layer")
            if chosen is None:
                probe = tracing.trace(model, inputs, of_layers=True, to_tflite=True)
                content = quantization.converted(probe, quantize, keep_native)
                run = verification.Runner(content, _THREADS, native)
                worst = verification.worst_layer(run, probe, samples)
            else:
                errors = chosen.errors.items()
                worst = max(errors, key=lambda item: item[1], default=None)
                if quantize == "int16x8":  # whose layers' errors add up
                    worst = verification.largest_growth(errors)
                if worst is not None and worst[1] <= quantization.BOUNDS[quantize]:
                    worst = None  # no layer is to blame
            raise _too_large(found.errors, bound, worst, samples, quantize)
        step("timing")
        milliseconds = run.milliseconds(samples.batch(traced.fixed_batch or 1))
        delegated = run.delegated()
    float_layers = [] if chosen is None else chosen.float_layers
    if quantize in quantization.NEED_DATA:
        in_float = {*float_layers, *quantization.layers_in_float(file, traced)}
        float_layers = [path for path in chosen.errors if path in in_float]
    return TFLiteReport(
        content=content,
        path=path,
        quantize=quantize,
        inputs=[spec.name for spec in traced.inputs],
        outputs=traced.outputs,
        operators=file.operator_counts,
        custom_operators=file.custom_counts,
        operator_types=file.operator_types,
        delegated=delegated,
        error=error,
        bound=bound,
        class_agreement=agreement,
        layer_errors={} if chosen is None else chosen.errors,
        float_layers=float_layers,
        warnings=_warnings(quantize, samples, chosen),
        milliseconds=milliseconds,
        threads=_THREADS,
        runtime=verification.RUNTIME,
        random_inputs=samples.are_random,
    )


def _with_borders(content: bytes, io_dtype: str | None) -> bytes:
    if io_dtype not in borders.TYPES:
        return content
    try:
        return borders.with_integer_borders(content, io_dtype)
    except ValueError as error:
        raise ExportError(
            f'io_dtype={io_dtype!r} does not work: {error}. io_dtype="float32" does.'
        ) from error


def _warnings(
    quantize: str | None, samples: Samples, chosen: quantization.Chosen | None
) -> list[str]:
    found = []
    if quantize in quantization.NEED_DATA and len(samples.calibration) == 1:
        found.append(
            "`representative_data` holds one example: the ranges of integers are measured on it "
            "alone, and the errors too. A hundred or so say what others will give."
        )
    if quantize == "int8":
        bound = quantization.BOUNDS[quantize]
        above = {path: error for path, error in chosen.errors.items() if not error <= bound}
        if above:
            layers = ", ".join(f"`{path}` {error:.1%}" for path, error in above.items())
            found.append(
                f"8-bit integers cost layers more than {bound:.0%} of their outputs ({layers}); "
                'quantize="mixed" leaves in floating point what they would ruin.'
            )
    return found


def _too_large(
    errors: dict[str, float],
    bound: float,
    worst: tuple[str, float] | None,
    samples: Samples,
    quantize: str | None,
) -> ExportError:
    output = max(errors, key=errors.__getitem__)
    culprit = f" The worst layer is `{worst[0]}`: {worst[1]:.2g}." if worst else ""
    inputs = " (of random inputs: `representative_data` gives better ones)"
    remedy = ""
    if quantize == "int8":
        remedy = (
            ' quantize="mixed" leaves in floating point what 8-bit integers would ruin; '
            "`tolerance` allows more."
        )
    return ExportError(
        "The TensorFlow Lite model gives other results than the Keras model: the error of output "
        f"`{output}` is {errors[output]:.2g} of it, where at most {bound:.2g} is right"
        f"{inputs if samples.are_random else ''}.{culprit}{remedy}"
    )


@contextlib.contextmanager
def _steps(terminal: TextIO) -> Iterator[Callable[[str], None]]:
    """Scope that gives a function to say what is being done, on terminals."""
    if not terminal.isatty():
        yield lambda text: None
        return
    with Console(file=terminal).status("") as status:
        yield lambda text: status.update(f"TensorFlow Lite: {text}")
