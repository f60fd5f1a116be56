"""The picture of a comparison. It needs Matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfconv.analysis.tables import count_text
from tfconv.export.files import write
from tfconv.figures import empty_figure

_COLOURS = {
    "space, channels": "#30638e",
    "space": "#d1495b",
    "channels": "#edae49",
    "nothing": "#777777",
}
_LOWEST_ERROR = 0.05  # percent: none at all has no place on a logarithmic axis


def draw(report: Any, path: Path) -> None:
    """Accuracy against weights, multiply-adds, training step and latency, for every candidate."""
    figure = empty_figure(13, 9)
    panels, keys = figure.subfigures(1, 2, width_ratios=[4, 1])
    costs = {
        "trainable weights": [row.parameters for row in report.rows],
        "multiply-adds for an image": [row.multiply_adds for row in report.rows],
        "milliseconds of a training step": [row.step.milliseconds for row in report.rows],
        "milliseconds of an image in TFLite": [row.latency.milliseconds for row in report.rows],
    }
    errors = [_error(accuracy) for row in report.rows for accuracy in row.accuracies]
    for axes, (title, numbers) in zip(panels.subplots(2, 2).flat, costs.items()):
        axes.set_title(title, fontsize=10, loc="left")
        _logarithmic(axes.xaxis, axes.set_xscale, "{:g}".format if "milli" in title else count_text)
        _logarithmic(axes.yaxis, axes.set_yscale, lambda error: f"{100 - error:g}%")
        axes.set_ylabel("test images right", fontsize=9)
        axes.set_ylim(1.2 * max(errors), min(errors) / 1.2)
        axes.grid(alpha=0.3)
        _points(axes, report.rows, numbers)
    _key(keys, report.rows)
    write(path, lambda made: figure.savefig(made, dpi=100))


def _error(accuracy: float) -> float:
    return max(100 - accuracy, _LOWEST_ERROR)


def _logarithmic(axis: Any, set_scale: Callable[[str], None], text: Callable[[float], str]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda number, _: text(number)))
    axis.set_tick_params(labelsize=8)


def _points(axes: Any, rows: Any, numbers: list[float]) -> None:
    """A point with its number for each row; a bar from the lowest to the highest accuracy."""
    for number, (row, cost) in enumerate(zip(rows, numbers), 1):
        middle, colour = _error(row.accuracy), _COLOURS[row.mixes]
        ends = [_error(min(row.accuracies)), _error(max(row.accuracies))]
        axes.plot([cost, cost], ends, color=colour, lw=1, alpha=0.5)
        axes.plot(cost, middle, "o", color=colour, ms=4)
        place = (-9, -9) if row.name.startswith("keras.") else (3, 3)  # some are where ours are
        axes.annotate(str(number), (cost, middle), place, textcoords="offset points", fontsize=8)


def _key(figure: Any, rows: Any) -> None:
    """What the numbers and the colours stand for."""
    lines = [(f"{number}  {row.name}", _COLOURS[row.mixes]) for number, row in enumerate(rows, 1)]
    lines += [("", "black"), *((f"mixes {kind}", colour) for kind, colour in _COLOURS.items())]
    lines.append(("bars: lowest to highest seed", "black"))
    for number, (text, colour) in enumerate(lines):
        figure.text(0, 0.96 - 0.028 * number, text, color=colour, fontsize=9)


def check_picture(path: Path) -> None:
    """Raises unless a picture can be drawn that is named so.

    Raises:
        ImportError: If Matplotlib is not installed.
        ValueError: If it does not know the suffix.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise ImportError(
            f"Pictures need Matplotlib, which cannot be imported ({error}): pip install matplotlib"
        ) from error
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ValueError(
            f"`path` must end with one of .{', .'.join(sorted(known))}. Received: path={path}"
        )
