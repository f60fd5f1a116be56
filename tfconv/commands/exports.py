"""The commands `tfconv convert` and `tfconv inspect`."""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

from tfconv.commands.arguments import (
    ANY,
    arrays_in,
    batch,
    check_apart,
    check_input,
    check_model,
    check_output,
    named_file,
    numbers,
    shape,
)
from tfconv.commands.loading import load_model
from tfconv.commands.messages import fail
from tfconv.commands.process import start

_FORMATS = ("tflite", "saved_model", "onnx")
# Options by the formats that have them.
_OPTIONS = {
    "quantize": ("tflite",),
    "batch": ("tflite",),
    "input_shape": ("tflite",),
    "io_dtype": ("tflite",),
    "tolerance": ("tflite",),
    "labels": ("tflite",),
    "mean": ("tflite",),
    "std": ("tflite",),
    "data": ("tflite", "onnx"),
    "keep_native": ("tflite", "saved_model"),
    "jit_compile": ("saved_model",),
    "opset": ("onnx",),
}
_NEED_DATA = ("int8", "int16x8", "mixed")
_NAMES = {  # what the arguments of tfconv.export's functions are called here
    "batch_size": "--batch",
    "directory": "--output",
    "input_shape": "--input-shape",
    "io_dtype": "--io-dtype",
    "jit_compile": "--jit-compile",
    "keep_native": "--keep-native",
    "metadata": "--labels/--mean/--std",
    "opset": "--opset",
    "path": "--output",
    "quantize": "--quantize",
    "representative_data": "--data",
    "tolerance": "--tolerance",
}


def add_convert(commands: Any) -> None:
    """Adds `tfconv convert` to a parser's commands."""
    convert = commands.add_parser(
        "convert",
        help="make a TFLite, ONNX or SavedModel file of a Keras model, and compare the two",
        description="Converts a saved Keras model, runs the result and compares it with the "
        "model. Fails, and leaves no file behind, if they differ.",
    )
    convert.add_argument("model", type=Path, metavar="MODEL", help="the Keras model: a .keras file")
    convert.add_argument(
        "--to",
        choices=_FORMATS,
        required=True,
        help="tflite: a file for TensorFlow Lite; saved_model: a version for TF Serving; "
        "onnx: a file for ONNX Runtime and others",
    )
    convert.add_argument(
        "--quantize",
        choices=("float16", "dynamic", "int8", "int16x8", "mixed"),
        help="tflite: smaller numbers; mixed: integers where they are safe (default: float32)",
    )
    convert.add_argument(
        "--batch",
        type=batch,
        metavar="N",
        help='tflite: how many examples at a time, or "any", which some runtimes cannot do '
        "(default: 1)",
    )
    convert.add_argument(
        "--input-shape",
        type=shape,
        metavar="H,W,C",
        help="tflite: the shape of an example, where the model leaves height and width open",
    )
    convert.add_argument(
        "--io-dtype",
        choices=("float32", "int8", "uint8"),
        help="tflite with --quantize int8: the type of inputs and outputs (default: float32)",
    )
    convert.add_argument(
        "--tolerance",
        type=float,
        metavar="ERROR",
        help="tflite: the error that the outputs may have, as a share of them, such as 0.1",
    )
    convert.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="tflite, onnx: examples to measure ranges of integers and to compare on; a .npz file "
        "with an array [examples, ...] by the name of each input, or a .npy file for an only one",
    )
    convert.add_argument(
        "--labels",
        type=named_file,
        action="append",
        metavar="[OUTPUT=]FILE",
        help="tflite: the names of the classes, a line each; once for each output that has some",
    )
    for option, what in (("--mean", "the mean"), ("--std", "the standard deviation")):
        convert.add_argument(
            option,
            type=numbers,
            metavar="X[,Y,Z]",
            help=f"tflite: {what} by which images are normalized, of pixels from 0 to 255: one "
            "number, or one for each channel",
        )
    convert.add_argument(
        "--keep-native",
        action="store_true",
        help="tflite, saved_model: keep tfconv's ops; what runs the model needs them then",
    )
    convert.add_argument(
        "--jit-compile",
        action="store_true",
        help="saved_model: have XLA compile what it makes faster; the server needs its flag then",
    )
    convert.add_argument(
        "--opset",
        type=int,
        choices=range(9, 19),
        metavar="N",
        help="onnx: version of the operators, 9 to 18 (default: tf2onnx's)",
    )
    convert.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help="what to write: a file or, for saved_model, a folder of versions, where a new one "
        "is added (default: beside the model, with its name)",
    )
    convert.add_argument("--force", action="store_true", help="overwrite a file that is there")
    convert.set_defaults(run=_convert, usage_error=convert.error)


def add_inspect(commands: Any) -> None:
    """Adds `tfconv inspect` to a parser's commands."""
    inspect = commands.add_parser(
        "inspect",
        help="say what is in a TFLite or ONNX file, or a SavedModel",
        description="Says what is in a TFLite or ONNX file, or a SavedModel, without running it: "
        "inputs and outputs, operators and how many, which of them are custom or native, sizes "
        "and, but for ONNX, the layers they come from.",
    )
    inspect.add_argument(
        "path",
        type=Path,
        metavar="PATH",
        help="a .tflite or .onnx file, a SavedModel, a folder of versions",
    )
    inspect.add_argument("--json", action="store_true", help="print JSON instead of tables")
    inspect.set_defaults(run=_inspect)


def _inspect(arguments: argparse.Namespace) -> int:
    if not arguments.path.exists():
        error = f"PATH does not exist. Received: '{arguments.path}'"
        return fail("there is nothing to inspect.", error)
    start()
    from rich.console import Console

    from tfconv.export import inspection

    try:
        contents = inspection.inspect(arguments.path)
    except (ValueError, ImportError) as error:
        return fail("there is nothing to inspect.", error, {"path": "PATH", "source": "PATH"})
    if arguments.json:
        print(json.dumps(contents.as_json(), indent=2))
    else:
        Console().print(contents)
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    for option, formats in _OPTIONS.items():
        if getattr(arguments, option) not in (None, False) and arguments.to not in formats:
            name = option.replace("_", "-")
            arguments.usage_error(f"argument --{name}: not allowed with --to {arguments.to}")
    for option, other in (("mean", "std"), ("std", "mean")):
        if getattr(arguments, option) is not None and getattr(arguments, other) is None:
            arguments.usage_error(f"argument --{option}: needs --{other}")
    output = arguments.output or _beside(arguments.model, arguments.to)
    try:
        check_model(arguments.model)
        if arguments.to == "saved_model":
            check_apart(output, "--output", arguments.model)
        else:
            labels = (path for _, path in arguments.labels or ())
            check_output(output, "--output", arguments.model, arguments.data, *labels)
            if output.exists() and not arguments.force:
                raise ValueError(f"{output} exists; --force overwrites it.")
        if arguments.data is not None:
            check_input(arguments.data, "--data")
        elif arguments.quantize in _NEED_DATA:
            raise ValueError(
                f"`--data` is needed for --quantize {arguments.quantize}: the ranges of its "
                "integers are measured on examples."
            )
        metadata = _metadata(arguments)
    except ValueError as error:
        return fail("nothing was converted.", error)
    start()
    from rich.console import Console

    from tfconv import export

    try:
        data = None if arguments.data is None else _load_data(arguments.data)
        model = load_model(arguments.model)
        if arguments.to == "tflite":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # the report shows them
                options = {**_tflite_options(arguments, data), **metadata}
                report = export.to_tflite(model, output, **options)
        elif arguments.to == "onnx":
            report = export.to_onnx(model, output, arguments.opset, representative_data=data)
        else:
            options = {name: getattr(arguments, name) for name in ("keep_native", "jit_compile")}
            report = export.to_saved_model(model, output, **options)
    except (export.ExportError, ValueError, ImportError, OSError) as error:
        return fail("nothing was converted.", error, _NAMES)
    Console().print(report)
    return 0


def _tflite_options(arguments: argparse.Namespace, data: Any) -> dict[str, Any]:
    """The arguments of `to_tflite`: of those with a default there, what is given."""
    given = {name: getattr(arguments, name) for name in ("input_shape", "io_dtype", "tolerance")}
    given = {name: value for name, value in given.items() if value is not None}
    if arguments.batch is not None:
        given["batch_size"] = None if arguments.batch == ANY else arguments.batch
    return {
        "quantize": arguments.quantize,
        "representative_data": data,
        "keep_native": arguments.keep_native,
        **given,
    }


def _metadata(arguments: argparse.Namespace) -> dict[str, Any]:
    """The argument `metadata` of `to_tflite`, if anything is given for it."""
    given = {name: getattr(arguments, name) for name in ("mean", "std")}
    labels = {}
    for output, path in arguments.labels or []:
        check_input(path, "--labels")
        try:
            labels[output] = path.read_text(encoding="utf-8").rstrip().splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"`--labels` must be text ({error}). Received: {path}") from error
    given["labels"] = labels[""] if list(labels) == [""] else labels or None
    metadata = {name: value for name, value in given.items() if value is not None}
    return {"metadata": metadata} if metadata else {}


def _beside(model: Path, to: str) -> Path:
    """Where the result goes if nothing is said: next to the model."""
    suffix = "" if to == "saved_model" else f".{to}"
    return model.with_name(model.stem + suffix)


def _load_data(path: Path) -> Any:
    """The arrays in a file: a dict by their names, or the only one."""
    arrays = arrays_in(path, "--data")
    if isinstance(arrays, dict) and len(arrays) == 1:
        (arrays,) = arrays.values()
    return arrays
