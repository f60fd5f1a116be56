"""The errors of exports that come out wrong."""

from __future__ import annotations


class ExportError(RuntimeError):
    """An export failed, or gives other results than the model; the message says what and where."""
