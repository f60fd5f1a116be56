"""Draws what the demo's layers have learned: taps, kernels, routing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv._compat import keras
from tfconv.demo.digits import CLASSES, Digits
from tfconv.demo.errors import needs
from tfconv.export.files import replacing

_DIGITS_SHOWN = (0, 3, 5, 8)
_POSITIONS = ((2, 2), (4, 4), (6, 3))  # row, column
_COLOURS = ("#d1495b", "#00798c", "#edae49")


def require_matplotlib() -> None:
    """Raises DemoError when Matplotlib is not installed."""
    with needs("matplotlib"):
        from matplotlib import figure  # noqa: F401


def draw(model: keras.Model, digits: Digits, folder: Path) -> list[Path]:
    """Writes the pictures into `folder` and returns their paths.

    Args:
        model: The trained network of `build_network`.
        digits: Its data; the pictures show held-out digits.
        folder: Where to write.

    Raises:
        DemoError: If Matplotlib is not installed.
    """
    images, labels = digits.test_images, digits.test_labels
    shown = images[[int(np.argmax(labels == digit)) for digit in _DIGITS_SHOWN]]
    pictures = {
        "deformable-taps.png": _taps(shown, *_offsets_and_masks(model, shown)),
        "involution-kernels.png": _kernels(shown[1:3], _involution_kernels(model, shown[1:3])),
        "condconv-routing.png": _routing(_routing_weights(model, images), labels),
    }
    paths = []
    for name, figure in pictures.items():
        with replacing(folder / name) as made:
            figure.savefig(made, dpi=130)
        paths.append(folder / name)
    return paths


# What the layers compute on the way.


def _input_of(model: keras.Model, name: str, images: np.ndarray) -> tf.Tensor:
    """What the layer of that name receives for `images`."""
    part = keras.Model(model.input, model.get_layer(name).input)
    return tf.convert_to_tensor(part(images, training=False))


def _offsets_and_masks(model: keras.Model, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets [N, H, W, taps, (dy, dx)] and masks [N, H, W, taps] of the deformable layer."""
    layer = model.get_layer("deformable")
    offsets, masks = layer.offsets_and_mask(_input_of(model, "deformable", images))
    return offsets.numpy().reshape(*masks.shape, 2), masks.numpy()


def _involution_kernels(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Kernels [N, H, W, groups, kh, kw] that the involution makes."""
    layer = model.get_layer("involution")
    kernels = layer.kernels(_input_of(model, "involution", images), training=False)
    return tf.reshape(kernels, [*kernels.shape[:3], -1, *layer.kernel_size]).numpy()


def _routing_weights(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Routing weights [N, experts] of the CondConv layer."""
    layer = model.get_layer("condconv")
    return layer.routing_weights(_input_of(model, "condconv", images)).numpy()


# The figures.


def _figure(width: float, height: float) -> Any:
    """An empty figure that needs no display."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _show_digit(axes: Any, image: np.ndarray) -> None:
    axes.imshow(image[..., 0], cmap="Greys", vmin=0, vmax=1.6)  # pale: points go on top
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlim(-1.5, 8.5)
    axes.set_ylim(8.5, -1.5)


def _taps(images: np.ndarray, offsets: np.ndarray, masks: np.ndarray) -> Any:
    figure = _figure(13, 4.6)
    figure.suptitle("DeformableConv2D: where the nine taps of three output pixels read")
    panels = figure.subplots(1, len(images))
    grid = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), -1).reshape(9, 2)
    for axes, digit, image, offset, mask in zip(panels, _DIGITS_SHOWN, images, offsets, masks):
        _show_digit(axes, image)
        axes.set_title(f"a {digit}", fontsize=11)
        for position, colour in zip(_POSITIONS, _COLOURS):
            plain = np.array(position) + grid
            moved = plain + offset[position]
            axes.plot(plain[:, 1], plain[:, 0], "o", mfc="none", mec=colour, ms=5, mew=0.8)
            for (y0, x0), (y1, x1) in zip(plain, moved):
                axes.plot([x0, x1], [y0, y1], "-", color=colour, lw=0.8)
            axes.scatter(
                moved[:, 1], moved[:, 0], s=90 * mask[position], color=colour, ec="white", lw=0.5,
                zorder=3,
            )  # fmt: skip
    from matplotlib.lines import Line2D

    style = {"ls": "", "marker": "o", "color": "#444444"}
    keys = [
        Line2D([], [], mfc="none", ms=5, label="a plain convolution's tap", **style),
        Line2D([], [], ms=4, label="moved by its offset; small: mask near 0", **style),
        Line2D([], [], ms=9, label="large: mask near 1", **style),
    ]
    keys += [
        Line2D([], [], ls="-", lw=3, color=colour, label=f"row {row}, column {column}")
        for (row, column), colour in zip(_POSITIONS, _COLOURS)
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=6, fontsize=9, frameon=False)
    return figure


def _kernels(images: np.ndarray, kernels: np.ndarray) -> Any:
    groups = kernels.shape[3]
    count = len(_POSITIONS)
    figure = _figure(13, 4.6)
    figure.suptitle("Involution2D: every pixel makes its own kernels, one for a group of channels")
    width = groups + 1
    ratios = [2.6, *[1] * groups] * len(images)
    grid = figure.add_gridspec(count, width * len(images), width_ratios=ratios)
    limit = max(float(np.abs(kernels[:, r, c]).max()) for r, c in _POSITIONS)
    panels = []
    for half, (digit, image, kernel) in enumerate(zip(_DIGITS_SHOWN[1:], images, kernels)):
        whole = figure.add_subplot(grid[:, half * width])
        panels.append(whole)
        _show_digit(whole, image)
        whole.set_title(f"a {digit}", fontsize=11)
        for i, ((row, column), colour) in enumerate(zip(_POSITIONS, _COLOURS)):
            whole.plot(column, row, "s", mfc="none", mec=colour, ms=14, mew=2.5)
            for group in range(groups):
                axes = figure.add_subplot(grid[i, half * width + 1 + group])
                panels.append(axes)
                drawn = axes.imshow(
                    kernel[row, column, group], cmap="RdBu_r", vmin=-limit, vmax=limit
                )
                axes.set_xticks([])
                axes.set_yticks([])
                for spine in axes.spines.values():
                    spine.set(color=colour, lw=2)
                if i == 0:
                    axes.set_title(f"group {group}", fontsize=10)
    figure.colorbar(drawn, ax=panels, label="weight of the tap", aspect=30, pad=0.02)
    return figure


def _routing(weights: np.ndarray, labels: np.ndarray) -> Any:
    means = np.stack([weights[labels == digit].mean(0) for digit in range(CLASSES)])
    figure = _figure(5.4, 6)
    axes = figure.subplots()
    drawn = axes.imshow(means, cmap="viridis", aspect="auto")
    middle = (means.min() + means.max()) / 2
    for (row, column), value in np.ndenumerate(means):
        colour = "white" if value < middle else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
    axes.set_title("CondConv2D: which digits use which expert")
    axes.set_xlabel("expert")
    axes.set_ylabel("digit")
    axes.set_xticks(range(means.shape[1]))
    axes.set_yticks(range(CLASSES))
    figure.colorbar(drawn, label="mean routing weight")
    return figure
