"""The base of all layers: their arguments, files, data formats, and the layers inside them."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from typing import Any, ClassVar

import tensorflow as tf

from tfconv import _compat
from tfconv._compat import keras
from tfconv._version import __version__
from tfconv.deprecation import warn_of_old_name
from tfconv.layers.arguments import (
    KINDS,
    Check,
    resolved,
    serialized,
)
from tfconv.layers.signatures import compose
from tfconv.ops import channels
from tfconv.ops.checks import of_sizes
from tfconv.ops.dispatch import in_float32

# What may be done to a layer inside another after it was made, by the configuration's names.
_CHANGES = ("trainable", "dtype", "quantization_config", "lora_rank", "lora_alpha")


# Kernels that models do badly with fewer, or like weights of.
_MUST_STAY = re.compile("depthwise|offset|axis_kernel")


def _public_name(layer: Any) -> str:
    """What the kernel is called that low-rank adaptation adds to."""
    names = ("expert_kernels", "depthwise_kernel", "kernel")
    return next(name for name in names if getattr(getattr(type(layer), name, None), "fset", None))


def register(registered: Any) -> Any:
    """Decorator for what Keras finds by its name in files; layers' docstrings become complete."""
    if isinstance(registered, type) and issubclass(registered, BaseLayer):
        compose(registered)
        if not _compat.KERAS_3 and not hasattr(keras.layers, registered.__name__):
            # Its wrappers, such as TimeDistributed, look for the names that classes have in Python.
            keras.utils.get_custom_objects()[registered.__name__] = registered
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

    Raises:
        ValueError: If an argument is not what is described above.
    """

    fixed: ClassVar[tuple[str, ...]] = ()  # arguments of its bases that a class sets itself
    by_position: ClassVar[int | None] = None  # how many arguments need no name; None for any
    takes_integers = False  # where the values are only moved
    renamed: ClassVar[dict[str, str]] = {}  # names of today by those that old files have
    deprecated: ClassVar[dict[str, str]] = {}  # those of them that go, and with which version
    ignored: ClassVar[tuple[str, ...]] = ()  # what Keras's configurations have, and we do not need
    # Arguments that configurations have only where they are not these, so that Keras reads them.
    unsaid: ClassVar[dict[str, Any]] = {
        "padding_mode": "zeros",
        "lora_rank": None,
        "lora_alpha": None,
    }
    # Weights whose initializer, regularizer and constraint are arguments of this class, beside
    # those of its bases, with the initializers' defaults: ``offset_initializer`` and so on.
    weight_arguments: ClassVar[dict[str, str]] = {}
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
        for new, (_, old) in renamed.items():
            if old in self.deprecated:
                warn_of_old_name(type(self).__name__, old, new, self.deprecated[old])
        changes = kwargs.pop("sublayers", {})
        weights = {}
        for base in reversed(type(self).__mro__):
            weights.update(vars(base).get("weight_arguments", {}))
        names = [(f"{weight}_{kind}", weight) for kind in KINDS for weight in weights]
        of_weights = [(kwargs.pop(name, None), name, weights[weight]) for name, weight in names]
        super().__init__(**kwargs)
        if _compat.is_quantized_itself(self):
            raise self._not_quantized()
        self._by_old_names, self._changes = Untracked(renamed), Untracked(changes)
        self._taken: tuple[str, ...] = ()
        self._sublayers: tuple[str, ...] = ()
        self.take(resolved, activity_regularizer=activity_regularizer)
        for value, name, default in of_weights:
            self.take(functools.partial(resolved, default=default), **{name: value})

    def __call__(self, *args: Any, **kwargs: Any):
        self._check_types(args[0] if args else kwargs.get("inputs"))
        return super().__call__(*args, **kwargs)

    def quantized_call(self, *args: Any, **kwargs: Any):
        # Of Keras 3: a policy may come to a layer later, by its path in a map.
        raise self._not_quantized()

    def _not_quantized(self) -> ValueError:
        return ValueError(
            f"{type(self).__name__} has no quantized form: `dtype` must be a type of floats, or a "
            'policy with such; `model.quantize("int8")` quantizes the dense layers inside. '
            f"Received: dtype={_compat.own_policy_of(self).name} in the layer {self.name!r}"
        )

    def _check_types(self, inputs: Any) -> None:
        """Raises ValueError for inputs that are not dense, or no floats: Keras casts no integers.

        TensorFlow's own errors for them show their values, and the weights.
        """
        for x in _compat.tree.flatten(inputs):
            if isinstance(x, (int, float, str)):
                raise ValueError(
                    f"{type(self).__name__} takes tensors or arrays: give `np.array(x)` for a "
                    f"list. Received: {x!r} in the layer {self.name!r}"
                )
            if isinstance(x, (tf.RaggedTensor, tf.SparseTensor)):
                raise ValueError(
                    f"{type(self).__name__} takes dense tensors: give `x.to_tensor()` for a ragged "
                    "one, and `tf.sparse.to_dense(x)` for a sparse one. "
                    f"Received: {type(x).__name__} in the layer {self.name!r}"
                )
            dtype = getattr(x, "dtype", None)
            dtype = getattr(dtype, "name", dtype)
            known = dtype is None or self.takes_integers
            if not known and not str(dtype).startswith(("float", "bfloat")):
                raise ValueError(
                    f"{type(self).__name__} takes floats: cast its input, as `tf.cast(x, "
                    '"float32")` does, or rescale images, as `keras.layers.Rescaling(1 / 255)` '
                    f"does. Received: input of dtype {dtype} in the layer {self.name!r}"
                )

    def entered(self, inputs: Any) -> tf.Tensor:
        """An input of another method of a built layer, as its call would get it, or refuse it."""
        require_built(self)
        if _compat.is_keras_tensor(inputs):
            raise ValueError(
                f"This method of {type(self).__name__} takes tensors: in a functional model, call "
                f"it in a layer of your own. Received: the Keras tensor {inputs.name!r}"
            )
        self._check_types(inputs)
        x = tf.cast(inputs, self.compute_dtype)
        _compat.check_input(self, x)
        return x

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
        names = {name: cls.renamed.get(name, name) for name in config if name not in cls.ignored}
        return super().from_config({new: config[old] for old, new in names.items()})

    def get_build_config(self) -> dict[str, Any] | None:
        config = super().get_build_config()
        return {**config, "written_by": f"tfconv {__version__}"} if config else config

    # Layers inside.

    def sublayer(self, name: str, layer_class: Any, input_shape: Any, **arguments: Any) -> Any:
        """Makes a layer inside this one, its attribute ``name``, and builds it.

        It computes as this one does and is frozen when this one is. What was done to it by itself
        (frozen, quantized, with low-rank adaptation) comes back from files.
        """
        policy = _compat.policy_inside(self, name)
        arguments.update(name=name, dtype=policy, trainable=self.trainable)
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
            layer = getattr(self, name)
            inside = layer.get_config()
            changed = [key for key in _CHANGES if inside.get(key) != made.get(key)]
            if _compat.policy_of(layer) == _compat.policy_inside(self, name):
                changed = [key for key in changed if key != "dtype"]
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
            y = y + self.computed(bias)
        return self.activated(self.restored(y))

    def activated(self, y: tf.Tensor) -> tf.Tensor:
        """``y`` with the layer's activation, which wrappers of users take away for a while."""
        return y if self.activation is None else self.activation(y)

    # Weights.

    def arguments_of(self, weight: str) -> dict[str, Any]:
        """Initializer, regularizer and constraint by arguments such as ``kernel_initializer``."""
        return {kind: getattr(self, f"{weight}_{kind}", None) for kind in KINDS}

    def add_like(self, shape: Sequence[int], name: str, like: str, **arguments: Any) -> Any:
        """Creates a weight by the arguments of a kind of weights, such as "kernel".

        ``arguments`` of `add_weight` go before them.
        """
        arguments = {**self.arguments_of(like), **arguments}
        return self.add_weight(name=name, shape=tuple(shape), trainable=True, **arguments)

    def computed(self, value: Any) -> tf.Tensor:
        """A variable, or what a layer inside gives, as a tensor of this layer's compute dtype."""
        return _compat.convert_variable(value, self.compute_dtype)

    # What TensorFlow's Model Optimization Toolkit asks of layers.

    def kernels_by_path(self) -> dict[str, Any]:
        """The layer's kernels, and those of layers inside, by names such as "span.kernel"."""
        found: dict[str, Any] = {}

        def look(layer: Any, path: str) -> None:
            for name, value in vars(layer).items():
                name = _public_name(layer) if name == "_kernel" else name
                if isinstance(value, keras.layers.Layer):
                    look(value, f"{path}{name}.")
                elif "kernel" in name and tf.is_tensor(value) and value.shape.rank > 1:
                    found[path + name] = value

        look(self, "")
        return dict(sorted(found.items()))

    def get_prunable_weights(self) -> list[Any]:
        """The kernels that may lose weights: all but those of one channel, and of coordinates."""
        kernels = self.kernels_by_path().items()
        return [kernel for path, kernel in kernels if not _MUST_STAY.search(path)]

    def get_clusterable_weights(self) -> list[tuple[str, Any]]:
        """Those whose weights may take few values, with their names: the layer's own.

        In the order of the layer's weights: the toolkit puts them back one after the other.
        """
        names = {
            id(kernel): path
            for path, kernel in self.kernels_by_path().items()
            if "." not in path and not _MUST_STAY.search(path)
        }
        return [(names[id(w)], w) for w in self.weights if id(w) in names]

    def get_clusterable_algorithm(self, weight_name: str) -> None:
        """None: the toolkit's own."""
