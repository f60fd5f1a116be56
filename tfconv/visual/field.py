"""What an output really sees."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv import ops
from tfconv._compat import all_layers, keras
from tfconv.analysis import profile
from tfconv.layers.arguments import positive_int
from tfconv.visual.calls import Call, as_batch, calls, chosen
from tfconv.visual.places import Places, as_positions, channels_first, field_of

_AT_ONCE = 8  # images that gradients are computed for
_SEEN = 1 - 0.9545  # share of the largest influence from which on a pixel counts, as in the paper


@dataclasses.dataclass(frozen=True, eq=False)
class EffectiveField:
    """What `effective_receptive_field` gives.

    Attributes:
        model: The model's name.
        name: The layer's name.
        image: [H, W, C]: the first image.
        position: The output (y, x).
        influence: [H, W]: how much the output changes with each pixel, averaged.
        bounds: First and last pixel along both axes, ``((y0, y1), (x0, x1))``, of the theoretical
            receptive field; it may reach beyond the image. None if it is not known.
    """

    model: str
    name: str
    image: np.ndarray
    position: tuple[int, int]
    influence: np.ndarray
    bounds: tuple[tuple[int, int], tuple[int, int]] | None

    @property
    def seen(self) -> np.ndarray:
        """[H, W]: the pixels whose influence is above 4.55% of the largest."""
        return self.influence > _SEEN * self.influence.max()

    @property
    def size(self) -> float:
        """The effective size: the side of a square with as many pixels as are `seen`."""
        return float(np.sqrt(self.seen.sum()))

    @property
    def theoretical_size(self) -> float | None:
        """The same of the theoretical field: the side of a square with as many pixels."""
        if self.bounds is None:
            return None
        return float(np.sqrt(np.prod([last - first + 1 for first, last in self.bounds])))

    def plot(self, path: str | Path | None = None) -> Any:
        """Draws the influence of the pixels, beside the image with the theoretical field.

        Args:
            path: A file to write the picture to; its suffix says the format.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: If Matplotlib is not installed.
            ValueError: If ``path`` is no place for a file.
        """
        from tfconv.visual.plots import draw, draw_field

        return draw(draw_field, self, path)


def effective_receptive_field(
    model: Any, images: Any, layer: Any = None, position: Any = None, *, draws: int = 8
) -> EffectiveField:
    """How much an output of a layer changes with each pixel of the image.

    ``influence[q] = mean over images and g of sum_c |d (sum_f g[f] y[p, f]) / d x[q, c]|`` for
    random g from the normal distribution: up to a factor, the norm of the derivatives of all
    channels f of the output p. Its theoretical field holds every pixel that can have an influence;
    the effective one is most often much smaller. Deformable convolutions count with offsets of
    zero in the theoretical field, so that their effective one can leave it.

    Args:
        model: A Keras model whose one input is an image.
        images: [N, H, W, C] array, as the model takes it, or one image.
        layer: A layer that makes a map, or its name; None for the last one of more than one
            position.
        position: The pixel (y, x) of the image nearest to whose place the output is taken; None
            for the image's middle.
        draws: Random directions g for each image.

    Returns:
        `EffectiveField`.

    Raises:
        NoSuchLayer: If there is no such layer.
        ValueError: If an argument is not what is described above, or the output does not depend
            on the image by derivatives.

    Source: Luo et al., Understanding the Effective Receptive Field in Deep Convolutional Neural
    Networks, arXiv:1701.04128, section 3.

    Example:
        >>> from tensorflow import keras
        >>> from tfconv.visual import effective_receptive_field
        >>> layers = [tfconv.Conv2D(4, 3, padding="same") for _ in range(3)]
        >>> model = keras.Sequential([keras.Input((16, 16, 3)), *layers])
        >>> shown = effective_receptive_field(model, np.ones([16, 16, 3]))
        >>> shown.bounds, bool(shown.size < 7)
        (((5, 11), (5, 11)), True)
    """
    draws = positive_int(draws, "draws")
    batch = as_batch(model, images, "images", rank=4)
    first = channels_first(model)
    shown = batch[0].transpose(1, 2, 0) if first else batch[0]
    sizes = shown.shape[:2]
    pixel = as_positions(position, sizes, [(sizes[0] // 2, sizes[1] // 2)])[0]
    rows = profile(model, batch.shape[1:]).rows
    rng = np.random.default_rng(0)
    influence = np.zeros(sizes)
    for start in range(0, len(batch), _AT_ONCE):
        x = tf.constant(batch[start : start + _AT_ONCE])
        with _sliced_first(model), tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            call = _asked(calls(model, x, lambda each: True), layer, model, first)
            y = _channels_last(call, first)
            field = field_of(rows, call)
            at = Places.of(field, y.shape[1:3], sizes).nearest(pixel)
            outputs = y[:, at[0], at[1]]
            sums = [
                tf.reduce_sum(outputs * tf.constant(rng.normal(size=outputs.shape), y.dtype))
                for _ in range(draws)
            ]
        for each in sums:
            gradient = tape.gradient(each, x)
            if gradient is None:
                raise ValueError(
                    "`layer` must make something that depends on the image by derivatives. "
                    f"Received: layer={call.name!r}"
                )
            influence += tf.reduce_sum(tf.abs(gradient), [0, 1 if first else 3]).numpy()
    bounds = field and tuple(axis.at(int(p)) for axis, p in zip(field.axes, at))
    return EffectiveField(
        model=model.name,
        name=call.name,
        image=shown,
        position=(int(at[0]), int(at[1])),
        influence=influence / (len(batch) * draws),
        bounds=bounds if bounds and None not in bounds else None,
    )


def _asked(found: list[Call], layer: Any, model: Any, first: bool) -> Call:
    """The layer's call or, for None, the last one that makes a map of several positions."""
    maps = [call for call in found if _is_map(call.outputs)]
    if layer is None:
        maps = [call for call in maps if max(_channels_last(call, first).shape[1:3]) > 1]
    return chosen(maps, layer, model, "one that makes a map")[-1]


def _is_map(x: tf.Tensor) -> bool:
    return x.shape.rank == 4 and x.dtype.is_floating


def _channels_last(call: Call, first: bool) -> tf.Tensor:
    data_format = getattr(call.layer, "data_format", None)
    first = first if data_format is None else data_format == "channels_first"
    return tf.transpose(call.outputs, [0, 2, 3, 1]) if first else call.outputs


@contextlib.contextmanager
def _sliced_first(model: Any) -> Iterator[None]:
    """Has strided 1x1 convolutions of Keras leave pixels out before they convolve.

    In TensorFlow 2.21 with oneDNN, the gradient of theirs may end the process (see `ops.conv`).
    """
    hook = keras.layers.Conv2D.convolution_op
    changed = [
        layer
        for layer in all_layers(model)
        if getattr(type(layer), "convolution_op", None) is hook
        and set(layer.kernel_size) == {1}
        and max(layer.strides) > 1
    ]
    for layer in changed:  # past Keras, which would track it
        vars(layer)["convolution_op"] = functools.partial(
            ops.conv,
            strides=layer.strides,
            padding=layer.padding,
            groups=layer.groups,
            data_format=layer.data_format,
        )
    try:
        yield
    finally:
        for layer in changed:
            del vars(layer)["convolution_op"]
