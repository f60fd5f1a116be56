"""Kernels of layers: what replacing and folding have to know of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfconv import layers
from tfconv._compat import convert_variable, keras, quantization_of
from tfconv.layers.conv import Conv
from tfconv.layers.conv_transpose import ConvTranspose
from tfconv.layers.deformable_conv import DeformableConv
from tfconv.layers.depthwise_conv import DepthwiseConv
from tfconv.layers.experts import Experts, MixedConv, Mixture
from tfconv.layers.factorized import FactorizedConv
from tfconv.layers.gated_conv import GatedConv
from tfconv.layers.locally_connected import LocallyConnected
from tfconv.layers.separable_conv import SeparableConv
from tfconv.surgery.rebuilding import copy_weights


def _of_keras(name: str, *ranks: int) -> tuple[type, ...]:
    return tuple(getattr(keras.layers, name.format(rank)) for rank in ranks)


CONVOLUTIONS = _of_keras("Conv{}D", 1, 2, 3)
TRANSPOSED = _of_keras("Conv{}DTranspose", 1, 2, 3)

# Layers by what their kernels do. The first that fits: some are subclasses of later ones.
_KINDS: dict[str, tuple[type, ...]] = {
    "transposed": (*TRANSPOSED, ConvTranspose),
    "separable": (*_of_keras("SeparableConv{}D", 1, 2), SeparableConv),
    "depthwise": (
        *_of_keras("DepthwiseConv{}D", 1, 2),
        DepthwiseConv,
        layers.DepthwiseCondConv2D,
    ),
    "dense": (keras.layers.Dense, layers.CondDense),
    "factorized": (FactorizedConv,),
    "convolution": (*CONVOLUTIONS, Conv, MixedConv, DeformableConv, LocallyConnected),
}
# Names of the kernel that makes a layer's outputs; layers that have several have the first.
_NAMES = (
    "expert_kernels",
    "pointwise_kernel",
    "output_kernel",
    "channel_kernel",
    "depthwise_kernel",
    "kernel",
)


# Keras 2 has such layers as well.
_LOCALLY_CONNECTED = tuple(
    getattr(keras.layers, name)
    for name in ("LocallyConnected1D", "LocallyConnected2D")
    if hasattr(keras.layers, name)
)


def is_known(layer: Any) -> bool:
    """Whether a layer computes what its class says: subclasses of users may not."""
    return type(layer).__module__.partition(".")[0] in ("keras", "tf_keras", "tfconv")


def kind(layer: Any) -> str | None:
    """What a layer's kernel does, one of the keys of ``_KINDS``; None for other layers."""
    if isinstance(layer, GatedConv) or not is_known(layer):  # gated ones have two
        return None
    return next((name for name, classes in _KINDS.items() if isinstance(layer, classes)), None)


def is_plain(layer: Any) -> bool:
    """Whether a layer has nothing but its kernel, or two if it is separable, and a bias."""
    others = (Mixture, DeformableConv, LocallyConnected, FactorizedConv)
    return kind(layer) is not None and not isinstance(layer, others)


def output_weights(layer: Any) -> tuple[Any, Any]:
    """The variables of the kernel that makes a layer's outputs and of the bias, or None."""
    kernel = next(weight_of(layer, name) for name in _NAMES if hasattr(layer, name))
    return kernel, layer.expert_biases if isinstance(layer, Mixture) else layer.bias


def weight_of(layer: Any, name: str) -> Any:
    """The variable of a weight, which is a sum where the layer has low-rank adapters."""
    alone = ("expert_kernels", "depthwise_kernel")  # other names of ours for `kernel`
    own = getattr(layer, "_kernel" if name in alone else f"_{name}", None)
    return own if hasattr(own, "assign") else getattr(layer, name)


def take_weights(old: Any, new: Any) -> bool:
    """Gives ``new`` the kernel and bias of ``old``, if it can hold them; both are built.

    The kernel is what ``old`` computes with: low-rank adapters are added, integers scaled. Experts
    become equal, and add up to the kernel. Offsets become zero, and the kernel is divided by what
    masks are then.

    Returns:
        Whether ``new`` can hold them. If not, it is as it was.
    """
    if type(new) is type(old) and copy_weights(old, new):
        return True
    if isinstance(old, _LOCALLY_CONNECTED) and isinstance(new, LocallyConnected):
        return _take_locally_connected(old, new)
    if not is_plain(old) or kind(new) != kind(old) or (old.use_bias and not new.use_bias):
        return False
    values = _values(old)
    if new.use_bias and not old.use_bias:
        values["bias"] = np.zeros(tuple(output_weights(new)[1].shape)[-1:])
    if isinstance(new, Mixture):
        return _hold_as_experts(new, values["kernel"], values.get("bias"))
    weights = {name: weight_of(new, _attribute(new, name)) for name in values}
    if isinstance(new, LocallyConnected):
        if new.kernel_size != tuple(old.kernel_size):
            return False
        values["kernel"] = values["kernel"].reshape(-1, values["kernel"].shape[-1])
        values = {
            name: np.broadcast_to(
                value, [*weights[name].shape[: len(weights[name].shape) - value.ndim], *value.shape]
            )
            for name, value in values.items()
        }
    if isinstance(new, DeformableConv) and new.modulated:
        values["kernel"] = values["kernel"] / (new.mask_scale * 0.5)  # of sigmoid(0)
    if any(values[name].shape != tuple(weights[name].shape) for name in values):
        return False
    for name, value in values.items():
        weights[name].assign(value)
    if isinstance(new, DeformableConv):
        for weight in (new.offset_kernel, new.offset_bias):
            if weight is not None:
                weight.assign(np.zeros(weight.shape))
    return True


def _take_locally_connected(old: Any, new: Any) -> bool:
    """`take_weights` of Keras 2's layer, whose first implementation has all positions' kernels."""
    weights = old.get_weights()
    if old.implementation != 1 or weights[0].size != np.prod(new.kernel.shape):
        return False
    if old.use_bias != new.use_bias or old.data_format != new.data_format:
        return False
    new.set_weights(new.from_keras_2(weights))
    return True


def _attribute(layer: Any, name: str) -> str:
    """What a layer calls its kernel."""
    own = f"depthwise_{name}"
    return own if kind(layer) == "depthwise" and name == "kernel" and hasattr(layer, own) else name


def _values(layer: Any) -> dict[str, np.ndarray]:
    """The kernels and the bias that a layer computes with, by name."""
    names = ["kernel"]
    if kind(layer) == "separable":
        names = ["depthwise_kernel", "pointwise_kernel"]
    if quantization_of(layer):
        values = {"kernel": _of_quantized(layer)}
    else:
        values = {n: _array(getattr(layer, _attribute(layer, n))) for n in names}
    return {**values, "bias": _array(layer.bias)} if layer.use_bias else values


def _array(weight: Any) -> np.ndarray:
    return np.asarray(convert_variable(weight))


def _of_quantized(layer: Any) -> np.ndarray:
    """The kernel of a quantized dense layer, the only one: what it makes of unit vectors."""
    activation = layer.activation
    try:
        layer.activation = keras.activations.linear
        y = _array(layer(np.eye(layer.input_spec.axes[-1], dtype=layer.compute_dtype)))
    finally:
        layer.activation = activation
    return y - _array(layer.bias) if layer.use_bias else y


def _hold_as_experts(layer: Any, kernel: np.ndarray, bias: np.ndarray | None) -> bool:
    """Makes all experts of a layer equal, so that their mixture is the kernel for all inputs."""
    if kernel.shape != tuple(layer.expert_shape):
        return False
    total = 1.0  # of the weights of the mixture: attention is a softmax
    if isinstance(layer, Experts):
        # Routing weights that are the same for all inputs, but not for all experts: were they,
        # all experts would get the same gradients and stay equal.
        routing = layer.routing
        biases = np.linspace(0.5, 1.5, layer.num_experts)
        weights = routing.activation(convert_variable(biases, routing.bias.dtype)[None])
        total = float(np.sum(weights))
        if total == 0:
            return False
        routing.set_weights([np.zeros(routing.kernel.shape), biases])
    for variable, value in zip(output_weights(layer), (kernel.ravel(), bias)):
        if value is not None:
            variable.assign(np.broadcast_to(value / total, variable.shape))
    return True
