"""Involution: convolution with its two habits swapped."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfconv import _compat, ops
from tfconv._compat import keras
from tfconv.layers.arguments import number, optional, positive_int
from tfconv.layers.batch_norm import BatchNormalization
from tfconv.layers.calls import SecondOutput
from tfconv.layers.kernels import KernelArguments
from tfconv.layers.masking import without_mask
from tfconv.layers.spatial import SpatialLayer
from tfconv.ops.checks import fitting
from tfconv.ops.dispatch import keeps_native, runs_on_cpu, with_an_example
from tfconv.ops.geometry import Padding, spatial_sizes
from tfconv.ops.involution import span_involution

# With more features, training makes kernels again for longer than it takes to read them.
MOST_SPANNED_FEATURES = 48


class Involution(KernelArguments, SecondOutput, SpatialLayer):
    """Involution of any rank: a kernel for every position, shared by the channels of a group.

    ``y[p, c] = sum_t K[p, g(c), t] * x[p * strides - pad + t * dilation, c]``, where the kernel
    is made from the input at the same position:
    ``K = span(relu(batch_norm(reduce(pool(x)))))``. ``reduce`` and ``span`` are 1x1
    convolutions to ``C // reduction_ratio`` channels and to one weight per group and tap;
    ``pool`` takes the mean over each stride's pixels.

    Args:
        padding: "valid", "same", "full", "causal" (1-D), an int, or one (before, after) pair
            per spatial axis. Except with "same", a kernel is made from the pixels at its
            window's centre.
        group_channels: Channels that share a kernel; must divide the input's channels.
        groups: Instead of ``group_channels``: how many groups of channels there are.
        reduction_ratio: The kernel generator has ``C // reduction_ratio`` channels (at least 1).
        kernel_initializer, bias_initializer: Initializers of ``reduce`` and ``span``.
        kernel_regularizer, bias_regularizer, activity_regularizer: Regularizers of the
            generator's weights and of the outputs.
        kernel_constraint, bias_constraint: Constraints of the generator's weights.
        batch_norm_momentum, batch_norm_epsilon: Those of the generator's batch normalization.
        gamma_initializer, gamma_regularizer, gamma_constraint: Of its scale.
        beta_initializer, beta_regularizer, beta_constraint: Of its shift.

    Call arguments:
        inputs: [N, *spatial, C] tensor (or [N, C, *spatial]).
        training: Whether the normalization takes the batch's statistics and learns from them.
        return_kernels: Whether to give what `kernels` gives as a second output.

    Output shape: [N, *output spatial, C].

    Weights:
        reduce: a 1x1 convolution C -> C // reduction_ratio, without bias.
        normalization: a batch normalization of these channels.
        span: a 1x1 convolution C // reduction_ratio -> groups * prod(kernel_size).

    Raises:
        ValueError: If an argument is not what is described above, or the channels cannot be
            put into groups.

    Source: Li et al., Involution: Inverting the Inherence of Convolution for Visual
    Recognition, arXiv:2103.06255, equations 4-6.
    """

    by_position = 1
    weight_arguments = {"gamma": "ones", "beta": "zeros"}
    fixed = ("use_bias",)
    asks_for_second = "return_kernels"

    def __init__(
        self,
        kernel_size: int | Sequence[int] = 7,
        *,
        padding: Padding = "same",
        group_channels: int | None = None,
        groups: int | None = None,
        reduction_ratio: int = 4,
        batch_norm_momentum: float = 0.9,
        batch_norm_epsilon: float = 1e-5,
        **kwargs: Any,
    ):
        super().__init__(kernel_size=kernel_size, padding=padding, **kwargs)
        if group_channels is not None and groups is not None:
            raise ValueError(
                "Give `group_channels` or `groups`, not both. "
                f"Received: group_channels={group_channels}, groups={groups}"
            )
        if groups is None and group_channels is None:
            group_channels = 16
        self.take(optional(positive_int), group_channels=group_channels, groups=groups)
        self.take(positive_int, reduction_ratio=reduction_ratio)
        self.take(functools.partial(number, most=1), batch_norm_momentum=batch_norm_momentum)
        self.take(number, batch_norm_epsilon=batch_norm_epsilon)

    def build(self, input_shape):
        count = self.input_channels(input_shape)
        name, instead = ("groups", "") if self.groups else ("group_channels", "groups")
        self.require_divisor(name, count, input_shape, instead=instead)
        groups = self.groups or count // self.group_channels
        reduced = max(count // self.reduction_ratio, 1)
        first, second = self.arguments_inside(2)
        first.update(use_bias=False)
        self.pointwise_sublayer("reduce", count, reduced, **first)
        self.sublayer(
            "normalization",
            BatchNormalization,
            (*[None] * (self.rank + 1), reduced),
            momentum=self.batch_norm_momentum,
            epsilon=self.batch_norm_epsilon,
            **{
                f"{weight}_{kind}": value
                for weight in self.weight_arguments
                for kind, value in self.arguments_of(weight).items()
            },
        )
        self.pointwise_sublayer("span", reduced, groups * self.geometry.taps, **second)
        self.built = True

    def call(self, inputs, training=None, return_kernels=False):
        x = without_mask(self.fitting(inputs))
        if not return_kernels and self._has_plain_span and self._spans(x):
            return self.finish(self._with_span(x, self._features(x, training)))
        kernel = self._generated(x, training)
        y = ops.involution(self.padded(x), kernel, self.kernel_size, **self.geometry_arguments)
        y = self.finish(y)
        return (y, self.restored(kernel)) if return_kernels else y

    def kernels(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """The kernels that the layer makes for inputs: [N, *output spatial, groups * taps].

        Channels first if the inputs are; the index is ``group * taps + tap``.
        """
        if _compat.is_symbolic(inputs):
            return self.second_output(inputs, training=training)
        return self.restored(self._generated(self.fitting(self.entered(inputs)), training))

    def _generated(self, x: tf.Tensor, training: bool | None) -> tf.Tensor:
        return self.made_by(self.span, self._features(x, training))

    def _features(self, x: tf.Tensor, training: bool | None) -> tf.Tensor:
        """What ``span`` makes kernels from."""
        # What is too small must not reach the normalization's moving averages.
        x = fitting(x, self.geometry, type(self).__name__)
        reduced = with_an_example(lambda x: self.reduce(self._pooled(x)), x)
        return tf.nn.relu(self.normalization(reduced, training=training))

    @property
    def _has_plain_span(self) -> bool:
        """Whether ``span`` is as it was built: not adapted, quantized, replaced."""
        span = self.span
        return (
            type(span) is getattr(keras.layers, f"Conv{self.rank}D")
            and span.activation in (None, keras.activations.linear)
            and span.compute_dtype == self.compute_dtype
            and not _compat.has_adapters(span)
            and not _compat.quantization_of(span)
        )

    def _spans(self, x: tf.Tensor) -> bool:
        """Whether there is an op, or a form for TensorFlow Lite, that takes ``span`` in."""
        if _compat.tracing_for_tflite():
            return not keeps_native()
        return runs_on_cpu(x) and self.span.kernel.shape[-2] <= MOST_SPANNED_FEATURES

    def _with_span(self, x: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
        """The involution by the kernels that ``span`` would make."""
        arguments = self.geometry_arguments
        del arguments["data_format"]
        return span_involution(
            self.padded(x),
            self.computed(features),
            tf.reshape(self.computed(self.span.kernel), self.span.kernel.shape[-2:]),
            self.computed(self.span.bias),
            self.kernel_size,
            **arguments,
        )

    def _pooled(self, x: tf.Tensor) -> tf.Tensor:
        """What the kernels are made from: one position for every output."""
        geometry = self.geometry
        if geometry.pads is not None:
            x = self._at_centres(x)
        if max(self.strides) == 1:
            return x
        if self.rank == 3:
            return pooled_volumes(x, self.strides)
        return tf.nn.avg_pool(x, self.strides, self.strides, "SAME")

    def _at_centres(self, x: tf.Tensor) -> tf.Tensor:
        """Crops or pads x so that its pixels are the centres of all windows of stride 1."""
        crops, pads = [slice(None)], [[0, 0]]
        for length, (before, after), extent in zip(
            spatial_sizes(x), self.geometry.pads, self.geometry.extent
        ):
            before -= (extent - 1) // 2
            after -= extent // 2
            crops.append(slice(max(-before, 0), length - max(-after, 0)))
            pads.append([max(before, 0), max(after, 0)])
        x = x[tuple(crops)]
        return tf.pad(x, [*pads, [0, 0]]) if any(map(any, pads)) else x


def pooled_volumes(x: tf.Tensor, strides: Sequence[int]) -> tf.Tensor:
    """`tf.nn.avg_pool3d` as two poolings in two axes.

    The 3-D one lacks kernels for float16 and float64 on CPU, and TensorFlow Lite lacks it.
    """
    (depth, height, width), channels = spatial_sizes(x), x.shape[-1]
    outputs = [(n + s - 1) // s for n, s in zip((depth, height, width), strides)]
    x = tf.reshape(x, [-1, depth, height * width, channels])
    x = tf.nn.avg_pool2d(x, [strides[0], 1], [strides[0], 1], "SAME")
    x = tf.reshape(x, [-1, height, width, channels])
    x = tf.nn.avg_pool2d(x, strides[1:], strides[1:], "SAME")
    return tf.reshape(x, [-1, *outputs, channels])


class Involution1D(Involution, rank=1):
    """Involution of sequences.

    Example:
        >>> tfconv.Involution1D(3, group_channels=4)(tf.zeros([2, 10, 8])).shape
        TensorShape([2, 10, 8])
    """


class Involution2D(Involution, rank=2):
    """Involution of images.

    Example:
        >>> tfconv.Involution2D(7)(tf.zeros([1, 14, 14, 64])).shape
        TensorShape([1, 14, 14, 64])
    """


class Involution3D(Involution, rank=3):
    """Involution of volumes.

    Example:
        >>> tfconv.Involution3D(3, groups=2)(tf.zeros([1, 4, 6, 6, 8])).shape
        TensorShape([1, 4, 6, 6, 8])
    """
