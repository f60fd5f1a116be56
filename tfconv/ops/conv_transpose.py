"""Transposed convolution with every padding, groups, dilation and output padding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfconv import _compat
from tfconv.ops.channels import in_channels_last
from tfconv.ops.checks import sufficient
from tfconv.ops.conv import (
    MOST_GROUPS_APART,
    TENSORFLOW_FORMATS,
    accumulated_in_float32,
    conv,
)
from tfconv.ops.dispatch import invalid_argument, with_an_example
from tfconv.ops.geometry import (
    Geometry,
    Padding,
    per_axis,
    spatial_sizes,
    standardized_padding,
)
from tfconv.ops.phases import Crops, by_phases, has_phases, padded_or_cropped


@tf.autograph.experimental.do_not_convert  # nothing to convert, and tracing stays fast
def conv_transpose(
    x: tf.Tensor,
    kernel: tf.Tensor,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "valid",
    output_padding: int | Sequence[int] | None = None,
    dilation_rate: int | Sequence[int] = 1,
    groups: int = 1,
    data_format: str | None = None,
) -> tf.Tensor:
    """Transposed convolution ("deconvolution") of one to three spatial axes.

    ``y[n, i, f] = sum kernel[t, f, c] * x[n, p, c]`` over all pixels p, taps t and channels c of
    f's group with ``p * strides + t * dilation = i + before``. Each pixel paints the kernel,
    the paintings add up, and of the whole picture, ``(n - 1) * strides + e`` pixels along an
    axis with ``e = (k - 1) * dilation + 1``, the paddings say what is cut off:

    | padding | cut off before | output size | ... with ``output_padding`` |
    |---|---|---|---|
    | "valid" | 0 | ``(n - 1) * s + max(e, s)`` | ``(n - 1) * s + e + o`` |
    | "same" | half of what is too much | ``n * s`` | ``(n - 1) * s + e % 2 + o`` |
    | "full" | ``e - 1`` | ``(n - 1) * s - e + 2`` | ``(n - 1) * s - e + 2 + o`` |
    | "causal" | 0: no output depends on later pixels | ``n * s`` | ``(n - 1) * s + 1 + o`` |
    | (before, after) | ``before`` | ``(n - 1) * s + e - before - after`` | the same ``+ o`` |

    So it is the gradient of `conv` (with the same padding, except for "causal") for its input.
    "valid" and "same" give the sizes that Keras gives, and ints and pairs those of PyTorch.

    Args:
        x: [N, *spatial, C] tensor.
        kernel: [*kernel_size, filters / groups, C] tensor.
        strides: Outputs between neighbouring pixels.
        padding: "valid", "same", "full", "causal" (one spatial axis), an int, or one
            (before, after) pair per spatial axis.
        output_padding: Outputs added after the last ones, below the larger of stride and
            dilation; an int or one int per axis. None: see the table (0 for "full", ints and
            pairs).
        dilation_rate: Outputs between neighbouring taps.
        groups: Groups of channels, and of filters, that see only each other.
        data_format: "channels_last" or "channels_first", which holds for ``x`` and the result;
            None takes Keras's setting.

    Returns:
        [N, *output spatial, filters] tensor of ``x``'s type.

    Raises:
        ValueError: If an argument is not what is described above, or nothing would be left.
        tf.errors.InvalidArgumentError: If the shapes do not fit each other.

    Source: Dumoulin and Visin, A guide to convolution arithmetic for deep learning,
    arXiv:1603.07285, section 4.

    Example:
        >>> x, kernel = tf.ones([1, 4, 4, 2]), tf.ones([3, 3, 5, 2])
        >>> tfconv.ops.conv_transpose(x, kernel, strides=2, padding="same").shape
        TensorShape([1, 8, 8, 5])
    """
    x = tf.convert_to_tensor(x)
    kernel = tf.convert_to_tensor(kernel, dtype=x.dtype)
    if x.shape.rank not in (3, 4, 5) or kernel.shape.rank != x.shape.rank:
        raise invalid_argument(
            "conv_transpose needs x of rank 3 to 5 and a kernel of the same rank. "
            f"Received: x of shape {x.shape}, kernel of shape {kernel.shape}"
        )
    rank = x.shape.rank - 2
    size = kernel.shape.as_list()[:rank]
    geometry = Geometry.of(size, strides, padding, dilation_rate, rank)
    crops = transposed_crops(geometry, padding, output_padding)

    def channels_last(x):
        channels, width, given = x.shape[-1], *kernel.shape[-2:]
        known = channels and width and channels == given
        if not known or groups < 1 or channels % groups:
            raise invalid_argument(
                f"conv_transpose: kernel of shape {kernel.shape} does not fit x of shape "
                f"{x.shape} in {groups} groups"
            )
        output = transposed_shape(geometry, crops, x.shape.as_list()[1:-1])
        form = _form(geometry, groups)

        def convolved(x):
            return accumulated_in_float32(
                lambda x, k: form(x, k, geometry, crops, groups), x, kernel
            )

        least = [1 + max(-(-(1 - kept) // s), 0) for s, (_, kept) in zip(geometry.strides, crops)]
        message = (
            f"conv_transpose: `kernel_size` {geometry.kernel_size} with padding={padding!r} needs "
            f"an input of at least {tuple(least)} pixels. Received: spatial sizes"
        )
        x = sufficient(x, least, message)
        y = with_an_example(lambda x: _with_pixels(convolved, x, geometry, crops), x)
        y.set_shape([x.shape[0], *output, width * groups])
        return y

    return in_channels_last(channels_last, data_format, x)


def transposed_crops(
    geometry: Geometry, padding: Padding, output_padding: int | Sequence[int] | None
) -> tuple[tuple[int, int], ...]:
    """Per spatial axis, (before, kept): outputs cut off at first, and how many are kept.

    The output size is ``(n - 1) * stride + kept``.

    Raises:
        ValueError: If ``output_padding`` is none, or not below stride and dilation.
    """
    padding = standardized_padding(padding, geometry.rank)
    if output_padding is None:
        more = (None,) * geometry.rank
    else:
        more = per_axis(output_padding, geometry.rank, "output_padding", minimum=0)
    crops = []
    for axis, (stride, dilation, extent, extra) in enumerate(
        zip(geometry.strides, geometry.dilation_rate, geometry.extent, more)
    ):
        if extra is not None and extra >= max(stride, dilation):
            raise ValueError(
                "`output_padding` must be below the stride or the dilation. Received: "
                f"output_padding={output_padding}, strides={geometry.strides}, "
                f"dilation_rate={geometry.dilation_rate}"
            )
        if padding == "valid":
            crops.append((0, max(extent, stride) if extra is None else extent + extra))
        elif padding == "same":
            kept = stride if extra is None else extent % 2 + extra
            crops.append((max(extent - kept, 0) // 2, kept))
        elif padding == "causal":
            crops.append((0, stride if extra is None else 1 + extra))
        else:
            before, after = geometry.pads[axis]  # type: ignore[index]
            crops.append((before, extent - before - after + (extra or 0)))
    return tuple(crops)


def transposed_shape(
    geometry: Geometry, crops: Sequence[tuple[int, int]], spatial: Sequence[int | None]
) -> tuple[int | None, ...]:
    """Spatial output shape for a spatial input shape, either of which may hold None.

    Raises:
        ValueError: If no output is left.
    """
    sizes = tuple(
        None if size is None else (size - 1) * stride + kept
        for size, stride, (_, kept) in zip(spatial, geometry.strides, crops)
    )
    for axis, size in enumerate(sizes):
        if size is not None and size < min(spatial[axis], 1):  # of no pixels, none may be made
            raise ValueError(
                f"The `padding` leaves no output along spatial axis {axis}. Received: size "
                f"{spatial[axis]} with kernel_size={geometry.kernel_size}, "
                f"strides={geometry.strides}, dilation_rate={geometry.dilation_rate}"
            )
    return sizes


def _form(geometry: Geometry, groups: int) -> Callable[..., tf.Tensor]:
    """The fastest formulation that has gradients on every device and converts everywhere.

    TensorFlow's transposed convolution knows no groups, and no dilation on CPU. Of one tap, it is
    the gradient of a strided 1x1 convolution, which corrupts memory (see `conv`).
    """
    if _compat.tracing_for_tflite() and has_phases(geometry):
        return by_phases
    if max(geometry.dilation_rate) > 1 or max(geometry.strides) == 1:
        return _by_stuffing
    exported = _compat.tracing_for_export()
    if geometry.taps == 1 and (not exported or _compat.tracing_for_tflite()):
        return _by_stuffing
    if groups == 1:
        return _stock if geometry.rank < 3 or not exported else _by_stuffing
    return _by_stuffing if exported or groups > MOST_GROUPS_APART else _by_groups


def _with_pixels(
    function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor, geometry: Geometry, crops: Crops
) -> tf.Tensor:
    """``function(x)``; along axes without pixels, of a zero, and what it makes is left out again.

    For none, TensorFlow's convolutions in oneDNN give a tensor of x's shape.
    """
    exported, axes = _compat.tracing_for_export(), enumerate(x.shape.as_list()[1:-1], start=1)
    empty = [axis for axis, n in axes if n == 0 or (n is None and not exported)]
    if not empty:
        return function(x)
    sizes, more, output = tf.shape(x), [[0, 0] for _ in range(x.shape.rank)], [-1] * x.shape.rank
    for axis in empty:
        stride, (_, kept) = geometry.strides[axis - 1], crops[axis - 1]
        more[axis] = [0, tf.maximum(1 - sizes[axis], 0)]
        output[axis] = tf.maximum((sizes[axis] - 1) * stride + kept, 0)
    # As in `with_an_example`, not what oneDNN makes a part of the convolution.
    zero = tf.zeros([], x.dtype)
    padded = tf.raw_ops.PadV2(input=x, paddings=tf.stack(more), constant_values=zero)
    padded.set_shape([None if i in empty else n for i, n in enumerate(x.shape.as_list())])
    y = tf.convert_to_tensor(function(padded))
    cut = tf.slice(y, [0] * y.shape.rank, tf.stack(output))
    cut.set_shape([None if i in empty else n for i, n in enumerate(y.shape.as_list())])
    return cut


def _stock(
    x: tf.Tensor, kernel: tf.Tensor, geometry: Geometry, crops: Crops, groups: int = 1
) -> tf.Tensor:
    """TensorFlow's own transposed convolution, whole, then cut."""
    sizes = [
        (n - 1) * stride + extent
        for n, stride, extent in zip(spatial_sizes(x), geometry.strides, geometry.extent)
    ]
    y = tf.nn.conv_transpose(
        x,
        kernel,
        output_shape=tf.stack([tf.shape(x)[0], *sizes, kernel.shape[-2]]),
        strides=geometry.strides,
        padding="VALID",
        data_format=TENSORFLOW_FORMATS[geometry.rank],
    )
    extents = zip(geometry.extent, crops)
    return padded_or_cropped(y, [(-before, before + kept - e) for e, (before, kept) in extents])


def _by_groups(
    x: tf.Tensor, kernel: tf.Tensor, geometry: Geometry, crops: Crops, groups: int
) -> tf.Tensor:
    """A transposed convolution for each group."""
    parts = zip(tf.split(x, groups, axis=-1), tf.split(kernel, groups, axis=-1))
    return tf.concat([_stock(part, weights, geometry, crops) for part, weights in parts], axis=-1)


def _by_stuffing(
    x: tf.Tensor, kernel: tf.Tensor, geometry: Geometry, crops: Crops, groups: int
) -> tf.Tensor:
    """Zeros between the pixels, and a convolution with the flipped kernel."""
    amounts = []
    for stride, extent, (before, kept) in zip(geometry.strides, geometry.extent, crops):
        # Of zeros, each pixel is followed by stride - 1.
        amounts.append((extent - 1 - before, kept + before - stride))
    arguments = {"groups": groups, "data_format": "channels_last"}
    if geometry.taps == 1:  # of the zeros, nothing is to be computed
        y = conv(x, _flipped(kernel, groups), **arguments)
        return padded_or_cropped(_stuffed(y, geometry.strides), amounts)
    return conv(
        padded_or_cropped(_stuffed(x, geometry.strides), amounts),
        _flipped(kernel, groups),
        dilation_rate=geometry.dilation_rate,
        **arguments,
    )


def _stuffed(x: tf.Tensor, strides: Sequence[int]) -> tf.Tensor:
    """``stride - 1`` zeros after every pixel, axis by axis, on tensors of three dimensions."""
    sizes: list[Any] = [*spatial_sizes(x), x.shape[-1]]
    for axis, stride in enumerate(strides):
        if stride == 1:
            continue
        after: Any = 1
        for size in sizes[axis + 1 :]:
            after = after * size
        x = tf.pad(tf.reshape(x, [-1, 1, after]), [[0, 0], [0, stride - 1], [0, 0]])
        sizes[axis] = sizes[axis] * stride
        x = tf.reshape(x, [-1, *sizes])
    return x


def _flipped(kernel: tf.Tensor, groups: int) -> tf.Tensor:
    """[*k, F / groups, C] -> [*k, C / groups, F], with its taps in the reverse order."""
    *size, width, channels = kernel.shape.as_list()
    taps = math.prod(size)
    kernel = tf.reshape(kernel, [taps, width, groups, channels // groups])
    kernel = tf.transpose(tf.reverse(kernel, axis=[0]), [0, 3, 2, 1])
    return tf.reshape(kernel, [*size, channels // groups, groups * width])
