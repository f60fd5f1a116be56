"""Deformable sampling and convolution: taps that move by learned offsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfconv import _compat
from tfconv.ops import native
from tfconv.ops.channels import in_channels_last, to_last
from tfconv.ops.checks import fitting
from tfconv.ops.deformable_rows import portable_rows
from tfconv.ops.dispatch import (
    apart,
    dispatch,
    in_float32,
    invalid_argument,
    is_wanted,
    second_order,
)
from tfconv.ops.geometry import Geometry, Padding, examples, spatial_sizes


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

    ``s[n, p, t, c] = mask[n, p, o(c), t] * linear(x[n, ..., c], p * strides - pad +
    t * dilation + offset[n, p, o(c), t])`` over one to three spatial axes: linear interpolation
    along each of them (bilinear in images), in which every one of the 2, 4 or 8 corners that lies
    outside of x counts as zero. A NaN coordinate gives NaN for that sample and for the gradients of
    its offsets and its mask, none for x; an infinite one lies outside, with gradients of zero.

    Args:
        x: [N, *spatial, C] tensor; float16, bfloat16, float32 or float64.
        offset: [N, *output, OG * taps * rank] tensor in pixels, index
            ``(o * taps + tap) * rank + axis``: in images, dy and dx. OG offset groups must divide
            C.
        mask: Optional modulation, [N, *output, OG * taps].
        kernel_size: Taps per spatial axis; an int or one int per axis.
        strides: Pixels between neighbouring outputs.
        padding: "valid", "same", "full", "causal" (one axis), an int, or (before, after) pairs.
        dilation_rate: Pixels between neighbouring taps.
        data_format: "channels_last" or "channels_first", which holds for ``x``, ``offset`` and
            ``mask``; None takes Keras's setting.

    Returns:
        [N, *output, taps, C] tensor of ``x``'s type, in either data format.

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
    x, offset, mask = _converted(x, offset, mask)
    geometry = Geometry.of(kernel_size, strides, padding, dilation_rate, rank=_rank(x))
    if _compat.standardized_data_format(data_format) == "channels_first":
        x, offset, mask = (None if t is None else to_last(t) for t in (x, offset, mask))
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
def deformable_conv(
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
    """Deformable convolution of one to three axes, version 1 (no mask) and 2 (with one).

    ``y[n, p, f] = bias[f] + sum_{t, c} kernel[t, c, f] * s[n, p, t, c]`` with the samples ``s``
    of `deformable_sample`, over the channels c of f's group.

    Args:
        x: [N, *spatial, C] tensor; float16, bfloat16, float32 or float64.
        offset: [N, *output, OG * taps * rank] tensor in pixels (see `deformable_sample`).
        kernel: [*kernel_size, C / groups, filters] tensor; the shapes say how many groups there
            are.
        mask: Optional modulation, [N, *output, OG * taps].
        bias: Optional [filters] tensor.
        strides: Pixels between neighbouring outputs.
        padding: "valid", "same", "full", "causal" (one axis), an int, or (before, after) pairs.
        dilation_rate: Pixels between neighbouring taps.
        data_format: "channels_last" or "channels_first", which holds for ``x``, ``offset``,
            ``mask`` and the result; None takes Keras's setting.

    Returns:
        [N, *output, filters] tensor of ``x``'s type.

    Raises:
        ValueError: If an argument is not what is described above.
        tf.errors.InvalidArgumentError: If the shapes do not fit each other.

    Source: arXiv:1703.06211, equations 2-4; arXiv:1811.11168, equation 1.

    Example:
        >>> x, kernel = tf.ones([1, 5, 5, 5, 2]), tf.ones([3, 3, 3, 2, 8])
        >>> offset = tf.zeros([1, 5, 5, 5, 3 * 3 * 3 * 3])
        >>> tfconv.ops.deformable_conv(x, offset, kernel)[0, 2, 2, 2, :2].numpy()
        array([54., 54.], dtype=float32)
    """
    window = (strides, padding, dilation_rate)
    return _convolution("deformable_conv", (x, offset, kernel, mask, bias), window, data_format)


@tf.autograph.experimental.do_not_convert
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
    """`deformable_conv` of images, with all its arguments.

    Args:
        x: [N, H, W, C] tensor.
        offset: [N, Ho, Wo, OG * kh * kw * 2] tensor in pixels.
        kernel: [kh, kw, C / groups, filters] tensor.
        mask: Optional modulation, [N, Ho, Wo, OG * kh * kw].
        bias: Optional [filters] tensor.
        strides, padding, dilation_rate, data_format: As in `deformable_conv`.

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
    window = (strides, padding, dilation_rate)
    tensors = (x, offset, kernel, mask, bias)
    return _convolution("deformable_conv2d", tensors, window, data_format, ranks=(2,))


def _convolution(name, tensors, window, data_format, ranks=(1, 2, 3)) -> tf.Tensor:
    x, offset, kernel, mask, bias = tensors
    x, offset, mask = _converted(x, offset, mask)
    kernel = tf.convert_to_tensor(kernel, dtype=x.dtype)
    rank = (kernel.shape.rank or 0) - 2
    if rank not in ranks or not kernel.shape.is_fully_defined():
        sizes = "kh, kw" if ranks == (2,) else "*kernel_size"
        raise invalid_argument(
            f"{name} needs a kernel of known shape [{sizes}, C / groups, filters]. "
            f"Received: kernel of shape {kernel.shape}"
        )
    geometry = Geometry.of(kernel.shape[:-2].as_list(), *window, rank=rank)

    def channels_last(x, offset, mask):
        _check(x, offset, mask, geometry)
        x = fitting(x, geometry, name)
        channels, filters = x.shape[-1], kernel.shape[-1]
        width = kernel.shape[-2]
        if width == 0 or channels % width or filters % (channels // width):
            raise invalid_argument(
                f"{name}: kernel of shape {kernel.shape} does not fit x of shape {x.shape}: its "
                f"last but one size must divide the {channels} channels into groups, whose number "
                f"must divide the {filters} filters"
            )
        y = dispatch(
            lambda module: module.tfconv_deformable_conv(
                x=x, offset=offset, filter=kernel, mask=_listed(mask), **geometry.op_attributes()
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


def _rank(x: tf.Tensor) -> int:
    """The number of x's spatial axes."""
    if x.shape.rank not in (3, 4, 5):
        raise invalid_argument(
            "deformable ops need x of rank 3 to 5: a batch, one to three spatial axes, channels. "
            f"Received: x of shape {x.shape}"
        )
    return x.shape.rank - 2


def _check(x, offset, mask, geometry: Geometry) -> None:
    """Raises when what is known of the shapes does not fit."""
    rank = geometry.rank
    if x.shape.rank != rank + 2 or not x.shape[-1]:
        raise invalid_argument(
            f"deformable ops need x of rank {rank + 2} with a known number of channels. "
            f"Received: x of shape {x.shape}"
        )
    channels, taps = x.shape[-1], geometry.taps
    output = [x.shape[0], *geometry.output_shape(x.shape.as_list()[1:-1])]
    width = offset.shape[-1] if offset.shape.rank == rank + 2 else None
    if width is None or not offset.shape.is_compatible_with([*output, None]):
        fits = False
    else:
        groups, rest = divmod(width, rank * taps)
        fits = rest == 0 and groups > 0 and channels % groups == 0
    if not fits:
        raise invalid_argument(
            f"deformable: offset of shape {offset.shape} does not fit x of shape {x.shape}: "
            f"expected {tf.TensorShape([*output, None])} with OG * {taps} * {rank} in the last "
            f"place, OG a divisor of the {channels} channels (kernel_size={geometry.kernel_size}, "
            f"strides={geometry.strides}, dilation_rate={geometry.dilation_rate}, "
            f"pads={geometry.pads or 'same'})"
        )
    if mask is not None and not mask.shape.is_compatible_with([*output, width // rank]):
        raise invalid_argument(
            f"deformable: mask of shape {mask.shape} does not fit offset of shape {offset.shape}: "
            f"expected {tf.TensorShape([*output, width // rank])}"
        )


def _portable_sample(x, offset, mask, *, geometry: Geometry) -> tf.Tensor:
    samples = portable_rows(x, offset, mask, geometry)
    output = [geometry.output_size(n, axis) for axis, n in enumerate(spatial_sizes(x))]
    return tf.reshape(samples, [examples(x), *output, geometry.taps, x.shape[-1]])


def _portable_conv(x, offset, kernel, mask, *, geometry: Geometry) -> tf.Tensor:
    """Samples, then a matrix product a group."""
    width, filters = kernel.shape[-2:]
    taps, groups = geometry.taps, x.shape[-1] // width
    output = [geometry.output_size(n, axis) for axis, n in enumerate(spatial_sizes(x))]

    def multiplied(samples):
        if groups == 1:
            rows = tf.reshape(samples, [-1, taps * width])
            return tf.matmul(rows, tf.reshape(kernel, [taps * width, filters]))
        rows = tf.transpose(tf.reshape(samples, [-1, taps, groups, width]), [2, 0, 1, 3])
        weights = tf.reshape(kernel, [taps, width, groups, filters // groups])
        weights = tf.reshape(tf.transpose(weights, [2, 0, 1, 3]), [groups, taps * width, -1])
        y = tf.matmul(tf.reshape(rows, [groups, -1, taps * width]), weights)
        return tf.reshape(tf.transpose(y, [1, 0, 2]), [-1, filters])

    y = portable_rows(x, offset, mask, geometry, then=multiplied)
    return tf.reshape(y, [examples(x), *output, filters])


@tf.RegisterGradient("Tfconv>DeformableSample")
def _sample_gradient(op, upstream):
    x, offset, *mask = op.inputs
    dx, doffset, dmask = native.library().module.tfconv_deformable_sample_grad(
        x=x, offset=offset, dcolumns=upstream, mask=mask, **Geometry.of_op(op).attributes()
    )
    return apart(dx, doffset, *dmask)


def _of_conv(op) -> dict[str, Any]:
    """The attributes of a convolution or of one of its gradients."""
    return Geometry.of_op(op, op.inputs[2].shape[:-2].as_list()).op_attributes()


@tf.RegisterGradient("Tfconv>DeformableConv")
def _conv_gradient(op, upstream):
    x, offset, kernel, *mask = op.inputs
    given = {"x": x, "offset": offset, "filter": kernel, "dy": upstream, "mask": mask}
    module = native.library().module
    grads = [None] * len(op.inputs)
    if any(is_wanted(op, i) for i in range(len(op.inputs)) if i != 2):
        dx, doffset, dmask = module.tfconv_deformable_conv_input_grad(**given, **_of_conv(op))
        dx, doffset, *dmask = apart(dx, doffset, *dmask)
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
    geometry = Geometry.of_op(op, kernel.shape[:-2].as_list())

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
