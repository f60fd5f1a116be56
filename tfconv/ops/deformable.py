"""Deformable sampling and convolution: taps that move by learned offsets."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv import _compat
from tfconv.ops import native
from tfconv.ops.channels import in_channels_last, to_last
from tfconv.ops.checks import fitting, of_sizes
from tfconv.ops.dispatch import dispatch, in_float32, invalid_argument, is_wanted, second_order
from tfconv.ops.geometry import Geometry, Padding, output_sizes, spatial_sizes
from tfconv.ops.windows import product


@tf.autograph.experimental.do_not_convert  # nothing to convert, and tracing stays fast
def deformable_sample(
    x: tf.Tensor,
    offset: tf.Tensor,
    mask: tf.Tensor | None = None,
    *,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: Padding = "same",
    dilation_rate: int | Sequence[int] = 1,
    data_format: str | None = None,
) -> tf.Tensor:
    """Pixels under the taps of a kernel, each tap moved by an offset of its own.

    ``s[n, p, t, c] = mask[n, p, o(c), t] * bilinear(x[n, :, :, c], p * strides - pad +
    t * dilation + offset[n, p, o(c), t])``: bilinear interpolation in which every one of the
    four corners that lies outside the image counts as zero. A NaN coordinate gives NaN for that
    sample; an infinite one lies outside.

    Args:
        x: [N, H, W, C] tensor; float16, bfloat16, float32 or float64.
        offset: [N, Ho, Wo, OG * kh * kw * 2] tensor in pixels, index
            ``(o * kh * kw + tap) * 2 + {0: dy, 1: dx}``; OG offset groups must divide C.
        mask: Optional modulation, [N, Ho, Wo, OG * kh * kw].
        kernel_size: Taps per spatial axis; an int or two ints.
        strides: Pixels between neighbouring outputs.
        padding: "valid", "same", "full", an int, or two (before, after) pairs.
        dilation_rate: Pixels between neighbouring taps.
        data_format: "channels_last" or "channels_first", which holds for ``x``, ``offset`` and
            ``mask``; None takes Keras's setting.

    Returns:
        [N, Ho, Wo, kh * kw, C] tensor of ``x``'s type, in either data format.

    Raises:
        ValueError: If an argument is not what is described above.
        tf.errors.InvalidArgumentError: If the shapes do not fit each other.

    Source: Dai et al., Deformable Convolutional Networks, arXiv:1703.06211, equations 2-4;
    modulation: Zhu et al., Deformable ConvNets v2, arXiv:1811.11168, equation 1.

    Example:
        >>> x = tf.reshape(tf.range(9.0), [1, 3, 3, 1])
        >>> half_down = tf.constant([0.5, 0.0], shape=[1, 1, 1, 2]) * tf.ones([1, 3, 3, 1])
        >>> tfconv.ops.deformable_sample(x, half_down, kernel_size=1)[0, :, 0, 0, 0].numpy()
        array([1.5, 4.5, 3. ], dtype=float32)
    """
    geometry = Geometry.of(kernel_size, strides, padding, dilation_rate, rank=2)
    tensors = _converted(x, offset, mask)
    if _compat.standardized_data_format(data_format) == "channels_first":
        tensors = [None if t is None else to_last(t) for t in tensors]
    x, offset, mask = tensors
    _check(x, offset, mask, geometry)
    x = fitting(x, geometry, "deformable_sample")

    def call(module):
        return module.tfconv_deformable_sample(
            x=x, offset=offset, mask=_listed(mask), **geometry.attributes()
        )

    return dispatch(
        call,
        lambda: in_float32(lambda *t: _portable_sample(*t, geometry=geometry), x, offset, mask),
        x,
    )


@tf.autograph.experimental.do_not_convert  # nothing to convert, and tracing stays fast
def deformable_conv2d(
    x: tf.Tensor,
    offset: tf.Tensor,
    kernel: tf.Tensor,
    mask: tf.Tensor | None = None,
    bias: tf.Tensor | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "same",
    dilation_rate: int | Sequence[int] = 1,
    data_format: str | None = None,
) -> tf.Tensor:
    """Deformable convolution, version 1 (no mask) and 2 (with one).

    ``y[n, p, f] = bias[f] + sum_{t, c} kernel[t, c, f] * s[n, p, t, c]`` with the samples ``s``
    of `deformable_sample`, over the channels c of f's group.

    Args:
        x: [N, H, W, C] tensor; float16, bfloat16, float32 or float64.
        offset: [N, Ho, Wo, OG * kh * kw * 2] tensor in pixels (see `deformable_sample`).
        kernel: [kh, kw, C / groups, filters] tensor; the shapes say how many groups there are.
        mask: Optional modulation, [N, Ho, Wo, OG * kh * kw].
        bias: Optional [filters] tensor.
        strides: Pixels between neighbouring outputs.
        padding: "valid", "same", "full", an int, or two (before, after) pairs.
        dilation_rate: Pixels between neighbouring taps.
        data_format: "channels_last" or "channels_first", which holds for ``x``, ``offset``,
            ``mask`` and the result; None takes Keras's setting.

    Returns:
        [N, Ho, Wo, filters] tensor of ``x``'s type.

    Raises:
        ValueError: If an argument is not what is described above.
        tf.errors.InvalidArgumentError: If the shapes do not fit each other.

    Source: arXiv:1703.06211, equations 2-4; arXiv:1811.11168, equation 1.

    Example:
        >>> x, kernel = tf.ones([1, 5, 5, 3]), tf.ones([3, 3, 3, 8])
        >>> offset = tf.zeros([1, 5, 5, 3 * 3 * 2])
        >>> tfconv.ops.deformable_conv2d(x, offset, kernel)[0, 2, 2, :2].numpy()
        array([27., 27.], dtype=float32)
    """
    x, offset, mask = _converted(x, offset, mask)
    kernel = tf.convert_to_tensor(kernel, dtype=x.dtype)
    if kernel.shape.rank != 4 or not kernel.shape.is_fully_defined():
        raise invalid_argument(
            "deformable_conv2d needs a kernel of known shape [kh, kw, C / groups, filters]. "
            f"Received: kernel of shape {kernel.shape}"
        )
    geometry = Geometry.of(kernel.shape[:2].as_list(), strides, padding, dilation_rate, rank=2)
    attributes = geometry.attributes()
    del attributes["kernel_size"]

    def channels_last(x, offset, mask):
        _check(x, offset, mask, geometry)
        x = fitting(x, geometry, "deformable_conv2d")
        channels, filters = x.shape[-1], kernel.shape[3]
        width = kernel.shape[2]
        if width == 0 or channels % width or filters % (channels // width):
            raise invalid_argument(
                f"deformable_conv2d: kernel of shape {kernel.shape} does not fit x of shape "
                f"{x.shape}: its third size must divide the {channels} channels into groups, "
                f"whose number must divide the {filters} filters"
            )
        y = dispatch(
            lambda module: module.tfconv_deformable_conv(
                x=x, offset=offset, filter=kernel, mask=_listed(mask), **attributes
            ),
            lambda: in_float32(
                lambda *t: _portable_conv(*t, geometry=geometry), x, offset, kernel, mask
            ),
            x,
        )
        return y if bias is None else tf.nn.bias_add(y, tf.convert_to_tensor(bias, dtype=x.dtype))

    return in_channels_last(channels_last, data_format, x, offset, mask)


def _converted(x, offset, mask) -> list[tf.Tensor | None]:
    x = tf.convert_to_tensor(x)
    others = (None if t is None else tf.convert_to_tensor(t, dtype=x.dtype) for t in (offset, mask))
    return [x, *others]


def _listed(mask: tf.Tensor | None) -> list[tf.Tensor]:
    return [] if mask is None else [mask]


def _check(x, offset, mask, geometry: Geometry) -> None:
    """Raises when what is known of the shapes does not fit."""
    if x.shape.rank != 4 or not x.shape[-1]:
        raise invalid_argument(
            "deformable ops need x of rank 4 with a known number of channels. "
            f"Received: x of shape {x.shape}"
        )
    channels, taps = x.shape[-1], geometry.taps
    output = [x.shape[0], *geometry.output_shape(x.shape.as_list()[1:-1])]
    width = offset.shape[-1] if offset.shape.rank == 4 else None
    if width is None or not offset.shape.is_compatible_with([*output, None]):
        fits = False
    else:
        groups, rest = divmod(width, 2 * taps)
        fits = rest == 0 and groups > 0 and channels % groups == 0
    if not fits:
        raise invalid_argument(
            f"deformable: offset of shape {offset.shape} does not fit x of shape {x.shape}: "
            f"expected {tf.TensorShape([*output, None])} with OG * {taps} * 2 in the last place, "
            f"OG a divisor of the {channels} channels (kernel_size={geometry.kernel_size}, "
            f"strides={geometry.strides}, dilation_rate={geometry.dilation_rate}, "
            f"pads={geometry.pads or 'same'})"
        )
    if mask is not None and not mask.shape.is_compatible_with([*output, width // 2]):
        raise invalid_argument(
            f"deformable: mask of shape {mask.shape} does not fit offset of shape {offset.shape}: "
            f"expected {tf.TensorShape([*output, width // 2])}"
        )


def _starts(geometry: Geometry, sizes: list[Any], output: list[Any]) -> list[tf.Tensor]:
    """Rows and columns, [P, taps] each, where the taps fall before they are moved."""
    starts = []
    for axis, (before, _) in enumerate(geometry.pad_amounts(sizes)):
        first = tf.range(output[axis]) * geometry.strides[axis] - before
        tap = np.arange(geometry.kernel_size[axis]) * geometry.dilation_rate[axis]
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        grid = tf.reshape(first, shape)
        shape[axis], shape[axis + 2] = 1, -1
        grid = grid + tap.reshape(shape).astype(np.int32)
        grid = tf.broadcast_to(grid, [*output, *geometry.kernel_size])
        starts.append(tf.reshape(grid, [product(output), geometry.taps]))
    return starts


def _portable_sample(x, offset, mask, *, geometry: Geometry) -> tf.Tensor:
    """Stock ops: gathers the four corners from the image with two zeros on every side.

    A position is clipped to [-2, size]: all its corners can then be read, and those outside
    read a zero, with no test of their own.
    """
    channels, taps = x.shape[-1], geometry.taps
    groups = offset.shape[-1] // (2 * taps)
    sizes = spatial_sizes(x)
    batch, *output = output_sizes(x, geometry)
    positions = product(output)
    message = "deformable: {} must have the batch and the output positions of x. Received: shape"
    width = offset.shape[-1]
    offset = of_sizes(offset, [batch, *output, width], message.format("offset"), reshaped=True)
    if mask is not None:
        width = width // 2
        mask = of_sizes(mask, [batch, *output, width], message.format("mask"), reshaped=True)

    def by_tap(t):  # [N, P, groups, taps] -> [N, P, taps, groups]
        if groups == 1:
            return tf.reshape(t, [batch, positions, taps, 1])
        return tf.transpose(t, [0, 1, 3, 2])

    moved = tf.reshape(offset, [batch, positions, groups, taps, 2])
    floors, fractions = [], []
    for axis, start in enumerate(_starts(geometry, sizes, output)):
        position = by_tap(moved[..., axis]) + tf.cast(start, x.dtype)[:, :, None]
        # Clipped as an integer, which any position makes without a test of its own: as a
        # fraction, NaN stays NaN, and infinity becomes one of a pixel that is zero.
        floor = tf.cast(tf.floor(position), tf.int32)
        floor = tf.clip_by_value(floor, -2, sizes[axis])
        floors.append(floor + 2)
        fraction = position - tf.cast(floor, x.dtype)
        fractions.append(tf.clip_by_value(fraction, tf.zeros([], x.dtype), tf.ones([], x.dtype)))
    (row, column), (fy, fx) = floors, fractions
    pitch = sizes[1] + 4
    table = tf.pad(x, [[0, 0], [2, 2], [2, 2], [0, 0]])
    table = tf.reshape(table, [-1, (sizes[0] + 4) * pitch * groups, channels // groups])
    corner = (row * pitch + column) * groups + tf.range(groups)
    upper, left = 1 - fy, 1 - fx
    if mask is not None:
        modulation = by_tap(tf.reshape(mask, [batch, positions, groups, taps]))
        upper, fy = upper * modulation, fy * modulation
    count = positions * taps * groups
    total = None
    for (dy, wy), (dx, wx) in itertools.product(((0, upper), (1, fy)), ((0, left), (1, fx))):
        index = tf.reshape(corner + (dy * pitch + dx) * groups, [-1, count])
        value = tf.gather(table, index, batch_dims=1)
        term = value * tf.reshape(wy * wx, [-1, count, 1])
        total = term if total is None else total + term
    return tf.reshape(total, [-1, *output, taps, channels])


def _portable_conv(x, offset, kernel, mask, *, geometry: Geometry) -> tf.Tensor:
    """Samples, then one matrix product a group."""
    kh, kw, width, filters = kernel.shape
    taps, groups = kh * kw, x.shape[-1] // width
    samples = _portable_sample(x, offset, mask, geometry=geometry)
    output = [geometry.output_size(n, axis) for axis, n in enumerate(spatial_sizes(x))]
    if groups == 1:
        rows = tf.reshape(samples, [-1, taps * width])
        y = tf.matmul(rows, tf.reshape(kernel, [taps * width, filters]))
    else:
        rows = tf.transpose(tf.reshape(samples, [-1, taps, groups, width]), [2, 0, 1, 3])
        weights = tf.reshape(kernel, [taps, width, groups, filters // groups])
        weights = tf.reshape(tf.transpose(weights, [2, 0, 1, 3]), [groups, taps * width, -1])
        y = tf.matmul(tf.reshape(rows, [groups, -1, taps * width]), weights)
        y = tf.transpose(y, [1, 0, 2])
    return tf.reshape(y, [-1, *output, filters])


@tf.RegisterGradient("Tfconv>DeformableSample")
def _sample_gradient(op, upstream):
    x, offset, *mask = op.inputs
    dx, doffset, dmask = native.library().module.tfconv_deformable_sample_grad(
        x=x, offset=offset, dcolumns=upstream, mask=mask, **Geometry.of_op(op).attributes()
    )
    return [dx, doffset, *dmask]


def _of_conv(op) -> dict[str, Any]:
    """The attributes of a convolution or of one of its gradients."""
    attributes = Geometry.of_op(op, op.inputs[2].shape[:2].as_list()).attributes()
    del attributes["kernel_size"]
    return attributes


@tf.RegisterGradient("Tfconv>DeformableConv")
def _conv_gradient(op, upstream):
    x, offset, kernel, *mask = op.inputs
    given = {"x": x, "offset": offset, "filter": kernel, "dy": upstream, "mask": mask}
    module = native.library().module
    grads = [None] * len(op.inputs)
    if any(is_wanted(op, i) for i in range(len(op.inputs)) if i != 2):
        dx, doffset, dmask = module.tfconv_deformable_conv_input_grad(**given, **_of_conv(op))
        grads = [dx, doffset, None, *dmask]
    if is_wanted(op, 2):
        grads[2] = module.tfconv_deformable_conv_filter_grad(**given, **_of_conv(op))
    return grads


@tf.RegisterGradient("Tfconv>DeformableSampleGrad")
def _sample_second_gradient(op, *upstream):
    x, offset, dcolumns, *mask = op.inputs
    geometry = Geometry.of_op(op)

    def twin(x, offset, mask=None):
        return in_float32(lambda *t: _portable_sample(*t, geometry=geometry), x, offset, mask)

    grads = second_order(twin, [x, offset, *mask], dcolumns, list(upstream))
    return [*grads[:2], grads[-1], *grads[2:-1]]


def _conv_second_gradient(op, first: list) -> list:
    """`first` are the gradients that flow into those of x, offset, kernel and mask."""
    x, offset, kernel, dy, *mask = op.inputs
    geometry = Geometry.of_op(op, kernel.shape[:2].as_list())

    def twin(x, offset, kernel, mask=None):
        return in_float32(lambda *t: _portable_conv(*t, geometry=geometry), x, offset, kernel, mask)

    grads = second_order(twin, [x, offset, kernel, *mask], dy, first)
    return [*grads[:3], grads[-1], *grads[3:-1]]


@tf.RegisterGradient("Tfconv>DeformableConvInputGrad")
def _conv_input_second_gradient(op, ddx, ddoffset, *ddmask):
    return _conv_second_gradient(op, [ddx, ddoffset, None, *ddmask])


@tf.RegisterGradient("Tfconv>DeformableConvFilterGrad")
def _conv_filter_second_gradient(op, ddkernel):
    unused = [None] * (len(op.inputs) - 4)
    return _conv_second_gradient(op, [None, None, ddkernel, *unused])
