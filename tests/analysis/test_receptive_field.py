"""Receptive fields: what an output is said to see is what it depends on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests.conftest import kinds
from tfconv._compat import keras
from tfconv.analysis import profile

L = keras.layers


def branches(*parts, merge=None):
    """A block of branches, each a list of layers, that are added."""

    def block(x):
        ends = []
        for layers in parts:
            y = x
            for layer in layers:
                y = layer(y)
            ends.append(y)
        return (merge or L.Add())(ends)

    return block


def conv(size, strides=1, padding="valid", **more):
    """A convolution whose weights are all positive, so that nothing cancels."""
    layer = tfconv.Conv2D if isinstance(size, tuple) else tfconv.Conv1D
    return layer(1, size, strides, padding, kernel_initializer="ones", **more)


def transposed(size, strides, padding="valid", **more):
    layer = tfconv.Conv1DTranspose
    return layer(1, size, strides, padding, kernel_initializer="ones", **more)


def involution(size, strides, padding="same"):
    return tfconv.Involution1D(
        size, strides=strides, padding=padding, groups=1, kernel_initializer="ones"
    )


ONES = {"depthwise_initializer": "ones", "pointwise_initializer": "ones"}

# Layers, and the size of the input.
STACKS = {
    "convolution": ([lambda: conv(3)], (9,)),
    "even kernel, same": ([lambda: conv(4, padding="same")], (9,)),
    "strides, same": ([lambda: conv(3, 2, "same"), lambda: conv(3, 2, "same")], (16,)),
    "dilation": ([lambda: conv(3, dilation_rate=3), lambda: conv(2, dilation_rate=2)], (20,)),
    "causal": ([lambda: conv(3, padding="causal"), lambda: conv(2, 2)], (12,)),
    "full": ([lambda: conv(3, padding="full"), lambda: conv(3, padding=((0, 2),))], (9,)),
    "pooling": ([lambda: L.AveragePooling1D(3, 2, "same"), lambda: conv(3)], (15,)),
    "unequal axes": ([lambda: conv((3, 5), (1, 2)), lambda: conv((2, 1), (2, 1))], (9, 13)),
    "separable": ([lambda: tfconv.SeparableConv1D(1, 3, 2, **ONES)], (9,)),
    "low rank": (
        [lambda: tfconv.LowRankConv2D(1, (3, 4), kernel_rank=1, kernel_initializer="ones")],
        (8, 9),
    ),
    "transposed": ([lambda: transposed(3, 2)], (6,)),
    "transposed, same": ([lambda: transposed(4, 2, "same"), lambda: conv(3)], (6,)),
    "transposed, cut": ([lambda: transposed(5, 3, ((2, 1),)), lambda: conv(2, 2)], (6,)),
    "transposed with gaps": ([lambda: transposed(2, 3), lambda: conv(2)], (5,)),
    "transposed and dilated": ([lambda: transposed(3, 2, dilation_rate=3)], (6,)),
    "up and down": (
        [lambda: conv(3, 2), lambda: L.UpSampling1D(3), lambda: conv(3), lambda: conv(2, 2)],
        (15,),
    ),
    "down, then up": (
        [lambda: conv(3, 2, "same"), lambda: transposed(4, 2, "same"), lambda: conv(3)],
        (16,),
    ),
    "down further than up": (
        [lambda: conv(3, 4, "same"), lambda: transposed(3, 2, "same"), lambda: conv(2)],
        (24,),
    ),
    "bilinear": (
        [lambda: L.UpSampling2D((2, 3), interpolation="bilinear"), lambda: conv((2, 2))],
        (5, 4),
    ),
    "padding and cropping": (
        [lambda: L.ZeroPadding1D((3, 1)), lambda: conv(3, 2), lambda: L.Cropping1D((1, 2))],
        (14,),
    ),
    "branches": (
        [lambda: conv(2), lambda: branches([conv(1)], [conv(5, padding="same"), conv(1)])],
        (12,),
    ),
    "branches of unequal phase": (
        [
            lambda: branches(
                [L.UpSampling1D(2), conv(3, padding="same")], [transposed(2, 2, "same"), conv(1)]
            )
        ],
        (6,),
    ),
    "concatenated": (
        [
            lambda: branches(
                [conv(3, padding="same")], [L.Dropout(0.5)], merge=L.Concatenate(axis=-1)
            )
        ],
        (8,),
    ),
    "a gate that sees everything": (
        [lambda: conv(3), lambda: branches([L.GlobalAveragePooling1D(keepdims=True)], [conv(1)])],
        (8,),
    ),
    "flattened": (
        [lambda: conv(3, 2), L.Flatten, lambda: L.Dense(2, kernel_initializer="ones")],
        (9,),
    ),
    "involution": (
        [lambda: tfconv.Involution1D(3, groups=1, kernel_initializer="ones"), lambda: conv(2)],
        (9,),
    ),
    "involutions narrower than strides": (
        [lambda: involution(1, 2), lambda: involution(2, 3), lambda: conv(2)],
        (24,),
    ),
    "strided involution, padded": ([lambda: conv(2), lambda: involution(3, 4, 2)], (22,)),
    "padded between layers": (
        [lambda: conv(2), lambda: lambda x: tf.pad(x, [[0, 0], [2, 1], [0, 0]]), lambda: conv(3)],
        (9,),
    ),
    "between layers": ([lambda: conv(3), lambda: lambda x: tf.nn.relu(x) * 2 + 1], (9,)),
}


def built(layers, sizes):
    """The functional model of a stack."""
    x = y = keras.Input((*sizes, 1))
    for make in layers:
        layer = make()
        plain = not isinstance(layer, L.Layer) and layer.__name__ == "<lambda>"
        y = L.Lambda(layer)(y) if plain else layer(y)
    return keras.Model(x, y)


def dependence(model, sizes):
    """For each axis: which pixels along it each output along it depends on.

    Every pixel is changed in an example of its own.
    """
    rank, count = len(sizes), math.prod(sizes)
    x = np.random.default_rng(0).uniform(1, 2, (1, count)).astype(np.float32)
    y = model(np.reshape(np.concatenate([x, x + np.eye(count)]), (-1, *sizes, 1))).numpy()
    depends = np.abs(y[1:] - y[:1]) > 1e-6 * np.abs(y[:1])
    if y.ndim != rank + 2:  # no places
        depends = depends.reshape(count, *[1] * rank, -1)
    depends = depends.any(-1).reshape(*sizes, *depends.shape[1:-1])
    for axis in range(rank):
        others = tuple(i for i in range(2 * rank) if i not in (axis, rank + axis))
        yield [np.flatnonzero(pixels) for pixels in depends.any(others).T]


@pytest.mark.parametrize("name", kinds(STACKS))
def test_dependence(name):
    layers, sizes = STACKS[name]
    model = built(layers, sizes)
    field = profile(model).field
    assert len(field.axes) == len(sizes)
    for axis, size, seen in zip(field.axes, sizes, dependence(model, sizes)):
        exact = 0
        for position, pixels in enumerate(seen):
            first, last = axis.at(position) or (0, -1)
            if 0 <= first <= last < size:
                assert (first, last) == (pixels[0], pixels[-1]), position
                exact += 1
            assert all(first <= pixel <= last for pixel in pixels), position
            window = math.floor(position * axis.stride) + axis.offset
            assert all(window <= pixel < window + axis.size for pixel in pixels), position
        assert exact > 0


def test_size_stride_and_offset():
    """Of a stack as papers tabulate them."""
    model = keras.Sequential(
        [keras.Input((64, 64, 1)), conv((7, 7), 2, "same"), L.MaxPooling2D(3, 2), conv((3, 3))]
    )
    rows = profile(model).rows
    assert [row.field.size[0] for row in rows] == [7, 11, 19]
    assert [row.field.stride[0] for row in rows] == [2, 4, 4]
    assert [row.field.offset[0] for row in rows] == [-2, -2, -2]


def test_strides_of_larger_maps():
    """Three outputs for every pixel."""
    field = profile(L.UpSampling1D(3), (4, 2)).field
    assert (field.size, field.offset) == ((1,), (0,))
    assert math.isclose(field.stride[0], 1 / 3)


@pytest.mark.parametrize(
    "layer",
    [
        L.Permute((2, 1)),
        L.Reshape((2, 16)),
        L.Lambda(lambda x: x[:, ::2]),
        L.Lambda(lambda x: x[:, ::-1]),
        L.Lambda(lambda x: tf.reduce_max(x, axis=2)[:, :, None] @ tf.ones([1, 1, 3])),
    ],
)
def test_not_known(layer):
    """Places that move in ways that no rule describes."""
    assert profile(layer, (8, 4)).field is None


def test_within_places():
    """Channels that are grouped and moved by hand leave the places where they are."""

    def shuffled(x):
        y = tf.transpose(tf.reshape(x, [-1, 5, 4, 2, 3]), [0, 1, 2, 4, 3])
        return tf.reshape(y, [-1, 5, 4, 6]) * tf.reduce_mean(x, -1, keepdims=True)

    model = keras.Sequential([tfconv.Conv2D(6, 3), L.Lambda(shuffled)])
    assert profile(model, (7, 6, 2)).field.size == (3, 3)


def test_gates_of_a_map():
    """Means over places see everything; so does what they are multiplied with."""
    gate = L.Lambda(lambda x: x * tf.reduce_mean(x, [1, 2], keepdims=True))
    field = profile(keras.Sequential([conv((3, 3)), gate]), (7, 6, 1)).field
    assert field.everything and field.size == (7, 6)
