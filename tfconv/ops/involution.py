"""Involution: a kernel for every position, shared by the channels of a group."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfconv.ops import native
from tfconv.ops.channels import in_channels_last
from tfconv.ops.checks import fitting, of_sizes
from tfconv.ops.dispatch import dispatch, in_float32, invalid_argument
from tfconv.ops.geometry import Geometry, Padding, output_sizes
from tfconv.ops.windows import Windows, product


@tf.autograph.experimental.do_not_convert  # nothing to convert, and tracing stays fast
def involution(
    x: tf.Tensor,
    kernel: tf.Tensor,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: Padding = "same",
    dilation_rate: int | Sequence[int] = 1,
    data_format: str | None = None,
) -> tf.Tensor:
    """Involution of one, two or three spatial axes.

    ``y[n, p, c] = sum_t kernel[n, p, g(c) * T + t] * x[n, p * strides - pad + t * dilation, c]``
    with T taps in row-major order and ``g(c) = c // (C / G)``; pixels outside are zero.

    Args:
        x: [N, *spatial, C] tensor, one to three spatial axes; float16, bfloat16, float32 or
            float64.
        kernel: [N, *output spatial, G * T] tensor; G must divide C.
        kernel_size: Taps per spatial axis; an int or one int per axis.
        strides: Pixels between neighbouring outputs.
        padding: "valid", "same", "full", "causal" (one spatial axis), an int, or one
            (before, after) pair per spatial axis.
        dilation_rate: Pixels between neighbouring taps.
        data_format: "channels_last" or "channels_first", which holds for ``x``, ``kernel`` and
            the result; None takes Keras's setting.

    Returns:
        [N, *output spatial, C] tensor of ``x``'s type.

    Raises:
        ValueError: If an argument is not what is described above.
        tf.errors.InvalidArgumentError: If the shapes do not fit each other.

    Source: Li et al., Involution: Inverting the Inherence of Convolution for Visual
    Recognition, arXiv:2103.06255, equation 4.

    Example:
        >>> x, kernel = tf.ones([1, 5, 5, 4]), tf.ones([1, 5, 5, 2 * 9])
        >>> tfconv.ops.involution(x, kernel, kernel_size=3)[0, 2, 2].numpy()
        array([9., 9., 9., 9.], dtype=float32)
    """
    x = tf.convert_to_tensor(x)
    kernel = tf.convert_to_tensor(kernel, dtype=x.dtype)
    if x.shape.rank not in (3, 4, 5):
        raise invalid_argument(
            f"involution needs x of rank 3 to 5 ([N, spatial..., C]). Received: shape {x.shape}"
        )
    geometry = Geometry.of(kernel_size, strides, padding, dilation_rate, x.shape.rank - 2)

    def channels_last(x, kernel):
        _check(x, kernel, geometry)
        x = fitting(x, geometry, "involution")
        return dispatch(
            lambda module: module.tfconv_involution(x=x, kernel=kernel, **geometry.attributes()),
            lambda: in_float32(lambda *t: _portable(*t, geometry), x, kernel),
            x,
        )

    return in_channels_last(channels_last, data_format, x, kernel)


def _check(x: tf.Tensor, kernel: tf.Tensor, geometry: Geometry) -> None:
    """Raises when what is known of the shapes does not fit."""
    channels = x.shape[-1]
    if not channels:
        raise invalid_argument(
            f"involution needs a known number of channels. Received: x of shape {x.shape}"
        )
    expected = [x.shape[0], *geometry.output_shape(x.shape.as_list()[1:-1]), None]
    width = kernel.shape[-1] if kernel.shape.rank == x.shape.rank else None
    if width is None or not kernel.shape.is_compatible_with(expected):
        fits = False
    else:
        groups, rest = divmod(width, geometry.taps)
        fits = rest == 0 and groups > 0 and channels % groups == 0
    if not fits:
        raise invalid_argument(
            f"involution: kernel of shape {kernel.shape} does not fit x of shape {x.shape}: "
            f"expected {tf.TensorShape(expected)} with G * {geometry.taps} in the last place, G a "
            f"divisor of the {channels} channels (kernel_size={geometry.kernel_size}, "
            f"strides={geometry.strides}, dilation_rate={geometry.dilation_rate}, "
            f"pads={geometry.pads or 'same'})"
        )


def _portable(x: tf.Tensor, kernel: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """Stock ops: one multiply-add a tap; at most 5-D tensors, as converters want them."""
    channels, groups = x.shape[-1], kernel.shape[-1] // geometry.taps
    width = channels // groups
    batch, *output = output_sizes(x, geometry)
    kernel = of_sizes(
        kernel,
        [batch, *output, kernel.shape[-1]],
        "involution: kernel must have the batch and the output positions of x. Received: shape",
        reshaped=True,
    )
    if geometry.rank < 3:
        shape, pixels = [-1, *output], Windows(x, geometry, split=groups)
    else:
        shape = [-1, product(output)]
        pixels = (tf.reshape(w, [*shape, groups, width]) for w in Windows(x, geometry))
    kernel = tf.reshape(kernel, [batch, *shape[1:], groups, geometry.taps])
    weights = tf.split(kernel, geometry.taps, -1)
    total = None
    for pixel, weight in zip(pixels, weights):
        term = pixel * weight
        total = term if total is None else total + term
    return tf.reshape(total, [-1, *output, channels])


@tf.RegisterGradient("Tfconv>Involution")
def _gradient(op, upstream):
    x, kernel = op.inputs
    return native.library().module.tfconv_involution_grad(
        x=x, kernel=kernel, dy=upstream, **Geometry.of_op(op).attributes()
    )


@tf.RegisterGradient("Tfconv>InvolutionGrad")
def _second_gradient(op, by_dx, by_dkernel):
    # The involution B is linear in both of its inputs: the upstream gradients a and b of dx and
    # dkernel make the sum of dy * (B(a, kernel) + B(x, b)), of which these are the gradients.
    x, kernel, dy = op.inputs
    module, attributes = native.library().module, Geometry.of_op(op).attributes()
    by_x, by_kernel = module.tfconv_involution_grad(x=by_dx, kernel=by_dkernel, dy=dy, **attributes)
    by_dy = module.tfconv_involution(x=by_dx, kernel=kernel, **attributes)
    by_dy += module.tfconv_involution(x=x, kernel=by_dkernel, **attributes)
    return [by_x, by_kernel, by_dy]
