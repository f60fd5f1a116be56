"""What a layer connects, and which weights make each connection: computed from the layer itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

import tfconv

Function = Callable[[tf.Tensor], tf.Tensor]
Weight = tuple[str, tuple[int, ...]]  # the variable's name and an index into it


@dataclasses.dataclass(frozen=True)
class Connections:
    """What a function connects: ``y = matrix @ x`` for flattened inputs and outputs.

    Attributes:
        matrix: [outputs, inputs], in the order of [*spatial, channels].
        weights: All weights that were looked at.
        made_by: [outputs, inputs, weights]: whether an element changes with a weight.
        input_shape, output_shape: (*spatial, channels).
    """

    matrix: np.ndarray
    weights: tuple[Weight, ...]
    made_by: np.ndarray
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    @property
    def connected(self) -> np.ndarray:
        """[outputs, inputs]: where there is a connection."""
        return self.matrix != 0

    def makers(self, output: int, source: int) -> list[Weight]:
        """The weights that make the connection of an input with an output."""
        return [self.weights[i] for i in np.flatnonzero(self.made_by[output, source])]


def connections(
    function: Function, input_shape: Sequence[int], variables: Mapping[str, Any] | None = None
) -> Connections:
    """The connections of a layer, or of any function of a batch, and the weights behind them.

    Args:
        function: From [N, *input_shape] to [N, *outputs], in float64, each example by itself.
        input_shape: (*spatial, channels) of an input.
        variables: The variables to look at, by names of one's choice.
    """
    variables = dict(variables or {})
    input_shape = tuple(input_shape)
    rng = np.random.default_rng(0)
    example = rng.uniform(0.5, 1, [1, *input_shape])
    output_shape = tuple(run(function, example).shape[1:])
    matrix_now = _jacobian(function, example, int(np.prod(output_shape)))
    if sum(int(np.prod(v.shape)) for v in variables.values()) > 9:
        matrix_now = tf.function(matrix_now, autograph=False)  # quicker if called often
    matrix = matrix_now().numpy()
    weights, changed = [], []
    for name, variable in variables.items():
        values = variable.numpy().copy()
        for index in np.ndindex(*values.shape):
            other = values.copy()
            other[index] += 0.1
            variable.assign(other)
            weights.append((name, index))
            changed.append(np.abs(matrix_now().numpy() - matrix) > 1e-9)
        variable.assign(values)
    made_by = np.stack(changed, -1) if changed else np.zeros([*matrix.shape, 0], bool)
    return Connections(matrix, tuple(weights), made_by, input_shape, output_shape)


def run(function: Function, x: Any) -> tf.Tensor:
    with tfconv.portable():
        return tf.convert_to_tensor(function(tf.constant(x, tf.float64)))


def _jacobian(function: Function, example: np.ndarray, count: int) -> Callable[[], tf.Tensor]:
    """Gives [outputs, inputs] by one gradient.

    There are as many copies of the example as outputs, and each is asked for one of them.
    """
    x = tf.constant(np.repeat(example, count, axis=0))

    def jacobian() -> tf.Tensor:
        with tfconv.portable(), tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reshape(tf.convert_to_tensor(function(x)), [count, count])
            asked = tf.linalg.trace(y)
        return tf.reshape(tape.gradient(asked, x), [count, -1])

    return jacobian


def weight_sum(values: np.ndarray) -> str:
    """Mixing weights as text: "0.2 K₁ + 0.8 K₂"."""
    subscripts = "₁₂₃₄₅₆₇₈₉"
    return " + ".join(f"{value:.2f} K{subscripts[i]}" for i, value in enumerate(values))


def built(
    layer: Any,
    input_shape: Sequence[int],
    signed: Sequence[str] = (),
    scale: float = 1.0,
    seed: int = 0,
) -> Any:
    """The layer, built for examples of a shape, with positive random weights.

    Weights of which the path contains one of ``signed`` are normally distributed instead, with
    ``scale`` as deviation, so that what is made from the input differs between inputs.
    """
    rng = np.random.default_rng(seed)
    layer(tf.zeros([1, *input_shape], tf.float64))
    for variable in layer.weights:
        path = getattr(variable, "path", variable.name)
        shape = tuple(variable.shape)
        if any(part in path for part in signed):
            variable.assign(rng.normal(0, scale, shape))
        elif shape:  # a scalar is a setting, such as a temperature
            variable.assign(rng.uniform(0.2, 1, shape))
    return layer


def two_inputs(shape: Sequence[int], seed: int = 1) -> list[np.ndarray]:
    """Two inputs that differ, also in their means, as batches of one."""
    rng = np.random.default_rng(seed)
    return [rng.normal(mean, 0.7, [1, *shape]) for mean in (0.8, -0.8)]


def simple(layer: Any, input_shape: Sequence[int], *names: str) -> Connections:
    """The connections of a layer that has its weights in attributes of these names."""
    layer = built(layer, input_shape)
    return connections(layer, input_shape, {name: getattr(layer, name) for name in names})


def plain(layer_class: Any, *args: Any, **kwargs: Any) -> Any:
    """A layer in float64 without biases, which make no connections."""
    return layer_class(*args, dtype="float64", use_bias=False, **kwargs)
