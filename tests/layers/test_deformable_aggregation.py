"""DeformableAggregation1D, 2D and 3D."""

import math

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests import reference
from tests.conftest import kinds
from tfconv._compat import keras
from tfconv.testing import randomize

LAYERS = {
    1: tfconv.DeformableAggregation1D,
    2: tfconv.DeformableAggregation2D,
    3: tfconv.DeformableAggregation3D,
}
V4 = {"depthwise_kernel_size": None, "normalize_features": False, "softmax": False}


def dense(x, layer):
    kernel, bias = layer.get_weights()
    return x @ kernel.reshape(kernel.shape[-2:]) + bias


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def by_hand(layer, x, window):
    """What the docstring says, in loops."""
    sizes, channels, rank = x.shape[1:-1], x.shape[-1], x.ndim - 2
    groups, outputs = layer.groups_of(channels), window.outputs(sizes)
    taps = len(window.taps)
    centre = [((k - 1) * d) // 2 for k, d in zip(window.kernel_size, window.dilations)]
    size = layer.depthwise_kernel_size or (1,) * rank
    own = reference.Window(
        size,
        window.strides,
        tuple((b - c + (k - 1) // 2, 99) for (b, _), c, k in zip(window.pads, centre, size)),
        (1,) * rank,
    )
    features = np.zeros((len(x), *outputs, channels))
    for position in np.ndindex(*outputs):
        for tap in own.taps:
            pixel = reference._pixel(x, own.pixel(position, tap))
            if layer.depthwise_kernel_size is not None:
                pixel = pixel * layer.depthwise.get_weights()[0][tap][:, 0]
            features[(slice(None), *position)] += pixel
    if layer.depthwise_kernel_size is not None:
        features += layer.depthwise.get_weights()[1]
    if layer.normalize_features:
        features -= features.mean(-1, keepdims=True)
        features /= np.sqrt((features**2).mean(-1, keepdims=True) + 1e-6)
        features = features * np.asarray(layer.gamma) + np.asarray(layer.beta)
        features = features * 0.5 * (1 + np.vectorize(math.erf)(features / math.sqrt(2)))
    places = [t for t in range(taps) if not (layer.remove_center and t == taps // 2)]
    shape = (len(x), *outputs, groups, len(places))
    given = dense(features, layer.offset_projection).reshape(*shape, rank)
    chosen = dense(features, layer.weight_projection).reshape(shape)
    offset, weights = np.zeros((*shape[:-1], taps, rank)), np.zeros((*shape[:-1], taps))
    weights[..., places] = softmax(chosen) if layer.softmax else chosen
    offset[..., places, :] = given
    scale = layer.offset_scale
    for number, tap in enumerate(window.taps):
        from_centre = [t * d - c for t, d, c in zip(tap, window.dilations, centre)]
        offset[..., number, :] = (scale - 1) * np.array(from_centre) + scale * offset[
            ..., number, :
        ]
    value = dense(x, layer.input_projection) if layer.project_inputs else x
    y = reference.deformable_aggregation(
        value,
        offset.reshape(len(x), *outputs, -1),
        weights.reshape(len(x), *outputs, -1),
        window,
    )
    if layer.center_feature_scale:
        s = 1 / (1 + np.exp(-dense(features, layer.scale_projection)))
        s = np.repeat(s, channels // groups, axis=-1)
        middle = np.stack(
            [
                reference._pixel(value, window.pixel(p, (0,) * rank) + np.array(centre))
                for p in np.ndindex(*outputs)
            ],
            axis=1,
        ).reshape(y.shape)
        y = y * (1 - s) + middle * s
    return dense(y, layer.output_projection) if layer.project_outputs else y


@pytest.mark.parametrize(
    "case",
    kinds(
        [
            ((9,), {"kernel_size": 3, "padding": "causal"}),
            ((9,), {"kernel_size": 4, "strides": 2, "dilation_rate": 2, **V4}),
            ((6, 7), {}),
            ((6, 7), {"remove_center": True, "offset_scale": 0.5}),
            ((6, 7), {"strides": (2, 3), "depthwise_kernel_size": 5}),
            ((7, 6), {"strides": 2, "dilation_rate": (1, 2), "center_feature_scale": True}),
            ((6, 5), {"kernel_size": (3, 2), "padding": "valid", "project_inputs": False}),
            ((4, 5), {"padding": "full", "project_outputs": False, "depthwise_kernel_size": 2}),
            ((6, 7), {"kernel_size": (5, 3), "padding": ((0, 3), (2, 1)), "strides": 2, **V4}),
            ((6, 7), {"depthwise_kernel_size": None}),
            ((6, 7), {"normalize_features": False}),
            ((3, 4, 4), {"kernel_size": 2, "strides": (1, 2, 2), "center_feature_scale": True}),
            ((3, 2, 4), {"remove_center": True, "softmax": False}),
        ]
    ),
)
def test_by_hand(case, rng, implementation):
    sizes, arguments = case
    layer = LAYERS[len(sizes)](**arguments, groups=2, dtype="float64")
    x = rng.standard_normal((2, *sizes, 6))
    layer(x)
    randomize(layer)
    window = reference.window(
        sizes,
        arguments.get("kernel_size", 3),
        arguments.get("strides", 1),
        arguments.get("padding", "same"),
        arguments.get("dilation_rate", 1),
    )
    np.testing.assert_allclose(layer(x), by_hand(layer, x, window), rtol=1e-6, atol=1e-7)


def test_it_starts_as_the_mean_of_its_window(rng):
    layer = tfconv.DeformableAggregation2D(3, groups=2, dtype="float64")
    layer.project_inputs = layer.project_outputs = False
    x = rng.standard_normal((1, 5, 6, 4))
    expected = tf.nn.avg_pool2d(x, 3, 1, "VALID")
    np.testing.assert_allclose(layer(x)[:, 1:-1, 1:-1], expected, atol=1e-12)


@pytest.mark.parametrize("arguments", [{}, V4, {"remove_center": True, "offset_scale": 0.7}])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_offsets_and_weights(data_format, arguments, rng, implementation):
    layer = tfconv.DeformableAggregation2D(
        3,
        groups=2,
        strides=2,
        project_inputs=False,
        project_outputs=False,
        data_format=data_format,
        dtype="float64",
        **arguments,
    )
    x = rng.standard_normal((2, 6, 5, 4) if data_format == "channels_last" else (2, 4, 6, 5))
    layer(x)
    randomize(layer)
    offset, weights = layer.offsets_and_weights(x)
    y = tfconv.ops.deformable_aggregation(x, offset, weights, 3, strides=2, data_format=data_format)
    np.testing.assert_allclose(layer(x), y, atol=1e-12)
    if layer.softmax:
        axis = -1 if data_format == "channels_last" else 1
        np.testing.assert_allclose(tf.reduce_sum(weights, axis), np.full((2, 3, 3), 2.0))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy, rng):
    x = rng.standard_normal((2, 6, 5, 32)).astype(np.float32)
    layer = tfconv.DeformableAggregation2D(3, dtype=policy)
    exact = tfconv.DeformableAggregation2D(3)
    for each in (layer, exact):
        each(x)
    randomize(exact)
    layer.set_weights(exact.get_weights())
    y = layer(x)
    assert y.dtype == policy.removeprefix("mixed_")
    difference = np.abs(tf.cast(y, tf.float32) - exact(x))
    assert difference.mean() < 0.1 * np.abs(exact(x)).mean()


def test_training_moves_offsets(rng):
    """All weights have gradients once offsets lie between pixels; a step lowers the loss."""
    x = tf.constant(rng.standard_normal((2, 6, 5, 8)), tf.float32)
    target = tf.roll(x, 1, axis=1)
    layer = tfconv.DeformableAggregation2D(3, groups=2)
    layer(x)
    randomize(layer)
    losses = []
    for _ in range(5):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((layer(x) - target) ** 2)
        gradients = tape.gradient(loss, layer.trainable_variables)
        assert all(np.abs(g).max() > 0 for g in gradients)
        for variable, gradient in zip(layer.trainable_variables, gradients):
            variable.assign_sub(0.02 * tf.convert_to_tensor(gradient))
        losses.append(float(loss))
    assert losses[-1] < losses[0]


def test_channels_that_make_no_groups():
    with pytest.raises(ValueError, match="`group_channels` must divide it.*or give `groups`"):
        tfconv.DeformableAggregation2D(3).build((None, 6, 6, 24))


def test_filters():
    """Outputs of another number of channels, which the projection makes."""
    layer = tfconv.DeformableAggregation2D(3, groups=2, filters=6)
    model = keras.Sequential([keras.Input([5, 4, 4]), layer])
    assert model.output_shape == (None, 5, 4, 6)
    assert model(tf.ones([2, 5, 4, 4])).shape == (2, 5, 4, 6)
    assert layer.output_projection.kernel.shape == (1, 1, 4, 6)
    assert type(layer).from_config(layer.get_config()).filters == 6
    weights = sum(math.prod(w.shape) for w in layer.weights if len(w.shape) > 1)
    assert tfconv.analysis.profile(model).rows[0].weights == weights
    with pytest.raises(ValueError, match="`filters` needs the projection .*Received: filters=6"):
        tfconv.DeformableAggregation2D(3, filters=6, project_outputs=False)
