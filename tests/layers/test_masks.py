"""Keras's masks, what attention takes beside them, and second outputs."""

import importlib.util
import warnings

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv._compat import KERAS_3, keras
from tfconv.export import to_onnx, to_tflite
from tfconv.testing import layer_cases, randomize

VALID = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], bool)
CONDITIONAL = {"num_experts": 2, "dtype": "float64"}
ATTENTION = {"num_heads": 2, "key_dim": 3, "dtype": "float64"}


def keras_mask(y):
    return getattr(y, "_keras_mask", None)


# What stands at masked positions.


class Case:
    """A layer whose outputs depend on all positions that count; kernels see one position."""

    def __init__(self, layer, sizes, mask_axes=None, first=False):
        self.layer, self.first = layer, first
        self.sizes, self.mask_axes = sizes, mask_axes or len(sizes)

    def __str__(self):
        return f"{type(self.layer).__name__}{self.sizes}{'first' * self.first}"


def cases():
    yield Case(tfconv.CondDense(3, **CONDITIONAL), (5,))
    yield Case(tfconv.CondDense(3, **CONDITIONAL), (5, 2))
    yield Case(tfconv.CondDense(3, **CONDITIONAL), (5, 2), mask_axes=1)
    for first in (False, True):
        arguments = {"dtype": "float64", "data_format": f"channels_{'first' if first else 'last'}"}
        for rank, sizes in enumerate([(5,), (5, 2), (5, 2, 2)], start=1):
            conv = getattr(tfconv, f"CondConv{rank}D")
            yield Case(conv(3, 1, num_experts=2, **arguments), sizes, first=first)
            conv = getattr(tfconv, f"DynamicConv{rank}D")
            yield Case(
                conv(3, 1, temperature=1, reduction_ratio=1, **arguments), sizes, first=first
            )
            yield Case(tfconv.SqueezeExcite(reduction_ratio=1, **arguments), sizes, first=first)
            attention = getattr(tfconv, f"SelfAttention{rank}D")
            yield Case(attention(num_heads=2, key_dim=3, **arguments), sizes, first=first)
            attention = getattr(tfconv, f"LocalSelfAttention{rank}D")
            yield Case(attention(6, 3, num_heads=2, **arguments), sizes, first=first)
        conv = tfconv.DepthwiseCondConv2D(1, num_experts=2, **arguments)
        yield Case(conv, (5, 2), first=first)


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_masked_positions_play_no_part(case, rng):
    layer = case.layer
    x = rng.standard_normal((3, *case.sizes, 4))
    mask = VALID.reshape(3, 5, *[1] * (case.mask_axes - 1))
    mask = np.broadcast_to(mask, (3, *case.sizes[: case.mask_axes]))
    last = VALID.reshape(3, 5, *[1] * len(case.sizes))  # with x's rank

    def outputs(x, mask):
        moved = np.moveaxis(x, -1, 1) if case.first else x
        y = layer(moved, mask=None if mask is None else tf.constant(mask)).numpy()
        return np.moveaxis(y, 1, -1) if case.first else y

    outputs(x, None)
    randomize(layer)
    everywhere = outputs(x, None)
    y = outputs(x, mask)
    np.testing.assert_allclose(outputs(x, np.ones_like(mask)), everywhere, atol=1e-12)
    np.testing.assert_allclose(y[1], everywhere[1], atol=1e-12)  # nothing masked
    assert not np.allclose(y[0, :3], everywhere[0, :3], atol=1e-3)
    assert np.isfinite(y).all()
    other = outputs(np.where(last, x, 1e3 * rng.standard_normal(x.shape)), mask)
    np.testing.assert_allclose(np.where(last, other, 0), np.where(last, y, 0), atol=1e-12)
    alone = outputs(x[:1, :3], None)[0]  # no padding
    np.testing.assert_allclose(y[0, :3], alone, atol=1e-12)


# As Keras's layers of the kind.

KINDS = {
    "CondDense": lambda: keras.layers.Dense(1),
    "ChannelShuffle": lambda: keras.layers.Activation("relu"),
    "SqueezeExcite": keras.layers.GlobalAveragePooling1D,
    "WeightedSum": keras.layers.Add,
    **dict.fromkeys(
        [f"{kind}SelfAttention{rank}D" for kind in ("", "Local") for rank in (1, 2, 3)],
        lambda: keras.layers.MultiHeadAttention(1, 1),
    ),
}


@pytest.mark.parametrize("name", tfconv.layers.__all__)
def test_as_layers_of_keras(name):
    """Layers that keep positions hand their masks on; convolutions do as Keras's do."""
    case = next(case for case in layer_cases() if case.layer_class.__name__ == name)
    layer, kind = case.layer(), KINDS.get(name, lambda: keras.layers.Conv2D(1, 1))()
    assert layer.supports_masking == kind.supports_masking
    arrays = [np.where(np.arange(len(x)) > 0, x.T, 0).T for x in case.arrays(3).values()]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        inputs = [keras.layers.Masking()(x) for x in arrays]
        extra = dict(zip(case.extra, arrays[1:]))
        y = layer(inputs) if case.as_list else layer(inputs[0], **extra)
    told = sum("does not support masking" in str(each.message) for each in said)
    if name != "SplitTransformMerge":  # whose layers inside may be others
        assert told == (KERAS_3 and not kind.supports_masking)
    if kind.supports_masking:
        np.testing.assert_array_equal(keras_mask(y), keras_mask(inputs[0]))
    else:
        assert keras_mask(y) is None


def test_weighted_sum_masks_as_add(rng):
    x = rng.standard_normal((2, 3, 5, 4)).astype(np.float32)
    x[0, ~VALID], x[1, :, 2] = 0, 0
    terms = [keras.layers.Masking()(part) for part in x]
    for inputs in (terms, [terms[0], tf.constant(x[1])]):
        mine, theirs = tfconv.WeightedSum()(inputs), keras.layers.Add()(inputs)
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)
        mine, theirs = keras_mask(mine), keras_mask(theirs)
        assert (mine is None) == (theirs is None)
        assert mine is None or np.array_equal(mine, theirs)


@pytest.mark.parametrize("shape", [(3, 4), (3, 5, 1), ()])
def test_masks_that_fit_no_position(shape):
    with pytest.raises(ValueError, match="`mask`.*Received: mask of shape"):
        tfconv.CondDense(3)(np.ones((3, 5, 4), np.float32), mask=np.ones(shape, bool))


# Attention as Keras's.


def beside_keras(rng):
    """A layer and Keras's MultiHeadAttention with the same weights."""
    ours = tfconv.SelfAttention1D(value_dim=5, filters=6, **ATTENTION)
    theirs = keras.layers.MultiHeadAttention(value_dim=5, output_shape=6, **ATTENTION)
    x = rng.standard_normal((3, 5, 4))
    ours(x), theirs(x, x)
    randomize(ours)
    layers = (ours.query, ours.key, ours.value, ours.project)
    weights = [layer.get_weights() for layer in layers]
    weights[1].append(rng.standard_normal(6))  # the softmax cancels the keys' bias
    flat = [value for pair in weights for value in pair]
    theirs.set_weights([v.reshape(w.shape) for v, w in zip(flat, theirs.get_weights())])
    return ours, theirs, x


CALLS = [
    {},
    {"use_causal_mask": True},
    {"attention_mask": (3, 5, 5)},
    {"attention_mask": (5, 5)},
    {"attention_mask": (1, 5, 5)},
    {"attention_mask": (3, 5, 5), "use_causal_mask": True},
]


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_as_multi_head_attention(call, masked, rng):
    ours, theirs, x = beside_keras(rng)
    call = {
        name: rng.uniform(size=value) < 0.6 if name == "attention_mask" else value
        for name, value in call.items()
    }
    if masked:
        x = keras.layers.Masking(dtype="float64")(np.where(VALID[..., None], x, 0))
    mask = keras_mask(x)  # which Keras's layer takes away
    y, scores = ours(x, return_attention_scores=True, **call)
    np.testing.assert_array_equal(ours(x, **call), y)
    expected, expected_scores = theirs(x, x, return_attention_scores=True, **call)
    # Positions that see nothing: Keras 2 lets them see all, and Keras 3, without scores, too.
    seeing = tf.reduce_sum(scores, -1).numpy()[:, 0] > 0.5
    if not masked and "attention_mask" not in call:
        assert seeing.all()
    if KERAS_3:
        seeing[...] = True
    np.testing.assert_allclose(y[seeing], expected[seeing], atol=1e-7)
    by_row = [np.moveaxis(each, 1, 2)[seeing] for each in (scores, expected_scores)]
    np.testing.assert_allclose(*by_row, atol=1e-7)
    np.testing.assert_array_equal(ours.attention(x, mask=mask, **call), scores)


def test_positions_of_images_in_masks(rng):
    """Row by row; masks may have the spatial axes."""
    x = rng.standard_normal((2, 3, 2, 4))
    flat = tfconv.SelfAttention1D(**ATTENTION)
    flat(x.reshape(2, 6, 4))
    randomize(flat)
    layer = tfconv.SelfAttention2D(**ATTENTION)
    layer(x)
    layer.set_weights(flat.get_weights())
    mask = rng.uniform(size=(2, 2, 6, 6)) < 0.6
    for given in (mask[:, 0], mask, mask[0, 0]):
        spread = given.reshape(*given.shape[:-2], 3, 2, 3, 2)
        expected = flat(x.reshape(2, 6, 4), attention_mask=given)
        for each in (given, spread) if given.ndim > 2 else (given,):
            y = layer(x, attention_mask=each)
            np.testing.assert_allclose(y, tf.reshape(expected, y.shape), atol=1e-12)
    expected = flat(x.reshape(2, 6, 4), use_causal_mask=True)
    y = layer(x, use_causal_mask=True)
    np.testing.assert_allclose(y, tf.reshape(expected, y.shape), atol=1e-12)
    for shape in ((2, 5, 6), (2, 3, 6, 6), (6,), (2, 3, 2, 2, 3), (2, 2, 1, 3, 2, 3, 2)):
        with pytest.raises(
            (ValueError, tf.errors.InvalidArgumentError), match="attention_mask|hape"
        ):
            layer(x, attention_mask=np.ones(shape, bool))


@pytest.mark.parametrize("kernel_size, dilation", [(3, 1), ((3, 5), 1), (2, 2)], ids=str)
def test_local_causality(kernel_size, dilation, rng):
    layer = tfconv.LocalSelfAttention2D(
        4, kernel_size, num_heads=2, dilation_rate=dilation, use_bias=True, dtype="float64"
    )
    x = rng.standard_normal((1, 4, 5, 4))
    layer(x)
    randomize(layer)
    y = layer(x, use_causal_mask=True)
    changed = x.copy()
    changed[0, 2, 2:] += 1
    changed[0, 3] += 1
    differs = np.abs(layer(changed, use_causal_mask=True) - y).max(-1)[0] > 1e-9
    assert not differs.ravel()[:12].any() and differs.ravel()[12]
    sums = layer.attention(x, use_causal_mask=True).numpy().reshape(1, 4, 5, 2, -1).sum(-1)
    np.testing.assert_allclose(sums[sums > 0.5], 1)
    assert np.isfinite(sums).all() and (dilation == 2 or sums.min() > 0.5)


@pytest.mark.parametrize("local", [False, True], ids=["global", "local"])
def test_dropout(local, rng):
    def made(**arguments):
        if local:
            return tfconv.LocalSelfAttention2D(6, 3, num_heads=2, **arguments)
        return tfconv.SelfAttention2D(num_heads=2, key_dim=3, **arguments)

    x = rng.standard_normal((2, 8, 8, 6)).astype(np.float32)
    plain, layer = made(), made(dropout=0.25, seed=3)
    plain(x), layer(x)
    layer.set_weights(plain.get_weights())  # dropout has none
    np.testing.assert_array_equal(layer(x), plain(x))
    copy = type(layer).from_config(layer.get_config())
    copy(x)
    copy.set_weights(plain.get_weights())
    drawn = []
    for each in (layer, copy):
        keras.utils.set_random_seed(0)
        y, scores = each(x, training=True, return_attention_scores=True)
        np.testing.assert_allclose(scores, plain.attention(x), rtol=1e-5, atol=1e-7)
        drawn.append(y)
    np.testing.assert_array_equal(*drawn)
    assert not np.allclose(drawn[0], layer(x), atol=1e-3)
    assert not np.array_equal(layer(x, training=True), layer(x, training=True))
    kept = layer.dropped(tf.ones([100, 100]), True).numpy()
    assert set(np.unique(kept)) == {0, np.float32(4 / 3)} and 0.72 < (kept > 0).mean() < 0.78


# Second outputs.

SECOND = {
    "return_attention_scores": "attention",
    "return_kernels": "kernels",
    "return_routing_weights": "routing_weights",
}


def with_seconds():
    for first in (False, True):
        data_format = {"data_format": "channels_first" if first else "channels_last"}
        yield tfconv.SelfAttention2D(num_heads=2, key_dim=3, dropout=0.1, **data_format), (4, 5, 6)
        yield tfconv.LocalSelfAttention2D(4, 3, num_heads=2, **data_format), (4, 5, 6)
        yield tfconv.Involution2D(3, strides=2, groups=2, **data_format), (4, 5, 6)
    yield tfconv.SelfAttention1D(num_heads=2, key_dim=3), (None, 6)
    yield tfconv.Involution1D(3, groups=2), (None, 6)
    yield tfconv.CondConv2D(3, 3, num_experts=2), (None, None, 6)
    yield tfconv.DepthwiseCondConv2D(3, num_experts=2), (5, 4, 6)
    yield tfconv.CondDense(3, num_experts=2), (5, 6)
    yield tfconv.DynamicConv1D(3, 3, dtype="mixed_float16"), (5, 6)


@pytest.mark.parametrize(
    "layer, shape", list(with_seconds()), ids=lambda value: getattr(value, "name", None)
)
def test_second_outputs(layer, shape, rng, tmp_path):
    argument = layer.asks_for_second
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layer(inputs, **{argument: True}))
    randomize(model)
    method = getattr(layer, SECOND[argument])
    apart = keras.Model(inputs, [layer(inputs), method(inputs)])
    x = rng.standard_normal((2, *[n or 7 for n in shape])).astype(np.float32)
    y, second = model(x)
    for symbolic, made in zip(model.outputs, (y, second)):
        assert symbolic.shape.rank == made.shape.rank if not KERAS_3 else True
        assert tf.TensorShape(symbolic.shape).is_compatible_with(made.shape)
        assert tf.as_dtype(symbolic.dtype) == made.dtype == tf.as_dtype(layer.compute_dtype)
    np.testing.assert_array_equal(y, layer(x))
    np.testing.assert_allclose(second, method(tf.cast(x, layer.compute_dtype)), rtol=2e-3)
    model.save(tmp_path / "model.keras")
    for other in (apart, keras.models.load_model(tmp_path / "model.keras")):
        for made, expected in zip(other(x), (y, second)):
            np.testing.assert_array_equal(made, expected)


@pytest.mark.late
def test_exports(rng, tmp_path):
    """Masks, causality and second outputs in what runs without Keras."""
    inputs = keras.Input((6, 4))
    allowed = keras.Input((6, 6), name="allowed")
    x = keras.layers.Masking()(inputs)
    x = tfconv.CondDense(6, num_experts=2)(x)
    x = tfconv.SqueezeExcite(reduction_ratio=2)(x)
    x, scores = tfconv.SelfAttention1D(num_heads=2, key_dim=3, dropout=0.1)(
        x, attention_mask=allowed, use_causal_mask=True, return_attention_scores=True
    )
    x, kernels = tfconv.Involution1D(3, groups=2)(x, return_kernels=True)
    x, routing = tfconv.CondConv1D(3, 2, num_experts=2)(x, return_routing_weights=True)
    model = keras.Model([inputs, allowed], [x, scores, kernels, routing])
    randomize(model)
    arrays = [
        rng.standard_normal((1, 6, 4)).astype(np.float32),
        rng.integers(0, 2, (1, 6, 6)).astype(np.float32),
    ]
    arrays[0][:, 4:] = 0
    expected = [y.numpy() for y in model(arrays)]
    model.save(tmp_path / "model.keras")
    for y, loaded in zip(expected, keras.models.load_model(tmp_path / "model.keras")(arrays)):
        np.testing.assert_allclose(loaded, y, atol=1e-6)
    assert (expected[1][0, :, :, 4:] == 0).all() and expected[1].max() > 0.1
    data = [np.repeat(array, 4, axis=0) for array in arrays]
    assert not to_tflite(model, representative_data=data).custom_operators  # which compares
    model.export(tmp_path / "saved")
    signature = tf.saved_model.load(tmp_path / "saved").signatures["serving_default"]
    names = signature.structured_input_signature[1]
    given = {name: arrays["allowed" in name] for name in names}
    outputs = list(
        signature(**{name: tf.constant(array) for name, array in given.items()}).values()
    )
    for y in expected:
        assert any(y.shape == o.shape and np.allclose(y, o, atol=1e-5) for o in outputs)
    if all(map(importlib.util.find_spec, ("onnx", "tf2onnx", "onnxruntime"))):
        to_onnx(model, representative_data=data)  # which compares too
