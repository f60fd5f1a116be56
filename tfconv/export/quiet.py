"""Keeps what TensorFlow and its converters print off the terminal, until something fails."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import TextIO

from tfconv.export.errors import ExportError

_LINES = 20


@contextlib.contextmanager
def quiet(what: str, error_class: type[Exception] = ExportError) -> Iterator[TextIO]:
    """Scope that keeps the chatter of TensorFlow and its converter off the terminal.

    Their C++ parts write to the file descriptor, past `sys.stderr`. When something fails, what
    they said goes into the error.

    Args:
        what: What is done in the scope: the subject of the error's message.
        error_class: What errors become, other than those of its own kind and `ValueError`s.

    Yields:
        A stream to where the chatter would have gone.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as log, os.fdopen(os.dup(2), "w") as terminal:
        os.dup2(log.fileno(), 2)
        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield terminal
        except (error_class, ValueError):
            raise
        except Exception as error:
            sys.stderr.flush()
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines()[-_LINES:]
            raise error_class("\n".join([f"{what} failed: {error}", *said])) from error
        finally:
            sys.stderr.flush()
            os.dup2(terminal.fileno(), 2)
