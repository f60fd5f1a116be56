"""How a command starts TensorFlow, in silence, and how its process ends when interrupted."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time
from collections.abc import Iterator

INTERRUPTED = 130  # the exit status
_FINE = b"\0fine"  # ends what is hidden where nothing went wrong
_SAME = 1.0  # seconds in which a second Ctrl-C is taken for the first


class StartError(Exception):
    """TensorFlow cannot be imported; the message says why."""


def start(*, onednn: bool = True) -> None:
    """Runs the package, which imports TensorFlow, unless that has been done.

    TensorFlow prints lines as it starts; they are seen only where it fails, or where
    TF_CPP_MIN_LOG_LEVEL asks for them. Nor does its Python warn from then on; tfconv's own does.

    Args:
        onednn: Whether TensorFlow may compute by oneDNN. In 2.21, its gradient of strided 1x1
            convolutions of few channels, which a user's model may have, ends the process.

    Raises:
        StartError: If there is no TensorFlow, or one that does not suit.
    """
    package = sys.modules["tfconv"]
    asked_for = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2") in ("0", "1")
    if not hasattr(package, "__all__"):  # it was entered only: see `tfconv_command`
        if not onednn:
            os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
        with _nothing_written(), contextlib.nullcontext() if asked_for else _hidden():
            try:
                importlib.reload(package)
                import tensorflow as tf
            except ImportError as error:
                raise StartError(error) from error
            tf.config.list_physical_devices()  # looks for GPUs, and says what it found
    import logging

    import tensorflow as tf
    from absl import logging as absl_logging

    tf.get_logger().setLevel(logging.ERROR)
    absl_logging.set_verbosity(absl_logging.ERROR)


# What is written to file descriptor 2 while TensorFlow starts. Its C++ parts write there, past
# `sys.stderr`, and may abort.

_terminal: int | None = None  # what the descriptor led to, while it is hidden


@contextlib.contextmanager
def _hidden() -> Iterator[None]:
    """Scope in which what is written to the descriptor is seen only if it ends by an error.

    Another process keeps it, for this one may not live to show it.
    """
    global _terminal
    if not hasattr(os, "fork"):
        yield
        return
    sys.stderr.flush()
    reader, writer = os.pipe()
    keeper = os.fork()
    if not keeper:
        os.close(writer)
        _keep(reader)
    terminal = os.dup(2)
    os.dup2(writer, 2)
    os.close(reader)
    os.close(writer)
    _terminal = terminal
    try:
        yield
        sys.stderr.flush()
        os.write(2, _FINE)
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        _terminal = None
        os.close(terminal)
        os.waitpid(keeper, 0)


def _keep(reader: int) -> None:
    """Reads what is hidden to its end, shows it unless that is `_FINE`, and ends the process."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.close(1)  # who reads it waits for the command only
        said = b""
        while more := os.read(reader, 1 << 16):
            said += more
        if not said.endswith(_FINE):
            os.write(2, said)
    finally:
        os._exit(0)


# Ctrl-C.

_interrupted: float | None = None  # when


def interruptible(module: str) -> int:
    """Runs `main` of a module as all that this process does; returns the exit status.

    Ctrl-C ends it with one line and the status 130: at once while TensorFlow starts, else by a
    KeyboardInterrupt, so that what is half written is cleared away.
    """
    signal.signal(signal.SIGINT, _raise)
    sys.unraisablehook = _raise_again
    try:
        return importlib.import_module(module).main()
    except KeyboardInterrupt:
        return say_interrupted()
    except BaseException:  # what others made of a KeyboardInterrupt, or of something else
        if was_interrupted():
            return say_interrupted()
        raise
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is over


def was_interrupted() -> bool:
    """Whether there was a Ctrl-C."""
    return _interrupted is not None


def say_interrupted() -> int:
    """Says that the command was interrupted; returns the exit status."""
    print("interrupted", file=sys.stderr)
    return INTERRUPTED


def _raise(*_: object) -> None:
    global _interrupted
    before, _interrupted = _interrupted, time.monotonic()
    if before is None or _interrupted - before > _SAME:
        raise KeyboardInterrupt


def _raise_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Repeats an interrupt that came where Python raises nothing, such as in a finalizer."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    import threading

    main = threading.main_thread().ident

    def again() -> None:
        global _interrupted
        _interrupted = None
        signal.pthread_kill(main, signal.SIGINT)

    threading.Timer(0.01, again).start()


def _leave(*_: object) -> None:
    if _terminal is not None:
        os.write(2, _FINE)
    os.write(2 if _terminal is None else _terminal, b"interrupted\n")
    os._exit(INTERRUPTED)


@contextlib.contextmanager
def _nothing_written() -> Iterator[None]:
    """Scope in which the process may end where it is."""
    if signal.getsignal(signal.SIGINT) is not _raise:  # it is not `interruptible`
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _raise)
