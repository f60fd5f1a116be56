"""The command `tfconv demo`."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

from tfconv.commands.arguments import check_folder, positive, seed
from tfconv.commands.messages import fail
from tfconv.commands.process import start


def add_demo(commands: Any) -> None:
    """Adds `tfconv demo` to a parser's commands."""
    parser = commands.add_parser(
        "demo",
        help="train a small network, export it every way, and compare",
        description="Trains a small network of tfconv's layers on real handwritten digits, "
        "saves it, exports it for TFLite and TF Serving, runs what was exported without "
        "tfconv, and compares the results. Fails if they differ.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("demo-output"),
        metavar="DIR",
        help="folder for models, pictures and numbers (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs",
        type=positive,
        default=15,
        metavar="N",
        help="how often the network sees the training digits (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="seed of weights and training (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit status."""
    try:
        check_folder(arguments.output, "--output")
    except ValueError as error:
        return fail("the demo failed.", error)
    start()
    # The demo itself says which ops are in force.
    warnings.filterwarnings("ignore", "tfconv runs with portable", RuntimeWarning)
    from tfconv import demo

    try:
        demo.run(arguments.output, arguments.epochs, arguments.seed)
    except (demo.DemoError, OSError) as error:
        return fail("the demo failed.", error)
    return 0
