"""tfconv: a Keras layer for every kind of convolution.

Layers stand at top level (``tfconv.Involution2D``), functions in `tfconv.ops`; `tfconv.export`
takes models out of Python. `native_status()` says whether the fast native ops serve; `portable()`
and `keep_native()` choose.
"""

import importlib as _importlib
import sys as _sys
import typing as _typing

from tfconv._version import __version__

# Packages that are imported when they are first asked for. They have nothing that Keras has to know
# to load a model.
_LATER = ("analysis", "compression", "export", "lite", "models", "surgery", "visual")

if _typing.TYPE_CHECKING:
    from tfconv import analysis, compression, export, lite, models, surgery, visual


def _on_the_way_to_the_command_line() -> bool:
    """Whether this is `python -m tfconv`, which imports the package before its `__main__`."""
    argv = getattr(_sys, "argv", [])
    started_with = getattr(_sys, "orig_argv", [])  # from Python 3.10 on
    return argv[:1] == ["-m"] and started_with[-len(argv) :][:1] in (["tfconv"], ["-mtfconv"])


# The command line answers at once. What needs TensorFlow has this module run again: see
# `tfconv.commands.process.start`.
if not _on_the_way_to_the_command_line():
    from tfconv import _compat

    _compat.require_tensorflow_backend()

    from tfconv import blocks, callbacks, layers, ops
    from tfconv.layers import *  # noqa: F403
    from tfconv.ops.dispatch import NativeStatus, keep_native, native_status, portable
    from tfconv.replacements import replacements

    __all__ = [
        "NativeStatus",
        "__version__",
        "analysis",
        "blocks",
        "callbacks",
        "compression",
        "export",
        "keep_native",
        "layers",
        "lite",
        "models",
        "native_status",
        "ops",
        "portable",
        "replacements",
        "surgery",
        "visual",
    ]
    __all__ += layers.__all__

if not _typing.TYPE_CHECKING:  # who would take every name for one that is there

    def __getattr__(name):
        if name in _LATER:
            return _importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
