"""Weighted sum of several inputs, with one learned weight for each."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfconv import _compat
from tfconv._compat import keras
from tfconv.layers.arguments import choice, number
from tfconv.layers.base import BaseLayer, register, require_built, shape_for_keras, static_shape
from tfconv.layers.signatures import in_order


@register
class WeightedSum(BaseLayer):
    """Sum of inputs of one shape, each times a learned scalar.

    ``y = sum_i v_i * x_i``, where, for the layer's weights w,

    - ``v = w`` without normalization,
    - ``v = softmax(w)`` for "softmax",
    - ``v = relu(w) / (epsilon + sum_j relu(w_j))`` for "fast".

    Args:
        normalization: None, "softmax" or "fast".
        epsilon: Keeps "fast" from dividing by zero.
        kernel_initializer: Initializer of the weights.
        kernel_regularizer: Their regularizer.
        kernel_constraint: Their constraint.

    Input shape: A list of tensors of one shape, any rank.

    Output shape: That of one of them.

    Weights:
        kernel: [number of inputs].

    Raises:
        ValueError: If an argument is not what is described above, or the inputs' shapes differ.

    Source: Tan et al., EfficientDet: Scalable and Efficient Object Detection,
    arXiv:1911.09070, section 3.3.

    Example:
        >>> layer = tfconv.WeightedSum("softmax")
        >>> layer([tf.ones([1, 2]), 3 * tf.ones([1, 2])]).numpy()
        array([[2., 2.]], dtype=float32)
    """

    weight_arguments = {"kernel": "ones"}

    @in_order(
        *("normalization", "epsilon", "kernel_initializer", "kernel_regularizer"),
        "kernel_constraint",
    )
    def __init__(self, *, normalization: str | None = None, epsilon: float = 1e-4, **kwargs: Any):
        super().__init__(**kwargs)
        self.take(choice(None, "softmax", "fast"), normalization=normalization)
        self.take(number, epsilon=epsilon)

    def build(self, input_shape):
        self.kernel = self.add_like((len(_shapes(input_shape)),), "kernel", "kernel")
        self.built = True

    def call(self, inputs):
        if not isinstance(inputs, (list, tuple)) or len(inputs) != self.kernel.shape[0]:
            several = isinstance(inputs, (list, tuple))
            received = f"{len(inputs)} inputs" if several else f"inputs={type(inputs).__name__}"
            raise ValueError(
                f"WeightedSum was built for a list of {self.kernel.shape[0]} inputs. "
                f"Received: {received}"
            )
        terms = [tf.convert_to_tensor(x) for x in inputs]
        for term in terms:
            if not term.shape.is_compatible_with(terms[0].shape):
                raise ValueError(_unequal([term.shape for term in terms]))
        weights = tf.unstack(tf.cast(self.normalized_weights(), self.compute_dtype))
        # One after the other, as in Keras's Add: TensorFlow Lite has no sum of several in integers.
        return functools.reduce(tf.add, (weight * term for weight, term in zip(weights, terms)))

    def normalized_weights(self) -> tf.Tensor:
        """What the inputs are multiplied by: [number of inputs]."""
        require_built(self)
        weights = _compat.convert_variable(self.kernel)
        if self.normalization == "softmax":
            return tf.nn.softmax(weights)
        if self.normalization == "fast":
            weights = tf.nn.relu(weights)
            return weights / (tf.reduce_sum(weights) + self.epsilon)
        return weights

    def compute_mask(self, inputs, mask=None):
        return keras.layers.Add.compute_mask(self, inputs, mask)

    def compute_output_shape(self, input_shape):
        shapes = [tf.TensorShape(shape) for shape in _shapes(input_shape)]
        merged = shapes[0]
        for shape in shapes[1:]:
            merged = merged.merge_with(shape)
        return shape_for_keras(static_shape(merged))


def _shapes(input_shape: Any) -> list[tuple[int | None, ...]]:
    """The inputs' shapes; ValueError unless there are several that fit each other."""
    if not isinstance(input_shape, (list, tuple)) or not all(
        isinstance(shape, (list, tuple, tf.TensorShape)) for shape in input_shape
    ):
        raise ValueError(
            f"WeightedSum needs a list of inputs of one shape. Received: input_shape={input_shape}"
        )
    shapes = [static_shape(shape) for shape in input_shape]
    if not shapes or not all(_fit(shape, shapes[0]) for shape in shapes):
        raise ValueError(_unequal(shapes))
    return shapes


def _fit(first: Sequence[int | None], second: Sequence[int | None]) -> bool:
    return tf.TensorShape(first).is_compatible_with(tf.TensorShape(second))


def _unequal(shapes: Sequence[Any]) -> str:
    listed = [tuple(tf.TensorShape(shape).as_list()) for shape in shapes]
    return f"WeightedSum needs a list of inputs of one shape. Received: shapes {listed}"
