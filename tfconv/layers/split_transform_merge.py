"""Split, transform, merge: the channels in groups, a layer for each, one output."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfconv import _compat, ops
from tfconv._compat import keras
from tfconv.layers.arguments import choice, known_data_format, positive_int
from tfconv.layers.base import (
    BaseLayer,
    Untracked,
    known_channels,
    register,
    shape_for_keras,
    static_shape,
)
from tfconv.layers.kernels import derived_seed
from tfconv.layers.weighted_sum import WeightedSum
from tfconv.ops.dispatch import with_an_example

_MERGES = ("concat", "sum", "mean", "weighted_sum", "shuffle")


@register
class SplitTransformMerge(BaseLayer):
    """Splits the channels into groups, gives each to a layer of its own, merges the outputs.

    ``y = merge_g(transform_g(x[..., g * C / groups : (g + 1) * C / groups]))``.

    Args:
        transform: A Keras layer, from which every group gets a copy with weights of its own, or
            a list of layers, one for each group. What is given is a pattern and gets no
            weights: the copies are in ``transforms``. They have this layer's data format and
            compute in its data type, and seeds of their own where a single layer has seeds, of
            initializers or of dropout. Keras makes them from the layer's configuration, so that a
            Lambda of a Python lambda will not do: write a layer. A network with models as
            transforms is saved as a .keras file; .h5 files refuse weights of the same name, which
            the copies may have.
        groups: Groups of neighbouring channels; must divide the input's channels. Has to be
            given for a single layer, and is the number of layers for a list.
        merge: "concat" along the channels; "shuffle": that, then a channel shuffle; "sum" or
            "mean"; "weighted_sum": with one learned weight for each group (see `WeightedSum`).
        data_format: "channels_last" or "channels_first"; None takes Keras's setting.
        weighted_sum_initializer, weighted_sum_regularizer, weighted_sum_constraint: Of the
            weights of "weighted_sum".

    Call arguments:
        inputs: [N, *spatial, C] tensor (or [N, C, *spatial]), any number of spatial axes.
        training: Whether the transforms are called as in training.
        mask: Keras's mask of the inputs' positions, which every transform gets with its group. The
            outputs have the masks that the transforms give, merged as Keras's Add merges them.

    Output shape: That of the transforms' outputs; with "concat" and "shuffle", their channels
        together.

    Raises:
        ValueError: If an argument is not what is described above, Keras cannot make a transform
            from its configuration, ``groups`` does not divide the input's channels, or the
            transforms' outputs cannot be merged.

    Source: Xie et al., Aggregated Residual Transformations for Deep Neural Networks,
    arXiv:1611.05431, section 3; Szegedy et al., Going Deeper with Convolutions,
    arXiv:1409.4842.

    Example:
        >>> layer = tfconv.SplitTransformMerge(
        ...     tfconv.Involution2D(3, group_channels=2), groups=4, merge="shuffle"
        ... )
        >>> layer(tf.ones([2, 6, 6, 8])).shape
        TensorShape([2, 6, 6, 8])
    """

    weight_arguments = {"weighted_sum": "ones"}
    _compute_output_and_mask_jointly = True  # what Keras 2 asks for

    def __init__(
        self,
        transform: Any,
        groups: int | None = None,
        merge: str = "concat",
        data_format: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if isinstance(transform, (list, tuple)):
            if not transform or groups not in (None, len(transform)):
                raise ValueError(
                    "`groups` must be the number of layers in `transform`, at least 1. "
                    f"Received: groups={groups!r}, transform={transform!r}"
                )
            patterns = given = [_serialized(layer, transform) for layer in transform]
            groups = len(transform)
        else:
            given = _serialized(transform, transform)
            patterns = [_reseeded(given, i) for i in range(positive_int(groups, "groups"))]
        self._transform = Untracked(given)
        self.take(positive_int, groups=groups)
        self.take(choice(*_MERGES), merge=merge)
        self.take(known_data_format, data_format=data_format)
        changes = {"dtype": _compat.policy_of(self), "data_format": self.data_format}
        self.transforms = [
            _made(_changed(pattern, {**changes, "name": f"transform_{i}"}), transform)
            for i, pattern in enumerate(patterns)
        ]
        _compat.track_list(self, "transforms", self.transforms)
        if not self.trainable:
            for layer in self.transforms:
                layer.trainable = False
        self._made_so = Untracked([_states(layer, self.trainable) for layer in self.transforms])
        self.weighted_sum = None
        self.supports_masking = any(
            layer.supports_masking or isinstance(layer, keras.Model) for layer in self.transforms
        )
        self.input_spec = keras.layers.InputSpec(min_ndim=2)

    @property
    def takes_integers(self) -> bool:
        """Whether all transforms may: an embedding does, what has a kernel does not."""
        return not any(hasattr(layer, "use_bias") for layer in self.transforms)

    def _part(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of one group of an input."""
        shape = list(static_shape(input_shape))
        count = known_channels(shape, self.channel_axis, self)
        self.require_divisor("groups", count, shape)
        shape[self.channel_axis] = count // self.groups
        return tuple(shape)

    def build(self, input_shape):
        part = self._part(input_shape)
        self.compute_output_shape(input_shape)  # whether the outputs can be merged
        for layer in self.transforms:
            _compat.resolve_policies(layer, self)
            if not layer.built:  # models may be built from the start
                self.build_sublayer(layer, part)
        if self.merge == "weighted_sum":
            arguments = {f"kernel_{k}": v for k, v in self.arguments_of("weighted_sum").items()}
            self.sublayer(
                "weighted_sum", WeightedSum, self._output_shapes(input_shape), **arguments
            )
        self.pinned_channels(input_shape, ndim=len(part))
        self.built = True

    def call(self, inputs, training=None, mask=None):
        x = tf.convert_to_tensor(inputs)
        mask = None if mask is None else tf.convert_to_tensor(mask)
        parts = tf.split(x, self.groups, axis=self.channel_axis)
        called = [_called(layer, part, mask) for layer, part in zip(self.transforms, parts)]
        outputs, masks = zip(*called)
        y = self._merged([_compat.convert_variable(y, self.compute_dtype) for y in outputs])
        mask = _merged_masks(masks)
        if mask is not None:
            y._keras_mask = mask
        return y

    def _merged(self, outputs: list[tf.Tensor]) -> tf.Tensor:
        if self.weighted_sum is not None:
            return self.computed(self.weighted_sum(outputs))
        if self.merge in ("sum", "mean"):
            total = functools.reduce(tf.add, outputs)
            return total / self.groups if self.merge == "mean" else total
        y = tf.concat(outputs, axis=self.channel_axis)
        if self.merge == "shuffle":
            y = ops.channel_shuffle(y, self.groups, data_format=self.data_format)
        return y

    def compute_mask(self, inputs, mask=None):
        if mask is None and all(map(_hands_masks_on, self.transforms)):
            return None
        split = keras.ops.split if _compat.KERAS_3 else tf.split
        parts = split(inputs, self.groups, axis=self.channel_axis)
        return _merged_masks([_mask_of(*each, mask) for each in zip(self.transforms, parts)])

    def _output_shapes(self, input_shape: Any) -> list[tuple[int | None, ...]]:
        part = self._part(input_shape)
        shapes = [layer.compute_output_shape(part) for layer in self.transforms]
        try:
            return [static_shape(shape) for shape in shapes]
        except TypeError:
            raise ValueError(
                "`transform` must be made of layers that give one output. "
                f"Received: outputs of shapes {shapes}"
            ) from None

    def compute_output_shape(self, input_shape):
        shapes = self._output_shapes(input_shape)
        axis, alike = self.channel_axis, [list(shape) for shape in shapes]
        if self.merge == "concat":
            for shape in alike:
                shape[axis] = None
        merged = tf.TensorShape(alike[0])
        for shape in alike[1:]:
            if not merged.is_compatible_with(tf.TensorShape(shape)):
                raise ValueError(
                    f"The outputs of `transform` cannot be merged by {self.merge!r}. "
                    f"Received: outputs of shapes {shapes}"
                )
            merged = merged.merge_with(shape)
        merged = merged.as_list()
        if self.merge in ("concat", "shuffle"):
            counts = [shape[axis] for shape in shapes]
            merged[axis] = None if None in counts else sum(counts)
        return shape_for_keras(merged)

    def get_config(self):
        config, value = super().get_config(), self._transform.value
        now = [_states(layer, self.trainable) for layer in self.transforms]
        if not all(map(_is_as_made, self._made_so.value, now)):
            # Copies that were frozen or quantized one by one are no longer what the pattern makes.
            value = [_serialized(layer, layer) for layer in self.transforms]
        return {**config, "transform": value}


def _hands_masks_on(layer: Any) -> bool:
    """Whether a layer's outputs have just the mask of its inputs."""
    if isinstance(layer, keras.Sequential):
        return all(map(_hands_masks_on, layer.layers))
    return layer.supports_masking and type(layer).compute_mask is keras.layers.Layer.compute_mask


def _mask_of(layer: Any, inputs: Any, mask: Any) -> Any:
    """The mask of a layer's outputs without a call of it: of models that make masks, None."""
    if _hands_masks_on(layer):
        return mask
    known = layer.supports_masking and not isinstance(layer, keras.Model)
    return layer.compute_mask(inputs, mask) if known else None


def _called(layer: Any, x: tf.Tensor, mask: Any) -> tuple[tf.Tensor, Any]:
    """A layer's outputs and their mask, by Keras's attribute of tensors."""
    found = []

    def called(more: tf.Tensor) -> tf.Tensor:
        if more is x and mask is not None:
            more._keras_mask = mask
        elif mask is not None:  # an example more, all of which counts: a mean of nothing is NaN
            rest = [[0, tf.shape(more)[0] - tf.shape(mask)[0]], *[[0, 0]] * (mask.shape.rank - 1)]
            more._keras_mask = tf.pad(mask, rest, constant_values=True)
        y = layer(more)
        found.append(getattr(y, "_keras_mask", None))
        return y

    y = with_an_example(called, x)
    (mask,) = found
    return y, None if mask is None else mask[: tf.shape(y)[0]]


def _merged_masks(masks: Sequence[Any]) -> Any:
    return keras.layers.Add.compute_mask(None, list(masks), list(masks))


def _states(layer: Any, free: bool, path: str = "") -> dict[str, Any]:
    """What may be done to a layer and those in it, by their paths.

    Whether they are trainable does not count unless ``free``: the layer around them decides.
    """
    policy, rank = _compat.policy_of(layer), getattr(layer, "lora_rank", None)
    found = {path: (layer.trainable or not free, policy.name, rank)}
    for child in _compat.child_layers(layer):
        found.update(_states(child, free, f"{path}/{child.name}"))
    return found


def _is_as_made(made: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether layers are as they were; what was built since is as the layer around it."""
    return all(made.get(path, now[""]) == state for path, state in now.items())


def _serialized(layer: Any, transform: Any) -> dict[str, Any]:
    """A layer's configuration; a configuration is given back as it is.

    Raises:
        ValueError: If it is neither; shows the ``transform`` that it is from.
    """
    if isinstance(layer, keras.layers.Layer):
        try:
            return keras.layers.serialize(layer)
        except NotImplementedError as error:
            raise _not_copied(transform) from error
    if isinstance(layer, dict) and {"class_name", "config"} <= set(layer):
        return layer
    raise ValueError(
        "`transform` must be a Keras layer or a list of Keras layers. "
        f"Received: transform={transform!r}"
    )


def _made(serialized: dict[str, Any], transform: Any) -> Any:
    """The layer of a configuration, which is from ``transform``."""
    try:
        return keras.layers.deserialize(serialized)
    except Exception as error:  # of several types, which differ between the versions of Keras
        raise _not_copied(transform) from error


def _not_copied(transform: Any) -> ValueError:
    return ValueError(
        "`transform` must be made of layers that Keras can make from their configurations: a "
        "class of your own has to be registered, and a Lambda of a Python lambda cannot be "
        f"copied: write a layer. Received: transform={transform!r}"
    )


def _reseeded(value: Any, number: int) -> Any:
    """A configuration with seeds of its own, where they are numbers."""
    if isinstance(value, (list, tuple)):
        return type(value)(_reseeded(item, number) for item in value)
    if not isinstance(value, dict):
        return value
    result = {name: _reseeded(item, number) for name, item in value.items()}
    if isinstance(result.get("seed"), int):
        result["seed"] = derived_seed(result["seed"], "transform", number)
    return result


def _changed(serialized: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A serialized layer with other arguments, as far as it has them, and not yet built.

    In a model made of layers, the layers' arguments change too; their names stay. What is
    quantized stays so.
    """
    config = dict(serialized["config"])
    config.pop("build_input_shape", None)
    dtype = config.get("dtype")
    config.update({name: value for name, value in changes.items() if name in config})
    if _compat.is_quantized(dtype):
        config["dtype"] = dtype
    inner: Sequence[Any] = config.get("layers", ())
    shared = {name: value for name, value in changes.items() if name != "name"}
    if inner:
        config["layers"] = [
            layer if layer["class_name"] == "InputLayer" else _changed(layer, shared)
            for layer in inner
        ]
    kept = {name: value for name, value in serialized.items() if name != "build_config"}
    # The registered name is found in every format, that of HDF5 files in Keras 2 included.
    name = serialized.get("registered_name") or serialized["class_name"]
    return {**kept, "class_name": name, "config": config}
