"""Keeps what TensorFlow and its converters print off the terminal, until something fails."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

from tfconv._compat import all_layers, keras
from tfconv.export.errors import ExportError

_LINES = 20
_CHARACTERS = 1000


@contextlib.contextmanager
def quiet(
    what: str, error_class: type[Exception] = ExportError, model: Any = None
) -> Iterator[TextIO]:
    """Scope that keeps the chatter of TensorFlow and its converter off the terminal.

    Their C++ parts write to the file descriptor, past `sys.stderr`. When something fails, what
    they said goes into the error. Scopes of several threads may overlap: the descriptor is
    redirected until the last one ends. What other threads print comes through.

    Args:
        what: What is done in the scope: the subject of the error's message.
        error_class: What errors become, other than those of its own kind and `ValueError`s.
        model: A Keras model that is converted. If Keras has quantized a layer of it, that is what
            the error tells, rather than what the converter said.

    Yields:
        A stream to where the chatter would have gone.
    """
    with _redirection.scope():
        try:
            yield _redirection.terminal
        except (error_class, ValueError):
            raise
        except Exception as error:
            if quantized := _quantized(model):
                raise error_class(f"{what} failed: {quantized}") from error
            why = str(error)  # of the compiler's, the start says what is wrong
            why = why if len(why) <= _CHARACTERS else f"{why[:_CHARACTERS]} ..."
            said = "\n".join(_redirection.said().strip().splitlines()[-_LINES:])
            raise error_class(f"{what} failed: {why}\n{said[-_CHARACTERS:]}".rstrip()) from error


def _quantized(model: Any) -> str | None:
    """What to say of a model with layers that Keras has quantized."""
    layers = all_layers(model) if isinstance(model, keras.Model) else ()
    modes = {layer.name: getattr(layer, "quantization_mode", None) for layer in layers}
    modes = {name: mode for name, mode in modes.items() if mode}
    if not modes:
        return None
    (name, mode), *others = modes.items()
    more = f" and {len(others)} more" if others else ""
    return (
        f"Keras has quantized the layer `{name}`{more} ({mode}), in a way that the format lacks. "
        "Convert the model as it was before `quantize` was called; `to_tflite` quantizes by its "
        "own argument."
    )


class _Redirection:
    """What is redirected while a scope is open: file descriptor 2, `sys.stdout` and warnings.

    Attributes:
        terminal: A stream to where the descriptor led.
        threads: How many scopes each thread is in.
    """

    terminal: TextIO

    def __init__(self):
        self.threads: collections.Counter[int] = collections.Counter()
        self._lock = threading.Lock()
        self._undo = contextlib.ExitStack()

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        thread = threading.get_ident()
        with self._lock:
            if not self.threads:
                self._start()
            self.threads[thread] += 1
        try:
            yield
        finally:
            with self._lock:
                self.threads[thread] -= 1
                if not self.threads[thread]:
                    del self.threads[thread]
                if not self.threads:
                    self._undo.close()

    def said(self) -> str:
        """What was written to the descriptor."""
        _flush_stderr()
        log = self._log.fileno()
        return os.pread(log, os.fstat(log).st_size, 0).decode(errors="replace")

    def _start(self) -> None:
        with contextlib.ExitStack() as undo:
            self._log = undo.enter_context(tempfile.TemporaryFile())
            self.terminal = io.StringIO()
            if (descriptor := _copy_of_stderr()) is not None:
                self.terminal = undo.enter_context(os.fdopen(descriptor, "w"))
                _flush_stderr()
                undo.callback(os.dup2, descriptor, 2)
                undo.callback(_flush_stderr)
                os.dup2(self._log.fileno(), 2)
            if sys.stdout is not None:
                undo.enter_context(contextlib.redirect_stdout(_Others(sys.stdout, self.threads)))
            undo.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            self._undo = undo.pop_all()


_redirection = _Redirection()


def _copy_of_stderr() -> int | None:
    """A copy of file descriptor 2; None if it is closed, or leads to something else since."""
    if sys.stderr is None or sys.stderr.closed:
        return None
    try:
        return os.dup(2)
    except OSError:
        return None


def _flush_stderr() -> None:
    if sys.stderr is not None and not sys.stderr.closed:
        sys.stderr.flush()


class _Others:
    """A stream without what some threads write to it."""

    def __init__(self, stream: TextIO, threads: collections.Counter[int]):
        self._stream = stream
        self._threads = threads

    def write(self, text: str) -> int:
        if threading.get_ident() in self._threads:
            return len(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
