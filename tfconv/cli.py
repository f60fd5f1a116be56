"""The command line `tfconv`: its parser, and the commands that have no file of their own.

`python -m tfconv` is the same program.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Messages below errors come when TensorFlow starts and when programs started from here do.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from rich.console import Console  # noqa: E402

from tfconv import _build  # noqa: E402
from tfconv._version import __version__  # noqa: E402
from tfconv.commands import analysis, compare, exports, show  # noqa: E402
from tfconv.commands.messages import fail, only_ours, progress_bar, quiet_tensorflow  # noqa: E402

_COMMAND = "python -m tfconv build"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    Args:
        arguments: What stands after the program's name; None for this process's own.
    """
    chosen = _parser().parse_args(arguments)
    try:
        return chosen.run(chosen)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tfconv", description="Keras layers for every kind of convolution."
    )
    parser.add_argument("--version", action="version", version=f"tfconv {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    status = commands.add_parser(
        "status",
        help="say what is installed, and whether native ops are in force",
        description="Says what is installed, whether native or portable ops are in force and "
        "why, and whether the native library should be built anew.",
    )
    status.add_argument("--json", action="store_true", help="print JSON instead of a table")
    status.set_defaults(run=_status)

    layers = commands.add_parser(
        "layers",
        help="list the layers, their sources, and the checks that each goes through",
        description="Lists the layers: for how many spatial axes there are, where each comes "
        "from, which layers of Keras it can stand in for, and which checks it goes through.",
    )
    layers.add_argument(
        "names", nargs="*", metavar="LAYER", help="only these layers or families (default: all)"
    )
    layers.add_argument(
        "--check",
        action="store_true",
        dest="run_checks",
        help="run the checks and print what passed: minutes for all layers",
    )
    layers.add_argument("--json", action="store_true", help="print JSON instead of tables")
    layers.set_defaults(run=_layers)

    build = commands.add_parser(
        "build",
        help="compile the native library for the installed TensorFlow",
        description="Compiles the native library for the installed TensorFlow: what has "
        "changed since the last time. Needs g++ or clang++ ($CXX chooses).",
    )
    build.add_argument(
        "--jobs",
        type=_positive,
        metavar="N",
        help="compilers at the same time, about 1 GB of memory each (default: the processors)",
    )
    build.add_argument("--force", action="store_true", help="compile everything again")
    build.add_argument("--verbose", action="store_true", help="print commands and warnings")
    build.set_defaults(run=_run_build)

    exports.add_convert(commands)
    exports.add_inspect(commands)
    analysis.add_profile(commands)
    show.add_show(commands)
    compare.add_compare(commands, _positive)

    demo = commands.add_parser(
        "demo",
        help="train a small network, export it every way, and compare",
        description="Trains a small network of tfconv's layers on real handwritten digits, "
        "saves it, exports it for TFLite and TF Serving, runs what was exported without "
        "tfconv, and compares the results. Fails if they differ.",
    )
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("demo-output"),
        metavar="DIR",
        help="folder for models, pictures and numbers (default: %(default)s)",
    )
    demo.add_argument(
        "--epochs",
        type=_positive,
        default=15,
        metavar="N",
        help="how often the network sees the training digits (default: %(default)s)",
    )
    demo.add_argument(
        "--seed",
        type=_seed,
        default=0,
        metavar="N",
        help="seed of weights and training (default: %(default)s)",
    )
    demo.set_defaults(run=_demo)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1. Received: {text}")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must be from 0 to {2**32 - 1}. Received: {text}")
    return value


_positive.__name__ = _seed.__name__ = "integer"  # argparse names the type in its errors


# tfconv status


def collect_status() -> dict[str, Any]:
    """What `tfconv status` tells, ready for JSON.

    Returns:
        A dictionary: versions and machine at top level, `native` with the fields of
        `tfconv.NativeStatus`, what built the library, and `rebuild`: why the library should be
        built (again), or None.
    """
    import tensorflow as tf

    import tfconv
    from tfconv import _compat

    status = tfconv.native_status()
    found = _build.find_library(tf.__version__)
    library, info = found if found is not None else (None, {})
    keras_version = getattr(_compat.keras, "__version__", None)
    return {
        "tfconv": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": _cpu(),
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


def _cpu() -> str:
    """The processor's name and how many of them this process may use."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(x for x in lines if x.startswith("model name")).partition(":")[2].strip()
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        count = os.cpu_count() or 1
    return f"{name}, {count} processor{'s' if count > 1 else ''}"


def _distribution_version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _status(arguments: argparse.Namespace) -> int:
    status = collect_status()
    if arguments.json:
        print(json.dumps(status, indent=2))
        return 0
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
        "  GPU kernels": ("yes" if native["cuda"] else "none") if native["isa"] else None,
        "ops in force": f"{native['in_force']}: {native['reason']}",
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


# tfconv layers


def _layers(arguments: argparse.Namespace) -> int:
    quiet_tensorflow()
    from tfconv import catalog
    from tfconv import catalog_tables as tables

    try:
        families = catalog.families(arguments.names)
    except ValueError as error:
        return fail("there is no such layer.", error)
    if arguments.run_checks:
        with only_ours() as terminal, progress_bar(terminal, transient=True) as bar:
            task = bar.add_task("", total=None)
            catalog.run_checks(
                families,
                lambda done, total, what: bar.update(
                    task, completed=done, total=total, description=what
                ),
            )
    failures = [text for family in families for found in family.failures.values() for text in found]
    if arguments.json:
        print(json.dumps([dataclasses.asdict(family) for family in families], indent=2))
        return int(bool(failures))
    console = Console()
    if not arguments.run_checks:
        console.print(tables.layers_table(families))
        console.print()
    console.print(tables.checks_table(families))
    console.print()
    console.print(tables.legend(), tables.explanation(arguments.run_checks), sep="\n")
    for text in failures:
        console.print()
        console.print(text, style="red", markup=False, highlight=False)
    return int(bool(failures))


# tfconv build

_VERIFY = """
import dataclasses, json, tfconv
print("@@" + json.dumps(dataclasses.asdict(tfconv.native_status())))
"""


def _run_build(arguments: argparse.Namespace) -> int:
    try:
        _build.find_compiler()  # at once: asking TensorFlow takes seconds
        config = _build.tensorflow_config()
        if arguments.force:
            shutil.rmtree(_build.default_build_dir(config.version), ignore_errors=True)
        print(f"Building tfconv's native ops for TensorFlow {config.version}", flush=True)
        with progress_bar() as bar:
            task = bar.add_task("", total=None)

            def progress(done: int, total: int, what: str) -> None:
                bar.update(task, completed=done, total=total, description=what)

            result = _build.build(
                jobs=arguments.jobs, progress=progress, verbose=arguments.verbose, config=config
            )
    except (_build.BuildError, OSError) as error:
        return fail("the native ops could not be built.", error)
    done = (
        f"{len(result.compiled)} compiled, {len(result.reused)} unchanged, {result.seconds:.0f} s"
    )
    print(f"{result.library}\n  {done}")
    if result.warnings and not arguments.verbose:
        print("  The compiler had warnings; with --force --verbose you see them.")
    return _verify(result.library)


def _verify(library: Path) -> int:
    """Loads the library in a process of its own, for this one may hold an older one."""
    package = os.fspath(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-c", _VERIFY],
        env={**os.environ, "PYTHONPATH": path, "TFCONV_NATIVE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    _, mark, answer = done.stdout.rpartition("@@")
    if done.returncode or not mark:
        return fail(
            f"the library was built, but loading it failed (exit status {done.returncode}).",
            done.stderr.strip(),
        )
    status = json.loads(answer)
    if status["in_force"] != "native":
        return fail("the library was built, but is not in force.", status["reason"])
    if Path(status["library"]).resolve() != library.resolve():
        return fail(
            "the library was built, but another one is loaded instead of it.", status["library"]
        )
    print(f"  it loads; CPU kernels for the instruction set: {status['isa']}")
    if os.environ.get("TFCONV_NATIVE", "1") == "0":
        print("  the environment variable TFCONV_NATIVE=0 keeps it out of use")
    return 0


# tfconv demo


def _demo(arguments: argparse.Namespace) -> int:
    quiet_tensorflow()
    # The demo itself says which ops are in force.
    warnings.filterwarnings("ignore", "tfconv runs with portable", RuntimeWarning)
    from tfconv import demo

    try:
        demo.run(arguments.output, arguments.epochs, arguments.seed)
    except (demo.DemoError, OSError) as error:
        return fail("the demo failed.", error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
