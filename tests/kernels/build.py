"""Builds what the tests of the kernels run: the Python module _kernels, and the delegate's driver.

cc/testing/CMakeLists.txt says how. The variants with sanitizers are in build/kernels/<variant>/,
where tests leave their last cases; the plain one takes the objects of the library. As a program:
``python tests/kernels/build.py plain asan tsan``.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
MODULE = "_kernels.so"
DRIVER = "tfconv_lite_driver"  # tests/lite/driver.py
# Variables of CMake.
VARIANTS: dict[str, dict[str, str]] = {
    "plain": {},
    "asan": {"TFCONV_SANITIZE": "address"},
    "tsan": {"TFCONV_SANITIZE": "thread"},
}


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


# By its path: importing tfconv would import TensorFlow.
_build = _load("_tfconv_build", ROOT / "tfconv" / "_build.py")


def folder_of(variant: str) -> Path:
    """Where tests leave their last cases."""
    return ROOT / "build" / "kernels" / variant


def make(made: Path, variables: dict[str, str], env=None, report=None) -> Path:
    """Makes a target of cc/testing, unless it is newer than all sources; returns its path."""
    import pybind11

    sources = [path for path in (ROOT / "cc").rglob("*") if path.is_file()]
    if made.is_file() and made.stat().st_mtime > max(path.stat().st_mtime for path in sources):
        return made
    includes = (sysconfig.get_path("include"), pybind11.get_include())
    variables = {
        "TFCONV_ISAS": "all",
        "TFCONV_PYTHON_INCLUDES": ";".join(includes),
        **variables,
    }
    made.parent.mkdir(parents=True, exist_ok=True)
    report = report or (lambda done, total, what: None)
    with _build.build_lock(made.parent, lambda: report(0, 1, "waiting for another build")):
        ninja = _build.Ninja(made.parent, ROOT / "cc", _build.find_compiler(env), variables)
        ninja.make([made.name], _build.default_jobs(), report)
    if ninja.warnings:
        print(ninja.warnings, file=sys.stderr)
    return made


def objects_of(variant: str) -> Path:
    """Where CMake builds a variant: with the library, or by itself."""
    return folder_of(variant) / "build" if VARIANTS[variant] else ROOT / "build" / "native"


def build(variant: str, report=None) -> Path:
    """Compiles what has changed and returns the module's path.

    Args:
        variant: "plain", "asan" (address and undefined behaviour) or "tsan" (threads).
        report: Called as report(done, total, what) after each step.

    Raises:
        ValueError: If there is no such variant.
        BuildError: If a step fails.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}. Received: {variant!r}")
    folder_of(variant).mkdir(parents=True, exist_ok=True)
    return make(objects_of(variant) / MODULE, VARIANTS[variant], report=report)


def load(variant: str) -> ModuleType:
    """Builds a variant and imports it."""
    return _load("_kernels", build(variant))


def main() -> int:
    def report(done: int, total: int, what: str) -> None:
        print(f"  [{done}/{total}] {what}", flush=True)

    try:
        for variant in sys.argv[1:] or ["plain"]:
            print(f"  {build(variant, report)}")
            print(f"  {make(objects_of(variant) / DRIVER, VARIANTS[variant], report=report)}")
    except (_build.BuildError, ValueError) as error:
        print(f"The kernels could not be built for tests.\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
