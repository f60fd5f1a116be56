"""Weights of PyTorch's checkpoints for models whose layers have the names of its modules."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv import _compat
from tfconv._compat import keras
from tfconv.blocks.intern_image import LayerScale
from tfconv.export.files import why_no_file
from tfconv.layers import DeformableConv2D, DepthwiseCondConv2D, SqueezeExcite
from tfconv.layers.deformable_aggregation import DeformableAggregation
from tfconv.layers.experts import Experts
from tfconv.layers.involution import Involution
from tfconv.surgery.kernels import output_weights, weight_of
from tfconv.surgery.torch_names import Origin, origins

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = [("module.",), ("backbone.", "head.")]  # of parallel training; of mmpretrain's models
NOT_WEIGHTS = "num_batches_tracked"
NORMALIZATIONS = (keras.layers.LayerNormalization, keras.layers.GroupNormalization)
KERAS_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What became of a checkpoint's weights.

    Attributes:
        used: The checkpoint's keys of the weights that were taken.
        unused: Keys of weights that the model has no place for.
        missing: Keys that the model looked for in vain: these weights are as they were.

    Example:
        >>> report = tfconv.surgery.LoadReport(["fc.weight"], ["fc.bias"], [])
        >>> print(report)
        1 used, 1 unused, 0 missing
    """

    used: list[str]
    unused: list[str]
    missing: list[str]

    def __str__(self) -> str:
        return f"{len(self.used)} used, {len(self.unused)} unused, {len(self.missing)} missing"


def load_torch_weights(model: keras.Model, state_dict_or_file: Any) -> LoadReport:
    """Fills a model from a PyTorch checkpoint: ``layer.weight <- state[layer.name + ".weight"]``.

    The layers of `tfconv.models` have the names of the modules in the public checkpoints; where
    two places publish a network under different names, the checkpoint's keys say which it is.
    Layouts are converted: convolutions ``[O, I, *k] -> [*k, I, O]``, and so on; and dense layers
    that come directly behind a `Flatten`, or with a `Dropout` in between, from PyTorch's order
    ``[C, H, W]`` of its values to Keras's ``[H, W, C]``. Behind anything else, such as a
    `Reshape` or a model that ends with the `Flatten`, the order is left as it is. Prefixes such as
    ``module.`` that the layers lack, and wrappers such as ``{"state_dict": ...}``, are taken off.

    Args:
        model: A built model; the layers of models inside it count as its own.
        state_dict_or_file: A mapping of keys to PyTorch's tensors or arrays; or a file: .pth, .pt
            or .bin (read by PyTorch) or .safetensors (read by the package safetensors).

    Returns:
        Which of the checkpoint's keys were used, which not, and which are missing.

    Raises:
        ValueError: If a weight's shape does not fit, a layer is quantized or has trained low-rank
            adapters and so would not compute with what it is given, no key belongs to the model,
            the model is not built, or what is given is none of the above. Then the model is as it
            was.
        ImportError: If the package that reads the file is not installed.

    Example:
        >>> model = tf.keras.Sequential([tf.keras.Input((3,)), tf.keras.layers.Dense(2, name="fc")])
        >>> state = {"fc.weight": np.ones([2, 3]), "fc.bias": np.zeros(2), "aux.bias": np.ones(1)}
        >>> report = tfconv.surgery.load_torch_weights(model, state)
        >>> report.used, report.unused
        (['fc.weight', 'fc.bias'], ['aux.bias'])
        >>> model(tf.ones([1, 3])).numpy()
        array([[3., 3.]], dtype=float32)
    """
    if not model.built:
        raise ValueError(f"`model` must be built: call it once. Received: model={model.name!r}")
    state = _state_of(state_dict_or_file)
    layers = list(_layers(model))
    names = [layer.name for layer in layers]
    own_keys = _shortened(state, names)
    origin = _origin_of(names, own_keys)
    plan, missing = [], []
    for layer in layers:
        for variable, suffixes, convert in _weights(layer):
            keys = [f"{origin.of(layer.name)}.{suffix}".rstrip(".") for suffix in suffixes]
            key = next((own_keys[key] for key in keys if key in own_keys), None)
            if key is None:
                missing.append(keys[0])
            elif why := _hindrance(layer):
                raise ValueError(
                    f"The layer {layer.name!r} of `model` {why}. Received: a weight {key!r} for it"
                )
            else:
                plan.append((variable, key, _converted(state[key], variable, convert, key)))
    if not plan:
        raise ValueError(
            f"None of the checkpoint's weights belong to the model {model.name!r}, which looks for "
            f"{missing[:3]}. Received: keys {list(state)[:3]}"
        )
    _check_epsilon(origin, layers)
    for variable, _, value in plan:
        variable.assign(value)
    used = list(dict.fromkeys(key for _, key, _ in plan))  # two weights may share one
    taken = set(used)
    unused = [key for key in own_keys.values() if key not in taken]
    return LoadReport(used, unused, missing)


def top_module(key: str) -> str:
    """The outermost module that a weight belongs to, without prefixes."""
    for prefixes in PREFIXES:
        key = _without(key, prefixes)
    return key.partition(".")[0]


def _state_of(given: Any) -> Mapping[str, Any]:
    """The weights by their keys, without wrappers."""
    state = given if isinstance(given, Mapping) else _read(given)
    if not isinstance(state, Mapping):
        raise ValueError(
            "`state_dict_or_file` must hold a mapping of weights. "
            f"Received: {given}, a file with {type(state).__name__} inside"
        )
    for wrapper in WRAPPERS:
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    for key in state:
        if not isinstance(key, str):
            raise ValueError(
                f"`state_dict_or_file` must be a mapping with names for keys. Received: key {key!r}"
            )
    return state


def _shortened(state: Mapping[str, Any], layers: list[str]) -> dict[str, str]:
    """The keys of weights by what they are without the prefixes that no layer has."""
    own_keys = {key: key for key in state if not key.endswith(NOT_WEIGHTS)}
    for prefixes in PREFIXES:
        if any(key.startswith(prefixes[0]) for key in own_keys):
            lacked = [p for p in prefixes if not any(name.startswith(p) for name in layers)]
            shorter = {_without(key, lacked): own for key, own in own_keys.items()}
            if len(shorter) == len(own_keys):  # otherwise two weights would have one key
                own_keys = shorter
    return own_keys


def _without(key: str, prefixes: Sequence[str]) -> str:
    """A key without the one of ``prefixes`` that it begins with."""
    for prefix in prefixes:
        if key.startswith(prefix):
            return key[len(prefix) :]
    return key


def _read(file: Any) -> Any:
    if not isinstance(file, (str, os.PathLike)) or Path(file).suffix not in SUFFIXES:
        raise ValueError(
            "`state_dict_or_file` must be a mapping of weights or a file that ends with one of "
            f"{', '.join(SUFFIXES)}. Received: state_dict_or_file={file!r}"
        )
    if not Path(file).is_file():
        raise ValueError(
            f"`state_dict_or_file` must be a file that exists: {why_no_file(file)}. "
            f"Received: state_dict_or_file={file!r}"
        )
    safe = Path(file).suffix == ".safetensors"
    try:
        if safe:
            from safetensors.numpy import load_file

            return load_file(file)
        import torch
    except ModuleNotFoundError as error:
        package = "safetensors" if safe else "torch"
        raise ImportError(
            f"Reading {Path(file).name} needs the package {package}: `pip install {package}`"
        ) from error
    return torch.load(file, map_location="cpu", weights_only=True)


def _layers(model: keras.Model) -> Iterator[Any]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def _origin_of(layers: list[str], keys: Iterable[str]) -> Origin:
    """Where the checkpoint is from: of all places, the one whose names fit best."""
    modules = {key.rpartition(".")[0] for key in keys}
    modules |= {module.rpartition(".")[0] for module in modules}  # of layers inside layers
    return max(origins(layers), key=lambda origin: sum(origin.of(n) in modules for n in layers))


def _hindrance(layer: Any) -> str | None:
    """Why a layer would not compute with the weights that it is given; None if it would."""
    if mode := _compat.quantization_of(layer):
        return f"is quantized ({mode}): load the weights before `quantize` is called"
    adapters = [
        weight
        for weight in (_compat.weights_by_name(layer).values() if _compat.KERAS_3 else ())
        if weight.name.startswith("lora_") and weight.name.endswith("_b")
    ]
    if any(np.any(_compat.convert_variable(weight)) for weight in adapters):
        return "has trained low-rank adapters: load the weights before these are added"
    return None


def _check_epsilon(origin: Origin, layers: list[Any]) -> None:
    """Raises where the checkpoint's place computes with another epsilon than the model."""
    for layer in layers:
        epsilon = getattr(layer, "epsilon", None)
        if None not in (origin.epsilon, epsilon) and epsilon != origin.epsilon:
            raise ValueError(
                f"The checkpoint has the names of {origin.place}, where the epsilon of batch "
                f"normalization is {origin.epsilon:g}: make the model with "
                f"`convention=tfconv.blocks.Convention(epsilon={origin.epsilon:g})`. Received: "
                f"a model with epsilon={epsilon:g}"
            )


# A variable, the ends that its key may have, and what makes its value of the checkpoint's value
# and its own shape.
Weight = tuple[Any, tuple[str, ...], Callable[[np.ndarray, tuple[int, ...]], np.ndarray]]


def _weights(layer: Any) -> Iterator[Weight]:
    """What a layer takes from a checkpoint."""
    for variable, suffixes, convert in _rows(layer):
        if variable is not None:
            yield variable, suffixes, convert


def _rows(layer: Any) -> Iterator[Weight]:
    if isinstance(layer, keras.layers.BatchNormalization):
        yield layer.gamma, ("weight",), _same
        yield layer.beta, ("bias",), _same
        yield layer.moving_mean, ("running_mean",), _same
        yield layer.moving_variance, ("running_var",), _same
    elif isinstance(layer, NORMALIZATIONS) and all(len(w.shape) == 1 for w in layer.weights):
        yield layer.gamma, ("weight", "gamma"), _same
        yield layer.beta, ("bias", "beta"), _same
    elif isinstance(layer, keras.layers.PReLU):
        yield layer.alpha, ("weight", "alpha"), _slopes
    elif isinstance(layer, keras.layers.Embedding):
        yield weight_of(layer, "embeddings"), ("weight", "embeddings"), _same
    elif isinstance(layer, SqueezeExcite):
        yield from _inside(layer.squeeze, "conv_reduce", "fc1")
        yield from _inside(layer.excite, "conv_expand", "fc2")
    elif isinstance(layer, Involution):
        yield from _inside(layer.reduce, "conv1.conv")
        yield from _inside(layer.normalization, "conv1.bn")
        yield from _inside(layer.span, "conv2.conv")
    elif isinstance(layer, LayerScale):
        yield layer.gamma, ("",), _same
    elif isinstance(layer, DeformableAggregation):
        yield from _of_aggregation(layer)
    elif isinstance(layer, Experts):
        kernels, biases = output_weights(layer)
        yield kernels, ("weight",), functools.partial(_experts, layer)
        yield biases, ("bias",), _same
        if layer.routing is not None:
            yield from _inside(layer.routing, "routing_fn")
    elif hasattr(layer, "pointwise_kernel"):  # separable
        yield weight_of(layer, "depthwise_kernel"), ("conv1.weight",), _depthwise
        yield weight_of(layer, "pointwise_kernel"), ("pointwise.weight",), _kernel
        yield layer.bias, ("pointwise.bias",), _same
    elif hasattr(layer, "depthwise_kernel"):
        yield weight_of(layer, "depthwise_kernel"), ("weight",), _depthwise
        yield layer.bias, ("bias",), _same
    elif isinstance(layer, KERAS_DEPTHWISE):  # Keras 3's, whose kernel has the common name
        yield weight_of(layer, "kernel"), ("weight",), _depthwise
        yield layer.bias, ("bias",), _same
    elif isinstance(layer, keras.layers.Dense):
        convert = functools.partial(_dense, _compat.flattened_shape(layer))
        yield weight_of(layer, "kernel"), ("weight",), convert
        yield layer.bias, ("bias",), _same
    elif hasattr(layer, "kernel"):
        yield weight_of(layer, "kernel"), ("weight",), _kernel
        yield layer.bias, ("bias",), _same
        if isinstance(layer, DeformableConv2D):
            yield layer.offset_kernel, ("conv_offset.weight",), _kernel
            yield layer.offset_bias, ("conv_offset.bias",), _same
    else:  # a layer that PyTorch does not have: missing, unless the checkpoint is of its kind
        for variable in layer.weights:
            yield variable, (variable.name.split("/")[-1].split(":")[0],), _same


def _of_aggregation(layer: DeformableAggregation) -> Iterator[Weight]:
    """The modules DCNv3 and DCNv4; the latter makes offsets and weights by one layer."""
    for part, modules in (
        ("input_projection", ("input_proj", "value_proj")),
        ("output_projection", ("output_proj",)),
        ("depthwise", ("dw_conv.0", "offset_mask_dw")),
    ):
        if hasattr(layer, part):
            yield from _inside(getattr(layer, part), *modules)
    if layer.normalize_features:
        yield layer.gamma, ("dw_conv.1.1.weight",), _same
        yield layer.beta, ("dw_conv.1.1.bias",), _same
    for part, module in (("offset_projection", "offset"), ("weight_projection", "mask")):
        for variable, suffixes, _ in _inside(getattr(layer, part), module, "offset_mask"):
            yield variable, suffixes, functools.partial(_of_taps, layer, module == "offset")
    if layer.center_feature_scale:
        name = "center_feature_scale_proj"
        yield layer.scale_projection.kernel, (f"{name}_weight",), _kernel
        yield layer.scale_projection.bias, (f"{name}_bias",), _same


def _inside(layer: Any, *modules: str) -> Iterator[Weight]:
    """The weights of a layer inside another, as which each of ``modules`` may stand."""
    for variable, suffixes, convert in _weights(layer):
        yield variable, tuple(f"{m}.{suffix}" for m in modules for suffix in suffixes), convert


def _same(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return value


def _slopes(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """One for everything, or one of each channel, at whatever axis that is."""
    if value.size == 1:
        return np.full(shape, value.item())
    return np.reshape(value, shape) if value.size == max(shape) == math.prod(shape) else value


def _kernel(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[O, I, *k] as [*k, I, O]."""
    return np.transpose(value, [*range(2, value.ndim), 1, 0])


def _dense(image: tuple[int, ...] | None, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[O, C * H * W] as [H * W * C, O] behind the flattening of an ``image`` of [H, W, C]."""
    if image is not None:
        *size, channels = image
        kernel = (shape[1], channels, *size)
        if value.shape in (shape[::-1], kernel):
            return np.reshape(_kernel(np.reshape(value, kernel), shape), shape)
    return _kernel(value, shape)


def _depthwise(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[C * M, 1, *k] as [*k, C, M]."""
    kernel = _kernel(value, shape)
    fits = kernel.shape == (*shape[:-2], 1, shape[-2] * shape[-1])
    return np.reshape(kernel, shape) if fits else kernel


def _of_taps(
    layer: DeformableAggregation, offsets: bool, value: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """[G * taps * axes, C], or [G * taps, C], as [C, the same]; or such a bias.

    In checkpoints the last axis is the first: taps run along it slowest, and an offset along it
    comes first. In DCNv4 each group has its offsets and then its weights; more rows are unused.
    """
    taps, axes = layer.sampled_taps, layer.rank
    per_tap = axes if offsets else 1
    groups = shape[-1] // (taps * per_tap)
    rest = value.shape[1:]
    if value.shape[0] != shape[-1]:
        both = groups * taps * (axes + 1)
        if value.shape[0] != -(-both // 8) * 8:
            return _kernel(value, shape) if rest else value
        value = value[:both].reshape(groups, taps * (axes + 1), *rest)
        value = value[:, : taps * axes] if offsets else value[:, taps * axes :]
    value = value.reshape(groups, taps, per_tap, *rest)
    places = list(np.ndindex(*layer.kernel_size))
    theirs = [place[::-1] for place in np.ndindex(*layer.kernel_size[::-1])]
    if layer.remove_center:
        for order in (places, theirs):
            del order[len(order) // 2]
    value = value[:, [theirs.index(place) for place in places], ::-1]
    value = value.reshape(groups * taps * per_tap, *rest)
    return _kernel(value, shape) if rest else value


def _experts(layer: Any, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[E, O * I * k] as [E, k * I * O]."""
    *size, width, filters = layer.expert_shape
    if isinstance(layer, DepthwiseCondConv2D):
        width, filters = 1, width * filters
    if value.shape != shape:
        return value
    kernels = np.reshape(value, [len(value), filters, width, *size])
    return np.reshape(np.moveaxis(kernels, [1, 2], [-1, -2]), shape)


def _converted(value: Any, variable: Any, convert: Callable[..., np.ndarray], key: str):
    """A checkpoint's value in the layout of a variable."""
    if hasattr(value, "detach"):  # a tensor of PyTorch, maybe in bfloat16
        value = value.detach().cpu().double().numpy()
    value, shape = np.asarray(value), tuple(variable.shape)
    made = convert(value, shape)
    # A dense layer is a 1x1 convolution: there may be more or fewer sizes of 1 at first.
    rank = max(made.ndim, len(shape))
    if (1,) * (rank - made.ndim) + made.shape != (1,) * (rank - len(shape)) + shape:
        raise ValueError(
            f"The checkpoint's weight {key!r} does not fit the model's, which has the shape "
            f"{shape}. Received: shape {value.shape}"
        )
    return np.reshape(made, shape).astype(tf.as_dtype(variable.dtype).as_numpy_dtype)
