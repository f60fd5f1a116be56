"""SelfAttention1D, 2D and 3D."""

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests.ops.geometries import assert_numeric_gradients
from tfconv.layers import self_attention
from tfconv.layers.self_attention import relative_positions
from tfconv.testing import randomize

CLASSES = {
    1: tfconv.SelfAttention1D,
    2: tfconv.SelfAttention2D,
    3: tfconv.SelfAttention3D,
}


def built(x, rank, **arguments):
    """A layer in float64 with random weights."""
    layer = CLASSES[rank](**{"num_heads": 2, "key_dim": 3, "dtype": "float64", **arguments})
    layer(x)
    randomize(layer)
    return layer


def by_hand(layer, x, sizes):
    """A loop over heads and positions."""
    n, channels = len(x), x.shape[-1]
    flat = x.reshape(n, -1, channels)
    query, key, value = (
        (flat @ d.get_weights()[0] + sum(d.get_weights()[1:])).reshape(n, flat.shape[1], 2, -1)
        for d in (layer.query, layer.key, layer.value)
    )
    table = None
    if layer.position_bias is not None:
        distances = [2 * size - 1 for size in sizes]
        table = np.asarray(layer.position_bias).reshape(2, *distances)
    places = list(np.ndindex(*sizes))
    mixed = np.zeros(value.shape)
    for head in range(2):
        for p, place in enumerate(places):
            logits = (key[:, :, head] * query[:, p : p + 1, head]).sum(-1) / np.sqrt(layer.key_dim)
            if table is not None:
                for q, other in enumerate(places):
                    apart = tuple(a - b + s - 1 for a, b, s in zip(place, other, sizes))
                    logits[:, q] += table[(head, *apart)]
            powers = np.exp(logits)
            weights = powers / powers.sum(axis=1, keepdims=True)
            mixed[:, p, head] = (weights[:, :, None] * value[:, :, head]).sum(axis=1)
    kernel, bias = layer.project.get_weights()
    return (mixed.reshape(n, len(places), -1) @ kernel + bias).reshape(n, *sizes, -1)


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("sizes", [(5,), (3, 4), (2, 3, 2)], ids=str)
def test_by_hand(sizes, positions, rng):
    x = rng.standard_normal((2, *sizes, 4))
    arguments = {"value_dim": 5, "filters": 3, "relative_position_bias": positions}
    layer = built(x, len(sizes), **arguments)
    np.testing.assert_allclose(layer(x), by_hand(layer, x, sizes), rtol=1e-10, atol=1e-10)


def test_positions_may_be_permuted(rng):
    """Without a position bias, the order of the positions plays no part."""
    x = rng.standard_normal((2, 6, 4))
    order = rng.permutation(6)
    layer = built(x, 1)
    np.testing.assert_allclose(
        layer(x[:, order]), layer(x).numpy()[:, order], rtol=1e-10, atol=1e-10
    )
    layer = built(x, 1, relative_position_bias=True)
    assert not np.allclose(layer(x[:, order]), layer(x).numpy()[:, order], atol=1e-3)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_attention(data_format, rng):
    x = rng.standard_normal((3, 4, 5, 6))
    layer = built(x, 2, data_format=data_format, relative_position_bias=True)
    positions = 20 if data_format == "channels_last" else 30
    attention = layer.attention(x)
    assert attention.shape == (3, 2, positions, positions)
    np.testing.assert_allclose(tf.reduce_sum(attention, -1), np.ones((3, 2, positions)))
    assert float(tf.reduce_min(attention)) > 0


def test_relative_positions():
    numbers = relative_positions((2, 3))
    assert numbers.shape == (6, 6)
    assert numbers.min() == 0 and numbers.max() == 3 * 5 - 1
    assert (np.diag(numbers) == 7).all()
    assert numbers[0, 1] == numbers[1, 2] == numbers[3, 4] == 6  # one to the right
    assert numbers[0, 3] == numbers[2, 5] == 2  # one below


def test_numeric_gradients(rng):
    x = rng.standard_normal((1, 2, 2, 3))
    layer = built(x, 2, relative_position_bias=True)
    assert_numeric_gradients(layer, [x])

    def loss():
        return tf.reduce_sum(tf.sin(layer(x)))

    variable = next(w for w in layer.trainable_variables if w is layer.position_bias)
    with tf.GradientTape() as tape:
        total = loss()
    (gradient,) = tape.gradient(total, [variable])
    bias, step = np.asarray(layer.position_bias), np.zeros(layer.position_bias.shape)
    step[1, 3] = 1e-5
    values = []
    for sign in (1, -1):
        layer.position_bias.assign(bias + sign * step)
        values.append(float(loss()))
    np.testing.assert_allclose(gradient[1, 3], (values[0] - values[1]) / 2e-5, rtol=1e-6)


@pytest.mark.parametrize("batch", [0, 1, 33])
def test_batches(batch, rng):
    x = rng.standard_normal((batch, 3, 4, 6))
    layer = built(x, 2, relative_position_bias=True)
    assert layer(x).shape == x.shape
    alone = [layer(x[n : n + 1]) for n in range(batch)]
    if alone:
        np.testing.assert_allclose(layer(x), tf.concat(alone, 0), rtol=1e-10, atol=1e-10)


def test_large_logits_in_half_precision(rng):
    """The softmax is computed in float32: no overflow, and rows sum to 1."""
    layer = tfconv.SelfAttention1D(num_heads=1, key_dim=4, dtype="float16")
    y = layer(tf.cast(rng.standard_normal((2, 6, 4)) * 200, tf.float16))
    assert np.isfinite(y).all()


def test_parameters():
    layer = tfconv.SelfAttention2D(
        num_heads=4, key_dim=8, value_dim=6, filters=10, relative_position_bias=True
    )
    layer.build((None, 5, 7, 12))
    dense = (12 + 1) * 32 + 12 * 32 + (12 + 1) * 24 + (24 + 1) * 10
    assert layer.count_params() == dense + 9 * 13 * 4


@pytest.mark.parametrize(
    "data_format, shape",
    [("channels_last", (None, None, 6, 4)), ("channels_first", (None, 4, 6, None))],
)
def test_positions_need_known_sizes(data_format, shape):
    layer = tfconv.SelfAttention2D(
        num_heads=2, key_dim=3, data_format=data_format, relative_position_bias=True
    )
    with pytest.raises(ValueError, match="`relative_position_bias`.*Received: "):
        layer.build(shape)


def test_positions_fix_the_sizes():
    layer = tfconv.SelfAttention2D(num_heads=2, key_dim=3, relative_position_bias=True)
    layer(tf.ones([1, 4, 5, 6]))
    with pytest.raises(ValueError):
        layer(tf.ones([1, 5, 4, 6]))


# Large maps.


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("masked", ["", "causal", "mask", "attention_mask"])
def test_blocks_of_queries(positions, masked, rng, monkeypatch):
    """The same as whole, gradients of all weights and second ones of the input included."""
    x = tf.constant(rng.standard_normal((2, 3, 5, 4)))
    layer = built(x, 2, relative_position_bias=positions)
    given = {
        "": {},
        "causal": {"use_causal_mask": True},
        "mask": {"mask": rng.uniform(size=(2, 3, 5)) < 0.7},
        "attention_mask": {"attention_mask": rng.uniform(size=(2, 15, 15)) < 0.7},
    }[masked]

    def results():
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, **given)
                total = tf.reduce_sum(tf.sin(y))
            gradients = tape.gradient(total, [x, *layer.trainable_variables])
            squares = tf.reduce_sum(gradients[0] ** 2)
        return [y, *gradients, outer.gradient(squares, x)]

    whole = results()
    monkeypatch.setattr(self_attention, "_MOST_AT_ONCE", 1)
    monkeypatch.setattr(self_attention, "_MOST_IN_BLOCK", 2 * 15 * 4)  # four rows: a rest is left
    for expected, found in zip(whole, results()):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    scores = layer(x, return_attention_scores=True, **given)[1]
    assert scores.shape == (2, 2, 15, 15)


def test_large_maps_take_little_memory(monkeypatch):
    """No tensor in a training step has a number for each pair of positions in all heads."""
    monkeypatch.setattr(self_attention, "_MOST_AT_ONCE", 1 << 10)
    monkeypatch.setattr(self_attention, "_MOST_IN_BLOCK", 1 << 9)
    layer = tfconv.SelfAttention2D(num_heads=2, key_dim=3)
    layer.build((None, 8, 8, 4))

    @tf.function(input_signature=[tf.TensorSpec([1, 8, 8, 4])])
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x) ** 2)
        return tape.gradient(loss, layer.trainable_variables)

    graph = step.get_concrete_function().graph
    sizes = [t.shape.num_elements() or 0 for op in graph.get_operations() for t in op.outputs]
    assert max(sizes) < 64 * 64
