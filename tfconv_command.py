"""The command `tfconv`.

It stands outside of the package, whose import takes TensorFlow's seconds: help, versions and
mistakes in arguments are answered without it. The package is only entered here; its commands run it
when they need it (`tfconv.commands.process.start`).
"""

import importlib.util
import sys


def enter() -> None:
    """Lets modules of the package be imported before it runs."""
    spec = importlib.util.find_spec("tfconv")
    sys.modules["tfconv"] = importlib.util.module_from_spec(spec)


def main() -> int:
    """Runs the command line in this process and returns its exit status."""
    enter()
    from tfconv.commands.process import interruptible

    return interruptible("tfconv.cli")
