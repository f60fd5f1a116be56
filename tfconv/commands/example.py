"""The command `tfconv example`."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tfconv.commands.arguments import check_folder
from tfconv.commands.messages import fail

_PACKAGE = Path(__file__).resolve().parents[1]
# In a wheel, else in a checkout.
_FOLDERS = (_PACKAGE / "_examples", _PACKAGE.parent / "examples")
# TensorFlow prints lines as it starts, which are no part of an example.
_START = (
    "import tfconv_command; tfconv_command.enter(); "
    "from tfconv.commands.process import start; start(); "
)


def add_example(commands: Any) -> None:
    """Adds `tfconv example` to a parser's commands."""
    parser = commands.add_parser(
        "example",
        help="list the examples that train something, or run one",
        description="Runs an example: it trains something in minutes, prints how that goes, and "
        "draws a picture. Without a name it lists them.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="an example")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("example-output"),
        metavar="DIR",
        help="folder for pictures and models (default: %(default)s)",
    )
    parser.add_argument("--quick", action="store_true", help="a look at how it goes, in seconds")
    parser.add_argument("--show", action="store_true", help="print the example and do not run it")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit status."""
    examples = scripts()
    if arguments.name is None:
        width = max(map(len, examples), default=0)
        for name, path in examples.items():
            print(f"{name:{width}}  {title(path)}")
        return 0
    path = examples.get(arguments.name)
    if path is None:
        error = f"NAME must be one of {', '.join(examples)}. Received: {arguments.name!r}"
        return fail("there is no such example.", error)
    if arguments.show:
        print(path.read_text(encoding="utf-8"), end="")
        return 0
    try:
        check_folder(arguments.output, "--output")
    except ValueError as error:
        return fail("the example did not run.", error)
    return _ended(path, arguments)


def scripts() -> dict[str, Path]:
    """The examples by name."""
    folder = next((each for each in _FOLDERS if each.is_dir()), _FOLDERS[-1])
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def title(path: Path) -> str:
    """What an example calls itself: its first heading."""
    found = re.search(r"^# # (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return found.group(1) if found else ""


def _ended(path: Path, arguments: argparse.Namespace) -> int:
    """The exit status of an example, in a process of its own: it sets TensorFlow up as it likes."""
    variables = {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **os.environ,
        "TFCONV_EXAMPLE_OUTPUT": os.fspath(arguments.output),
        "PYTHONPATH": os.pathsep.join(
            filter(None, [os.fspath(_PACKAGE.parent), os.environ.get("PYTHONPATH")])
        ),
    }
    if arguments.quick:
        variables["TFCONV_EXAMPLE_QUICK"] = "1"
    variables.setdefault("MPLBACKEND", "agg")
    sys.stdout.flush()
    # Not by its path: the folder's files would hide packages of their names.
    command = f"{_START}import runpy; runpy.run_path({os.fspath(path)!r}, run_name='__main__')"
    status = subprocess.run([sys.executable, "-c", command], env=variables).returncode
    if status == 0:
        print(f"pictures and models are in {arguments.output}")
        return 0
    return fail(f"the example {path.stem} did not run to its end.", f"Its exit status is {status}.")
