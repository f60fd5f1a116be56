"""The command `tfconv profile`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tfconv.commands.arguments import check_model, check_output
from tfconv.commands.loading import load_model
from tfconv.commands.messages import fail, wide_console
from tfconv.commands.process import start

_FILES = {"csv": "the rows", "json": "all numbers", "png": "a picture"}


def add_profile(commands: Any) -> None:
    """Adds `tfconv profile` to a parser's commands."""
    parser = commands.add_parser(
        "profile",
        help="count a model's weights, multiply-adds, memory and receptive fields",
        description="Counts, layer by layer and for one example, what a Keras model costs: "
        "weights, multiply-adds, memory of its feature maps, receptive fields.",
    )
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="a Keras model: a file, or a folder of Keras 2"
    )
    parser.add_argument(
        "--input-shape",
        type=_shape,
        action="append",
        metavar="SIZES",
        help="sizes of an input without the batch, such as 224,224,3 or 224x224x3; for several "
        "inputs, once for each (default: those that the model was made for)",
    )
    for kind, what in _FILES.items():
        parser.add_argument(
            f"--{kind}", type=Path, metavar="PATH", help=f"write {what} to a {kind.upper()} file"
        )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit status."""
    if not arguments.model.exists():
        return fail("there is no such model.", arguments.model)
    try:
        check_model(arguments.model)
    except ValueError as error:
        return fail(f"{arguments.model} cannot be loaded as a Keras model.", error)
    files = {f"--{kind}": getattr(arguments, kind) for kind in _FILES}
    files = {option: path for option, path in files.items() if path is not None}
    try:
        for option, path in files.items():
            check_output(path, option, arguments.model)
    except ValueError as error:
        return fail(f"{path} cannot be written.", error)
    start()
    from tfconv.analysis import profile

    try:
        model = load_model(arguments.model)
    except ValueError as error:
        return fail(f"{arguments.model} cannot be loaded as a Keras model.", error)
    shapes = arguments.input_shape or [None]
    try:
        found = profile(model, shapes[0] if len(shapes) == 1 else shapes)
    except Exception as error:  # of Keras: an input may not fit the model
        options = {"input_shape": "--input-shape"}
        return fail(f"{arguments.model} cannot be profiled.", error, options)
    writers = {"--csv": found.to_csv, "--json": found.to_json, "--png": found.plot}
    try:
        for option, path in files.items():
            writers[option](path)
    except (ImportError, OSError, ValueError) as error:
        return fail(f"{path} cannot be written.", error, {"path": option})
    wide_console().print(found)
    return 0


def _shape(text: str) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in text.replace("x", ",").split(","))
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"sizes must be at least 1. Received: {text}")
    return sizes


_shape.__name__ = "shape"  # argparse names the type in its errors
