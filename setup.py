"""Builds the native library; what is installed has it, its C++ sources and the examples.

The metadata is in pyproject.toml. Environment variables:
    TFCONV_NATIVE: 0 leaves the native library out.
    TFCONV_REQUIRE_NATIVE: 1 lets the installation fail if the library cannot be built;
        otherwise tfconv is installed without it and its portable ops serve.
    TFCONV_PREBUILT: A folder of libraries (`make wheels` makes one, for several versions of
        TensorFlow) to put into the wheel instead.
tfconv/_build.py has those of the compilation itself.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools < 70.1
    from wheel.bdist_wheel import bdist_wheel

ROOT = Path(__file__).resolve().parent
TF_REQUIREMENTS = [
    "tensorflow-cpu>=2.15; platform_machine == 'x86_64'",
    "tensorflow>=2.15; platform_machine != 'x86_64'",
]
WHEEL_HOOKS = {"get_requires_for_build_wheel", "get_requires_for_build_editable"}


def load_build_module() -> ModuleType:
    """tfconv/_build.py on its own: importing tfconv would need TensorFlow."""
    spec = importlib.util.spec_from_file_location("_tfconv_build", ROOT / "tfconv" / "_build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


_build = load_build_module()


def enabled(variable: str, default: str) -> bool:
    """Value of a 0/1 environment variable."""
    value = os.environ.get(variable, default)
    if value not in ("0", "1"):
        raise SystemExit(f"{variable} must be 0 or 1. Received: {value!r}")
    return value == "1"


NATIVE = enabled("TFCONV_NATIVE", "1")
REQUIRE_NATIVE = enabled("TFCONV_REQUIRE_NATIVE", "0")
PREBUILT = os.environ.get("TFCONV_PREBUILT")
if REQUIRE_NATIVE and not NATIVE:
    raise SystemExit("TFCONV_REQUIRE_NATIVE=1 contradicts TFCONV_NATIVE=0")


def outer_environment() -> dict[str, str]:
    """Environment in which Python sees the packages that pip's build isolation hides.

    pip isolates a build by PYTHONPATH and a sitecustomize module there; the interpreter is
    the one that tfconv is being installed for.
    """
    hidden = ("PYTHONPATH", "PYTHONNOUSERSITE")
    return {name: value for name, value in os.environ.items() if name not in hidden}


def tensorflow_config():
    """The TensorFlow to build against: of the build environment, else of the outer one."""
    try:
        return _build.tensorflow_config()
    except _build.TensorFlowNotFoundError:
        return _build.tensorflow_config(env=outer_environment())


def tensorflow_installed() -> bool:
    """Whether either environment has TensorFlow (without importing it: that takes seconds)."""
    code = (
        "import importlib.util as u; s = u.find_spec('tensorflow'); "
        "raise SystemExit(s is None or s.origin is None)"
    )
    return any(
        subprocess.run([sys.executable, "-c", code], env=env, cwd=sys.prefix).returncode == 0
        for env in (None, outer_environment())
    )


def build_requirements() -> list[str]:
    """What a build of a wheel needs beyond pyproject.toml: TensorFlow, where there is none."""
    if (
        not NATIVE
        or PREBUILT
        or not any(frame.function in WHEEL_HOOKS for frame in inspect.stack())
    ):
        return []
    try:
        _build.find_compiler()
    except _build.CompilerNotFoundError:
        return []
    return [] if tensorflow_installed() else TF_REQUIREMENTS


def say(text: str) -> None:
    """Prints a message that stands out in a build's log."""
    rule = "=" * 78
    print(f"\n{rule}\n{text}\n{rule}\n", file=sys.stderr, flush=True)


class BuildPy(build_py):
    """Copies the packages; for wheels also C++ sources to `tfconv/_cc`, examples to `_examples`."""

    def run(self) -> None:
        if self.editable_mode:
            super().run()
            return
        # What earlier builds left there (modules since removed, libraries for another
        # TensorFlow) would go into the wheel.
        package = Path(self.build_lib) / "tfconv"
        shutil.rmtree(package, ignore_errors=True)
        super().run()
        for source, name in self.further_files().items():
            target = package / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    @staticmethod
    def further_files() -> dict[Path, str]:
        """Where in the package files from elsewhere go.

        Everything in cc/ but tests: sources, headers and the files that build them; the examples.
        """
        root = ROOT / "cc"
        sources = sorted(path for path in root.rglob("*") if path.is_file())
        files = {
            path: f"_cc/{path.relative_to(root).as_posix()}"
            for path in sources
            if not path.name.endswith("_test.cc")
        }
        examples = sorted((ROOT / "examples").glob("*.py"))
        return {**files, **{path: f"_examples/{path.name}" for path in examples}}

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        outputs = list(super().get_outputs(include_bytecode))
        if not self.editable_mode:
            package = Path(self.build_lib) / "tfconv"
            outputs += [os.fspath(package / name) for name in self.further_files().values()]
        return outputs


class BuildNative(build_ext):
    """Builds the library for the TensorFlow at hand, or takes those that are ready.

    Attributes:
        made: The files; empty before, and where there is no library.
    """

    made: tuple[Path, ...] = ()

    def run(self) -> None:
        root = ROOT if self.inplace or self.editable_mode else Path(self.build_lib)
        native = root / "tfconv" / "_native"
        if PREBUILT:
            shutil.copytree(PREBUILT, native, dirs_exist_ok=True)
            self.made = tuple(path for path in native.rglob("*") if path.is_file())
            return
        try:
            _build.find_compiler()  # before TensorFlow, which takes seconds to import
            config = tensorflow_config()
            result = _build.build(
                native / _build.tf_key(config.version),
                jobs=self.parallel or None,
                progress=lambda done, total, what: print(f"[{done}/{total}] {what}", flush=True),
                config=config,
            )
        except _build.BuildError as error:
            if REQUIRE_NATIVE:
                raise SystemExit(f"error: the native ops could not be built.\n{error}") from None
            say(
                f"tfconv is installed WITHOUT its native ops.\n\n{error}\n\n"
                "All of it works without them: portable ops serve, with the same results but "
                "slower.\nTo build the native ops later, run: python -m tfconv build"
            )
            return
        self.made = result.files
        if result.warnings:
            print(result.warnings, file=sys.stderr)
        print(f"native ops for TensorFlow {config.version}: {result.library}", flush=True)

    def get_source_files(self) -> list[str]:
        return []  # MANIFEST.in has them

    def get_outputs(self) -> list[str]:
        return [os.fspath(path) for path in self.made]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class Wheel(bdist_wheel):
    """A wheel for any Python 3 on this platform if it holds the library, else for all."""

    def run(self) -> None:
        self.run_command("build")
        if not self.get_finalized_command("build_ext").made:
            self.distribution.ext_modules = []
            self.root_is_pure = True
        self.skip_build = True  # the base class would run build_ext once more
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, platform = super().get_tag()
        # An op library knows nothing of Python's binary interface.
        return (python, abi, platform) if self.root_is_pure else ("py3", "none", platform)


setup(
    license="Apache-2.0",
    # Makes distribution and wheel platform-specific; BuildNative does not read it.
    ext_modules=[Extension("tfconv._native", sources=[])] if NATIVE else [],
    setup_requires=build_requirements(),
    cmdclass={"build_py": BuildPy, "build_ext": BuildNative, "bdist_wheel": Wheel},
)
