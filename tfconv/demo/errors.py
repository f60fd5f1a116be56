"""The one error that the demo ends with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class DemoError(RuntimeError):
    """The demo cannot run, or what it checks does not hold; the message says which."""


@contextlib.contextmanager
def needs(package: str) -> Iterator[None]:
    """Scope for importing an optional package: a failure names it and how to install it."""
    try:
        yield
    except ImportError as error:
        raise DemoError(
            f"The demo needs {package}, which cannot be imported ({error}). "
            "Install what it needs with: pip install scikit-learn matplotlib ai-edge-litert"
        ) from error
