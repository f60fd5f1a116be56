"""Pictures of what layers do to an image. They need Matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfconv.export.files import checked_file, write
from tfconv.figures import empty_figure

# By position; Okabe and Ito's colours, which colour-blind readers tell apart.
_HUES = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
_BANDS, _PANELS, _GROUPS = 8, 24, 4  # layers and groups of channels that are drawn at most
_TEXTS = 160  # numbers that can be read in a panel


def draw(drawer: Callable[[Any], Any], found: Any, path: str | Path | None) -> Any:
    """The figure that a function draws of a result, also written to a file if a path is given."""
    target = None if path is None else checked_file(path)
    figure = drawer(found)
    if target is not None:
        write(target, lambda made: figure.savefig(made, dpi=110))
    return figure


def draw_sampling(found: Any) -> Any:
    """A panel for each layer: the image and the samples of the chosen outputs."""
    layers = _some(found.layers, _PANELS)
    columns = min(len(layers), 3)
    figure, panels = _panels(len(layers), columns, (4.2 * _aspect(found.image), 4.6), 0.6)
    through = f", through {found.levels} layers" if found.levels > 1 else ""
    _title(figure, f"{found.model}: where deformable convolutions sample{through}", layers, found)
    most = max(1.0, max(float(layer.weights.max()) for layer in layers))
    everywhere = np.concatenate([layer.points.reshape(-1, 2) for layer in layers])
    for axes, layer in zip(panels, layers):
        _show_image(axes, found.image, faded=True)
        _limits(axes, found.image.shape, everywhere)
        height, width, groups = layer.offsets.shape[:3]
        _name(axes, layer.name, f"{height} × {width} outputs, offset groups: {groups}")
        size = float(np.clip(1600 / layer.points.shape[1], 5, 30))
        for number, (pixel, regular, points, weights) in enumerate(
            zip(found.pixels, layer.regular, layer.points, layer.weights)
        ):
            hue = _HUES[number % len(_HUES)]
            if len(points) % len(regular) == 0 and found.levels == 1:
                start = np.tile(regular, (len(points) // len(regular), 1))
                axes.plot(
                    [start[:, 1], points[:, 1]], [start[:, 0], points[:, 0]], color=hue, lw=0.9
                )
                axes.scatter(regular[:, 1], regular[:, 0], s=14, c="white", ec=hue, lw=0.9)
            drawn = axes.scatter(
                points[:, 1], points[:, 0], s=size, c=weights, cmap="plasma", vmin=0, vmax=most,
                ec=hue, lw=size**0.5 / 6, zorder=3,
            )  # fmt: skip
            axes.plot(pixel[1], pixel[0], "+", color=hue, ms=13, mew=2.2, zorder=4)
    label = "modulation mask" if found.levels == 1 else "product of modulation masks"
    rows = -(-len(layers) // columns)
    figure.colorbar(drawn, ax=list(panels), label=label, aspect=30, shrink=0.85 / rows)
    keys = [_key("+", "#444444", "pixel asked for", ms=11, mew=2)]
    if found.levels == 1:
        keys.append(_key("o", "#444444", "tap of a plain convolution", mfc="white", ms=4))
    keys.append(_key("o", "#444444", "where the layer samples", ms=5.5))
    figure.legend(handles=keys, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def draw_kernels(found: Any) -> Any:
    """A band for each layer: sums of the kernels as maps, and kernels at the chosen positions."""
    layers = _some(found.layers, _BANDS)
    shown = [_liveliest(layer.sums) for layer in layers]
    wide, columns = 2.7 * _aspect(found.image), 1 + max(map(len, shown))
    figure = empty_figure(columns * wide + 1.2, 0.6 + 4.2 * len(layers))
    _title(figure, f"{found.model}: the kernels that involutions make", layers, found)
    for band, layer, groups in zip(figure.subfigures(len(layers), 1, squeeze=False), layers, shown):
        grid = band[0].add_gridspec(
            2, columns + 1, width_ratios=[*[wide] * columns, 0.1], height_ratios=[2.7, 1]
        )
        height, width, *_ = layer.kernels.shape
        image = band[0].add_subplot(grid[0, 0])
        _show_image(image, found.image)
        _name(image, layer.name, f"{height} × {width} outputs, groups: {layer.kernels.shape[2]}")
        for number, pixel in enumerate(found.pixels):
            hue = _HUES[number % len(_HUES)]
            image.plot(pixel[1], pixel[0], "s", mfc="none", mec="white", ms=12, mew=4)
            image.plot(pixel[1], pixel[0], "s", mfc="none", mec=hue, ms=12, mew=2.2)
        sums, kernels = layer.sums[..., groups], layer.chosen[:, groups]
        limit = float(np.abs(kernels).max()) or 1.0
        for place, group in enumerate(groups):
            axes = band[0].add_subplot(grid[0, 1 + place])
            heat = axes.imshow(sums[..., place], cmap="magma", vmin=sums.min(), vmax=sums.max())
            _bare(axes)
            axes.set_title(f"group {group}", fontsize=9, color="#555555")
            kernel = _show_kernels(
                band[0].add_subplot(grid[1, 1 + place]), kernels[:, place], limit
            )
        for row, (drawn, label) in enumerate(((heat, "sum of a kernel"), (kernel, "tap's weight"))):
            bar = band[0].colorbar(drawn, cax=band[0].add_subplot(grid[row, -1]))
            bar.set_label(label, fontsize=9)
            bar.ax.tick_params(labelsize=8)
    return figure


def _show_kernels(axes: Any, kernels: np.ndarray, limit: float) -> Any:
    """Kernels [P, kh, kw] side by side, each in the colour of its position."""
    from matplotlib.patches import Rectangle

    count, height, width = kernels.shape
    spaced = np.pad(kernels, [(0, 0), (0, 0), (0, 1)], constant_values=np.nan)
    drawn = axes.imshow(
        np.concatenate(list(spaced), 1)[:, :-1], cmap="RdBu_r", vmin=-limit, vmax=limit
    )
    for number in range(count):
        left = number * (width + 1) - 0.5
        hue = _HUES[number % len(_HUES)]
        axes.add_patch(
            Rectangle((left, -0.5), width, height, fill=False, ec=hue, lw=2, clip_on=False)
        )
    axes.set_axis_off()
    return drawn


def draw_routing(found: Any) -> Any:
    """A panel for each layer: bars for one example, else a map of examples or classes."""
    layers = _some(found.layers, _PANELS)
    means = found.by_class() if found.labels is not None else {}
    rows = {layer.name: means.get(layer.name, layer.weights) for layer in layers}
    tallest = max(len(values) for values in rows.values())
    height = 2.6 if tallest == 1 else float(np.clip(0.9 + 0.3 * tallest, 2.4, 7))
    columns = min(len(layers), 4 if tallest == 1 else 3)
    figure, panels = _panels(len(layers), columns, (4.2, height), 0.6)
    _title(figure, f"{found.model}: how examples mix kernels", layers, found)
    what = "example" if found.labels is None else "class (mean)"
    least = min(0.0, *(float(values.min()) for values in rows.values()))
    most = max(0.0, *(float(values.max()) for values in rows.values()))
    for axes, layer in zip(panels, layers):
        values = rows[layer.name]
        _name(axes, layer.name, layer.kind)
        axes.set_xticks(range(values.shape[1]))
        axes.set_xlabel("kernel", fontsize=9)
        if len(values) == 1:
            axes.bar(range(values.shape[1]), values[0], color=_HUES[1])
            axes.set_ylim(1.08 * least, 1.08 * most)
            axes.set_ylabel("routing weight", fontsize=9)
            axes.spines[["top", "right"]].set_visible(False)
            continue
        drawn = axes.imshow(
            values, cmap="viridis", aspect="auto", vmin=least, vmax=most, interpolation="nearest"
        )
        axes.set_ylabel(what, fontsize=9)
        if found.labels is not None:
            axes.set_yticks(range(len(values)), np.unique(found.labels))
        if values.size <= _TEXTS:
            for (row, column), value in np.ndenumerate(values):
                colour = "white" if value < least + 0.6 * (most - least) else "black"
                axes.text(
                    column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=7
                )
    if tallest > 1:
        figure.colorbar(drawn, ax=list(panels), label="routing weight", aspect=30)
    return figure


def draw_field(found: Any) -> Any:
    """The image with the theoretical field, and the influence of its pixels."""
    from matplotlib.colors import PowerNorm
    from matplotlib.patches import Rectangle

    figure, (image, heat) = _panels(2, 2, (4.6 * _aspect(found.image), 4.8), 0.6)
    row, column = found.position
    figure.suptitle(f"{found.model}: what output ({row}, {column}) of {found.name} sees")
    _show_image(image, found.image, lit=found.seen)
    share = found.influence / (found.influence.max() or 1.0)
    drawn = heat.imshow(share, cmap="magma", norm=PowerNorm(0.5, 0, 1))
    _bare(heat)
    size = f"effective: {found.size:.0f} pixels wide"
    if found.bounds is not None:
        size += f"; theoretical: {found.theoretical_size:.0f}"
        (top, bottom), (left, right) = found.bounds
        corners = np.array([[top - 0.5, left - 0.5], [bottom + 0.5, right + 0.5]])
        shape = np.array(found.image.shape[:2])
        if (corners[0] < -shape / 2).any() or (corners[1] > 1.5 * shape).any():
            size += ", far beyond the image"
        else:
            for axes in (image, heat):
                _limits(axes, shape, corners)
                for colour, style in (("white", "-"), (_HUES[0], "--")):
                    box = Rectangle((left - 0.5, top - 0.5), right - left + 1, bottom - top + 1)
                    axes.add_patch(box)
                    box.set(fill=False, ec=colour, ls=style, lw=1.8)
            keys = [_key("", _HUES[0], "theoretical receptive field", ls="--", lw=1.8)]
            figure.legend(handles=keys, loc="outside lower center", frameon=False, fontsize=9)
    _name(image, "lit: above 4.55% of the largest", size)
    _name(heat, "influence of each pixel", "mean of |derivative|; scale of square roots")
    figure.colorbar(drawn, ax=heat, label="share of the largest")
    return figure


# Figures and panels.


def _panels(count: int, columns: int, size: tuple[float, float], more: float) -> tuple[Any, Any]:
    """A figure with panels of a size, and room for what stands above and below them."""
    rows = -(-count // columns)
    figure = empty_figure(max(columns * size[0] + 0.8, 6.4), rows * size[1] + more)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for empty in panels[count:]:
        empty.set_axis_off()
    return figure, panels[:count]


def _title(figure: Any, text: str, shown: Sequence[Any], found: Any) -> None:
    if len(shown) < len(found.layers):
        text += f" ({len(shown)} of {len(found.layers)} layers)"
    figure.suptitle(text)


def _some(layers: Sequence[Any], most: int) -> list[Any]:
    """All layers, or so many from the first to the last at equal steps."""
    picked = np.linspace(0, len(layers) - 1, min(len(layers), most)).round().astype(int)
    return [layers[i] for i in picked]


def _liveliest(sums: np.ndarray) -> np.ndarray:
    """The groups whose sums differ most between positions, in their order."""
    spread = sums.std((0, 1))
    return np.sort(np.argsort(-spread, kind="stable")[:_GROUPS])


def _aspect(image: np.ndarray) -> float:
    """Width by height, within limits."""
    return float(np.clip(image.shape[1] / image.shape[0], 0.6, 1.8))


def _show_image(axes: Any, image: np.ndarray, faded: bool = False, lit: Any = None) -> None:
    """The image from its smallest to its largest value; in grey unless it has three channels."""
    low, high = float(image.min()), float(image.max())
    values = (image - low) / ((high - low) or 1.0)
    if values.shape[2] != 3:
        values = np.repeat(values.mean(2, keepdims=True), 3, axis=2)
    if faded:
        values = 1 - (1 - values) * 0.6
    if lit is not None:
        values = values * np.where(lit, 1, 0.35)[..., np.newaxis]
    axes.imshow(values)
    _bare(axes)


def _bare(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])


def _name(axes: Any, name: str, about: str) -> None:
    short = name if len(name) <= 36 else f"...{name[-33:]}"
    axes.set_title(f"{short}\n", fontsize=10, loc="left")
    axes.text(0, 1.015, about, transform=axes.transAxes, fontsize=8, color="#555555")


def _limits(axes: Any, shape: Sequence[int], points: np.ndarray) -> None:
    """Shows the whole image and, in grey, up to half of it around where points lie outside."""
    axes.set_facecolor("#e4e4e4")
    for size, values, limit in (
        (shape[1], points[:, 1], lambda low, high: axes.set_xlim(low, high)),
        (shape[0], points[:, 0], lambda low, high: axes.set_ylim(high, low)),
    ):
        low, high = min([-0.5, *(values - 1)]), max([size - 0.5, *(values + 1)])
        limit(max(low, -size / 2), min(high, 1.5 * size))


def _key(marker: str, colour: str, label: str, **style: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], **{"ls": "", "marker": marker, "color": colour, **style}, label=label)
