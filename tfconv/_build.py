"""Builds the C++ ops into the shared library that TensorFlow loads.

cc/CMakeLists.txt says how. This module finds what CMake has to know (TensorFlow, the compiler,
nvcc), runs it with Ninja, and puts the result in its place.

One library serves one TensorFlow minor version (TensorFlow promises no binary
interface beyond that), so every library lives in a folder named after it:
``tfconv/_native/tf-2.21/libtfconv_ops.so`` with a ``build_info.json`` beside it, or
below ``~/.cache/tfconv/<version>/`` where the package folder cannot be written. Above them lies
``libtfconv_lite.so``, which runs the ops in TFLite's interpreter: the same kernels, without
TensorFlow.

This module needs the standard library only: setup.py loads it by its path, because
importing tfconv needs TensorFlow. It also runs as a program: ``python tfconv/_build.py``.

Environment variables:
    CXX: The compiler, with arguments if need be (``ccache g++``). Default: g++, then clang++.
    TFCONV_CXXFLAGS: Further compiler flags, put after all others.
    TFCONV_LDFLAGS: Further linker flags, put after all others.
    TFCONV_ISAS: Instruction sets to compile the kernels for: native (AVX2 and the best that this
        processor has), all, or some by name ("avx2,avx512"). Default: native, or what the folder
        of the objects was last made for.
    TFCONV_WERROR: 1 turns warnings into errors.
    TFCONV_JOBS: How many compilers run at the same time.
    TFCONV_CUDA: 1 compiles the CUDA kernels, 0 leaves them out, auto (the default) compiles
        them if TensorFlow has CUDA and there is an nvcc.
    TFCONV_CUDA_ARCHS: GPU architectures to compile for ("75,90"). Default: TensorFlow's; if it
        has none, one for each generation that nvcc knows, which serves all of it. What is newer
        than the last uses its PTX.
    CUDA_HOME: Folder of the CUDA toolkit, whose nvcc goes before the one on the PATH.
"""

from __future__ import annotations

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
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Union

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
_SOURCE_SUFFIXES = (".cc", ".h", ".txt", ".cmake", ".lds")  # what a library depends on
_CUDA_ARCHS = ("75", "80", "90", "100", "110", "120")

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
        cuda_archs: GPU architectures that it has code for ("80"); empty without CUDA.
    """

    version: str
    compile_flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    include_dir: str
    cuda_archs: tuple[str, ...] = ()

    @property
    def includes(self) -> list[str]:
        """Folders of its headers and of those that they include."""
        own = [flag[2:] for flag in self.compile_flags if flag.startswith("-I")]
        more = (os.path.join(self.include_dir, name) for name in _TF_EXTERNAL_INCLUDES)
        return [*own, *filter(os.path.isdir, more)]

    @property
    def library_dir(self) -> str:
        """Folder of its libraries."""
        return next((f[2:] for f in self.link_flags if f.startswith("-L")), self.include_dir)

    def write(self, path: Path) -> None:
        """Writes what cc/CMakeLists.txt includes."""
        links = list(self.link_flags)
        bridge = "libtensorflow_cc.so.2"  # XLA's, which the link flags do not name
        if os.path.isfile(os.path.join(self.library_dir, bridge)):
            links.append(f"-l:{bridge}")
        values = {
            "VERSION": [self.version],
            "INCLUDES": self.includes,
            "FLAGS": [flag for flag in self.compile_flags if not flag.startswith("-I")],
            "LINK_FLAGS": links,
        }
        lines = (f"set(TF_{name} [=[{';'.join(words)}]=])\n" for name, words in values.items())
        path.write_text("".join(lines), encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Compiler:
    """A C++ compiler: its command, the first line of its version, its target machine."""

    command: tuple[str, ...]
    version: str
    target: str


@dataclasses.dataclass(frozen=True)
class Cuda:
    """The CUDA toolkit: its nvcc, the last line of its version, architectures ("90" for sm_90)."""

    nvcc: str
    version: str
    archs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class BuildResult:
    """Outcome of `build`.

    Attributes:
        library: Path of the shared library.
        info: Contents of its build_info.json.
        files: All that was put in its place.
        compiled: What was compiled: "cc/a/b_op.cc", "cc/a/b_cpu.cc [avx2]".
        warnings: What the compiler said without failing.
        seconds: Wall-clock time.
    """

    library: Path
    info: dict[str, Any]
    files: tuple[Path, ...]
    compiled: tuple[str, ...]
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


def default_build_dir() -> Path:
    """Where `build` keeps its objects: `build/native` of a checkout, else the cache."""
    root = _checkout()
    if root is not None and _writable(root / "build" / "native"):
        return root / "build" / "native"
    return cache_dir() / "objects"


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


def find_delegate(tf_version: str) -> Path | None:
    """The library for TFLite: the one beside `find_library`'s folder, or any."""
    found = find_library(tf_version)
    folders = [found[0].parent] if found else []
    folders += library_dirs(tf_version)
    paths = (folder.parent / LITE_LIBRARY_NAME for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def sources_hash(source_dir: PathLike | None = None) -> str:
    """Hash of all that the libraries are made from: paths and contents, no times.

    It is the same for a checkout's `cc` and a wheel's `_cc`, which has no tests.
    """
    return _hash_files(source_dir, "*")


def interface_hash(source_dir: PathLike | None = None) -> str:
    """The same of what says which ops there are, with which inputs and attributes."""
    return _hash_files(source_dir, "*_op.*")


def _hash_files(source_dir: PathLike | None, pattern: str) -> str:
    root = Path(source_dir) if source_dir else find_sources()
    lines = []
    for path in sorted(root.rglob(pattern)):
        if path.name.endswith(_SOURCE_SUFFIXES) and not path.name.endswith("_test.cc"):
            with contextlib.suppress(FileNotFoundError):  # an editor's temporary file
                lines.append(f"{path.relative_to(root).as_posix()} {_hash_file(path)}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_stale(info: Mapping[str, Any]) -> bool:
    """Whether a library with this build info was built from other sources than the present."""
    if info.get("tfconv_version") != package_version():
        return True
    try:
        return info.get("sources_hash") != sources_hash()
    except BuildError:  # no sources to be stale against
        return False


def has_other_ops(info: Mapping[str, Any]) -> bool:
    """Whether a library with this build info may have other ops than the package calls."""
    try:
        return is_stale(info) and info.get("interface_hash") != interface_hash()
    except BuildError:  # no sources to compare with
        return False


# TensorFlow, the compiler and the tools.


def _ask(command: Sequence[PathLike], env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Exit status of a program and what it printed."""
    done = subprocess.run(
        command,
        env={**(os.environ if env is None else env), "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    return done.returncode, done.stdout


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
cuda = s.get_build_info().get("cuda_compute_capabilities", [])
print("@@" + json.dumps([tf.__version__, s.get_compile_flags(), s.get_link_flags(),
                         s.get_include(), cuda]))
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
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    try:
        status, output = _ask(
            [python, "-c", _TF_SCRIPT], {**(os.environ if env is None else env), **quiet}
        )
    except OSError as error:
        raise BuildError(f"Cannot run the Python interpreter {python}: {error}") from error
    if status == 64:
        raise TensorFlowNotFoundError(
            f"TensorFlow is not installed for {python}, and the native ops are built against it. "
            'Install one, for example with: pip install "tensorflow-cpu>=2.15"'
        )
    answer = re.search(r"^@@(.*)$", output, re.MULTILINE)
    if status != 0 or answer is None:
        raise TensorFlowNotFoundError(
            f"Importing TensorFlow with {python} failed (exit status {status}):\n"
            + _last_lines(output)
        )
    version, compile_flags, link_flags, include_dir, cuda = json.loads(answer[1])
    # "sm_80", or "compute_90" for PTX.
    archs = dict.fromkeys(name.rpartition("_")[2] for name in cuda)
    return TensorFlowConfig(
        version, tuple(compile_flags), tuple(link_flags), include_dir, tuple(archs)
    )


def find_compiler(env: Mapping[str, str] | None = None) -> Compiler:
    """The compiler of `$CXX`, or g++ or clang++ from the PATH.

    Raises:
        CompilerNotFoundError: If there is none.
    """
    environment = os.environ if env is None else env
    text, path = environment.get("CXX", ""), environment.get("PATH")
    try:
        wanted, why = shlex.split(text), "was not found"
    except ValueError:
        wanted, why = [text], "is in quotes that do not end"
    if wanted:
        command = tuple(wanted) if shutil.which(wanted[0], path=path) else None
        trouble = f"The C++ compiler of the variable CXX {why}. Received: CXX={wanted[0]}"
    else:
        command = next(((c,) for c in ("g++", "clang++") if shutil.which(c, path=path)), None)
        trouble = "No C++ compiler was found: neither g++ nor clang++ is on the PATH."
    if command is None:
        raise CompilerNotFoundError(
            f"{trouble}\nInstall one (Debian, Ubuntu: apt-get install g++), then run: python -m "
            "tfconv build\nMeanwhile tfconv's portable ops serve: same results, slower."
        )
    version, target = (
        _ask([*command, question], environment)[1].strip().partition("\n")[0]
        for question in ("--version", "-dumpmachine")
    )
    return Compiler(command, version, target or platform.machine())


def find_tool(name: str) -> str:
    """Path of `cmake` or `ninja`: of this interpreter's environment, or from the PATH.

    Raises:
        BuildError: If it is not there.
    """
    path = os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", "")))
    found = shutil.which(name, path=path)
    if found is None:
        raise BuildError(
            f"{name}, which builds the native ops, was found neither in this Python's environment "
            "nor on the PATH.\nInstall it with: pip install cmake ninja"
        )
    return found


def find_cuda(archs: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Cuda | None:
    """The CUDA toolkit of `$CUDA_HOME` or the PATH, unless the environment leaves it out.

    One that does not work here is left out, after a line that says so.

    Args:
        archs: TensorFlow's architectures; without any, a toolkit serves only if it is asked for.
        env: The environment; None for this process's own.

    Raises:
        BuildError: If it is asked for and there is none, or it does not work.
    """
    environment = os.environ if env is None else env
    wanted = environment.get("TFCONV_CUDA", "auto")
    if wanted not in ("0", "1", "auto"):
        raise BuildError(f"TFCONV_CUDA must be 0, 1 or auto. Received: {wanted!r}")
    own = re.findall(r"[^\s,;]+", environment.get("TFCONV_CUDA_ARCHS", ""))
    for arch in own:
        if not re.fullmatch(r"\d+[a-z]?", arch):
            raise BuildError(f"TFCONV_CUDA_ARCHS are numbers such as 90. Received: {arch!r}")
    if wanted == "0" or (wanted == "auto" and not archs):
        return None
    home = environment.get("CUDA_HOME")
    path = os.pathsep.join(((f"{home}/bin",) if home else ()) + (environment.get("PATH", ""),))
    nvcc = shutil.which("nvcc", path=path)
    try:
        if nvcc is None:
            raise BuildError("There is no nvcc in CUDA_HOME or on the PATH.")
        known = re.findall(r"^sm_(\w+)$", _ask_nvcc(nvcc, environment, "--list-gpu-code"), re.M)
        chosen = own or [arch for arch in archs or _CUDA_ARCHS if arch in known]
        if not chosen:
            raise BuildError(f"{nvcc} knows none of the architectures {', '.join(archs)}.")
        # Its headers refuse C++ compilers that are too new for it.
        _ask_nvcc(nvcc, environment, "-E", "-x", "cu", os.devnull)
        version = _ask_nvcc(nvcc, environment, "--version").strip().splitlines()[-1]
        return Cuda(nvcc, version, tuple(chosen))
    except BuildError as error:
        if wanted == "1":
            raise BuildError(f"{error}\nTFCONV_CUDA=0 leaves the CUDA kernels out.") from None
        print(f"tfconv: no CUDA kernels are built.\n{error}", file=sys.stderr, flush=True)
        return None


def _ask_nvcc(nvcc: str, env: Mapping[str, str], *arguments: str) -> str:
    status, output = _ask([nvcc, *arguments], env)
    if status != 0:
        command = shlex.join((nvcc, *arguments))
        raise BuildError(f"{command} failed (exit status {status}):\n{_last_lines(output)}")
    return output


# CMake and Ninja.


def _last_lines(text: str) -> str:
    """The last lines of a program's output, from its first error on where they include it."""
    lines = [f"  {line}" for line in text.splitlines() if line.strip()]
    error = re.compile(r"\berror:|^  CMake Error")
    first = next((i for i, line in enumerate(lines) if error.search(line)), None)
    if first is not None and len(lines) - first > _ERROR_LINES:
        # A template error is followed by pages of candidates: its beginning tells more.
        left_out = len(lines) - first - _ERROR_LINES
        return "\n".join([*lines[first : first + _ERROR_LINES], f"  ... {left_out} more lines"])
    return "\n".join(lines[-_ERROR_LINES:]) or "  (no output)"


class Ninja:
    """A folder that CMake has configured, in which Ninja makes targets.

    Attributes:
        folder: The folder.
        compiled: Labels of the units that were compiled.
        warnings: What the compiler said without failing.
    """

    def __init__(
        self,
        folder: Path,
        sources: Path,
        compiler: Compiler,
        variables: Mapping[str, str] | None = None,
        *,
        config: TensorFlowConfig | None = None,
        verbose: bool = False,
    ) -> None:
        """Configures the folder for `sources`, with CMake's variables and a TensorFlow.

        Raises:
            BuildError: If CMake fails.
        """
        self.folder, self._verbose = folder, verbose
        self.compiled: list[str] = []
        self.warnings = ""
        self._environment = {
            **{name: text for name, text in os.environ.items() if not name.endswith("FLAGS")},
            "CXX": shlex.join(compiler.command),
            "LC_ALL": "C",
            "NINJA_STATUS": "[%f/%t] ",
        }
        cmake, self._ninja = find_tool("cmake"), find_tool("ninja")
        self._strict = os.environ.get("TFCONV_WERROR", "0") not in ("", "0")
        self._had_warnings = folder / "warnings"
        # Objects do not tell by which version of a compiler they were made, nor, with warnings as
        # errors, whether there were any.
        origin = [*dataclasses.astuple(compiler), os.fspath(sources), os.fspath(folder)]
        record = folder / "origin.json"
        if record.is_file():
            same = json.loads(record.read_text(encoding="utf-8")) == json.loads(json.dumps(origin))
            if not same or (self._strict and self._had_warnings.exists()):
                shutil.rmtree(folder)
                folder.mkdir()
        _write_json(record, origin)
        if config is not None:
            config.write(folder / f"tf-{config.version}.cmake")
        flags = folder / "flags"
        # In files, since these flags change nothing in an object: no other command, no new object.
        flags.write_text("-Werror\n" if self._strict else "", encoding="utf-8")
        nvcc_flags = "-Werror=all-warnings -Xcompiler=-Werror\n" if self._strict else ""
        flags.with_name("flags.nvcc").write_text(nvcc_flags, encoding="utf-8")
        isas = os.environ.get("TFCONV_ISAS", "")
        if not isas and not (folder / "CMakeCache.txt").is_file():
            isas = "native"
        settings = {
            **({"TFCONV_ISAS": isas} if isas else {}),
            "CMAKE_BUILD_TYPE": "",
            "CMAKE_MAKE_PROGRAM": self._ninja,
            "TFCONV_RESPONSE_FILE": os.fspath(flags),
            "TFCONV_CXXFLAGS": os.environ.get("TFCONV_CXXFLAGS", ""),
            "TFCONV_LDFLAGS": os.environ.get("TFCONV_LDFLAGS", ""),
            **(variables or {}),
        }
        command = [cmake, "-S", os.fspath(sources), "-B", os.fspath(folder), "-G", "Ninja"]
        command += [f"-D{name}={value}" for name, value in settings.items()]
        status, output = _ask(command, self._environment)
        if status != 0:
            raise BuildError(
                f"Configuring the build failed (exit status {status}):\n{_last_lines(output)}\n"
                f"Command:\n  {shlex.join(command)}"
            )

    def make(self, targets: Sequence[str], jobs: int, report: Progress) -> None:
        """Makes what is not up to date; `report` gets (steps done, steps, what was made).

        Raises:
            BuildError: If a step fails: the file, the compiler's words, the command.
        """
        command = [self._ninja, f"-j{jobs}", *(("-v",) if self._verbose else ()), *targets]
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        said = []
        try:
            for line in process.stdout:
                said.append(line)
                if self._verbose:
                    print(line, end="", file=sys.stderr, flush=True)
                step = re.match(
                    r"\[(\d+)/(\d+)\] .*?(?:object|library|module|executable|-o) (\S+)", line
                )
                if step:
                    label = _label(step[3])
                    if step[3].endswith(".o"):
                        self.compiled.append(label)
                    report(int(step[1]), int(step[2]), label)
            status = process.wait()
        except BaseException:
            process.send_signal(signal.SIGINT)  # Ninja ends what runs and removes what is half done
            process.wait()
            raise
        output = "".join(said)
        if status != 0:
            raise BuildError(self._error(output, status))
        warnings = [line for line in said if not re.match(r"\[\d+/\d+\] |ninja: ", line)]
        self.warnings += "".join(warnings)
        if warnings:
            self._had_warnings.touch()

    def _error(self, output: str, status: int) -> str:
        """The first step that failed."""
        failed = re.search(
            r"^FAILED: (?:\[code=(\d+)\] )?(\S+).*\n(.*)\n"  # then what the compiler said
            r"((?:.*\n)*?)(?=\[\d+/\d+\] |FAILED: |ninja: )",
            output,
            re.MULTILINE,
        )
        if failed is None:
            return f"ninja failed (exit status {status}):\n{_last_lines(output)}"
        code, path, command, words = failed.groups()
        message = (
            f"{_label(path)} failed:\n{_last_lines(words)}\nCommand, in {self.folder}:\n  {command}"
        )
        if "Killed" in words or code == "137":
            message += (
                "\nThe compiler was killed, probably for want of memory (about 1 GB a unit): "
                "try TFCONV_JOBS=1."
            )
        return message


def _label(path: str) -> str:
    """What is made at a path of Ninja's: "cc/a/b_cpu.cc [avx2]" or "libtfconv_ops.so"."""
    unit = re.fullmatch(r"(?:(.*)/)?CMakeFiles/(\w+\S*?)\.dir/(\S+)\.o", path)
    if unit is None:
        return os.path.basename(path)
    folder, target, source = unit.groups()
    if source.startswith("Unity/"):
        return "cc/*/*_op.cc"
    name = os.path.normpath(os.path.join("cc", folder or "", source.replace("__/", "../")))
    isa = re.fullmatch(r"tfconv_kernels_([a-z0-9]+)", target)
    return f"{name} [{isa[1]}]" if isa and isa[1] != "module" else name


@contextlib.contextmanager
def _replacing(path: Path, mode: int) -> Iterator[str]:
    """The name of a new file that takes the place of `path` when it is complete."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    try:
        yield name
        os.chmod(name, mode)  # mkstemp's own 0600 would hide it from other users
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _write_json(path: Path, value: Any) -> None:
    with _replacing(path, 0o644) as name, open(name, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")


def _publish(made: Path, library: Path) -> None:
    """Copies a finished library into place, unless it is there."""
    if not (library.is_file() and _hash_file(library) == _hash_file(made)):
        with _replacing(library, 0o755) as name:
            shutil.copyfile(made, name)


@contextlib.contextmanager
def build_lock(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Keeps other builds out of `folder`, across processes."""
    with open(folder.with_name(f"{folder.name}.lock"), "a") as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    waiting()
                    fcntl.flock(file, fcntl.LOCK_EX)
        yield


def default_jobs() -> int:
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


def _rpath(output_dir: Path, config: TensorFlowConfig) -> str:
    """Where the loader finds TensorFlow's library if nothing has loaded it yet."""
    in_checkout = _checkout() is not None and output_dir.parent.parent == _PACKAGE
    if output_dir.parent.name == "_native" and not in_checkout:
        # tfconv and TensorFlow lie side by side in site-packages, wherever that is and
        # wherever the TensorFlow of the build was.
        return f"$ORIGIN/../../../{os.path.basename(config.library_dir)}"
    return config.library_dir


def build(
    output_dir: PathLike | None = None,
    build_dir: PathLike | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    verbose: bool = False,
    *,
    source_dir: PathLike | None = None,
    config: TensorFlowConfig | None = None,
    compiler: Compiler | None = None,
) -> BuildResult:
    """Compiles what has changed, links the libraries and puts them in their place.

    Kernels include nothing of TensorFlow: their objects serve all versions. Files appear under
    their final names only when complete: a failed or interrupted build leaves the libraries of
    before in place.

    Args:
        output_dir: Folder for the library and its build_info.json; None for
            `default_output_dir`.
        build_dir: Folder for the objects; None for `default_build_dir`.
        jobs: Compilers at the same time (about 1 GB of memory each); None for as many as
            there are processors and memory for.
        progress: Called as progress(done, total, what) from the calling thread, after each step.
        verbose: Write commands and compiler warnings to stderr.
        source_dir: Folder of the sources; None for `find_sources()`.
        config: The TensorFlow to build against; None for this interpreter's.
        compiler: The compiler; None for `find_compiler()`.

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
    jobs = jobs or default_jobs()
    sources = Path(source_dir).resolve() if source_dir is not None else find_sources()
    compiler = compiler or find_compiler()
    config = config or tensorflow_config()
    cuda = find_cuda(config.cuda_archs)
    output = Path(output_dir or default_output_dir(config.version)).resolve()
    folder = Path(build_dir or default_build_dir()).resolve()
    report = progress or (lambda done, total, what: None)
    try:
        output.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"Cannot write to the build folders: {error}") from error
    variables = {
        "TFCONV_RPATH": _rpath(output, config),
        "TFCONV_CUDA_ARCHS": ";".join(cuda.archs) if cuda else "",
        **({"CMAKE_CUDA_COMPILER": cuda.nvcc} if cuda else {}),
    }
    with build_lock(folder, lambda: report(0, 1, "waiting for another build of tfconv")):
        before, interface = sources_hash(sources), interface_hash(sources)
        ninja = Ninja(folder, sources, compiler, variables, config=config, verbose=verbose)
        ninja.make([f"tfconv_ops_{config.version}", "tfconv_lite"], jobs, report)
        library, delegate = output / LIBRARY_NAME, output.parent / LITE_LIBRARY_NAME
        _publish(folder / "lite" / LITE_LIBRARY_NAME, delegate)
        _publish(folder / f"tf-{config.version}" / LIBRARY_NAME, library)
        info = {
            "tfconv_version": package_version(),
            "tf_version": config.version,
            "compiler": shlex.join(compiler.command),
            "compiler_version": compiler.version,
            "target": compiler.target,
            "cuda_archs": list(cuda.archs) if cuda else [],
            "cuda_version": cuda.version if cuda else None,
            "sources_hash": before,
            "interface_hash": interface,
            "library_sha256": _hash_file(library),
        }
        known = read_info(output) or {}
        if {**known, "date": None} != {**info, "date": None}:
            epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
            seconds = int(epoch) if epoch.isdigit() else int(time.time())
            date = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
            known = {**info, "date": date.isoformat()}
            _write_json(output / INFO_NAME, known)
    return BuildResult(
        library=library,
        info=known,
        files=(library, output / INFO_NAME, delegate),
        compiled=tuple(ninja.compiled),
        warnings=ninja.warnings,
        seconds=time.monotonic() - start,
    )


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
        f"{len(result.compiled)} compiled, {result.seconds:.1f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
