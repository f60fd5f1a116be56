"""Compiles the C++ ops into the shared library that TensorFlow loads.

One library serves one TensorFlow minor version (TensorFlow promises no binary
interface beyond that), so every library lives in a folder named after it:
``tfconv/_native/tf-2.21/libtfconv_ops.so`` with a ``build_info.json`` beside it, or
below ``~/.cache/tfconv/<version>/`` where the package folder cannot be written. Beside it lies
``libtfconv_lite.so``, which runs the ops in TFLite's interpreter: the same kernels, without
TensorFlow.

This module needs the standard library only: setup.py loads it by its path, because
importing tfconv needs TensorFlow. It also runs as a program: ``python tfconv/_build.py``.

Environment variables:
    CXX: The compiler, with arguments if need be (``ccache g++``). Default: g++, then clang++.
    TFCONV_CXXFLAGS: Further compiler flags, put after all others.
    TFCONV_LDFLAGS: Further linker flags, put after all others.
    TFCONV_WERROR: 1 turns warnings into errors.
    TFCONV_JOBS: How many compilers run at the same time.
    TFCONV_CUDA: 1 compiles the CUDA kernels, 0 leaves them out, auto (the default) compiles
        them if there is an nvcc.
    TFCONV_CUDA_ARCHS: GPU architectures to compile for ("75,90"). Default: one for each
        generation that nvcc knows, which serves all of it. What is newer than the last uses
        its PTX.
    CUDA_HOME: Folder of the CUDA toolkit, whose nvcc goes before the one on the PATH.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Union

try:
    import fcntl
except ImportError:  # not a POSIX system: temporary names alone keep two builds apart
    fcntl = None  # type: ignore[assignment]

LIBRARY_NAME = "libtfconv_ops.so"
LITE_LIBRARY_NAME = "libtfconv_lite.so"
INFO_NAME = "build_info.json"

PathLike = Union[str, "os.PathLike[str]"]
Progress = Callable[[int, int, str], None]

_PACKAGE = Path(__file__).resolve().parent
_TEST_SUFFIX = "_test.cc"
_CPU_SUFFIX = "_cpu.cc"
_CUDA_SUFFIX = ".cu.cc"
_GPU_SUFFIX = "_gpu.cc"
_LITE_FOLDER = "lite/"
_ISA_SOURCE = "common/isa.cc"  # chooses among the kernels of an instruction set
_HEADER_SUFFIXES = (".h", ".hpp", ".inc")

_COMMON_FLAGS = ("-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")
_TF_FLAGS = ("-O2", *_COMMON_FLAGS)
_CPU_FLAGS = ("-O3", "-std=c++17", "-ffp-contract=fast", *_COMMON_FLAGS)
_LITE_FLAGS = ("-O2", "-std=c++17", "-pthread", *_COMMON_FLAGS)
_AVX2_FLAGS = ("-mavx2", "-mfma", "-mf16c")
_AVX512_FLAGS = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
_ISA_FLAGS: dict[str, tuple[str, ...]] = {
    "base": (),
    "avx2": _AVX2_FLAGS,
    "avx512": (*_AVX512_FLAGS, *_AVX2_FLAGS, "-mprefer-vector-width=512"),
}

_CUDA_ARCHS = ("75", "80", "90", "100", "110", "120")
_CUDA_FLAGS = ("-O3", "-std=c++17", "-x", "cu", *(f"-Xcompiler={flag}" for flag in _COMMON_FLAGS))
_CUDA_STRICT_FLAGS = ("-Werror=all-warnings", "-Xcompiler=-Werror")
# The runtime is part of the library, which loads where there is no CUDA, and hidden in it.
_CUDA_LIBRARIES = ("-lcudart_static", "-ldl", "-lrt", "-lpthread", "-Wl,--exclude-libs,ALL")

# Whoever loads the library for TFLite may have another C++ standard library, or none.
_LITE_STATIC_FLAGS = ("-static-libstdc++", "-static-libgcc")
_LITE_EXPORTS = "lite/tfconv_lite.lds"

# TensorFlow's own headers include these, but its compile flags do not name them.
_TF_EXTERNAL_INCLUDES = ("external/highwayhash", "external/farmhash_archive/src")

_UNIT_MEMORY = 1 << 30  # bytes that a compiler needs for a unit with TensorFlow's headers
_ERROR_LINES = 30


class BuildError(RuntimeError):
    """The library could not be built; the message says which step failed and why."""


class CompilerNotFoundError(BuildError):
    """There is no C++ compiler."""


class TensorFlowNotFoundError(BuildError):
    """There is no TensorFlow to build against."""


@dataclasses.dataclass(frozen=True)
class TensorFlowConfig:
    """What the build has to know of an installed TensorFlow.

    Attributes:
        version: Full version, such as "2.21.0".
        compile_flags: `tf.sysconfig.get_compile_flags()`.
        link_flags: `tf.sysconfig.get_link_flags()`.
        include_dir: Folder of its headers.
    """

    version: str
    compile_flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    include_dir: str


@dataclasses.dataclass(frozen=True)
class Compiler:
    """A C++ compiler: its command, the first line of its version, its target machine."""

    command: tuple[str, ...]
    version: str
    target: str

    @property
    def isas(self) -> tuple[str, ...]:
        """Instruction sets for which `*_cpu.cc` units are compiled."""
        machine = self.target.split("-")[0].lower()
        return tuple(_ISA_FLAGS) if machine in ("x86_64", "amd64") else ("base",)


@dataclasses.dataclass(frozen=True)
class Cuda:
    """The CUDA toolkit.

    Attributes:
        command: Command of nvcc.
        version: The last line of its version.
        archs: Architectures to compile for: "90" for sm_90.
        link_flags: The linker's search path.
    """

    command: tuple[str, ...]
    version: str
    archs: tuple[str, ...]
    link_flags: tuple[str, ...]

    @property
    def arch_flags(self) -> tuple[str, ...]:
        """Code for each architecture, and PTX of the last for those to come."""
        codes = [*((arch, "sm") for arch in self.archs), (self.archs[-1], "compute")]
        return tuple(f"-gencode=arch=compute_{arch},code={kind}_{arch}" for arch, kind in codes)


@dataclasses.dataclass(frozen=True)
class Unit:
    """One compilation: a source file and, for `*_cpu.cc`, an instruction set.

    Attributes:
        source: Path relative to the folder that holds the sources' folder: "cc/a/b_op.cc".
        flags: Compiler flags without the source and the outputs.
        object_name: Path of the object relative to the build folder.
        isa: Name of the instruction set, "cuda" for what nvcc compiles, "lite" for TFLite's side;
            None for a unit that includes TensorFlow.
    """

    source: str
    flags: tuple[str, ...]
    object_name: str
    isa: str | None = None

    @property
    def label(self) -> str:
        """Name for progress lines and errors: "cc/a/b_cpu.cc [avx2]"."""
        return f"{self.source} [{self.isa}]" if self.isa else self.source


@dataclasses.dataclass(frozen=True)
class BuildResult:
    """Outcome of `build`.

    Attributes:
        library: Path of the shared library.
        info: Contents of its build_info.json.
        compiled: Labels of the units that were compiled.
        reused: Labels of the units whose objects were still good.
        linked: Whether the library was linked anew.
        warnings: What the compiler said without failing.
        seconds: Wall-clock time.
    """

    library: Path
    info: dict[str, Any]
    compiled: tuple[str, ...]
    reused: tuple[str, ...]
    linked: bool
    warnings: str
    seconds: float


# Where things are.


def package_version() -> str:
    """Version of tfconv, read without importing it."""
    text = (_PACKAGE / "_version.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    if match is None:
        raise BuildError(f"No __version__ in {_PACKAGE / '_version.py'}. Received: {text!r}")
    return match.group(1)


def _checkout() -> Path | None:
    """Root of the checkout (or unpacked sdist) that holds this package, if it is one."""
    root = _PACKAGE.parent
    return root if (root / "setup.py").is_file() and (root / "cc").is_dir() else None


def find_sources() -> Path:
    """Folder of the C++ sources: `<package>/_cc` when installed, `cc` in a checkout.

    Raises:
        BuildError: If there is neither.
    """
    if (_PACKAGE / "_cc").is_dir():
        return _PACKAGE / "_cc"
    root = _checkout()
    if root is not None:
        return root / "cc"
    raise BuildError(
        f"The C++ sources of tfconv are missing: neither {_PACKAGE / '_cc'} nor "
        f"{_PACKAGE.parent / 'cc'} (beside setup.py) is a folder. Reinstall tfconv."
    )


def tf_key(tf_version: str) -> str:
    """Folder name for a TensorFlow version: "2.21.0" and "2.21" give "tf-2.21".

    Raises:
        ValueError: If `tf_version` does not start with two numbers.
    """
    match = re.match(r"(\d+)\.(\d+)", str(tf_version))
    if match is None:
        raise ValueError(
            f"A TensorFlow version starts with <major>.<minor>. Received: {tf_version!r}"
        )
    return f"tf-{match.group(1)}.{match.group(2)}"


def cache_dir() -> Path:
    """This version's folder in the user's cache, for a package that cannot be written."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    root = Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~/.cache"))
    return root / "tfconv" / package_version()


def library_dirs(tf_version: str) -> list[Path]:
    """Folders that may hold the library for `tf_version`, in search order."""
    key = tf_key(tf_version)
    return [_PACKAGE / "_native" / key, cache_dir() / key]


def _writable(folder: Path) -> bool:
    """Whether `folder` exists and is writable, or can be made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def default_output_dir(tf_version: str) -> Path:
    """Where `build` puts the library: inside the package if it is writable, else the cache."""
    package, cache = library_dirs(tf_version)
    return package if _writable(package) else cache


def default_build_dir(tf_version: str) -> Path:
    """Where `build` keeps its objects: `build/native` of a checkout, else the cache."""
    key = tf_key(tf_version)
    root = _checkout()
    if root is not None and _writable(root / "build" / "native" / key):
        return root / "build" / "native" / key
    return cache_dir() / "objects" / key


def read_info(folder: PathLike) -> dict[str, Any] | None:
    """Contents of the build_info.json in `folder`; None where there is no usable one."""
    try:
        info = json.loads((Path(folder) / INFO_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return info if isinstance(info, dict) and "tf_version" in info else None


def find_library(tf_version: str) -> tuple[Path, dict[str, Any]] | None:
    """The library to load under TensorFlow `tf_version`, with its build info.

    Of several, one that is built from the present sources goes before a stale one, then
    one built with exactly `tf_version` before its sister patch releases, then the
    package's own before the cache's.

    Returns:
        (path, info), or None if no library was built for this minor version.
    """
    found = []
    for folder in library_dirs(tf_version):
        info = read_info(folder)
        library = folder / LIBRARY_NAME
        if info is not None and library.is_file():
            found.append((library, info))
    if not found:
        return None
    if len(found) == 1:
        return found[0]
    return min(found, key=lambda f: (is_stale(f[1]), f[1]["tf_version"] != str(tf_version)))


def built_versions() -> list[str]:
    """TensorFlow minor versions ("2.15", "2.21") that libraries exist for, ascending."""
    versions = set()
    for root in (_PACKAGE / "_native", cache_dir()):
        for library in root.glob(f"tf-*/{LIBRARY_NAME}"):
            match = re.fullmatch(r"tf-(\d+)\.(\d+)", library.parent.name)
            if match and read_info(library.parent) is not None:
                versions.add((int(match.group(1)), int(match.group(2))))
    return [f"{major}.{minor}" for major, minor in sorted(versions)]


# What is compiled, and with which flags.


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _hash_file(path: Path) -> str:
    return _hash(path.read_bytes())


def _snapshot(source_dir: Path) -> dict[str, str]:
    """Content hash of every source and header, keyed "cc/<path>", in sorted order."""
    hashes = {}
    for path in sorted(source_dir.rglob("*")):
        relative = path.relative_to(source_dir).as_posix()
        if relative.endswith((".cc", *_HEADER_SUFFIXES)) and not relative.endswith(_TEST_SUFFIX):
            with contextlib.suppress(FileNotFoundError):  # an editor's temporary file
                hashes[f"{source_dir.name}/{relative}"] = _hash_file(path)
    return hashes


def _all_sources(source_dir: PathLike | None) -> list[str]:
    root = Path(source_dir) if source_dir is not None else find_sources()
    names = (path.relative_to(root).as_posix() for path in root.rglob("*.cc"))
    return sorted(name for name in names if not name.endswith(_TEST_SUFFIX))


def library_sources(source_dir: PathLike | None = None) -> list[str]:
    """Sources of the library without CUDA, relative to `source_dir` and sorted.

    Every `.cc` belongs to it but tests (`*_test.cc`), `cuda_sources` and `lite_sources`.
    """
    more = (_CUDA_SUFFIX, _GPU_SUFFIX)
    names = [name for name in _all_sources(source_dir) if not name.endswith(more)]
    return [name for name in names if not name.startswith(_LITE_FOLDER)]


def cuda_sources(source_dir: PathLike | None = None) -> list[str]:
    """What a library with CUDA has besides: `*.cu.cc` for nvcc, and the ops in `*_gpu.cc`."""
    more = (_CUDA_SUFFIX, _GPU_SUFFIX)
    return [name for name in _all_sources(source_dir) if name.endswith(more)]


def lite_sources(source_dir: PathLike | None = None) -> list[str]:
    """What the library for TFLite has besides the kernels and the choice among them."""
    return [name for name in _all_sources(source_dir) if name.startswith(_LITE_FOLDER)]


def _sources_hash(hashes: Mapping[str, str]) -> str:
    """One hash of a snapshot, the same for a checkout's `cc` and a wheel's `_cc`."""
    lines = (f"{name.partition('/')[2]} {value}\n" for name, value in hashes.items())
    return _hash("".join(lines).encode())


def sources_hash(source_dir: PathLike | None = None) -> str:
    """Hash of the library's sources and headers (paths and contents, no times)."""
    return _sources_hash(_snapshot(Path(source_dir) if source_dir else find_sources()))


def is_stale(info: Mapping[str, Any]) -> bool:
    """Whether a library with this build info was built from other sources than the present."""
    if info.get("tfconv_version") != package_version():
        return True
    try:
        return info.get("sources_hash") != sources_hash()
    except BuildError:  # no sources to be stale against
        return False


def library_units(
    source_dir: PathLike,
    isas: Sequence[str],
    tf_compile_flags: Sequence[str] = (),
    extra_flags: Sequence[str] = (),
    cuda: Cuda | None = None,
) -> list[Unit]:
    """The compilations that make up the library.

    Args:
        source_dir: Folder of the sources.
        isas: Instruction sets for the `*_cpu.cc` units, of "base", "avx2", "avx512".
        tf_compile_flags: Flags for the units that include TensorFlow.
        extra_flags: Flags for all units but nvcc's, put last.
        cuda: The CUDA toolkit; None for a library without CUDA.

    Raises:
        ValueError: For an unknown instruction set.
    """
    root = Path(source_dir)
    unknown = [isa for isa in isas if isa not in _ISA_FLAGS]
    if unknown:
        raise ValueError(f"Instruction sets are {', '.join(_ISA_FLAGS)}. Received: {unknown}")
    include = f"-I{root.name}"
    units = []
    for name in [*library_sources(root), *(cuda_sources(root) if cuda else ())]:
        source, stem = f"{root.name}/{name}", name[: -len(".cc")]
        if name.endswith(_CPU_SUFFIX):
            for isa in isas:
                flags = (*_CPU_FLAGS, include, f"-DTFCONV_ISA={isa}", *_ISA_FLAGS[isa])
                units.append(Unit(source, (*flags, *extra_flags), f"{stem}.{isa}.o", isa))
        elif cuda and name.endswith(_CUDA_SUFFIX):
            flags = (*_CUDA_FLAGS, include, *cuda.arch_flags)
            units.append(Unit(source, flags, f"{stem}.o", "cuda"))
        else:
            flags = (*_TF_FLAGS, include, *tf_compile_flags, *extra_flags)
            units.append(Unit(source, flags, f"{stem}.o"))
    return units


def lite_units(source_dir: PathLike, extra_flags: Sequence[str] = ()) -> list[Unit]:
    """The compilations of `lite_sources`; the rest is among `library_units`."""
    root = Path(source_dir)
    flags = (*_LITE_FLAGS, f"-I{root.name}", *extra_flags)
    return [
        Unit(f"{root.name}/{name}", flags, f"{name[: -len('.cc')]}.o", "lite")
        for name in lite_sources(root)
    ]


def serves_lite(unit: Unit) -> bool:
    """Whether a unit of `library_units` is part of the library for TFLite, too."""
    return unit.isa in _ISA_FLAGS or unit.source.endswith(f"/{_ISA_SOURCE}")


def _tf_unit_flags(config: TensorFlowConfig) -> tuple[str, ...]:
    """TensorFlow's compile flags with its headers as system headers (no warnings there)."""
    flags: list[str] = []
    for flag in config.compile_flags:
        flags += ["-isystem", flag[2:]] if flag.startswith("-I") else [flag]
    for name in _TF_EXTERNAL_INCLUDES:
        folder = os.path.join(config.include_dir, name)
        if os.path.isdir(folder):
            flags += ["-isystem", folder]
    return tuple(flags)


# TensorFlow and the compiler.

# Only a package with a location counts: an emptied folder is still importable as a namespace.
_TF_SCRIPT = """
import sys
sys.path[:] = [p for p in sys.path if p]
import importlib.util
spec = importlib.util.find_spec("tensorflow")
if spec is None or spec.origin is None:
    sys.exit(64)
import json
import tensorflow as tf
s = tf.sysconfig
print("@@" + json.dumps([tf.__version__, s.get_compile_flags(), s.get_link_flags(),
                         s.get_include()]))
"""


def tensorflow_config(
    python: PathLike = sys.executable, env: Mapping[str, str] | None = None
) -> TensorFlowConfig:
    """Asks a Python interpreter for its TensorFlow, in a process of its own.

    Args:
        python: The interpreter.
        env: Environment of that process; None for this process's own.

    Raises:
        TensorFlowNotFoundError: If it has none, or its TensorFlow cannot be imported.
    """
    environment = {
        **(os.environ if env is None else env),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    try:
        done = subprocess.run(
            [os.fspath(python), "-c", _TF_SCRIPT],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise BuildError(f"Cannot run the Python interpreter {python}: {error}") from error
    if done.returncode == 64:
        raise TensorFlowNotFoundError(
            f"TensorFlow is not installed for {python}, and the native ops are built against it. "
            'Install one, for example with: pip install "tensorflow-cpu>=2.15"'
        )
    _, mark, answer = done.stdout.rpartition("@@")
    if done.returncode != 0 or not mark:
        raise TensorFlowNotFoundError(
            f"Importing TensorFlow with {python} failed (exit status {done.returncode}):\n"
            + _indent(_last_lines(done.stderr))
        )
    version, compile_flags, link_flags, include_dir = json.loads(answer)
    return TensorFlowConfig(version, tuple(compile_flags), tuple(link_flags), include_dir)


def find_compiler(env: Mapping[str, str] | None = None) -> Compiler:
    """The compiler of `$CXX`, or g++ or clang++ from the PATH.

    Raises:
        CompilerNotFoundError: If there is none.
    """
    environment = os.environ if env is None else env
    wanted = shlex.split(environment.get("CXX", ""))
    path = environment.get("PATH")
    if wanted:
        command = tuple(wanted) if shutil.which(wanted[0], path=path) else None
        trouble = f"The C++ compiler of the variable CXX was not found. Received: CXX={wanted[0]}"
    else:
        command = next(((c,) for c in ("g++", "clang++") if shutil.which(c, path=path)), None)
        trouble = "No C++ compiler was found: neither g++ nor clang++ is on the PATH."
    if command is None:
        raise CompilerNotFoundError(
            f"{trouble}\nInstall one (Debian, Ubuntu: apt-get install g++), then run: python -m "
            "tfconv build\nMeanwhile tfconv's portable ops serve: same results, slower."
        )
    lines = []
    for question in ("--version", "-dumpmachine"):
        done = subprocess.run(
            [*command, question],
            env=dict(environment, LC_ALL="C"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        lines.append(done.stdout.strip().partition("\n")[0])
    version, target = lines
    return Compiler(command, version, target or platform.machine())


def _ask_nvcc(command: Sequence[str], env: Mapping[str, str]) -> str:
    done = subprocess.run(
        command,
        env=dict(env, LC_ALL="C"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        raise BuildError(
            f"{shlex.join(command)} failed (exit status {done.returncode}):\n"
            f"{_indent(_last_lines(done.stdout))}\nTFCONV_CUDA=0 leaves the CUDA kernels out."
        )
    return done.stdout


def find_cuda(env: Mapping[str, str] | None = None) -> Cuda | None:
    """The CUDA toolkit of `$CUDA_HOME` or the PATH, unless the environment leaves it out.

    One that does not work here is left out, after a line that says so.

    Raises:
        BuildError: If it is asked for and there is none, or it does not work.
    """
    environment = os.environ if env is None else env
    wanted = environment.get("TFCONV_CUDA", "auto")
    if wanted not in ("0", "1", "auto"):
        raise BuildError(f"TFCONV_CUDA must be 0, 1 or auto. Received: {wanted!r}")
    archs = re.findall(r"[^\s,;]+", environment.get("TFCONV_CUDA_ARCHS", ""))
    for arch in archs:
        if not re.fullmatch(r"\d+[a-z]?", arch):
            raise BuildError(f"TFCONV_CUDA_ARCHS are numbers such as 90. Received: {arch!r}")
    path = environment.get("PATH", "")
    if environment.get("CUDA_HOME"):
        path = os.pathsep.join((os.path.join(environment["CUDA_HOME"], "bin"), path))
    nvcc = None if wanted == "0" else shutil.which("nvcc", path=path)
    if nvcc is None:
        if wanted == "1":
            raise BuildError(
                "TFCONV_CUDA=1 asks for the CUDA kernels, and there is no nvcc in CUDA_HOME or on "
                "the PATH. Install the CUDA toolkit; TFCONV_CUDA=0 leaves the CUDA kernels out."
            )
        return None
    try:
        return _cuda_of(nvcc, archs, environment)
    except BuildError as error:
        if wanted == "1":
            raise
        print(f"tfconv: building without CUDA kernels.\n{error}", file=sys.stderr, flush=True)
        return None


def _cuda_of(nvcc: str, archs: Sequence[str], env: Mapping[str, str]) -> Cuda:
    """What `nvcc` says of itself; without ``archs``, one for each generation that it knows."""
    if not archs:
        known = re.findall(r"^sm_(\w+)$", _ask_nvcc([nvcc, "--list-gpu-code"], env), re.MULTILINE)
        archs = [arch for arch in _CUDA_ARCHS if arch in known]
        if not archs:
            raise BuildError(f"{nvcc} knows none of the architectures {', '.join(_CUDA_ARCHS)}.")
    version = _ask_nvcc([nvcc, "--version"], env).strip().splitlines()[-1]
    # Its headers refuse C++ compilers that are too new for it.
    _ask_nvcc([nvcc, "-E", "-x", "cu", os.devnull], env)
    # The folders of the toolkit, in the words of its compiler.
    steps = _ask_nvcc([nvcc, "--dryrun", "-c", "-x", "cu", os.devnull], env)
    folders = re.search(r"^#\$ LIBRARIES=(.*)$", steps, re.MULTILINE)
    flags = tuple(shlex.split(folders.group(1))) if folders else ()
    return Cuda((nvcc,), version, tuple(archs), flags)


# Running compilers.


def _last_lines(text: str) -> str:
    """The last lines of a program's output, from its first error on where they include it."""
    lines = [line for line in text.splitlines() if line.strip()]
    first = next((i for i, line in enumerate(lines) if re.search(r"\berror\b", line)), None)
    if first is not None and len(lines) - first > _ERROR_LINES:
        # A template error is followed by pages of candidates: its beginning tells more.
        left_out = len(lines) - first - _ERROR_LINES
        return "\n".join([*lines[first : first + _ERROR_LINES], f"... {left_out} more lines"])
    return "\n".join(lines[-_ERROR_LINES:])


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines()) or "  (no output)"


class _Processes:
    """Runs programs so that all of them can be stopped together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self.stopped = False

    def run(self, command: Sequence[str], cwd: Path, what: str, shown: Sequence[str] = ()) -> str:
        """Runs `command` and returns what it said.

        Raises:
            BuildError: If it fails; the message has `shown`, or else the command.
        """
        with self._lock:
            if self.stopped:
                raise BuildError(f"{what}: not started, for another step failed")
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=dict(os.environ, LC_ALL="C"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._running.add(process)
        try:
            output, _ = process.communicate()
        finally:
            with self._lock:
                self._running.discard(process)
        if process.returncode == 0:
            return output
        message = (
            f"{what} failed (exit status {process.returncode}):\n{_indent(_last_lines(output))}\n"
            f"Command, in {cwd}:\n  {shlex.join(shown or command)}"
        )
        if process.returncode == -signal.SIGKILL or "Killed signal" in output:
            message += (
                "\nThe compiler was killed, probably for want of memory (about 1 GB a unit): "
                "try TFCONV_JOBS=1."
            )
        raise BuildError(message)

    def stop(self) -> None:
        """Ends everything that runs and lets nothing new start."""
        with self._lock:
            self.stopped = True
            for process in self._running:
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGTERM)


def _parse_depfile(text: str) -> list[str]:
    """Prerequisites in a make rule as compilers write it (`\\` joins lines, `\\ ` is a space)."""
    rule = text.replace("\\\n", " ").partition(":")[2]
    words = re.findall(r"(?:\\[ #]|[^\s])+", rule)
    return [re.sub(r"\\([ #])", r"\1", word).replace("$$", "$") for word in words]


class _ObjectCache:
    """The objects of one build folder, each with a record of what it was made from."""

    def __init__(self, root: Path, base: Path, snapshot: Mapping[str, str], strict: bool) -> None:
        """Opens a cache.

        Args:
            root: Folder of the objects.
            base: Folder that the compilers run in, which dependencies are relative to.
            snapshot: Hashes of the sources and headers, by path relative to `base`.
            strict: Whether warnings are errors.
        """
        self._root = root
        self._base = base
        self._hashes = dict(snapshot)
        self._strict = strict

    def path(self, unit: Unit) -> Path:
        return self._root / unit.object_name

    def record(self, unit: Unit) -> dict[str, Any] | None:
        try:
            return json.loads(self._record_path(unit).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def reusable(self, unit: Unit, signature: str) -> bool:
        """Whether the object exists and everything it was made from is unchanged."""
        record = self.record(unit)
        if record is None or not self.path(unit).is_file():
            return False
        # With warnings as errors, an object that came with warnings has to fail again.
        if record.get("signature") != signature or (self._strict and not record.get("clean")):
            return False
        dependencies = record.get("dependencies")
        return bool(dependencies) and all(
            self._hash(name) == value for name, value in dependencies.items()
        )

    def store(
        self, unit: Unit, signature: str, made: Path, depfile: Path, clean: bool, seconds: float
    ) -> None:
        """Takes a new object over. Its record goes away first and comes last."""
        names = [os.path.normpath(name) for name in _parse_depfile(depfile.read_text())]
        record = {
            "signature": signature,
            "clean": clean,
            "seconds": round(seconds, 2),
            "dependencies": {name: self._hash(name) for name in sorted({unit.source, *names})},
        }
        target = self.path(unit)
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._record_path(unit).unlink()
        os.replace(made, target)
        _write_json(self._record_path(unit), record)

    def copy(self, unit: Unit, signature: str, folder: Path) -> bool:
        """Takes a copy of the object in another build folder if `reusable` holds there."""
        other = _ObjectCache(folder, self._base, self._hashes, self._strict)
        if folder == self._root or not other.reusable(unit, signature):
            return False
        record, target = other.record(unit), self.path(unit)
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._record_path(unit).unlink()
        shutil.copy2(other.path(unit), target)
        if record is None or other.record(unit) != record:  # another build has begun to change it
            return False
        _write_json(self._record_path(unit), record)
        return True

    def object_hash(self, unit: Unit) -> str:
        return _hash_file(self.path(unit))

    def _record_path(self, unit: Unit) -> Path:
        return self._root / f"{unit.object_name}.json"

    def _hash(self, name: str) -> str | None:
        # The snapshot was taken before any compiler started: a file that changes while it is
        # being compiled is recorded with its old hash and compiled again next time.
        if name not in self._hashes:
            try:
                self._hashes[name] = _hash_file(self._base / name)
            except OSError:
                return None
        return self._hashes[name]


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON file so that readers see the old or the new one, never a part."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2)
            file.write("\n")
        os.chmod(name, 0o644)  # mkstemp's own 0600 would hide it from other users
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


@contextlib.contextmanager
def _build_lock(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Keeps other builds out of `folder`, across processes."""
    with open(folder / ".lock", "a") as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    waiting()
                    fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _default_jobs() -> int:
    """Processors of this process, limited by memory."""
    text = os.environ.get("TFCONV_JOBS", "")
    if text:
        if not text.isdigit() or int(text) < 1:
            raise BuildError(f"TFCONV_JOBS must be a positive integer. Received: {text!r}")
        return int(text)
    try:
        jobs = len(os.sched_getaffinity(0))
    except AttributeError:
        jobs = os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        text = Path("/proc/meminfo").read_text()
        match = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
        if match:
            jobs = min(jobs, int(match.group(1)) * 1024 // _UNIT_MEMORY)
    return max(1, jobs)


def _tf_library_dir(config: TensorFlowConfig) -> str:
    return next((f[2:] for f in config.link_flags if f.startswith("-L")), config.include_dir)


def _xla_link_flags(config: TensorFlowConfig) -> tuple[str, ...]:
    """For the library that holds XLA's bridge, which TensorFlow's link flags do not name."""
    name = "libtensorflow_cc.so.2"
    return (f"-l:{name}",) if os.path.isfile(os.path.join(_tf_library_dir(config), name)) else ()


def _rpath(output_dir: Path, config: TensorFlowConfig) -> str:
    """Where the loader finds TensorFlow's library if nothing has loaded it yet."""
    folder = _tf_library_dir(config)
    in_checkout = _checkout() is not None and output_dir.parent.parent == _PACKAGE
    if output_dir.parent.name == "_native" and not in_checkout:
        # tfconv and TensorFlow lie side by side in site-packages, wherever that is and
        # wherever the TensorFlow of the build was.
        return f"$ORIGIN/../../../{os.path.basename(folder)}"
    return folder


def build(
    output_dir: PathLike | None = None,
    build_dir: PathLike | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    verbose: bool = False,
    *,
    source_dir: PathLike | None = None,
    config: TensorFlowConfig | None = None,
) -> BuildResult:
    """Compiles what has changed and links the library.

    An object is used again while its compiler, its command, the TensorFlow version and the
    contents of its source and of every header of ours that it includes are the same. Kernels
    include nothing of TensorFlow: one object serves all versions. Files
    appear under their final names only when complete: a failed or interrupted build leaves
    the library of before in place.

    Args:
        output_dir: Folder for the library and its build_info.json; None for
            `default_output_dir`.
        build_dir: Folder for the objects; None for `default_build_dir`.
        jobs: Compilers at the same time (about 1 GB of memory each); None for as many as
            there are processors and memory for.
        progress: Called as progress(done, total, what) from the calling thread, before the
            first step and after each; the total counts the steps that have to run.
        verbose: Write commands and compiler warnings to stderr.
        source_dir: Folder of the sources; None for `find_sources()`.
        config: The TensorFlow to build against; None for this interpreter's.

    Returns:
        A `BuildResult`.

    Raises:
        CompilerNotFoundError: If there is no compiler.
        TensorFlowNotFoundError: If there is no TensorFlow.
        BuildError: If a step fails: the file, the compiler's words, the command.
        ValueError: If `jobs` is not positive.
    """
    start = time.monotonic()
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be a positive integer or None. Received: {jobs!r}")
    if sys.platform == "win32":
        raise BuildError("The native ops are not built on Windows; tfconv's portable ops serve.")
    sources = Path(source_dir).resolve() if source_dir is not None else find_sources()
    compiler = find_compiler()
    cuda = find_cuda()
    config = config or tensorflow_config()
    output = Path(output_dir or default_output_dir(config.version)).resolve()
    objects = Path(build_dir or default_build_dir(config.version)).resolve()
    report = progress or (lambda done, total, what: None)
    try:
        output.mkdir(parents=True, exist_ok=True)
        objects.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=objects, prefix=".tmp-"))
    except OSError as error:
        raise BuildError(f"Cannot write to the build folders: {error}") from error
    try:
        with _build_lock(objects, lambda: report(0, 1, "waiting for another build of tfconv")):
            build_ = _Build(
                sources, output, objects, scratch, compiler, config, report, verbose, cuda
            )
            return build_.run(jobs or _default_jobs(), start)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@dataclasses.dataclass(frozen=True)
class _Link:
    """A library: its place, where it was linked (None: it was there), its record, warnings."""

    library: Path
    made: Path | None
    record: dict[str, str]
    warnings: str

    KEYS: ClassVar[tuple[str, ...]] = ("library_sha256", "link_signature")


@dataclasses.dataclass
class _Build:
    """One run of `build`, with everything decided."""

    sources: Path
    output: Path
    objects: Path
    scratch: Path
    compiler: Compiler
    config: TensorFlowConfig
    report: Progress
    verbose: bool
    cuda: Cuda | None = None

    def __post_init__(self) -> None:
        strict = os.environ.get("TFCONV_WERROR", "0") not in ("", "0")
        self.strict_flags = ("-Werror",) if strict else ()
        self.cuda_strict_flags = _CUDA_STRICT_FLAGS if strict else ()
        self.processes = _Processes()
        self.snapshot = _snapshot(self.sources)
        self.cache = _ObjectCache(self.objects, self.sources.parent, self.snapshot, strict)

    def run(self, jobs: int, start: float) -> BuildResult:
        extra = shlex.split(os.environ.get("TFCONV_CXXFLAGS", ""))
        tf_flags = _tf_unit_flags(self.config)
        units = library_units(self.sources, self.compiler.isas, tf_flags, extra, self.cuda)
        if not units:
            raise BuildError(f"There are no sources to build. Received: {self.sources}")
        own_of_lite = lite_units(self.sources, extra)
        every = [*units, *own_of_lite]
        signatures = {unit: self._signature(unit) for unit in every}
        good = {u for u in every if self._has(u, signatures[u])}
        todo = [u for u in every if u not in good]
        total = len(todo) + 1
        self.report(0, total, f"{len(todo)} of {len(every)} units to compile")
        warnings = self._compile(sorted(todo, key=self._cost, reverse=True), signatures, jobs)

        info = read_info(self.output)
        records = info or {}
        links = [self._link(LIBRARY_NAME, units, [self._link_command(units)], records)]
        if own_of_lite:
            of_lite = [*filter(serves_lite, units), *own_of_lite]
            commands = self._lite_link_commands(of_lite)
            links.append(
                self._link(LITE_LIBRARY_NAME, of_lite, commands, records.get("lite") or {})
            )
        new_info = self._info(units, *(link.record for link in links))
        for link in links:
            warnings += link.warnings
            if link.made is not None:
                _publish(link.made, link.library)
        library, linked = links[0].library, any(link.made is not None for link in links)
        if info is None or {**new_info, "date": info.get("date")} != info:
            _write_json(self.output / INFO_NAME, new_info)
        else:
            new_info = info
        self.report(total, total, "linked" if linked else "up to date")
        if self.verbose and warnings:
            print(warnings, file=sys.stderr, flush=True)
        return BuildResult(
            library=library,
            info=new_info,
            compiled=tuple(u.label for u in todo),
            reused=tuple(u.label for u in every if u in good),
            linked=linked,
            warnings=warnings,
            seconds=time.monotonic() - start,
        )

    def _has(self, unit: Unit, signature: str) -> bool:
        """Whether the object is there, or a kernel's for another TensorFlow, which serves too."""
        if self.cache.reusable(unit, signature):
            return True
        folders = sorted(self.objects.parent.glob("tf-*")) if unit.isa is not None else ()
        return any(self.cache.copy(unit, signature, folder) for folder in folders)

    def _compile(self, todo: list[Unit], signatures: Mapping[Unit, str], jobs: int) -> str:
        """Compiles units side by side and returns the warnings; the first failure ends all."""
        outputs: dict[Unit, str] = {}
        with concurrent.futures.ThreadPoolExecutor(max_workers=jobs) as pool:
            futures = {
                pool.submit(self._compile_unit, i, unit, signatures[unit]): unit
                for i, unit in enumerate(todo)
            }
            try:
                for future in concurrent.futures.as_completed(futures):
                    unit = futures[future]
                    outputs[unit] = future.result()
                    self.report(len(outputs), len(todo) + 1, unit.label)
            except BaseException:
                self.processes.stop()
                for future in futures:
                    future.cancel()
                raise
        return "".join(outputs[unit] for unit in todo)

    def _compile_unit(self, index: int, unit: Unit, signature: str) -> str:
        made, depfile = self.scratch / f"{index}.o", self.scratch / f"{index}.d"
        strict = self.strict_flags
        if self._compiler_of(unit) is self.cuda:
            strict = self.cuda_strict_flags
        command = [*self._compiler_of(unit).command, *unit.flags, *strict, "-c", unit.source, "-o"]
        shown = [*command, os.devnull]  # what a user can run again to see the whole error
        command += [os.fspath(made), "-MMD", "-MF", os.fspath(depfile)]
        start = time.monotonic()
        output = self._run(command, f"Compiling {unit.label}", shown)
        clean = not output.strip()
        self.cache.store(unit, signature, made, depfile, clean, time.monotonic() - start)
        return output

    def _run(self, command: Sequence[str], what: str, shown: Sequence[str] = ()) -> str:
        if self.verbose:
            print(shlex.join(command), file=sys.stderr, flush=True)
        return self.processes.run(command, self.sources.parent, what, shown)

    def _cost(self, unit: Unit) -> float:
        """Seconds that a unit takes, so that the longest starts first; a guess the first time."""
        record = self.cache.record(unit)
        if record is not None and isinstance(record.get("seconds"), (int, float)):
            return float(record["seconds"])
        size = (self.sources.parent / unit.source).stat().st_size
        return size / 1e4 + (10 if unit.isa is None else 0)

    def _signature(self, unit: Unit) -> str:
        """Hash of the command, with TensorFlow's folder by its version instead of its path."""
        compiler = self._compiler_of(unit)
        parts = [*compiler.command, compiler.version, self.compiler.target]
        parts += [self._normalize(flag) for flag in unit.flags]
        parts += [unit.source, self.config.version if unit.isa is None else ""]
        return _hash(json.dumps(parts).encode())

    def _compiler_of(self, unit: Unit) -> Compiler | Cuda:
        """nvcc, where it was asked for, or the C++ compiler."""
        return self.cuda if self.cuda and unit.isa == "cuda" else self.compiler

    def _normalize(self, flag: str) -> str:
        return flag.replace(self.config.include_dir, "<tensorflow>/include")

    def _link(
        self,
        name: str,
        units: Sequence[Unit],
        commands: Sequence[Sequence[str]],
        record: Mapping[str, Any],
    ) -> _Link:
        """Links a library with the first command that succeeds, unless it is there as recorded."""
        library = self.output / name
        signature = self._link_signature(units, commands[0])
        if (
            record.get("link_signature") == signature
            and library.is_file()
            and _hash_file(library) == record.get("library_sha256")
        ):
            return _Link(library, None, {key: record[key] for key in _Link.KEYS}, "")
        made = self.scratch / name
        for i, command in enumerate(commands, start=1):
            try:
                words = self._run([*command, "-o", os.fspath(made)], f"Linking {name}")
                break
            except BuildError:
                if i == len(commands):
                    raise
        values = (_hash_file(made), signature)
        return _Link(library, made, dict(zip(_Link.KEYS, values)), words)

    def _lite_link_commands(self, units: Sequence[Unit]) -> list[list[str]]:
        """With the C++ standard library inside and hidden; with less, where the linker cannot."""
        objects = [os.fspath(self.cache.path(unit)) for unit in units]
        start = [*self.compiler.command, "-shared", "-pthread", *objects]
        exports = self._lite_exports_flag()
        end = shlex.split(os.environ.get("TFCONV_LDFLAGS", ""))
        return [
            [*start, *_LITE_STATIC_FLAGS, exports, *end],
            [*start, exports, *end],
            [*start, *end],
        ]

    def _lite_exports_flag(self) -> str:
        return f"-Wl,--version-script={self.sources.name}/{_LITE_EXPORTS}"

    def _link_command(self, units: Sequence[Unit]) -> list[str]:
        return [
            *self.compiler.command,
            "-shared",
            *(os.fspath(self.cache.path(unit)) for unit in units),
            *((*self.cuda.link_flags, *_CUDA_LIBRARIES) if self.cuda else ()),
            *self.config.link_flags,
            *_xla_link_flags(self.config),
            f"-Wl,-rpath,{_rpath(self.output, self.config)}",
            *shlex.split(os.environ.get("TFCONV_LDFLAGS", "")),
        ]

    def _link_signature(self, units: Sequence[Unit], link: Sequence[str]) -> str:
        files = {os.fspath(self.cache.path(u)): self.cache.object_hash(u) for u in units}
        exports = self._lite_exports_flag()
        if exports in link:
            files[exports] = _hash_file(self.sources / _LITE_EXPORTS)
        parts = [files.get(word, word) for word in link if not word.startswith("-L")]
        return _hash(json.dumps([*parts, self.compiler.version, self.config.version]).encode())

    def _info(
        self,
        units: Sequence[Unit],
        record: Mapping[str, str],
        lite_record: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
        date = datetime.datetime.fromtimestamp(
            int(epoch) if epoch.isdigit() else int(time.time()), datetime.timezone.utc
        )
        flags: dict[str, str] = {}
        for unit in units:
            words = (self._normalize(flag) for flag in unit.flags)
            flags.setdefault(unit.isa or "tensorflow", shlex.join(words))
        return {
            "tfconv_version": package_version(),
            "tf_version": self.config.version,
            "compiler": shlex.join(self.compiler.command),
            "compiler_version": self.compiler.version,
            "target": self.compiler.target,
            "isas": list(self.compiler.isas),
            "cuda_archs": list(self.cuda.archs) if self.cuda else [],
            "cuda_version": self.cuda.version if self.cuda else None,
            "sources_hash": _sources_hash(self.snapshot),
            "date": date.isoformat(),
            "flags": flags,
            **record,
            "lite": lite_record,
        }


def _publish(made: Path, library: Path) -> None:
    """Moves a finished library into place, also from another file system."""
    descriptor, name = tempfile.mkstemp(dir=library.parent, prefix=f".{library.name}.")
    os.close(descriptor)
    try:
        shutil.copyfile(made, name)
        os.chmod(name, 0o755)
        os.replace(name, library)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def main() -> int:
    """Builds for this interpreter's TensorFlow, with a line for each step."""

    def progress(done: int, total: int, what: str) -> None:
        print(f"  [{done}/{total}] {what}", flush=True)

    try:
        result = build(progress=progress)
    except BuildError as error:
        print(f"tfconv: the native ops could not be built.\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if result.warnings:
        print(result.warnings, file=sys.stderr)
    print(
        f"  {result.library} for TensorFlow {result.info['tf_version']}: "
        f"{len(result.compiled)} compiled, {len(result.reused)} reused, {result.seconds:.1f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
