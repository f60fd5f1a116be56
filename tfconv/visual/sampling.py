"""Where deformable convolutions sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfconv.analysis import profile
from tfconv.layers.arguments import positive_int
from tfconv.layers.deformable_conv import DeformableConv2D
from tfconv.visual.calls import Call, as_batch, calls, chosen
from tfconv.visual.places import Places, as_positions, channels_first, field_of, spread


@dataclasses.dataclass(frozen=True, eq=False)
class LayerSamples:
    """Where one deformable convolution samples, for some of its outputs.

    Attributes:
        name: The layer's name.
        offsets: [Ho, Wo, offset groups, taps, 2]: how far each tap moves, as (dy, dx) in
            positions of the layer's input.
        masks: [Ho, Wo, offset groups, taps]: what samples are multiplied with; 1 if the layer is
            not modulated.
        positions: [P, 2]: the outputs (y, x) that were chosen.
        regular: [P, taps, 2]: pixels (y, x) of the image where a plain convolution would sample.
        points: [P, n, 2]: pixels where the layer samples, for all offset groups and taps. Through
            several layers, those of the first one.
        weights: [P, n]: the masks there; through several layers, their products.
    """

    name: str
    offsets: np.ndarray
    masks: np.ndarray
    positions: np.ndarray
    regular: np.ndarray
    points: np.ndarray
    weights: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class SamplingPoints:
    """What `sampling_points` gives.

    Attributes:
        model: The model's name.
        image: [H, W, C]: the image.
        pixels: [P, 2]: the pixels (y, x) that were asked for.
        levels: Through how many layers samples are followed.
        layers: A `LayerSamples` for each layer.
    """

    model: str
    image: np.ndarray
    pixels: np.ndarray
    levels: int
    layers: tuple[LayerSamples, ...]

    def plot(self, path: str | Path | None = None) -> Any:
        """Draws the samples over the image, coloured by their masks.

        Args:
            path: A file to write the picture to; its suffix says the format.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: If Matplotlib is not installed.
            ValueError: If ``path`` is no place for a file.
        """
        from tfconv.visual.plots import draw, draw_sampling

        return draw(draw_sampling, self, path)


def sampling_points(
    model: Any, image: Any, layer: Any = None, position: Any = None, *, levels: int = 1
) -> SamplingPoints:
    """Where deformable convolutions sample an image.

    A tap t of output p samples ``middle(p) + (t - centre + offset[p, t]) * stride``: ``middle(p)``
    is the pixel in the middle of what the output sees with offsets of zero, and ``stride`` the
    number of pixels between neighbouring positions of the layer's input. Where all outputs see
    the whole image, as behind a squeeze-excite, the map is spread evenly over it.

    Args:
        model: A Keras model whose one input is an image.
        image: [H, W, C] array, as the model takes it (with a batch axis of 1, too).
        layer: A `DeformableConv2D` or its name; None for all.
        position: A pixel (y, x) of the image, or several; the nearest outputs are taken. None for
            three on the diagonal.
        levels: Through how many deformable convolutions samples are followed: with 2, the samples
            are those of the outputs of the deformable convolution called before which are nearest
            to the samples of the first, and so on. Layers with fewer before them take those.

    Returns:
        `SamplingPoints`.

    Raises:
        NoSuchLayer: If there is no such layer.
        ValueError: If an argument is not what is described above.

    Source: Dai et al., Deformable Convolutional Networks, arXiv:1703.06211, figure 6.

    Example:
        >>> from tensorflow import keras
        >>> from tfconv.visual import sampling_points
        >>> model = keras.Sequential(
        ...     [keras.Input((8, 8, 1)), tfconv.DeformableConv2D(4, 3, padding="same")]
        ... )
        >>> shown = sampling_points(model, np.zeros([8, 8, 1]), position=(2, 5))
        >>> shown.layers[0].points[0, :4].tolist()  # before training
        [[1.0, 4.0], [1.0, 5.0], [1.0, 6.0], [2.0, 4.0]]
    """
    levels = positive_int(levels, "levels")
    batch = as_batch(model, image, "image", rank=4)[:1]
    shown = batch[0].transpose(1, 2, 0) if channels_first(model) else batch[0]
    pixels = as_positions(position, shown.shape[:2], spread(shown.shape[:2]))
    found = calls(model, batch, lambda each: isinstance(each, DeformableConv2D))
    asked = chosen(found, layer, model, "a deformable convolution")
    rows = profile(model, batch.shape[1:]).rows
    samplers = [_Sampler.of(call, field_of(rows, call), shown.shape[:2]) for call in found]
    made = []
    for call in asked:
        last = next(i for i, each in enumerate(found) if each is call) + 1
        made.append(_samples(call.name, samplers[max(last - levels, 0) : last], pixels))
    return SamplingPoints(model.name, shown, pixels, levels, tuple(made))


@dataclasses.dataclass(frozen=True, eq=False)
class _Sampler:
    """A deformable convolution: its moved taps, and where its outputs lie on the image."""

    offsets: np.ndarray
    masks: np.ndarray
    grid: np.ndarray  # [taps, 2]: taps from the window's middle, in pixels
    spacing: np.ndarray  # pixels between positions of its input
    places: Places

    @classmethod
    def of(cls, call: Call, field: Any, image: Sequence[int]) -> _Sampler:
        layer = call.layer
        offset, mask = call.given.get("offset"), call.given.get("modulation")
        if offset is None:
            offset, mask = layer.offsets_and_mask(call.cast_inputs)
        offset = call.channels_last(offset)
        sizes = offset.shape[:2]
        offset = offset.reshape(*sizes, -1, layer.geometry.taps, 2)
        mask = np.ones(offset.shape[:-1]) if mask is None else call.channels_last(mask)
        places = Places.of(field, sizes, image)
        spacing = places.stride / layer.strides
        axes = [
            (np.arange(n) - (n - 1) / 2) * dilation
            for n, dilation in zip(layer.kernel_size, layer.dilation_rate)
        ]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2) * spacing
        return cls(offset, mask.reshape(offset.shape[:-1]), grid, spacing, places)

    def samples(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels [n, 2] and masks [n] of an output's samples."""
        at = tuple(position)
        points = self.places.pixels(position) + self.grid + self.offsets[at] * self.spacing
        return points.reshape(-1, 2), self.masks[at].ravel()


def _samples(name: str, samplers: Sequence[_Sampler], pixels: np.ndarray) -> LayerSamples:
    """The samples of the last of some layers for its outputs at pixels, through the others."""
    last = samplers[-1]
    positions = last.places.nearest(pixels)
    points, weights = [], []
    for position in positions:
        reached, product = last.samples(position)
        for before in reversed(samplers[:-1]):
            parts = [before.samples(each) for each in before.places.nearest(reached)]
            product = np.concatenate([w * own for w, (_, own) in zip(product, parts)])
            reached = np.concatenate([part for part, _ in parts])
        points.append(reached)
        weights.append(product)
    return LayerSamples(
        name=name,
        offsets=last.offsets,
        masks=last.masks,
        positions=positions,
        regular=last.places.pixels(positions)[:, np.newaxis] + last.grid,
        points=np.stack(points),
        weights=np.stack(weights),
    )
