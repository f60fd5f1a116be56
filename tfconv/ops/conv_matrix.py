"""The matrix of a convolution: what is sparse and shared in it, written out."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfconv.ops.conv import conv
from tfconv.ops.geometry import Padding
from tfconv.ops.windows import product


@tf.autograph.experimental.do_not_convert  # nothing to convert, and tracing stays fast
def conv_matrix(
    kernel: tf.Tensor,
    input_shape: Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "valid",
    dilation_rate: int | Sequence[int] = 1,
    groups: int = 1,
) -> tf.Tensor:
    """The matrix C of a convolution: ``y = C x`` for flattened inputs and outputs.

    ``C^T`` is the transposed convolution. The matrix has an element for every pair of an input
    and an output: it is meant for small inputs, for looking at and for linear algebra.

    Args:
        kernel: [*kernel_size, C / groups, filters] tensor.
        input_shape: (*spatial, C): the shape of one channels-last input.
        strides, padding, dilation_rate, groups: See `conv`.

    Returns:
        [output elements, input elements] tensor of ``kernel``'s type; elements are in the order
        of [*spatial, channels].

    Raises:
        ValueError: If an argument is not what is described above.
        tf.errors.InvalidArgumentError: If the shapes do not fit each other.

    Source: Dumoulin and Visin, A guide to convolution arithmetic for deep learning,
    arXiv:1603.07285, section 4.1.

    Example:
        >>> kernel = tf.reshape([1.0, 2.0], [2, 1, 1])
        >>> tfconv.ops.conv_matrix(kernel, (3, 1)).numpy()
        array([[1., 2., 0.],
               [0., 1., 2.]], dtype=float32)
    """
    kernel = tf.convert_to_tensor(kernel)
    size = product([int(n) for n in input_shape])
    inputs = tf.reshape(tf.eye(size, dtype=kernel.dtype), [size, *input_shape])
    outputs = conv(
        inputs,
        kernel,
        strides=strides,
        padding=padding,
        dilation_rate=dilation_rate,
        groups=groups,
        data_format="channels_last",
    )
    return tf.transpose(tf.reshape(outputs, [size, -1]))
