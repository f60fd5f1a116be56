"""The bases of all layers: their arguments, the layers inside them, and windows of any rank."""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import tensorflow as tf

from tfconv import _compat
from tfconv._compat import keras
from tfconv.layers.arguments import (
    KINDS,
    Check,
    boolean,
    choice,
    known_data_format,
    optional,
    positive_int,
    positive_number,
    resolved,
    serialized,
)
from tfconv.layers.signatures import compose
from tfconv.ops import channels
from tfconv.ops.checks import of_sizes
from tfconv.ops.dispatch import in_float32
from tfconv.ops.geometry import Geometry, Padding, per_axis, standardized_padding
from tfconv.ops.padding import MODES, check_sizes, padded

# What may be done to a layer inside another after it was made, by the configuration's names.
_CHANGES = ("trainable", "dtype", "quantization_config", "lora_rank", "lora_alpha")


def register(registered: Any) -> Any:
    """Decorator for what Keras finds by its name in files; layers' docstrings become complete."""
    if isinstance(registered, type) and issubclass(registered, BaseLayer):
        compose(registered)
    return keras.utils.register_keras_serializable(package="tfconv")(registered)


def global_mean(x: tf.Tensor, axes: Sequence[int]) -> tf.Tensor:
    """Mean over axes; sums of half types are formed in float32, where they do not overflow."""
    return in_float32(lambda x: tf.reduce_mean(x, axis=list(axes)), x)


def static_shape(shape: Any) -> tuple[int | None, ...]:
    """A shape as Keras 2 or Keras 3 gives it, as a tuple."""
    return tuple(tf.TensorShape(shape).as_list())


def shape_for_keras(shape: Sequence[int | None]) -> Any:
    """A shape as this version of Keras gives shapes: a tuple, in Keras 2 a `tf.TensorShape`."""
    return tuple(shape) if _compat.KERAS_3 else tf.TensorShape(shape)


def known_channels(shape: Any, axis: int, layer: Any) -> int:
    """The number of channels in a static shape; ValueError names the layer when unknown."""
    shape = static_shape(shape)
    if shape[axis] is None:
        raise ValueError(
            f"{type(layer).__name__} needs the channel axis (axis {axis}) of its input to be "
            f"defined. Received: input_shape={shape}"
        )
    return shape[axis]


def of_pinned_sizes(x: tf.Tensor, layer: Any) -> tf.Tensor:
    """``x``, whose use raises when the layer runs unless it has the sizes in its ``input_spec``."""
    pinned = {axis % x.shape.rank: n for axis, n in layer.input_spec.axes.items()}
    sizes = tuple(pinned.get(axis) for axis in range(x.shape.rank))
    name = type(layer).__name__
    return of_sizes(x, sizes, f"{name} was built for inputs of shape {sizes}. Received: shape")


def require_built(layer: Any) -> None:
    """Raises ValueError in a layer that has no weights yet."""
    if not layer.built:
        raise ValueError(
            f"{type(layer).__name__} has no weights yet: call or build it first. "
            "Received: built=False"
        )


@dataclasses.dataclass(frozen=True)
class Untracked:
    """Holds lists and dictionaries, which Keras would track and wrap as a layer's attributes."""

    value: Any


class BaseLayer(keras.layers.Layer):
    """What all layers have: arguments that are checked and saved, and layers inside.

    Args:
        activity_regularizer: Regularizer of the outputs.
        **kwargs: Keras's own: ``name``, ``dtype``, ``trainable``.
    """

    fixed: ClassVar[tuple[str, ...]] = ()  # arguments of its bases that a class sets itself
    by_position: ClassVar[int | None] = None  # how many arguments need no name; None for any
    takes_integers = False  # where the values are only moved
    renamed: ClassVar[dict[str, str]] = {}  # names of today by those that old files have
    ignored: ClassVar[tuple[str, ...]] = ()  # what Keras's configurations have, and we do not need
    # Arguments that configurations have only where they are not these, so that Keras reads them.
    unsaid: ClassVar[dict[str, Any]] = {
        "padding_mode": "zeros",
        "lora_rank": None,
        "lora_alpha": None,
    }
    # Weights whose initializer, regularizer and constraint are arguments, with Keras's names for
    # the initializers unless others are given: ``offset_initializer`` and so on.
    other_weights: ClassVar[dict[str, str]] = {}
    __signature__: ClassVar[Any] = None

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__signature__ = None  # not that of the base: `register` composes one
        for old, new in vars(cls).get("renamed", {}).items():
            setattr(cls, old, property(lambda self, new=new: getattr(self, new)))

    def __new__(cls, *args: Any, **kwargs: Any):
        if cls.__signature__ is not None:  # not in classes of users with constructors of their own
            cls._check_call(args, kwargs)
        return super().__new__(cls, *args, **kwargs)

    @classmethod
    def _check_call(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises TypeError for arguments that only the layer's bases take, or take by position."""
        for name in cls.fixed:
            if name in kwargs:
                raise TypeError(
                    f"{cls.__name__} has no argument `{name}`. Received: {name}={kwargs[name]!r}"
                )
        most = cls.by_position
        if most is not None and len(args) > most:
            names = list(cls.__signature__.parameters)
            taken = " and ".join(f"`{name}`" for name in names[:most])
            taken = f"{taken} by position and the rest" if taken else "its arguments"
            raise TypeError(
                f"{cls.__name__} takes {taken} by name, such as `{names[most]}={args[most]!r}`. "
                f"Received: {len(args)} argument{'s'[: len(args) > 1]} by position"
            )

    def __init__(self, *, activity_regularizer: Any = None, **kwargs: Any):
        renamed = {
            new: (kwargs.pop(old), old) for old, new in self.renamed.items() if old in kwargs
        }
        changes = kwargs.pop("sublayers", {})
        others = {
            f"{weight}_{kind}": kwargs.pop(f"{weight}_{kind}", None)
            for weight in self.other_weights
            for kind in KINDS
        }
        super().__init__(**kwargs)
        self._by_old_names, self._changes = Untracked(renamed), Untracked(changes)
        self._taken: tuple[str, ...] = ()
        self._sublayers: tuple[str, ...] = ()
        self.take(resolved, activity_regularizer=activity_regularizer)
        for name, value in others.items():
            default = self.other_weights[name.rpartition("_")[0]]
            self.take(functools.partial(resolved, default=default), **{name: value})

    def __call__(self, *args: Any, **kwargs: Any):
        if not self.takes_integers:
            self._check_types(args[0] if args else kwargs.get("inputs"))
        return super().__call__(*args, **kwargs)

    def _check_types(self, inputs: Any) -> None:
        """Raises ValueError for inputs of integers, which Keras does not cast.

        TensorFlow's own errors for them show the weights.
        """
        for x in _compat.tree.flatten(inputs):
            dtype = getattr(x, "dtype", None)
            dtype = getattr(dtype, "name", dtype)
            if str(dtype).startswith(("int", "uint", "bool")):
                raise ValueError(
                    f"{type(self).__name__} takes floats: cast its input, as `tf.cast(x, "
                    '"float32")` does, or rescale images, as `keras.layers.Rescaling(1 / 255)` '
                    f"does. Received: input of dtype {dtype} in the layer {self.name!r}"
                )

    # Arguments.

    def take(self, check: Check, **values: Any) -> None:
        """Checks arguments and sets them as attributes, which the configuration then has."""
        for name, value in values.items():
            setattr(self, name, check(*self._by_old_names.value.get(name, (value, name))))
        self._taken = (*self._taken, *values)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        for name in self._taken:
            value = getattr(self, name)
            if name not in self.fixed and (name not in self.unsaid or value != self.unsaid[name]):
                config[name] = serialized(value, name)
        changes = self._changes_inside(config)
        return {**config, "sublayers": changes} if changes else config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return super().from_config({k: v for k, v in config.items() if k not in cls.ignored})

    # Layers inside.

    def sublayer(self, name: str, layer_class: Any, input_shape: Any, **arguments: Any) -> Any:
        """Makes a layer inside this one, its attribute ``name``, and builds it.

        It computes as this one does and is frozen when this one is. What was done to it by itself
        (frozen, quantized, with low-rank adaptation) comes back from files.
        """
        arguments.update(name=name, dtype=_compat.policy_of(self), trainable=self.trainable)
        layer = layer_class(**arguments)
        if name in self._changes.value:
            layer = layer_class.from_config({**layer.get_config(), **self._changes.value[name]})
        setattr(self, name, layer)
        self._sublayers = (*self._sublayers, name)
        self.build_sublayer(layer, input_shape)
        return layer

    def build_sublayer(self, layer: Any, input_shape: Any) -> None:
        """Builds a layer inside this one, its weights' names prefixed with its own."""
        with tf.name_scope(layer.name):
            layer.build(input_shape)

    def _changes_inside(self, config: dict[str, Any]) -> dict[str, Any]:
        """By layer inside: what of its configuration is not as this layer's would have it."""
        if not self.built:
            return self._changes.value
        found, made = {}, {name: config[name] for name in ("trainable", "dtype")}
        for name in self._sublayers:
            inside = getattr(self, name).get_config()
            changed = [key for key in _CHANGES if inside.get(key) != made.get(key)]
            if changed:
                found[name] = {key: inside[key] for key in changed}
        return found

    # Channels.

    @property
    def channel_axis(self) -> int:
        return 1 if getattr(self, "data_format", None) == "channels_first" else -1

    def pinned_channels(self, input_shape: Any, **spec: Any) -> int:
        """The number of channels of an input, which ``input_spec`` then holds inputs to."""
        count = known_channels(input_shape, self.channel_axis, self)
        self.input_spec = keras.layers.InputSpec(axes={self.channel_axis: count}, **spec)
        return count

    def require_divisor(
        self, name: str, count: int, input_shape: Any, filters: int = 0, instead: str = ""
    ) -> None:
        """Raises ValueError unless the argument ``name`` divides the number of channels.

        The error tells values that would do, for ``filters`` too, and what to give ``instead``.
        """
        value = getattr(self, name)
        if count % value:
            common = math.gcd(count, filters)
            divisors = [n for n in range(1, common + 1) if common % n == 0]
            near = sorted(sorted(divisors, key=lambda n: abs(n - value))[:6])
            *others, last = map(str, near)
            listed = f"{', '.join(others)} or {last}" if others else last
            instead = f", or give `{instead}`" if instead else ""
            raise ValueError(
                f"The number of input channels does not fit: `{name}` must divide it, as {listed} "
                f"would{instead}. Received: {name}={value}, input_shape={static_shape(input_shape)}"
            )

    def channels_last(self, x: tf.Tensor) -> tf.Tensor:
        """``x`` with its channels last, whatever the layer's data format."""
        x = tf.convert_to_tensor(x)
        return x if self.channel_axis == -1 else channels.to_last(x)

    def restored(self, y: tf.Tensor) -> tf.Tensor:
        """A channels-last result in the layer's data format."""
        return y if self.channel_axis == -1 else channels.to_first(y)

    def finish(self, y: tf.Tensor, bias: Any = None) -> tf.Tensor:
        """The layer's output: a channels-last result with its bias, moved and activated."""
        if bias is not None:
            y = y + self.weight(bias)
        return self.activated(self.restored(y))

    def activated(self, y: tf.Tensor) -> tf.Tensor:
        """``y`` with the layer's activation, which wrappers of users take away for a while."""
        return y if self.activation is None else self.activation(y)

    # Weights.

    def arguments_of(self, weight: str) -> dict[str, Any]:
        """Initializer, regularizer and constraint by arguments such as ``kernel_initializer``."""
        return {kind: getattr(self, f"{weight}_{kind}", None) for kind in KINDS}

    def add(self, shape: Sequence[int], name: str, like: str, **arguments: Any) -> Any:
        """Creates a weight by the arguments of a kind of weights, such as "kernel".

        ``arguments`` of `add_weight` go before them.
        """
        arguments = {**self.arguments_of(like), **arguments}
        return self.add_weight(name=name, shape=tuple(shape), trainable=True, **arguments)

    def weight(self, value: Any) -> tf.Tensor:
        """A variable, or what a layer inside gives, as a tensor of this layer's compute dtype."""
        return _compat.convert_variable(value, self.compute_dtype)


class OptionalInputs(BaseLayer):
    """A layer that makes an input itself when the caller gives none.

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


class SecondOutput(BaseLayer):
    """A layer that can give what it made on the way as well: a second output, when asked."""

    asks_for_second: ClassVar[str]  # the argument of its call that asks

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        # Of Keras 3 only. The shapes of both outputs are known to TensorFlow.
        if kwargs.get(self.asks_for_second):
            return _compat.traced_output_spec(self, *args, **kwargs)
        return super().compute_output_spec(*args, **kwargs)

    def second_output(self, inputs: Any, **arguments: Any) -> Any:
        """What the layer makes of a functional model's tensor, as another such tensor."""
        return self(inputs, **arguments, **{self.asks_for_second: True})[1]


class KernelArguments(BaseLayer):
    """A layer with kernels and biases, by Keras's arguments for them.

    Args:
        activation: Activation of the outputs.
        use_bias: Whether there is a bias.
        kernel_initializer, bias_initializer: Initializers.
        kernel_regularizer, bias_regularizer, activity_regularizer: Regularizers.
        kernel_constraint, bias_constraint: Constraints.
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
        self.take(boolean, use_bias=use_bias)
        self.take(
            resolved,
            activation=activation,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
        )

    def add_kernel(self, shape: Sequence[int], name: str = "kernel", **arguments: Any) -> Any:
        """Creates a kernel by the layer's kernel arguments; ``arguments`` go before them."""
        return self.add(shape, name, "kernel", **arguments)

    def add_bias(self, shape: Sequence[int], name: str = "bias", **arguments: Any) -> Any:
        """Creates a bias by the layer's bias arguments; None without ``use_bias``."""
        return self.add(shape, name, "bias", **arguments) if self.use_bias else None

    def arguments_inside(
        self, count: int, kernel: str = "kernel", bias: str = "bias"
    ) -> list[dict[str, Any]]:
        """Arguments for ``count`` layers inside, from this layer's of such kernels and biases."""
        shared = {
            f"{inside}_{kind}": value
            for inside, weight in (("kernel", kernel), ("bias", bias))
            for kind, value in self.arguments_of(weight).items()
        }
        if bias == "bias":
            shared["use_bias"] = self.use_bias
        copies = independent_copies(shared["kernel_initializer"], count, kernel)
        return [{**shared, "kernel_initializer": copy} for copy in copies]


def _as_given(value: Any, name: str) -> Any:
    """A positive number, an int if it is one."""
    positive_number(value, name)
    return value


class Adaptable(KernelArguments):
    """A layer with one kernel, which low-rank adaptation trains as that of Keras's layers.

    The kernel stays as it is; beside the bias, two small weights are trained:
    ``kernel + lora_alpha / lora_rank * (lora_kernel_a @ lora_kernel_b)``. Layers call
    `adapt_if_asked` when built, after they have made `kernel` and the bias.

    Args:
        lora_rank: Rank of the difference that low-rank adaptation trains; None for none. As in
            Keras, `enable_lora` starts it later. Keras 3 only.
        lora_alpha: Scales the difference; None for ``lora_rank``.
    """

    lora_enabled = False
    lora_axes: ClassVar[int] = -1  # the kernel as a matrix: which axes the columns are

    def __init__(
        self,
        *args: Any,
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.take(optional(positive_int), lora_rank=lora_rank)
        self.take(optional(_as_given), lora_alpha=lora_alpha)
        if lora_rank is not None:
            self._require_lora()
            if lora_alpha is None:
                self.lora_alpha = self.lora_rank

    def _in_force(self) -> Any:
        """The kernel: a variable or, with low-rank adaptation, the tensor that is in force."""
        try:
            kernel = self._kernel
        except AttributeError:
            raise AttributeError("You must build the layer before accessing `kernel`.") from None
        if not self.lora_enabled:
            return kernel
        a, b = map(_compat.convert_variable, (self.lora_kernel_a, self.lora_kernel_b))
        a = tf.reshape(a, [*b.shape[:-2], -1, b.shape[-2]])
        difference = self.lora_alpha / self.lora_rank * tf.matmul(a, b)
        kernel = tf.convert_to_tensor(kernel)
        return kernel + tf.cast(tf.reshape(difference, kernel.shape), kernel.dtype)

    kernel = property(_in_force, lambda self, value: setattr(self, "_kernel", value))

    def add_adaptation(self, name: str, shape: tuple[int, ...], initializer: Any) -> Any:
        """Creates a weight of the adaptation, in float32: half types would lose what it adds."""
        regularizer = self.kernel_regularizer
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer,
            regularizer=regularizer,
            dtype="float32",
        )

    def kernel_as_matrix(self) -> tuple[tuple[int, ...], int]:
        """The axes that are the kernel's rows, and how many columns there are."""
        shape = tuple(self._kernel.shape)
        return shape[: self.lora_axes], math.prod(shape[self.lora_axes :])

    def _require_lora(self) -> None:
        """Raises ValueError where there is no low-rank adaptation, as in Keras."""
        name = type(self).__name__
        if "lora_rank" in self.fixed:
            raise ValueError(
                f"{name} has several kernels, and no low-rank adaptation. Received: `enable_lora`"
            )
        if not _compat.KERAS_3:
            raise ValueError(
                f"Low-rank adaptation of {name} needs Keras 3. Received: `lora_rank` with Keras 2"
            )
        if self.kernel_constraint is not None:
            raise ValueError(
                "`lora_rank` cannot be given together with `kernel_constraint`. Received: "
                f"kernel_constraint={self.kernel_constraint!r}"
            )

    def adapt_if_asked(self) -> None:
        """Starts low-rank adaptation if ``lora_rank`` was given."""
        if self.lora_rank is not None:
            self._adapt(self.lora_rank, self.lora_alpha)

    def enable_lora(
        self,
        rank: int,
        lora_alpha: float | None = None,
        a_initializer: Any = "he_uniform",
        b_initializer: Any = "zeros",
    ) -> None:
        """Starts low-rank adaptation of a layer that is built; its outputs stay as they are.

        Args:
            rank: Rank of the difference that is trained.
            lora_alpha: Scales the difference; None for ``rank``.
            a_initializer: Initializer of ``lora_kernel_a``.
            b_initializer: Initializer of ``lora_kernel_b``.

        Raises:
            ValueError: If an argument is not what is described above, the layer is not built,
                adapts already, or has a ``kernel_constraint``.
        """
        self._require_lora()
        require_built(self)
        if self.lora_enabled:
            raise ValueError(
                f"{type(self).__name__} has low-rank adaptation already. Received: rank={rank}"
            )
        rank = positive_int(rank, "rank")
        alpha = optional(_as_given)(lora_alpha, "lora_alpha")
        self._adapt(rank, rank if alpha is None else alpha, a_initializer, b_initializer)

    def _adapt(
        self,
        rank: int,
        alpha: float,
        a_initializer: Any = "he_uniform",
        b_initializer: Any = "zeros",
    ) -> None:
        rows, columns = self.kernel_as_matrix()
        a_initializer = resolved(a_initializer, "a_initializer")
        b_initializer = resolved(b_initializer, "b_initializer")
        with _compat.more_weights(self):
            self.lora_kernel_a = self.add_adaptation("lora_kernel_a", (*rows, rank), a_initializer)
            self.lora_kernel_b = self.add_adaptation(
                "lora_kernel_b", (rank, columns), b_initializer
            )
        self._kernel.trainable = False
        self.lora_rank, self.lora_alpha, self.lora_enabled = rank, alpha, True

    def save_own_variables(self, store: Any) -> None:
        if not self.lora_enabled:
            super().save_own_variables(store)
            return
        for i, variable in enumerate(self._saved_variables()):
            store[str(i)] = self.kernel if variable is self._kernel else variable

    def load_own_variables(self, store: Any) -> None:
        if not self.lora_enabled:
            super().load_own_variables(store)
            return
        for i, variable in enumerate(self._saved_variables()):
            variable.assign(store[str(i)])
        # The file's kernel is the one that was in force. The other weight stays random: with
        # both zero, as in Keras, neither would be trained any further.
        self.lora_kernel_b.assign(tf.zeros_like(self.lora_kernel_b))

    def _saved_variables(self) -> list[Any]:
        """The layer's own variables but those of the adaptation, which files have in the kernel."""
        adaptation = (self.lora_kernel_a, self.lora_kernel_b)
        own = [*self._trainable_variables, *self._non_trainable_variables]
        return [v for v in own if all(v is not w for w in adaptation)]


class SpatialLayer(BaseLayer):
    """A layer that slides a window over ``rank`` spatial axes.

    Subclasses set ``rank``. Tensors inside a layer are channels-last: `channels_last` and
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
    """

    rank: ClassVar[int]
    takes_no_pixels: ClassVar[bool] = False  # along an axis
    extra_batch_axes: ClassVar[bool] = False  # whether inputs may have several batch axes

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
        y = tf.convert_to_tensor(self.convolution_op(x, self.weight(self._in_force())))
        return self.activated(self.biased(y, self.bias))

    def biased(self, y: tf.Tensor, bias: Any) -> tf.Tensor:
        """``y`` with one bias for each channel, in the layer's data format."""
        if bias is None:
            return y
        bias = self.weight(bias)
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


def independent_copies(initializer: Any, count: int, of: str = "") -> list[Callable[..., Any]]:
    """``count`` initializers like ``initializer`` that draw different numbers.

    Keras's random initializers give the same numbers at every call: each copy gets a seed of
    its own, derived from the original's when it has one. They are hashes, for where seeds are
    counted on, those of others are met.

    Args:
        initializer: An initializer.
        count: How many copies.
        of: What they are for; copies for other things draw other numbers.
    """
    config = initializer.get_config() if hasattr(initializer, "get_config") else {}
    seed = config.get("seed", "none")
    if seed is None:
        seed = random.randrange(2**63)
    if not isinstance(seed, int):
        return [initializer] * count
    return [
        type(initializer).from_config({**config, "seed": derived_seed(seed, of, number)})
        for number in range(count)
    ]


def derived_seed(seed: int, *what: Any) -> int:
    """A seed for something, which differs from those for other things and other seeds."""
    return random.Random(repr((seed, *what))).randrange(2**31)
