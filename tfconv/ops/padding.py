"""Pixels around an input that are not zeros: its own, mirrored, repeated, or from its other end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfconv.ops.checks import checked
from tfconv.ops.geometry import Geometry, spatial_sizes

MODES = ("zeros", "reflect", "replicate", "circular")
_MOST = {"reflect": -1, "circular": 0}  # pixels on a side, beyond the size; "replicate" has no end


def padded(x: tf.Tensor, geometry: Geometry, mode: str) -> tf.Tensor:
    """``x`` with the pixels around it that a geometry's padding asks for, on all sides at once.

    Along an axis of the pixels a b c d, two on both sides are, as in PyTorch:

    | mode | |
    |---|---|
    | "reflect" | c b **a b c d** c b |
    | "replicate" | a a **a b c d** d d |
    | "circular" | c d **a b c d** a b |

    Args:
        x: [N, *spatial, C] tensor.
        geometry: Where the taps fall; with what this gives, its padding is "valid".
        mode: One of the above.

    Raises:
        ValueError: If ``x`` has too few pixels: "reflect" needs more than it puts on a side,
            "circular" as many.
        tf.errors.InvalidArgumentError: The same, where the sizes are not known before.
    """
    sizes = spatial_sizes(x)
    check_sizes(geometry, mode, x.shape.as_list()[1:-1])
    amounts = geometry.pad_amounts(sizes)
    x = _sufficient(x, sizes, amounts, mode)
    if mode == "reflect":
        return tf.pad(x, [[0, 0], *[list(pair) for pair in amounts], [0, 0]], "REFLECT")
    static = x.shape.as_list()
    for axis, (size, pads) in enumerate(zip(sizes, amounts), start=1):
        before, after = _beside(x, axis, size, pads, mode)
        x = tf.concat([*before, x, *after], axis)
        static[axis] = size + sum(pads) if isinstance(size, int) else None
    x.set_shape(static)  # which slices of unknown sizes lose
    return x


def check_sizes(geometry: Geometry, mode: str, sizes: Sequence[int | None]) -> None:
    """Raises ValueError if sizes, as far as they are known, are too small for a mode."""
    if mode not in _MOST:
        return
    known = [1 if size is None else size for size in sizes]
    for axis, pads in enumerate(geometry.pad_amounts(known)):
        if sizes[axis] is not None and max(pads) > sizes[axis] + _MOST[mode]:
            raise ValueError(
                f'`padding_mode` "{mode}" cannot put {max(pads)} pixels beside the '
                f"{sizes[axis]} along spatial axis {axis}. Received: padding {pads}, "
                f"kernel_size={geometry.kernel_size}, dilation_rate={geometry.dilation_rate}"
            )


def _sufficient(x: tf.Tensor, sizes: Sequence[Any], amounts: Any, mode: str) -> tf.Tensor:
    """``x``, whose use raises unless sizes that were not known have enough pixels."""
    unknown = [
        (size, amount)
        for size, pads in zip(sizes, amounts)
        for amount in pads
        if not isinstance(size, int) and _any(amount)
    ]
    if mode not in _MOST or not unknown:
        return x
    holds = [size + _MOST[mode] >= amount for size, amount in unknown]
    message = f'`padding_mode` "{mode}" puts more pixels beside the input than it has. Received: '
    return checked(x, tf.reduce_all(tf.stack(holds)), f"{message}spatial sizes", tf.shape(x)[1:-1])


def _beside(
    x: tf.Tensor, axis: int, size: Any, pads: tuple[Any, Any], mode: str
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """What "replicate" or "circular" puts before and after ``x`` along an axis."""
    before, after = pads
    if mode == "circular":
        begins = (size - before, 0)
        return tuple([_part(x, axis, b, n)] if _any(n) else [] for b, n in zip(begins, pads))
    edges = ((0, before), (size - 1, after))
    return tuple([_tiled(_part(x, axis, b, 1), axis, n)] if _any(n) else [] for b, n in edges)


def _any(count: Any) -> bool:
    return not isinstance(count, int) or count > 0


def _part(x: tf.Tensor, axis: int, begin: Any, count: Any) -> tf.Tensor:
    """``count`` pixels along an axis, from ``begin`` on."""
    others = x.shape.rank - axis - 1
    return tf.slice(x, [0] * axis + [begin] + [0] * others, [-1] * axis + [count] + [-1] * others)


def _tiled(x: tf.Tensor, axis: int, count: Any) -> tf.Tensor:
    return tf.tile(x, [1] * axis + [count] + [1] * (x.shape.rank - axis - 1))
