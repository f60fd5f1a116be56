"""Dense layers, normalization, activations, and merges of maps."""

from __future__ import annotations

from typing import Any

from tfconv import layers
from tfconv._compat import keras
from tfconv.analysis.cost import Cost, rule
from tfconv.analysis.operations import einsum_products
from tfconv.analysis.rules.sizes import activated, values
from tfconv.layers.batch_norm import BatchNormalization


def _classes(*names: str) -> list[Any]:
    """Keras's layers of these names, as far as the installed version has them."""
    return [getattr(keras.layers, name) for name in names if hasattr(keras.layers, name)]


@rule(keras.layers.Dense)
def dense(layer, inputs, outputs):
    """``c * f`` products for each vector."""
    kernel, made = inputs[0][-1] * layer.units, values(outputs[0])
    return Cost(
        multiply_adds=made * inputs[0][-1],
        elementwise=(made if layer.use_bias else 0) + activated(layer, made),
        weights=kernel,
        kernel_rank=min(inputs[0][-1], layer.units),
    )


@rule(*_classes("EinsumDense"))
def einsum_dense(layer, inputs, outputs):
    """A product for each value of all indices of the equation."""
    kernel = tuple(layer.kernel.shape)
    weights, made = values((1, *kernel)), values(outputs[0])
    return Cost(
        multiply_adds=einsum_products(layer.equation, [(1, *inputs[0][1:]), kernel]),
        elementwise=(made if layer.bias_axes else 0) + activated(layer, made),
        weights=weights,
        # Which axes are places, the equation does not say.
        field=lambda field: field if field.everything or not field.axes else None,
    )


@rule(keras.layers.Embedding)
def embedding(layer, inputs, outputs):
    """Rows of a table: no products."""
    return Cost(field=lambda field: None)


@rule(BatchNormalization, *_classes("BatchNormalization", "Normalization", "Rescaling"))
def scale_and_shift(layer, inputs, outputs):
    """A product and an addition with numbers that are known before, for each value."""
    return Cost(elementwise=2 * values(outputs[0]))


@rule(keras.layers.LayerNormalization)
def layer_normalization(layer, inputs, outputs):
    """Mean (1), variance (3), normalization (1), scale and shift (2) for each value."""
    work = (5 + bool(layer.center) + bool(layer.scale)) * values(outputs[0])
    return Cost(elementwise=work, field=_over(layer.axis, inputs[0]))


@rule(*_classes("GroupNormalization"))
def group_normalization(layer, inputs, outputs):
    """The same; statistics are over all places."""
    work = (5 + bool(layer.center) + bool(layer.scale)) * values(outputs[0])
    axis = layer.axis % len(inputs[0])
    places = tuple(n for i, n in enumerate(inputs[0]) if i not in (0, axis))
    return Cost(elementwise=work, field=lambda field: field.whole(places))


def _over(axis: Any, shape: Any) -> Any:
    """The receptive field behind what mixes values along some axes: the last one, or all places."""
    axes = {a % len(shape) for a in ([axis] if isinstance(axis, int) else axis)}
    places = set(range(1, len(shape) - 1))

    def field(before: Any) -> Any:
        if before.everything or axes == {len(shape) - 1}:
            return before
        return before.whole(shape[1:-1]) if axes >= places else None

    return field


@rule(keras.layers.Activation)
def activation(layer, inputs, outputs):
    """One operation for each value; none if it is linear."""
    work = activated(layer, values(outputs[0]))
    return Cost(elementwise=work, view=not work)


@rule(*_classes("ReLU", "LeakyReLU", "PReLU", "ELU", "ThresholdedReLU"))
def activation_layer(layer, inputs, outputs):
    """One operation for each value."""
    return Cost(elementwise=values(outputs[0]))


@rule(keras.layers.Softmax)
def softmax(layer, inputs, outputs):
    """One operation for each value."""
    return Cost(elementwise=values(outputs[0]), field=_over(layer.axis, inputs[0]))


@rule(*_classes("Add", "Subtract", "Maximum", "Minimum"))
def merge(layer, inputs, outputs):
    """One operation for each value and input but the first."""
    return Cost(elementwise=(len(inputs) - 1) * values(outputs[0]))


@rule(keras.layers.Average)
def average(layer, inputs, outputs):
    """Sums and a division."""
    return Cost(elementwise=len(inputs) * values(outputs[0]))


@rule(keras.layers.Multiply)
def multiply(layer, inputs, outputs):
    """Products of values at one place."""
    return Cost(gating=(len(inputs) - 1) * values(outputs[0]))


@rule(layers.WeightedSum)
def weighted_sum(layer, inputs, outputs):
    """A product and an addition for each value of each input, but for one addition."""
    made = values(outputs[0])
    return Cost(
        gating=len(inputs) * made,
        elementwise=(len(inputs) - 1) * made,
        weights=len(inputs),
        weight_products=len(inputs) * made,
    )


@rule(
    *_classes(
        "Dropout",
        "SpatialDropout1D",
        "SpatialDropout2D",
        "SpatialDropout3D",
        "AlphaDropout",
        "GaussianDropout",
        "GaussianNoise",
        "ActivityRegularization",
        "Identity",
    )
)
def nothing(layer, inputs, outputs):
    """Nothing, for inference."""
    return Cost(view=True)
