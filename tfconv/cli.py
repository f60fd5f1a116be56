"""The command line `tfconv`: its parser, made of those of the commands.

`tfconv_command`, which is installed as `tfconv`, and `python -m tfconv` run it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tfconv._version import __version__
from tfconv.commands import (
    analysis,
    build,
    compare,
    demo,
    evidence,
    example,
    exports,
    layers,
    predict,
    process,
    show,
    status,
)
from tfconv.commands.messages import fail


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    Args:
        arguments: What stands after the program's name; None for this process's own.
    """
    chosen = _parser().parse_args(arguments)
    try:
        return chosen.run(chosen)
    except KeyboardInterrupt:
        return process.say_interrupted()
    except process.StartError as error:
        return fail("TensorFlow cannot be used.", error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tfconv", description="Keras layers for every kind of convolution."
    )
    parser.add_argument("--version", action="version", version=f"tfconv {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    status.add_status(commands)
    layers.add_layers(commands)
    build.add_build(commands)
    exports.add_convert(commands)
    exports.add_inspect(commands)
    analysis.add_profile(commands)
    show.add_show(commands)
    compare.add_compare(commands)
    evidence.add_evidence(commands)
    predict.add_predict(commands)
    demo.add_demo(commands)
    example.add_example(commands)
    return parser
