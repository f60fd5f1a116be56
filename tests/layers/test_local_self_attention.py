"""LocalSelfAttention1D, 2D and 3D."""

import json

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests import reference
from tests.analysis.definitions import Products, local_self_attention
from tests.ops.geometries import (
    assert_gradients_in_graphs,
    assert_numeric_gradients,
    second_gradients,
)
from tfconv.testing import check_keeps_native, randomize


def test_keeps_native():
    check_keeps_native(
        tfconv.LocalSelfAttention2D, (5, 4, 6), filters=4, kernel_size=3, num_heads=2
    )


def built(x, **arguments):
    """A layer in float64 with random weights."""
    arguments = {"kernel_size": 3, "num_heads": 2, "use_bias": True, **arguments}
    layer = tfconv.LocalSelfAttention2D(6, **arguments, dtype="float64")
    layer(x)
    randomize(layer)
    return layer


def by_hand(layer, x):
    """A loop over heads, pixels and taps; taps outside the image are left out."""
    query, key, value = (
        x @ d.get_weights()[0][0, 0] + sum(d.get_weights()[1:])
        for d in (layer.query, layer.key, layer.value)
    )
    rows, columns = (np.asarray(w) for w in (layer.row_embedding, layer.column_embedding))
    window = reference.window(x.shape[1:-1], layer.kernel_size, 1, "same", layer.dilation_rate)
    width = layer.filters // layer.num_heads
    y = np.zeros(query.shape)
    for n, i, j, head in np.ndindex(*query.shape[:3], layer.num_heads):
        mine = slice(head * width, (head + 1) * width)
        powers, values = [], []
        for tap in window.taps:
            a, b = window.pixel((i, j), tap)
            if 0 <= a < x.shape[1] and 0 <= b < x.shape[2]:
                r = np.concatenate([rows[tap[0], head], columns[tap[1], head]])
                powers.append(np.exp(query[n, i, j, mine] @ (key[n, a, b, mine] + r)))
                values.append(value[n, a, b, mine])
        y[n, i, j, mine] = np.average(values, axis=0, weights=powers)
    return y


@pytest.mark.parametrize(
    "sizes, arguments",
    [
        ((5, 4), {}),
        ((4, 6), {"kernel_size": (2, 5)}),
        ((6, 5), {"dilation_rate": 2, "num_heads": 3}),
        ((1, 1), {}),
        ((2, 3), {"kernel_size": 7}),
        ((4, 3), {"kernel_size": 1}),
        ((3, 4), {"num_heads": 1}),
    ],
    ids=str,
)
def test_by_hand(sizes, arguments, implementation, rng):
    x = rng.standard_normal((2, *sizes, 4))
    layer = built(x, **arguments)
    np.testing.assert_allclose(layer(x), by_hand(layer, x), rtol=1e-10, atol=1e-10)


def test_attention_is_a_distribution_over_the_pixels_inside(rng):
    x = rng.standard_normal((2, 5, 4, 4))
    layer = built(x)
    attention = layer.attention(x)
    assert attention.shape == (2, 5, 4, 2 * 9)
    taps = attention.numpy().reshape(2, 5, 4, 2, 3, 3)
    np.testing.assert_allclose(taps.sum(axis=(4, 5)), 1, rtol=1e-12)
    assert (taps[:, 0, :, :, 0] == 0).all() and (taps[:, :, -1, :, :, 2] == 0).all()
    assert (taps[:, 1:-1, 1:-1] > 0).all()


def test_weighted_sum_is_an_involution(rng):
    x = rng.standard_normal((2, 5, 4, 4))
    layer = built(x)
    expected = tfconv.ops.involution(layer.value(x), layer.attention(x), 3)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-12)


def test_constant_values_come_out_constant(rng):
    """Also at the borders, where zeros from the padding would pull a mean down."""
    x = rng.standard_normal((2, 5, 4, 4))
    layer = built(x)
    kernel, bias = layer.value.get_weights()
    layer.value.set_weights([kernel * 0, bias])
    np.testing.assert_allclose(layer(x), np.broadcast_to(bias, (2, 5, 4, 6)), rtol=1e-12)


def test_sees_its_window_only(rng):
    x = rng.standard_normal((1, 7, 7, 4))
    layer = built(x)
    changed = x.copy()
    changed[0, 3, 3] += 1
    differs = (np.abs(layer(changed) - layer(x)) > 1e-12).any(axis=-1)[0]
    expected = np.zeros((7, 7), bool)
    expected[2:5, 2:5] = True
    np.testing.assert_array_equal(differs, expected)


def test_numeric_gradients(implementation, rng):
    x = rng.standard_normal((1, 2, 2, 2))
    assert_numeric_gradients(built(x), [x])


def test_second_gradients(rng):
    x = rng.standard_normal((1, 3, 2, 2))
    layer = built(x)
    (native,) = second_gradients(layer, [x])
    with tfconv.portable():
        (portable,) = second_gradients(layer, [x])
    np.testing.assert_allclose(native, portable, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("batch", [0, 1, 33])
def test_batches(batch, implementation, rng):
    x = rng.standard_normal((batch, 3, 4, 4))
    layer = built(x)
    assert layer(x).shape == (batch, 3, 4, 6)
    alone = [layer(x[n : n + 1]) for n in range(batch)]
    if alone:
        np.testing.assert_allclose(layer(x), tf.concat(alone, 0), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_borders_in_half_precision(dtype, rng):
    layer = tfconv.LocalSelfAttention2D(6, 3, num_heads=2, dtype=dtype)
    x = tf.cast(rng.standard_normal((2, 4, 5, 4)) * 20, dtype)
    assert np.isfinite(tf.cast(layer(x), tf.float32)).all()
    assert layer(x).dtype == tf.as_dtype(dtype)


def test_parameters():
    layer = tfconv.LocalSelfAttention2D(20, (3, 5), num_heads=4, use_bias=True)
    layer.build((None, None, None, 12))
    assert layer.count_params() == 3 * 12 * 20 + 2 * 20 + 3 * 4 * 2 + 5 * 4 * 3


# Every rank, and every kind of window.

KINDS = [
    (1, {"kernel_size": 3, "causal": True, "dilation_rate": 2}),
    (1, {"kernel_size": 4, "edges": "shifted", "strides": 3}),
    (2, {"kernel_size": (3, 2), "edges": "shifted", "dilation_rate": (1, 2)}),
    (2, {"kernel_size": 3, "strides": (2, 3), "causal": (True, False)}),
    (3, {"kernel_size": (2, 3, 1), "strides": (1, 2, 1)}),
    (3, {"kernel_size": 2, "edges": "shifted", "causal": (False, True, False)}),
]
SIZES = {1: (9,), 2: (5, 7), 3: (3, 5, 4)}


def of_kind(x, rank, **arguments):
    layer = getattr(tfconv, f"LocalSelfAttention{rank}D")(
        6, num_heads=2, use_bias=True, dtype="float64", **arguments
    )
    layer(x)
    randomize(layer)
    return layer


@pytest.mark.parametrize("positions", ["keys", "bias", None])
@pytest.mark.parametrize("rank, arguments", KINDS, ids=str)
def test_kinds_by_definition(rank, arguments, positions, implementation, rng):
    x = rng.standard_normal((2, *SIZES[rank], 4))
    layer = of_kind(x, rank, relative_positions=positions, **arguments)
    y = layer(x)
    assert y.shape == layer.compute_output_shape(x.shape)
    times = Products()
    for one, expected in zip(x, y):
        by_loop = local_self_attention(times, times, layer, one)
        np.testing.assert_allclose(expected, by_loop, rtol=1e-9, atol=1e-9)
    weights = layer.attention(x).numpy()
    sums = weights.reshape(*y.shape[:-1], 2, layer.geometry.taps).sum(-1)
    np.testing.assert_allclose(sums, 1, rtol=1e-9)
    again, scores = layer(x, return_attention_scores=True)
    np.testing.assert_allclose(again, y, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(scores, weights)


@pytest.mark.parametrize("dropout, training", [(0.0, True), (0.5, None), (0.5, False)])
def test_weights_are_made_only_to_be_dropped(dropout, training, monkeypatch):
    """Otherwise the op gives the sums, and no weights are ever stored."""
    layer = tfconv.LocalSelfAttention1D(2, 3, num_heads=2, dropout=dropout)
    layer.build((None, 4, 2))
    monkeypatch.setattr(layer, "_weighted", lambda *given: pytest.fail("weights were made"))
    assert layer.call(tf.ones([1, 4, 2]), training=training).shape == [1, 4, 2]


@pytest.mark.parametrize("rank, arguments", KINDS, ids=str)
def test_kinds_with_masks_and_dropout(rank, arguments, rng):
    """What is masked plays no part; what is dropped leaves sums of the right size."""
    x = rng.standard_normal((2, *SIZES[rank], 4))
    layer = of_kind(x, rank, relative_positions="bias", **arguments)
    seen = rng.uniform(size=x.shape[:-1]) < 0.6
    seen[0] = False
    changed = np.where(seen[..., None], x, 5 * x)
    if max(layer.strides) == 1:
        y = layer(x, mask=seen)
        np.testing.assert_allclose(y[seen], layer(changed, mask=seen)[seen], rtol=1e-9, atol=1e-9)
    y, scores = layer(x, mask=seen, return_attention_scores=True)
    assert not y.numpy()[0].any() and not scores.numpy()[0].any()
    assert layer.supports_masking == (max(layer.strides) == 1)
    copy = type(layer).from_config({**layer.get_config(), "dropout": 1e-9})
    copy(x)
    copy.set_weights(layer.get_weights())
    np.testing.assert_allclose(copy(x, training=True), layer(x), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("positions", ["keys", "bias", None])
def test_gradients_in_graphs_of_known_sizes(positions, rng):
    """There TensorFlow joins the gradients of convolutions' kernels and biases."""
    x = tf.constant(rng.standard_normal((4, 5, 4, 6)), tf.float32)
    layer = tfconv.LocalSelfAttention2D(
        10, (3, 2), num_heads=2, use_bias=True, relative_positions=positions
    )
    layer(x)
    randomize(layer)
    assert_gradients_in_graphs(layer, x)


def test_causal_windows_see_nothing_later(rng):
    x = rng.standard_normal((1, 4, 5, 4))
    layer = of_kind(x, 2, kernel_size=3, causal=(False, True))
    changed = x.copy()
    changed[0, :, 3] += 1
    differs = (np.abs(layer(changed) - layer(x)) > 1e-12).any(axis=(0, 1, 3))
    np.testing.assert_array_equal(differs, [False, False, False, True, True])


def test_shifted_windows_have_all_taps(rng):
    x = rng.standard_normal((1, 6, 4, 4))
    layer = of_kind(x, 2, kernel_size=3, edges="shifted")
    assert layer.attention(x).numpy().min() > 0
    with pytest.raises(ValueError, match=r"`edges` may be \"shifted\".*\(3, 3\) pixels.*\(6, 2\)"):
        layer(x[:, :, :2])


def test_causal_masks_of_other_windows():
    x = tf.ones([1, 6, 6, 4])
    for arguments in ({"edges": "shifted"}, {"strides": 2}, {"causal": True}):
        layer = tfconv.LocalSelfAttention2D(4, 3, num_heads=2, **arguments)
        with pytest.raises(ValueError, match="`use_causal_mask` goes with.*Received"):
            layer(x, use_causal_mask=True)


def test_flags_come_back(tmp_path):
    layer = tfconv.LocalSelfAttention2D(4, 3, num_heads=2, causal=[True, False])
    copy = tfconv.LocalSelfAttention2D.from_config(json.loads(json.dumps(layer.get_config())))
    assert copy.causal == layer.causal == (True, False)
