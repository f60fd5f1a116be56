"""The rank-generic base of the layers: Keras's Conv arguments over any number of axes."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv import _compat
from tfconv._compat import keras
from tfconv.ops import channels
from tfconv.ops.dispatch import in_float32
from tfconv.ops.geometry import Geometry, Padding, is_int, per_axis, standardized_padding

register = keras.utils.register_keras_serializable(package="tfconv")


def positive_int(value: Any, name: str) -> int:
    """``value`` as an int of at least 1; ValueError names the argument otherwise."""
    if not is_int(value) or value < 1:
        raise _refused(value, name, "a positive integer")
    return int(value)


def boolean(value: Any, name: str) -> bool:
    """``value`` as a bool; ValueError names the argument otherwise."""
    if not isinstance(value, (bool, np.bool_)):
        raise _refused(value, name, "True or False")
    return bool(value)


def number(value: Any, name: str, least: float = 0.0, most: float = math.inf) -> float:
    """``value`` as a finite float from ``least`` to ``most``; ValueError names the argument."""
    result = _as_float(value)
    if not least <= result <= most or math.isinf(result):
        interval = f"of at least {least:g}" if math.isinf(most) else f"from {least:g} to {most:g}"
        raise _refused(value, name, f"a number {interval}")
    return result


def positive_number(value: Any, name: str) -> float:
    """``value`` as a finite float above zero; ValueError names the argument otherwise."""
    result = _as_float(value)
    if not 0 < result < math.inf:
        raise _refused(value, name, "a positive number")
    return result


def global_mean(x: tf.Tensor, axes: Sequence[int]) -> tf.Tensor:
    """Mean over axes; sums of half types are formed in float32, where they do not overflow."""
    return in_float32(lambda x: tf.reduce_mean(x, axis=list(axes)), x)


def one_of(value: Any, name: str, choices: Sequence[str | None]) -> Any:
    """``value`` if it is one of ``choices``; ValueError names the argument otherwise."""
    if not (value is None or isinstance(value, str)) or value not in choices:
        listed = ", ".join("None" if choice is None else f'"{choice}"' for choice in choices)
        raise _refused(value, name, f"one of {listed}")
    return value


def resolved(value: Any, name: str, default: str | None = None) -> Any:
    """What Keras makes of an activation, initializer, regularizer or constraint.

    The end of ``name`` says which of them it is.

    Args:
        value: A name, configuration, function or object; None gives no activation, regularizer
            or constraint, and for an initializer ``default``.
        name: The argument's name.
        default: An initializer's name; None takes Keras's for such a weight.

    Raises:
        ValueError: If Keras can make nothing of it; names the argument.
    """
    kind = name.rsplit("_", 1)[-1]
    given = value
    if kind == "initializer" and value is None:
        given = default or ("zeros" if name == "bias_initializer" else "glorot_uniform")
    try:
        result = _module_of(name).get(given)
    except Exception as error:  # of several types, which differ between the versions of Keras
        raise _refused(value, name, _known_to_keras(kind)) from error
    # Keras 2 gives back regularizers that it does not know.
    if result is not None and (not callable(result) or inspect.isclass(result)):
        raise _refused(value, name, _known_to_keras(kind))
    return result


def _module_of(name: str) -> Any:
    """Keras's module for what an argument of this name takes."""
    return getattr(keras, name.rsplit("_", 1)[-1] + "s")


def _as_float(value: Any) -> float:
    """``value`` as a float; NaN where it is no number."""
    if isinstance(value, (bool, np.bool_, str, bytes)):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _known_to_keras(kind: str) -> str:
    article = "an" if kind[0] in "ai" else "a"
    return f"{article} {kind} that Keras knows: a name, a configuration or a callable"


def _refused(value: Any, name: str, expected: str) -> ValueError:
    return ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")


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


def checked(x: tf.Tensor, holds: tf.Tensor, message: str, received: tf.Tensor) -> tf.Tensor:
    """``x``, whose use raises InvalidArgumentError when the layer runs unless ``holds``.

    Nothing is checked in what is exported: TensorFlow Lite cannot.
    """
    if _compat.tracing_for_export():
        return x
    with tf.control_dependencies([tf.debugging.Assert(holds, [message, received])]):
        return tf.identity(x)


def require_built(layer: Any) -> None:
    """Raises ValueError in a layer that has no weights yet."""
    if not layer.built:
        raise ValueError(
            f"{type(layer).__name__} has no weights yet: call or build it first. "
            "Received: built=False"
        )


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
            activity_regularizer=resolved(activity_regularizer, "activity_regularizer"), **kwargs
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

    @property
    def least_sizes(self) -> tuple[int, ...]:
        """Pixels that the input needs along each spatial axis for one output."""
        return self.geometry.least_sizes

    def fitting(self, x: tf.Tensor) -> tf.Tensor:
        """``x`` channels last, if it gives an output; sizes not known yet are checked later.

        TensorFlow's convolutions give anything or nothing for inputs smaller than the kernel.
        """
        x, least = tf.convert_to_tensor(x), self.least_sizes
        self.compute_output_shape(x.shape)  # raises
        x = self.channels_last(x)
        if all(n is not None or m <= 1 for n, m in zip(x.shape.as_list()[1:-1], least)):
            return x
        sizes = tf.shape(x)[1:-1]
        message = (
            f"`kernel_size` {self.kernel_size} with `padding` {self.padding!r} needs an input of "
            f"at least {least} pixels. Received: spatial sizes"
        )
        return checked(x, tf.reduce_all(sizes >= least), message, sizes)

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
    layer.activation = resolved(activation, "activation")
    layer.use_bias = boolean(use_bias, "use_bias")
    for name, value in arguments.items():
        setattr(layer, name, resolved(value, name))


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
