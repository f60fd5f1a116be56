"""The kernels that involutions make."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from tfconv.analysis import profile
from tfconv.layers.involution import Involution
from tfconv.visual.calls import Call, as_batch, calls, chosen
from tfconv.visual.places import Places, as_positions, channels_first, field_of, spread


@dataclasses.dataclass(frozen=True, eq=False)
class LayerKernels:
    """The kernels that one involution makes for an image.

    Attributes:
        name: The layer's name.
        kernels: [Ho, Wo, groups, kh, kw]: a kernel for each output and group of channels.
        positions: [P, 2]: the outputs (y, x) that were chosen.
    """

    name: str
    kernels: np.ndarray
    positions: np.ndarray

    @property
    def sums(self) -> np.ndarray:
        """[Ho, Wo, groups]: the sum of each kernel's weights, as in the paper's figure."""
        return self.kernels.sum((-2, -1))

    @property
    def chosen(self) -> np.ndarray:
        """[P, groups, kh, kw]: the kernels of the outputs that were chosen."""
        return self.kernels[tuple(self.positions.T)]


@dataclasses.dataclass(frozen=True, eq=False)
class InvolutionKernels:
    """What `involution_kernels` gives.

    Attributes:
        model: The model's name.
        image: [H, W, C]: the image.
        pixels: [P, 2]: the pixels (y, x) that were asked for.
        layers: A `LayerKernels` for each layer.
    """

    model: str
    image: np.ndarray
    pixels: np.ndarray
    layers: tuple[LayerKernels, ...]

    def plot(self, path: str | Path | None = None) -> Any:
        """Draws the kernels' sums as maps and, below them, the chosen kernels.

        Of many groups, those are shown whose sums differ most between positions.

        Args:
            path: A file to write the picture to; its suffix says the format.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: If Matplotlib is not installed.
            ValueError: If ``path`` is no place for a file.
        """
        from tfconv.visual.plots import draw, draw_kernels

        return draw(draw_kernels, self, path)


def involution_kernels(
    model: Any, image: Any, layer: Any = None, position: Any = None
) -> InvolutionKernels:
    """The kernels that involutions make for an image, position by position.

    Args:
        model: A Keras model whose one input is an image.
        image: [H, W, C] array, as the model takes it (with a batch axis of 1, too).
        layer: An `Involution2D` or its name; None for all.
        position: A pixel (y, x) of the image, or several; the nearest outputs are taken. None for
            three on the diagonal.

    Returns:
        `InvolutionKernels`.

    Raises:
        NoSuchLayer: If there is no such layer.
        ValueError: If an argument is not what is described above.

    Source: Li et al., Involution, arXiv:2103.06255, figure 4.

    Example:
        >>> from tensorflow import keras
        >>> from tfconv.visual import involution_kernels
        >>> model = keras.Sequential(
        ...     [keras.Input((8, 8, 4)), tfconv.Involution2D(3, groups=2, strides=2)]
        ... )
        >>> shown = involution_kernels(model, np.zeros([8, 8, 4]), position=(6, 6))
        >>> shown.layers[0].kernels.shape, shown.layers[0].positions.tolist()
        ((4, 4, 2, 3, 3), [[3, 3]])
    """
    batch = as_batch(model, image, "image", rank=4)[:1]
    shown = batch[0].transpose(1, 2, 0) if channels_first(model) else batch[0]
    pixels = as_positions(position, shown.shape[:2], spread(shown.shape[:2]))
    found = calls(model, batch, lambda each: isinstance(each, Involution) and each.rank == 2)
    found = chosen(found, layer, model, "an involution of images")
    rows = profile(model, batch.shape[1:]).rows
    made = []
    for call in found:
        kernels = _kernels(call)
        places = Places.of(field_of(rows, call), kernels.shape[:2], shown.shape[:2])
        made.append(LayerKernels(call.name, kernels, places.nearest(pixels)))
    return InvolutionKernels(model.name, shown, pixels, tuple(made))


def _kernels(call: Call) -> np.ndarray:
    kernels = call.channels_last(call.layer.kernels(call.cast_inputs, training=False))
    return kernels.reshape(*kernels.shape[:2], -1, *call.layer.kernel_size)
