"""The rank-generic base of the layers: Keras's Conv arguments over any number of axes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfconv import _compat
from tfconv._compat import keras
from tfconv.ops import channels
from tfconv.ops.geometry import Geometry, Padding, per_axis, standardized_padding

register = keras.utils.register_keras_serializable(package="tfconv")


def positive_int(value: Any, name: str) -> int:
    """``value`` as an int of at least 1; ValueError names the argument otherwise."""
    if not hasattr(value, "__index__") or isinstance(value, bool) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    return int(value)


def static_shape(shape: Any) -> tuple[int | None, ...]:
    """A shape as Keras 2 or Keras 3 gives it, as a tuple."""
    return tuple(tf.TensorShape(shape).as_list())


def known_channels(shape: Any, axis: int, layer: Any) -> int:
    """The number of channels in a static shape; ValueError names the layer when unknown."""
    shape = static_shape(shape)
    if shape[axis] is None:
        raise ValueError(
            f"{type(layer).__name__} needs the channel axis (axis {axis}) of its input to be "
            f"defined. Received: input_shape={shape}"
        )
    return shape[axis]


def dtype_policy_of(layer: Any) -> Any:
    """The dtype policy of a layer of either Keras, for the layers inside it."""
    return layer.dtype_policy if _compat.KERAS_3 else layer._dtype_policy


class OptionalInputs:
    """Mixin: a layer that makes an input itself when the caller gives none.

    Weights for making it exist only in layers that were built without it, so that no trainable
    weight is ever left without a gradient. The choice is saved with the layer.
    """

    given_at_build = False

    def note_given(self, given: bool) -> None:
        """Call before the layer is built: whether the caller gives the optional input."""
        if not self.built:
            self.given_at_build = given

    def require_own(self, name: str) -> None:
        """Raises when the optional input is missing and the layer cannot make it."""
        if self.given_at_build:
            raise ValueError(
                f"{type(self).__name__} was built with `{name}` given, so it has no weights to "
                f"make them from its input: give `{name}` in every call. Received: {name}=None"
            )

    def get_build_config(self) -> dict[str, Any] | None:
        config = super().get_build_config()
        return {**config, "given_at_build": True} if config and self.given_at_build else config

    def build_from_config(self, config: dict[str, Any]) -> None:
        config = dict(config or {})
        self.given_at_build = config.pop("given_at_build", False)
        super().build_from_config(config)


class SpatialLayer(keras.layers.Layer):
    """A layer that slides a window over ``rank`` spatial axes.

    Subclasses set ``rank``. Tensors inside a layer are channels-last: `channels_last` and
    `restored` move the channel axis at its border, so every layer works with both data formats
    on every device.

    Args:
        kernel_size: Taps per spatial axis; an int or one int per axis.
        strides: Pixels between neighbouring outputs.
        padding: "valid", "same", "full", "causal" (1-D), an int, or one (before, after) pair
            per spatial axis.
        data_format: "channels_last" or "channels_first"; None takes Keras's setting.
        dilation_rate: Pixels between neighbouring taps.
        **kwargs: Keras's own: ``name``, ``dtype``, ``trainable``, ``activity_regularizer``.
    """

    rank: int

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        activity_regularizer: Any = None,
        **kwargs: Any,
    ):
        super().__init__(
            activity_regularizer=keras.regularizers.get(activity_regularizer), **kwargs
        )
        self.kernel_size = per_axis(kernel_size, self.rank, "kernel_size")
        self.strides = per_axis(strides, self.rank, "strides")
        self.padding = standardized_padding(padding, self.rank)
        self.data_format = _compat.standardized_data_format(data_format)
        self.dilation_rate = per_axis(dilation_rate, self.rank, "dilation_rate")
        self.input_spec = keras.layers.InputSpec(ndim=self.rank + 2)

    @property
    def geometry(self) -> Geometry:
        """Where the layer's taps fall."""
        return Geometry.of(
            self.kernel_size, self.strides, self.padding, self.dilation_rate, self.rank
        )

    @property
    def geometry_arguments(self) -> dict[str, Any]:
        """The geometry as keyword arguments of `tfconv.ops` functions that see the kernel."""
        return {
            "strides": self.strides,
            "padding": self.padding,
            "dilation_rate": self.dilation_rate,
            "data_format": "channels_last",
        }

    @property
    def channel_axis(self) -> int:
        return -1 if self.data_format == "channels_last" else 1

    def input_channels(self, input_shape: Any) -> int:
        """Checks an input shape, pins its channels in ``input_spec`` and returns their number."""
        shape = static_shape(input_shape)
        if len(shape) != self.rank + 2:
            raise ValueError(
                f"{type(self).__name__} needs an input of rank {self.rank + 2}. "
                f"Received: input_shape={shape}"
            )
        count = known_channels(shape, self.channel_axis, self)
        axes = {self.channel_axis: count}
        self.input_spec = keras.layers.InputSpec(ndim=self.rank + 2, axes=axes)
        return count

    def output_channels(self, channels: int | None) -> int | None:
        """Channels that the layer gives for ``channels`` of its input."""
        return channels

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        shape = list(static_shape(input_shape))
        first = 1 if self.data_format == "channels_last" else 2
        spatial = slice(first, first + self.rank)
        shape[spatial] = self.geometry.output_shape(shape[spatial])
        shape[self.channel_axis] = self.output_channels(shape[self.channel_axis])
        return tuple(shape)

    def channels_last(self, x: tf.Tensor) -> tf.Tensor:
        """``x`` with its channels last, whatever the layer's data format."""
        x = tf.convert_to_tensor(x)
        return x if self.data_format == "channels_last" else channels.to_last(x)

    def restored(self, y: tf.Tensor) -> tf.Tensor:
        """A channels-last result in the layer's data format."""
        return y if self.data_format == "channels_last" else channels.to_first(y)

    def weight(self, value: Any) -> tf.Tensor:
        """A variable as a tensor of the layer's compute dtype."""
        return _compat.convert_variable(value, self.compute_dtype)

    @property
    def sublayer_dtype(self) -> Any:
        return dtype_policy_of(self)

    def build_sublayer(self, layer: Any, input_shape: Sequence[int | None]) -> None:
        """Builds a layer inside this one, its weights' names prefixed with its own."""
        with tf.name_scope(layer.name):
            layer.build(tuple(input_shape))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        padding = self.padding
        config.update(
            kernel_size=list(self.kernel_size),
            strides=list(self.strides),
            padding=padding if isinstance(padding, (str, int)) else [list(p) for p in padding],
            data_format=self.data_format,
            dilation_rate=list(self.dilation_rate),
            activity_regularizer=keras.regularizers.serialize(self.activity_regularizer),
        )
        return config


class KernelLayer(SpatialLayer):
    """A `SpatialLayer` with a kernel and a bias: Keras's remaining Conv arguments.

    Args:
        activation: Activation of the outputs.
        use_bias: Whether there is a bias.
        kernel_initializer, bias_initializer: Initializers.
        kernel_regularizer, bias_regularizer, activity_regularizer: Regularizers.
        kernel_constraint, bias_constraint: Constraints.
        **kwargs: Those of `SpatialLayer`.
    """

    def __init__(
        self,
        *,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        set_kernel_arguments(
            self,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
        )

    def add_kernel(
        self, shape: Sequence[int], name: str = "kernel", initializer: Any = None
    ) -> Any:
        """Creates a kernel by the layer's kernel arguments; ``initializer`` goes before theirs."""
        return self.add_weight(
            name=name,
            shape=tuple(shape),
            initializer=self.kernel_initializer if initializer is None else initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
            trainable=True,
        )

    def add_bias(self, shape: Sequence[int], name: str = "bias") -> Any:
        """Creates a bias by the layer's bias arguments; None without ``use_bias``."""
        if not self.use_bias:
            return None
        return self.add_weight(
            name=name,
            shape=tuple(shape),
            initializer=self.bias_initializer,
            regularizer=self.bias_regularizer,
            constraint=self.bias_constraint,
            trainable=True,
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **kernel_config(self)}


def set_kernel_arguments(layer: Any, *, activation: Any, use_bias: bool, **arguments: Any) -> None:
    """Sets a layer's activation, bias flag, and kernel and bias initializers and the like."""
    layer.activation = keras.activations.get(activation)
    layer.use_bias = bool(use_bias)
    for name, value in arguments.items():
        setattr(layer, name, _module_of(name).get(value))


def kernel_config(layer: Any) -> dict[str, Any]:
    """The configuration of what `set_kernel_arguments` set."""
    config = {
        "activation": keras.activations.serialize(layer.activation),
        "use_bias": layer.use_bias,
    }
    for kind in ("initializer", "regularizer", "constraint"):
        for weight in ("kernel", "bias"):
            name = f"{weight}_{kind}"
            config[name] = _module_of(name).serialize(getattr(layer, name))
    return config


def _module_of(name: str) -> Any:
    kind = name.rsplit("_", 1)[1]
    return {
        "initializer": keras.initializers,
        "regularizer": keras.regularizers,
        "constraint": keras.constraints,
    }[kind]


class ConvLayer(KernelLayer):
    """A `KernelLayer` that has filters, in the argument order of Keras's Conv layers.

    Args:
        filters: Output channels.
        kernel_size, strides, padding, data_format, dilation_rate: See `SpatialLayer`.
        groups: Groups of channels, and of filters, that see only each other.
        **kwargs: Those of `KernelLayer`.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ):
        super().__init__(
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self.filters = positive_int(filters, "filters")
        self.groups = positive_int(groups, "groups")
        if self.filters % self.groups:
            raise ValueError(
                "`filters` must be divisible by `groups`. "
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
        if count % self.groups:
            raise ValueError(
                "The number of input channels must be divisible by `groups`. "
                f"Received: groups={self.groups}, input_shape={static_shape(input_shape)}"
            )
        return (*self.kernel_size, count // self.groups, self.filters)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "filters": self.filters, "groups": self.groups}


def independent_copies(initializer: Any, count: int) -> list[Callable[..., Any]]:
    """``count`` initializers like ``initializer`` that draw different numbers.

    Keras's random initializers give the same numbers at every call: each copy gets a seed of
    its own, derived from the original's when it has one.
    """
    config = initializer.get_config() if hasattr(initializer, "get_config") else {}
    seed = config.get("seed", "none")
    if seed is None:
        seed = random.randrange(2**31 - count)
    if not isinstance(seed, int):
        return [initializer] * count
    return [type(initializer).from_config({**config, "seed": seed + i}) for i in range(count)]
