"""Compiles the kernels into the Python module tfconv._kernels, which wheels leave out.

Variants with sanitizers, and what is left behind on the way, are in build/kernels/<variant>/.

Compiler, flags and the reuse of objects are those of tfconv/_build.py. As a program:
``python tests/kernels/build.py plain asan tsan``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
MODULE = "_kernels"
SOURCE = "cc/testing/kernels_module_test.cc"
# What the module needs of the library beyond the kernels.
MORE_SOURCES = ("cc/common/isa.cc",)

_SANITIZED = ("-O1", "-g1", "-fno-omit-frame-pointer")
# What nvcc compiles for the library is compiled for the CPU here (cc/testing/cuda_on_cpu.h), where
# the switch between its threads is written for; the thread sanitizer does not know that switch.
_CUDA_MACRO = "-DTFCONV_CUDA_ON_CPU=1"
# Flags for compiling and linking, put after those of the library.
VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "asan": (
        *_SANITIZED,
        "-fsanitize=address,undefined,float-cast-overflow",
        "-fno-sanitize-recover=all",
    ),
    "tsan": (*_SANITIZED, "-fsanitize=thread"),
}
# For the module itself, put last: it is pybind11's templates for the most part.
_MODULE_FLAGS: dict[str, tuple[str, ...]] = {
    "plain": ("-O0",),
    "asan": (
        "-O0",
        "-fno-sanitize=undefined",
        "-fsanitize=signed-integer-overflow,float-cast-overflow",
    ),
    "tsan": ("-O0",),
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


def _cuda_units(variant: str, compiler, flags: tuple[str, ...]) -> list:
    if variant == "tsan" or "avx2" not in compiler.isas:
        return []
    own = ("-O2", "-std=c++17", *_build._COMMON_FLAGS, "-Wno-unknown-pragmas", "-Icc", "-xc++")
    names = (p.relative_to(ROOT).as_posix() for p in sorted((ROOT / "cc").rglob("*.cu.cc")))
    return [
        _build.Unit(name, (*own, *flags), name[len("cc/") : -len("cc")] + "cpu.o", "cuda")
        for name in names
    ]


def _module_unit(variant: str, flags: tuple[str, ...]):
    import pybind11

    folders = (sysconfig.get_path("include"), pybind11.get_include())
    includes = ["-Icc", *(word for folder in folders for word in ("-isystem", folder))]
    own = ("-std=c++17", *_build._COMMON_FLAGS, *includes, "-pthread")
    return _build.Unit(SOURCE, (*own, *flags, *_MODULE_FLAGS[variant]), f"{MODULE}.o")


def folder_of(variant: str) -> Path:
    """Where objects are kept, and what tests leave behind."""
    return ROOT / "build" / "kernels" / variant


def build(variant: str, report=lambda done, total, what: None) -> Path:
    """Compiles what has changed and returns the module's path.

    Objects of the library that are up to date serve here too, where the flags are the same.

    Args:
        variant: "plain", "asan" (address and undefined behaviour) or "tsan" (threads).
        report: Called as report(done, total, what) after each step.

    Raises:
        ValueError: If there is no such variant.
        BuildError: If a step fails.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}. Received: {variant!r}")
    folder = folder_of(variant)
    folder.mkdir(parents=True, exist_ok=True)
    with _build._build_lock(folder, lambda: report(0, 1, "waiting for another build")):
        scratch = Path(tempfile.mkdtemp(dir=folder, prefix=".tmp-"))
        try:
            return _build_locked(variant, folder, scratch, report)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _build_locked(variant: str, folder: Path, scratch: Path, report) -> Path:
    compiler = _build.find_compiler()
    flags = (*VARIANTS[variant], *shlex.split(os.environ.get("TFCONV_CXXFLAGS", "")))
    units = [
        unit
        for unit in _build.library_units(ROOT / "cc", compiler.isas, extra_flags=flags)
        if unit.isa is not None or unit.source in MORE_SOURCES
    ]
    cuda_units = _cuda_units(variant, compiler, flags)
    units += cuda_units
    units.append(_module_unit(variant, (*flags, _CUDA_MACRO) if cuda_units else flags))

    no_tensorflow = _build.TensorFlowConfig("none", (), (), "<none>")
    driver = _build._Build(
        ROOT / "cc", folder, folder, scratch, compiler, no_tensorflow, report, False
    )
    signatures = {unit: driver._signature(unit) for unit in units}
    libraries = sorted((ROOT / "build" / "native").glob("tf-*"))
    caches = [driver.cache] + [
        _build._ObjectCache(path, ROOT, driver.snapshot, bool(driver.strict_flags))
        for path in libraries
    ]

    def find(unit) -> Path | None:
        good = (cache.path(unit) for cache in caches if cache.reusable(unit, signatures[unit]))
        return next(good, None)

    objects = {unit: find(unit) for unit in units}
    todo = [unit for unit in units if objects[unit] is None]
    total = len(todo) + 1
    report(0, total, f"{variant}: {len(todo)} of {len(units)} units to compile")
    todo.sort(key=driver._cost, reverse=True)
    warnings = driver._compile(todo, signatures, _build._default_jobs())
    if warnings:
        print(warnings, file=sys.stderr)
    paths = [objects[unit] or driver.cache.path(unit) for unit in units]

    place = ROOT / "tfconv" if variant == "plain" else folder
    made = place / f"{MODULE}{sysconfig.get_config_var('EXT_SUFFIX')}"
    command = [*compiler.command, "-shared", "-pthread", *flags, *map(os.fspath, paths)]
    command += shlex.split(os.environ.get("TFCONV_LDFLAGS", ""))
    contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    signature = [*command, compiler.version, *contents]
    record = folder / f"{MODULE}.json"
    linked = made.is_file() and record.is_file() and json.loads(record.read_text()) == signature
    if not linked:
        linking = scratch / made.name
        driver._run([*command, "-o", os.fspath(linking)], f"Linking {made.name}")
        record.unlink(missing_ok=True)
        os.replace(linking, made)
        _build._write_json(record, signature)
    report(total, total, "up to date" if linked else "linked")
    return made


def load(variant: str) -> ModuleType:
    """Builds a variant and imports it."""
    return _load(MODULE, build(variant))


def main() -> int:
    def report(done: int, total: int, what: str) -> None:
        print(f"  [{done}/{total}] {what}", flush=True)

    try:
        for variant in sys.argv[1:] or ["plain"]:
            print(f"  {build(variant, report)}")
    except (_build.BuildError, ValueError) as error:
        print(f"The kernels could not be built for tests.\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
