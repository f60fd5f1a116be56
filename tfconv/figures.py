"""Figures of Matplotlib that need no display."""

from __future__ import annotations

from typing import Any


def empty_figure(width: float, height: float) -> Any:
    """An empty figure of a size in inches.

    Raises:
        ImportError: If Matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"Pictures need Matplotlib, which cannot be imported ({error}): pip install matplotlib"
        ) from error
    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
