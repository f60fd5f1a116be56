"""The command `tfconv build`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tfconv.commands.arguments import positive
from tfconv.commands.messages import fail, progress_bar


def add_build(commands: Any) -> None:
    """Adds `tfconv build` to a parser's commands."""
    parser = commands.add_parser(
        "build",
        help="compile the native library for the installed TensorFlow",
        description="Compiles the native library for the installed TensorFlow: what has "
        "changed since the last time. Needs g++ or clang++ ($CXX chooses).",
    )
    parser.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="compilers at the same time, about 1 GB of memory each (default: the processors)",
    )
    parser.add_argument("--force", action="store_true", help="compile everything again")
    parser.add_argument("--verbose", action="store_true", help="print commands and warnings")
    parser.set_defaults(run=run)


_VERIFY = """
import dataclasses, json, tfconv
print("@@" + json.dumps(dataclasses.asdict(tfconv.native_status())))
"""


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit status."""
    from tfconv import _build

    try:
        _build.find_compiler()  # at once: asking TensorFlow takes seconds
        config = _build.tensorflow_config()
        if arguments.force:
            shutil.rmtree(_build.default_build_dir(), ignore_errors=True)
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
    print(f"{result.library}\n  {len(result.compiled)} compiled, {result.seconds:.0f} s")
    if result.warnings and not arguments.verbose:
        print("  The compiler had warnings; with --force --verbose you see them.")
    return _verify(result.library)


def _verify(library: Path) -> int:
    """Loads the library in a process of its own, for this one may hold an older one."""
    package = os.fspath(Path(__file__).resolve().parents[2])
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
