"""What convolutions have in common whose kernel is a product of smaller ones."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfconv import ops
from tfconv._compat import convert_variable
from tfconv.layers.arguments import positive_int
from tfconv.layers.kernels import independent_copies
from tfconv.layers.spatial import ConvLayer


class FactorizedConv(ConvLayer):
    """A convolution that is a sequence of smaller ones, without activations between them.

    Subclasses say which (`factor_shapes`, `convolved`) and what the dense kernel is that gives
    the same (`effective_kernel`).

    Args:
        kernel_initializer, bias_initializer: Initializers of all kernels and of the bias. Filters
            along the axes start as kernels of one channel.
        kernel_constraint, bias_constraint: Constraints, of every kernel and of the bias.
    """

    by_position = 2
    fixed = ("lora_rank", "lora_alpha")

    @abstractmethod
    def factor_shapes(self, channels: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the factors, by the names of the weights, for an input's channels."""

    @abstractmethod
    def convolved(self, x: tf.Tensor) -> tf.Tensor:
        """The channels-last outputs for an input that is `padded`, before bias and activation."""

    @abstractmethod
    def effective_kernel(self) -> tf.Tensor:
        """The dense kernel [*kernel_size, C / groups, filters] that the factors stand for."""

    def parameter_count(self, channels: int) -> int:
        """Weights, bias included, of the layer for an input of ``channels`` channels."""
        channels = positive_int(channels, "channels")
        if channels % self.groups:
            raise ValueError(
                "`channels` must be divisible by `groups`. "
                f"Received: channels={channels}, groups={self.groups}"
            )
        factors = sum(math.prod(shape) for shape in self.factor_shapes(channels).values())
        return factors + (self.filters if self.use_bias else 0)

    def build(self, input_shape):
        channels = self.kernel_shape(input_shape)[-2] * self.groups
        shapes = self.factor_shapes(channels)
        initializers = independent_copies(self.kernel_initializer, len(shapes), "factor")
        for (name, shape), initializer in zip(shapes.items(), initializers):
            # A filter for each channel: every one starts as a kernel of one channel would.
            each = _by_filter(initializer) if len(shape) == 2 else initializer
            kernel = self.add_kernel(shape, name, initializer=each)
            setattr(self, name, kernel)
        self.bias = self.add_bias((self.filters,))
        self.built = True

    def call(self, inputs):
        return self.finish(self.convolved(self.padded(self.fitting(inputs))), self.bias)

    # Factors across channels: [1, ..., 1, channels / groups, outputs].

    def pointwise_shape(self, channels: int, outputs: int) -> tuple[int, ...]:
        """The shape of a kernel across channels."""
        return (*[1] * self.rank, channels // self.groups, outputs)

    def pointwise(self, x: tf.Tensor, kernel: Any) -> tf.Tensor:
        """A 1x1 convolution of every group."""
        kernel = self.computed(kernel)
        return ops.conv(x, kernel, groups=self.groups, data_format="channels_last")

    def by_group(self, kernel: Any) -> tf.Tensor:
        """[*k, C / groups, outputs] as [groups, taps * C / groups, outputs / groups]."""
        kernel = tf.convert_to_tensor(kernel)
        outputs = kernel.shape[-1]
        rows = kernel.shape.num_elements() // outputs
        kernel = tf.reshape(kernel, [rows, self.groups, outputs // self.groups])
        return tf.transpose(kernel, [1, 0, 2])

    # Factors along the spatial axes: for each a filter [taps, channels].

    @property
    def axis_names(self) -> list[str]:
        return [f"axis_kernel_{axis}" for axis in range(self.rank)]

    def axis_shapes(self, channels: int) -> dict[str, tuple[int, ...]]:
        """The shapes of the filters along the axes, by the names of the weights."""
        return {name: (taps, channels) for name, taps in zip(self.axis_names, self.kernel_size)}

    def along_axes(self, x: tf.Tensor) -> tf.Tensor:
        """One 1-D filter along each spatial axis, each channel on its own.

        Strides, padding and dilation of an axis are those of its filter.
        """
        for axis, name in enumerate(self.axis_names):
            kernel = self.computed(getattr(self, name))
            size, channels = [1] * self.rank, kernel.shape[-1]
            size[axis] = self.kernel_size[axis]
            x = ops.conv(
                x,
                tf.reshape(kernel, [*size, 1, channels]),
                strides=self._along(axis, self.strides),
                padding=self._padding_along(axis),
                dilation_rate=self._along(axis, self.dilation_rate),
                groups=channels,
                data_format="channels_last",
            )
        return x

    def _along(self, axis: int, values: Sequence[int]) -> list[int]:
        return [value if i == axis else 1 for i, value in enumerate(values)]

    def _padding_along(self, axis: int) -> Any:
        pads = self.padded_geometry.pads
        return "same" if pads is None else [p if i == axis else (0, 0) for i, p in enumerate(pads)]

    def axis_product(self) -> tf.Tensor:
        """The filters along the axes multiplied out: [taps, channels]."""
        total = None
        for name in self.axis_names:
            kernel = tf.convert_to_tensor(getattr(self, name))
            if total is None:
                total = kernel
            else:
                total = total[:, None] * kernel[None]
                total = tf.reshape(total, [-1, kernel.shape[-1]])
        return total


def _by_filter(initializer: Any) -> Any:
    """An initializer of [taps, channels] that draws for each channel a kernel [taps, 1, 1]."""

    def initialize(shape, dtype=None, **kwargs):
        taps, channels = shape
        copies = independent_copies(initializer, channels, "filter")
        filters = [convert_variable(copy((taps, 1, 1), dtype=dtype)) for copy in copies]
        return tf.reshape(tf.stack(filters, axis=1), (taps, channels))

    return initialize
