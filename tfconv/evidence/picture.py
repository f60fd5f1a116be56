"""The picture of a comparison. It needs Matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfconv.analysis.result import write

_COLOURS = {
    "space, channels": "#30638e",
    "space": "#d1495b",
    "channels": "#edae49",
    "nothing": "#777777",
}
_LOWEST_ERROR = 0.05  # percent: none at all has no place on a logarithmic axis


def draw(report: Any, path: Path) -> None:
    """Accuracy against weights, multiply-adds, training step and latency, for every candidate."""
    figure = _figure(13, 9)
    panels, keys = figure.subfigures(1, 2, width_ratios=[4, 1])
    costs = {
        "trainable weights": [row.parameters for row in report.rows],
        "multiply-adds for an image": [row.multiply_adds for row in report.rows],
        "milliseconds of a training step": [row.step.milliseconds for row in report.rows],
        "milliseconds of an image in TFLite": [row.latency.milliseconds for row in report.rows],
    }
    for axes, (title, numbers) in zip(panels.subplots(2, 2, sharey=True).flat, costs.items()):
        _panel(axes, report.rows, numbers)
        axes.set_title(title, fontsize=10, loc="left")
    _key(keys, report.rows)
    write(path, lambda made: figure.savefig(made, dpi=100))


def _panel(axes: Any, rows: Any, numbers: list[float]) -> None:
    """A point with its number for each row; a bar from the lowest to the highest accuracy."""
    for number, (row, cost) in enumerate(zip(rows, numbers), 1):
        errors = [max(100 - accuracy, _LOWEST_ERROR) for accuracy in row.accuracies]
        middle = max(100 - row.accuracy, _LOWEST_ERROR)
        colour = _COLOURS[row.mixes]
        axes.plot([cost, cost], [min(errors), max(errors)], color=colour, lw=1, alpha=0.5)
        axes.plot(cost, middle, "o", color=colour, ms=4)
        axes.annotate(str(number), (cost, middle), (3, 3), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.invert_yaxis()
    axes.yaxis.set_major_formatter(lambda error, _: f"{100 - error:g}%")
    axes.yaxis.set_minor_formatter(lambda error, _: "")
    axes.grid(alpha=0.3, which="both")


def _key(figure: Any, rows: Any) -> None:
    """What the numbers and the colours stand for."""
    lines = [(f"{number}  {row.name}", _COLOURS[row.mixes]) for number, row in enumerate(rows, 1)]
    lines += [("", "black"), *((f"mixes {kind}", colour) for kind, colour in _COLOURS.items())]
    lines.append(("bars: from the lowest to the highest seed", "black"))
    for number, (text, colour) in enumerate(lines):
        figure.text(0, 0.96 - 0.028 * number, text, color=colour, fontsize=9)


def require_matplotlib() -> None:
    """Raises ImportError when Matplotlib is not installed."""
    try:
        from matplotlib import figure  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"Pictures need Matplotlib, which cannot be imported ({error}): "
            "pip install 'tfconv[compare]'"
        ) from error


def _figure(width: float, height: float) -> Any:
    """An empty figure that needs no display."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
