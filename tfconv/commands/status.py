"""The command `tfconv status`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
from pathlib import Path
from typing import Any

from tfconv._version import __version__
from tfconv.commands.messages import fail
from tfconv.commands.process import start
from tfconv.machine import processor

_COMMAND = "python -m tfconv build"


def add_status(commands: Any) -> None:
    """Adds `tfconv status` to a parser's commands."""
    parser = commands.add_parser(
        "status",
        help="say what is installed, and whether native ops are in force",
        description="Says what is installed, whether native or portable ops are in force and "
        "why, and whether the native library should be built anew.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit status."""
    start()
    try:
        status = collect_status()
    except ValueError as error:
        return fail("the native ops cannot be used as the environment says.", error)
    if arguments.json:
        print(json.dumps(status, indent=2))
        return 0
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    native = status["native"]
    there = "native" if native["cuda"] and native["in_force"] == "native" else "portable"
    gpus = f"{status['gpus']}; tfconv's {there} ops run there" if status["gpus"] else "none"
    rows = {
        "tfconv": status["tfconv"],
        "Python": status["python"],
        "system": status["system"],
        "CPU": status["cpu"],
        "GPU": gpus,
        "TensorFlow": status["tensorflow"],
        "Keras": status["keras"],
        "native library": native["library"] or "none",
        "  built with": native["built_with"] and f"TensorFlow {native['built_with']}",
        "  compiler": native["compiler"],
        "  built at": native["date"],
        "  instruction set": native["isa"],
        "  compiled for": ", ".join(native["isas"]),
        "  GPU kernels": ("yes" if native["cuda"] else "none") if native["isa"] else None,
        "ops in force": f"{native['in_force']}: {native['reason']}",
        "  compiled by XLA": native["xla"],
        "to do": (
            f"build the library ({status['rebuild']}): {status['rebuild_command']}"
            if status["rebuild"]
            else "nothing"
        ),
    }
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value:
            table.add_row(name, Text(str(value)))
    Console().print(table)
    return 0


def collect_status() -> dict[str, Any]:
    """What `tfconv status` tells, ready for JSON.

    Returns:
        A dictionary: versions and machine at top level, `native` with the fields of
        `tfconv.NativeStatus`, what built the library, and `rebuild`: why the library should be
        built (again), or None.
    """
    import tensorflow as tf

    import tfconv
    from tfconv import _build, _compat

    status = tfconv.native_status()
    found = _build.find_library(tf.__version__)
    library, info = found if found is not None else (None, {})
    keras_version = getattr(_compat.keras, "__version__", None)
    return {
        "tfconv": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": processor(),
        "gpus": len(tf.config.list_physical_devices("GPU")),
        "tensorflow": tf.__version__,
        "keras": keras_version or _distribution_version("keras"),
        "native": {
            **dataclasses.asdict(status),
            "library": status.library or (None if library is None else str(library)),
            "built_with": status.built_with or info.get("tf_version"),
            "compiler": info.get("compiler_version"),
            "date": info.get("date"),
            "built_versions": _build.built_versions(),
        },
        "rebuild": _why_rebuild(status, found),
        "rebuild_command": _COMMAND,
    }


def _why_rebuild(status: Any, found: tuple[Path, dict[str, Any]] | None) -> str | None:
    from tfconv import _build

    if found is None:
        others = _build.built_versions()
        if others:
            return f"there is a library for TensorFlow {', '.join(others)} only"
        return "there is no library yet"
    if _build.is_stale(found[1]):
        return "its sources have changed since it was built"
    if status.in_force == "portable" and os.environ.get("TFCONV_NATIVE", "1") != "0":
        return "it cannot be used"
    return None


def _distribution_version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
