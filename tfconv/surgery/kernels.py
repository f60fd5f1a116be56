"""Kernels of layers: what replacing and folding have to know of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfconv import layers
from tfconv._compat import convert_variable, keras
from tfconv.layers.conv import Conv
from tfconv.layers.conv_transpose import ConvTranspose
from tfconv.layers.depthwise_conv import DepthwiseConv
from tfconv.layers.experts import Experts, MixedConv, Mixture
from tfconv.layers.factorized import FactorizedConv
from tfconv.layers.gated_conv import GatedConv
from tfconv.layers.locally_connected import LocallyConnected
from tfconv.layers.separable_conv import SeparableConv


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
    "convolution": (*CONVOLUTIONS, Conv, MixedConv, layers.DeformableConv2D, LocallyConnected),
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
    others = (Mixture, layers.DeformableConv2D, LocallyConnected, FactorizedConv)
    return kind(layer) is not None and not isinstance(layer, others)


def output_weights(layer: Any) -> tuple[Any, Any]:
    """The variables of the kernel that makes a layer's outputs and of the bias, or None."""
    kernel = next(getattr(layer, name) for name in _NAMES if hasattr(layer, name))
    return kernel, layer.expert_biases if isinstance(layer, Mixture) else layer.bias


def take_weights(old: Any, new: Any) -> bool:
    """Gives ``new`` the kernel and bias of ``old``, if it can hold them; both are built.

    Experts become equal, and add up to the kernel. Offsets become zero, and the kernel is divided
    by what masks are then.

    Returns:
        Whether ``new`` can hold them. If not, it is as it was.
    """
    if type(new) is type(old) and _shapes(new) == _shapes(old):
        new.set_weights(old.get_weights())
        return True
    if not is_plain(old) or kind(new) != kind(old) or (old.use_bias and not new.use_bias):
        return False
    values = old.get_weights()
    if new.use_bias and not old.use_bias:
        values.append(np.zeros(tuple(output_weights(new)[1].shape)[-1:]))
    if isinstance(new, Mixture):
        return _hold_as_experts(new, *values)
    if isinstance(new, LocallyConnected):
        if new.kernel_size != tuple(old.kernel_size):
            return False
        values[0] = values[0].reshape(-1, values[0].shape[-1])
        values = [
            np.broadcast_to(value, [*shape[: len(shape) - value.ndim], *value.shape])
            for value, shape in zip(values, _shapes(new))
        ]
    if isinstance(new, layers.DeformableConv2D):
        if new.modulated:
            values[0] = values[0] / (new.mask_scale * 0.5)  # masks are mask_scale * sigmoid(0)
        values += [np.zeros(shape) for shape in _shapes(new)[len(values) :]]
    if [value.shape for value in values] != _shapes(new):
        return False
    new.set_weights(values)
    return True


def _shapes(layer: Any) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in layer.weights]


def _hold_as_experts(layer: Any, kernel: np.ndarray, bias: np.ndarray | None = None) -> bool:
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
