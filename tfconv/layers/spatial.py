"""What slides over pixels: windows of any rank, and convolutions in Keras's order of arguments."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import tensorflow as tf

from tfconv import _compat
from tfconv._compat import keras
from tfconv.layers.arguments import choice, known_data_format, positive_int
from tfconv.layers.base import BaseLayer, of_pinned_sizes, register, shape_for_keras, static_shape
from tfconv.layers.kernels import Adaptable
from tfconv.layers.signatures import in_order
from tfconv.ops.dispatch import with_an_example
from tfconv.ops.geometry import Geometry, Padding, per_axis, standardized_padding
from tfconv.ops.padding import MODES, check_sizes, padded

# Arguments of Keras's convolutions, in Keras's order.
OF_WINDOWS = ("kernel_size", "strides", "padding", "data_format", "dilation_rate")
OF_KERNELS = (
    *("activation", "use_bias", "kernel_initializer", "bias_initializer", "kernel_regularizer"),
    *("bias_regularizer", "activity_regularizer", "kernel_constraint", "bias_constraint"),
)


class SpatialLayer(BaseLayer):
    """A layer that slides a window over ``rank`` spatial axes.

    Tensors inside a layer are channels-last: `channels_last` and
    `finish` move the channel axis at its border, so every layer works with both data formats
    on every device.

    Args:
        kernel_size: Taps per spatial axis; an int or one int per axis.
        strides: Pixels between neighbouring outputs.
        padding: "valid", "same", "full", "causal" (1-D), an int, or one (before, after) pair
            per spatial axis.
        data_format: "channels_last" or "channels_first"; None takes Keras's setting.
        dilation_rate: Pixels between neighbouring taps; may exceed 1 together with strides.
        padding_mode: What the padding puts around the input: "zeros", or pixels of its own:
            "reflect" mirrors it at its edges, which it does not repeat, "replicate" repeats the
            edges, "circular" takes the other end's.

    Input shape: [N, *spatial, C] (or [N, C, *spatial]).
    """

    rank: ClassVar[int]  # given where a class is made and registered: `class Conv2D(Conv, rank=2)`
    takes_no_pixels: ClassVar[bool] = False  # along an axis
    extra_batch_axes: ClassVar[bool] = False  # whether inputs may have several batch axes

    def __init_subclass__(cls, rank: int | None = None, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if rank is not None:  # a class that users see
            cls.rank = rank
            register(cls)

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        *,
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        padding_mode: str = "zeros",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.take(
            self._per_axis, kernel_size=kernel_size, strides=strides, dilation_rate=dilation_rate
        )
        self.take(lambda value, name: standardized_padding(value, self.rank), padding=padding)
        self.take(known_data_format, data_format=data_format)
        self.take(choice(*MODES), padding_mode=padding_mode)
        self.input_spec = keras.layers.InputSpec(**self._axes_spec)

    @property
    def _axes_spec(self) -> dict[str, int]:
        """How many axes inputs have, as arguments of an InputSpec."""
        return {"min_ndim" if self.extra_batch_axes else "ndim": self.rank + 2}

    def _per_axis(self, value: Any, name: str) -> tuple[int, ...]:
        return per_axis(value, self.rank, name)

    @property
    def geometry(self) -> Geometry:
        """Where the layer's taps fall."""
        return Geometry.of(
            self.kernel_size, self.strides, self.padding, self.dilation_rate, self.rank
        )

    @property
    def geometry_arguments(self) -> dict[str, Any]:
        """The geometry as keyword arguments of `tfconv.ops` functions, for what is `padded`."""
        return {
            "strides": self.strides,
            "padding": self.padding if self.padding_mode == "zeros" else "valid",
            "dilation_rate": self.dilation_rate,
            "data_format": "channels_last",
        }

    @property
    def padded_geometry(self) -> Geometry:
        """Where the taps fall in what is `padded`."""
        around = self.geometry
        if self.padding_mode == "zeros":
            return around
        return dataclasses.replace(around, pads=((0, 0),) * self.rank)

    def input_channels(self, input_shape: Any) -> int:
        """Checks an input shape, pins its channels in ``input_spec`` and returns their number."""
        shape = static_shape(input_shape)
        if len(shape) < self.rank + 2 or (len(shape) > self.rank + 2 and not self.extra_batch_axes):
            raise ValueError(
                f"{type(self).__name__} needs an input of rank {self.rank + 2}. "
                f"Received: input_shape={shape}"
            )
        self.compute_output_shape(shape)  # raises where there is none
        return self.pinned_channels(shape, **self._axes_spec)

    def pinned_sizes(self, input_shape: Any, reason: str) -> tuple[int, ...]:
        """The spatial sizes of an input, which ``input_spec`` then holds inputs to as well.

        Raises:
            ValueError: If one is not known; says the ``reason`` why it has to be.
        """
        shape, spatial = static_shape(input_shape), self._spatial
        sizes = shape[spatial]
        if None in sizes:
            raise ValueError(f"{reason} to be known. Received: input_shape={shape}")
        axes = dict(zip(range(len(shape))[spatial], sizes))
        axes[self.channel_axis] = shape[self.channel_axis]
        self.input_spec = keras.layers.InputSpec(ndim=self.rank + 2, axes=axes)
        return sizes

    @property
    def _spatial(self) -> slice:
        return slice(-1 - self.rank, -1) if self.channel_axis == -1 else slice(-self.rank, None)

    def output_channels(self, channels: int | None) -> int | None:
        """Channels that the layer gives for ``channels`` of its input."""
        return channels

    def output_sizes(self, sizes: Sequence[int | None]) -> Sequence[int | None]:
        """Spatial sizes that the layer gives for those of its input."""
        check_sizes(self.geometry, self.padding_mode, sizes)
        return self.geometry.output_shape(sizes)

    def compute_output_shape(self, input_shape: Any) -> Any:
        shape = list(static_shape(input_shape))
        shape[self._spatial] = self.output_sizes(shape[self._spatial])
        shape[self.channel_axis] = self.output_channels(shape[self.channel_axis])
        return shape_for_keras(shape)

    def fitting(self, x: tf.Tensor) -> tf.Tensor:
        """``x`` channels last, if it gives an output and has the sizes that the layer pins.

        Pinned sizes that are not known yet are checked later; so is, in `tfconv.ops`, whether the
        kernel fits into ``x``.
        """
        x = tf.convert_to_tensor(x)
        output = static_shape(self.compute_output_shape(x.shape))  # raises, too
        if 0 in output[self._spatial] and not self.takes_no_pixels:
            raise ValueError(
                f"{type(self).__name__} needs at least one pixel along each spatial axis. "
                f"Received: input_shape={static_shape(x.shape)}"
            )
        return self.channels_last(of_pinned_sizes(x, self))

    def padded(self, x: tf.Tensor) -> tf.Tensor:
        """A channels-last input with what ``padding_mode`` puts around it.

        Zeros are left to the operation.
        """
        if self.padding_mode == "zeros" or self.padding == "valid":
            return x
        return padded(x, self.geometry, self.padding_mode)

    # 1x1 convolutions inside, of channels-last tensors.

    def pointwise_sublayer(self, name: str, channels: int, filters: int, **arguments: Any) -> Any:
        """Makes one, the attribute ``name``, from ``channels`` to ``filters`` channels."""
        conv = getattr(keras.layers, f"Conv{self.rank}D")
        arguments.update(filters=filters, kernel_size=1, data_format="channels_last")
        return self.sublayer(name, conv, (*[None] * (self.rank + 1), channels), **arguments)

    def made_by(self, layer: Any, x: tf.Tensor) -> tf.Tensor:
        """What a layer inside makes of ``x``, which may have no examples."""
        return self.computed(with_an_example(layer, x))


class OneKernelConv(Adaptable, SpatialLayer):
    """A convolution whose kernel meets its input in Keras's hook `convolution_op`.

    Subclasses say what `convolved` gives.
    """

    def call(self, inputs):
        x = tf.convert_to_tensor(inputs)
        batch_axes = x.shape.rank - self.rank - 1
        if batch_axes == 1:
            return self._result(x)
        sizes, output = tf.shape(x), self.compute_output_shape(x.shape)
        static = enumerate(x.shape.as_list()[batch_axes:], start=batch_axes)
        y = self._result(tf.reshape(x, [-1, *(sizes[i] if n is None else n for i, n in static)]))
        y = tf.reshape(y, tf.concat([sizes[:batch_axes], tf.shape(y)[1:]], 0))
        y.set_shape(output)
        return y

    def _result(self, x: tf.Tensor) -> tf.Tensor:
        y = tf.convert_to_tensor(self.convolution_op(x, self.computed(self._in_force())))
        return self.activated(self.biased(y, self.bias))

    def biased(self, y: tf.Tensor, bias: Any) -> tf.Tensor:
        """``y`` with one bias for each channel, in the layer's data format."""
        if bias is None:
            return y
        bias = self.computed(bias)
        known = self.rank == 3 and self.channel_axis == -1 and y.shape[1:].is_fully_defined()
        if known and _compat.tracing_for_tflite():  # of frames: a part of their convolution
            return tf.reshape(tf.reshape(y, [-1, *y.shape[2:]]) + bias, [-1, *y.shape[1:]])
        return y + (bias if self.channel_axis == -1 else tf.reshape(bias, [-1, *[1] * self.rank]))

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """What the layer does between its input and its kernel: a hook, as in Keras.

        Subclasses override it, say to standardize the kernel first.

        Args:
            inputs: The layer's input, in its data format.
            kernel: The kernel.

        Returns:
            The output before bias and activation, in the layer's data format.
        """
        x = self.padded(self.fitting(inputs))
        return self.restored(self.convolved(x, tf.convert_to_tensor(kernel)))

    @abstractmethod
    def convolved(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """The convolution of a channels-last input, `padded`, with a kernel."""


class ConvLayer(Adaptable, SpatialLayer):
    """A layer with filters, in the argument order of Keras's Conv layers.

    Args:
        filters: Output channels.
        groups: Groups of channels, and of filters, that see only each other.

    Output shape: [N, *output spatial, filters] (or [N, filters, *output spatial]).

    Raises:
        ValueError: If an argument is not what is described above, or ``groups`` does not divide
            the input's channels.
    """

    @in_order("filters", *OF_WINDOWS, "groups", *OF_KERNELS)
    def __init__(self, *, filters: int, groups: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.take(positive_int, filters=filters, groups=groups)
        if self.filters % self.groups:
            raise ValueError(
                "The number of filters, `filters`, must be divisible by `groups`. "
                f"Received: filters={filters}, groups={groups}"
            )

    def output_channels(self, channels: int | None) -> int:
        return self.filters

    def kernel_shape(self, input_shape: Any) -> tuple[int, ...]:
        """[*kernel_size, C / groups, filters] for an input shape.

        Raises:
            ValueError: If ``groups`` does not divide the input's channels.
        """
        count = self.input_channels(input_shape)
        self.require_divisor("groups", count, input_shape, self.filters)
        return (*self.kernel_size, count // self.groups, self.filters)
