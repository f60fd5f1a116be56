"""The native library: found, loaded at first use, and explained when it is missing."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import os
import pathlib
import string
import threading
import warnings
from types import ModuleType

import tensorflow as tf

from tfconv import _build, _compat

_warned = threading.Event()


@dataclasses.dataclass(frozen=True)
class Library:
    """The native library as it was found.

    Attributes:
        module: Python wrappers of its ops, or None when it is not loaded.
        path: Where it lies, or None.
        built_with: TensorFlow version that it was built with, or None.
        isa: Instruction set that its CPU kernels use, or None.
        isas: Instruction sets that it has CPU kernels for, where it could be asked.
        cuda: Whether its ops have GPU kernels that the GPUs and the driver here can run.
        problem: Why it is not loaded and how to mend that, or None.
    """

    module: ModuleType | None = None
    path: pathlib.Path | None = None
    built_with: str | None = None
    isa: str | None = None
    isas: tuple[str, ...] = ()
    cuda: bool = False
    problem: str | None = None


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


@functools.lru_cache(maxsize=1)
def library() -> Library:
    """Loads the native library once; never raises for a library that cannot be used.

    Raises:
        ValueError: If TFCONV_ISA is none of its instruction sets.
    """
    if os.environ.get("TFCONV_NATIVE", "1") == "0":
        return Library(problem="switched off by the environment variable TFCONV_NATIVE=0")
    running = _compat.tensorflow_version()
    own = os.environ.get("TFCONV_LIBRARY")
    # Without a folder, the loader would look elsewhere.
    found = (pathlib.Path(own).resolve(), {}) if own else _build.find_library(running)
    if found is None:
        others = _build.built_versions()
        if others:
            problem = (
                f"the native library was built for TensorFlow {', '.join(others)}, and "
                f"{running} is running; `python -m tfconv build` builds it for this one"
            )
        else:
            problem = (
                "the native library has not been built; `python -m tfconv build` builds it "
                "(needs g++)"
            )
        return Library(problem=problem)
    path, info = found
    built_with = info.get("tf_version")
    if built_with is not None and _minor(built_with) != _minor(running):
        return Library(
            path=path,
            built_with=built_with,
            problem=f"{path} was built with TensorFlow {built_with}, and {running} is running; "
            "`python -m tfconv build` builds it for this one",
        )
    if info and _build.has_other_ops(info):
        return Library(
            path=path,
            built_with=built_with,
            problem=f"{path} was built from other sources, with other ops; "
            "`python -m tfconv build` builds it anew",
        )
    try:
        module = tf.load_op_library(str(path))
        functions = ctypes.CDLL(str(path))
        isa = _say(functions, "tfconv_isa")
    except (tf.errors.OpError, RuntimeError, OSError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        return Library(
            path=path,
            built_with=built_with,
            problem=f"{path} cannot be loaded ({reason}); `python -m tfconv build` builds it anew",
        )
    older = not hasattr(functions, "tfconv_isas")
    isas = () if older else tuple(_say(functions, "tfconv_isas").split(", "))
    isa_problem = None if older else _say(functions, "tfconv_isa_problem")
    if isa_problem is not None:
        if os.environ.get("TFCONV_ISA") and os.environ["TFCONV_ISA"] not in isas:
            raise ValueError(isa_problem)
        return Library(
            path=path,
            built_with=built_with,
            isas=isas,
            problem=f"{path} cannot serve here ({isa_problem}); `TFCONV_ISAS=native python -m "
            "tfconv build` builds it for this processor",
        )
    cuda = hasattr(functions, "tfconv_cuda")
    if cuda:
        functions.tfconv_cuda.restype = ctypes.c_bool
        cuda = functions.tfconv_cuda() and _serves_gpus(info.get("cuda_archs") or [])
    return Library(
        module=module,
        path=path,
        built_with=built_with,
        isa=isa,
        isas=isas,
        cuda=cuda,
    )


def _say(functions: ctypes.CDLL, name: str) -> str | None:
    """What a function without arguments says."""
    function = getattr(functions, name)
    function.restype = ctypes.c_char_p
    text = function()
    return None if text is None else text.decode()


def _serves_gpus(archs: list[str]) -> bool:
    """Whether no GPU here is older than all that the library has code for ("75", "100a")."""
    oldest = min((int(arch.rstrip(string.ascii_lowercase)) for arch in archs), default=0)
    for gpu in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpu)
        major, minor = details.get("compute_capability", (99, 0))
        if 10 * major + minor < oldest:
            return False
    return True


def warn_if_unavailable() -> None:
    """Warns, once in a process, when portable ops serve because the library cannot."""
    problem = library().problem
    if problem is None or _warned.is_set():
        return
    _warned.set()
    if os.environ.get("TFCONV_NATIVE", "1") == "0":
        return
    warnings.warn(
        "tfconv runs with portable TensorFlow ops: involution and deformable convolution give "
        f"the same results, several times slower. Reason: {problem}.",
        RuntimeWarning,
        stacklevel=5,
    )
