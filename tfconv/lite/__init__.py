"""The native ops inside TFLite's interpreter.

A model that was converted inside `tfconv.keep_native()` has tfconv's ops as custom ops of TFLite
(docs/lite.md lists them and their `custom_options`). A delegate, `libtfconv_lite.so`, runs them
with the kernels that the TensorFlow ops have. It needs neither TensorFlow nor this package.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfconv import _build, _compat

try:
    from ai_edge_litert import interpreter as _litert
except ImportError:
    _litert = None

__all__ = ["Interpreter", "delegate_path", "header_path", "load_delegate"]


def delegate_path() -> str:
    """Path of the delegate `libtfconv_lite.so`, a plugin for every TFLite interpreter here.

    Raises:
        RuntimeError: If it has not been built.

    Example:
        >>> os.path.basename(tfconv.lite.delegate_path())
        'libtfconv_lite.so'
    """
    path = _build.find_delegate(_compat.tensorflow_version())
    if path is None:
        raise RuntimeError(
            f"The delegate {_build.LITE_LIBRARY_NAME}, which runs tfconv's ops in TFLite, has not "
            "been built; `python -m tfconv build` builds it (needs g++). Models converted without "
            "tfconv.keep_native() do not need it."
        )
    return os.fspath(path)


def header_path() -> str:
    """Path of the delegate's C header; its folder also has what builds it for Android and iOS.

    Example:
        >>> os.path.basename(tfconv.lite.header_path())
        'tfconv_lite.h'
    """
    return os.fspath(_build.find_sources() / "lite" / "tfconv_lite.h")


def load_delegate(num_threads: int | None = None) -> Any:
    """Loads the delegate for an interpreter's argument `experimental_delegates`.

    Args:
        num_threads: Threads for tfconv's ops; None for as many as the interpreter uses.

    Returns:
        What the interpreter's own `load_delegate` returns: LiteRT's where it is installed, or else
        that of `tf.lite`.

    Raises:
        RuntimeError: If the delegate has not been built.
        ValueError: If `num_threads` is not a positive integer.
    """
    options = None
    if num_threads is not None:
        options = {"num_threads": _checked_threads(num_threads)}
    if _litert is not None:
        return _litert.load_delegate(delegate_path(), options)
    return tf.lite.experimental.load_delegate(delegate_path(), options)


def Interpreter(
    path_or_content: str | os.PathLike[str] | bytes, num_threads: int | None = None
) -> Any:
    """A TFLite interpreter that knows tfconv's ops.

    Args:
        path_or_content: The model: its file, or its bytes.
        num_threads: Threads for all ops; None for the interpreter's default, which is one.

    Returns:
        `ai_edge_litert.interpreter.Interpreter` where LiteRT is installed, or else
        `tf.lite.Interpreter`, with the delegate.

    Raises:
        RuntimeError: If the delegate has not been built.
        ValueError: If an argument is of the wrong kind, or the model cannot be read.

    Example:
        >>> layers = [tf.keras.Input((8, 8, 4)), tfconv.Involution2D(3, groups=2)]
        >>> model = tf.keras.Sequential(layers)
        >>> content = tfconv.export.to_tflite(model, keep_native=True).content
        >>> interpreter = tfconv.lite.Interpreter(content)
        >>> interpreter.allocate_tensors()
        >>> interpreter.invoke()
    """
    if isinstance(path_or_content, (bytes, bytearray)):
        model = {"model_content": bytes(path_or_content)}
    elif isinstance(path_or_content, (str, os.PathLike)):
        model = {"model_path": os.fspath(Path(path_or_content))}
    else:
        raise ValueError(
            "path_or_content must be a path or the bytes of a model. "
            f"Received: {type(path_or_content).__name__}"
        )
    if num_threads is not None:
        _checked_threads(num_threads)
    kind = tf.lite.Interpreter if _litert is None else _litert.Interpreter
    return kind(**model, num_threads=num_threads, experimental_delegates=[load_delegate()])


def _checked_threads(num_threads: int) -> int:
    if isinstance(num_threads, bool) or not isinstance(num_threads, int) or num_threads < 1:
        raise ValueError(
            f"num_threads must be a positive integer or None. Received: {num_threads!r}"
        )
    return num_threads
