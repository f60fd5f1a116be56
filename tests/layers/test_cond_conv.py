"""CondConv1D, 2D, 3D and DepthwiseCondConv2D."""

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests import recorded, reference
from tests.ops.geometries import assert_numeric_gradients, gradients
from tfconv._compat import keras
from tfconv.ops.per_example_conv import cheaper_execution, mixed_conv
from tfconv.testing import check_keeps_native, randomize


def test_native_ops_are_kept_on_demand():
    check_keeps_native(tfconv.CondConv2D, (7, 6, 4), filters=3, kernel_size=3, num_experts=2)


# What it computes.


@pytest.mark.parametrize("number", range(len(recorded.cases("condconv2d"))))
def test_recorded_cases(number):
    case = recorded.cases("condconv2d")[number]
    experts, *kernel_size, _, filters = case.weight.shape
    layer = tfconv.CondConv2D(
        filters,
        kernel_size,
        strides=case.stride,
        padding=case.padding,
        dilation_rate=case.dilation,
        groups=case.groups,
        num_experts=experts,
        data_format="channels_last",
        dtype="float64",
    )
    x, routing = (tf.constant(t, tf.float64) for t in (case.x, case.routing))
    layer(x, routing)
    layer.set_weights([case.weight.reshape(experts, -1), case.bias])
    with tf.GradientTape() as tape:
        tape.watch([x, routing])
        y = layer(x, routing)
    weights = [layer.kernel, layer.bias]
    upstream = tf.constant(case.grad_out, tf.float64)
    results = tape.gradient(y, [x, routing, *weights], output_gradients=upstream)
    expected = [
        case.grad_x,
        case.grad_routing,
        case.grad_weight.reshape(experts, -1),
        case.grad_bias,
    ]
    for actual, other in zip([y, *results], [case.out, *expected]):
        np.testing.assert_allclose(actual, other, rtol=1e-9, atol=1e-9)


def routing_by_hand(layer, x):
    kernel, bias = (np.asarray(w, np.float64) for w in layer.routing.get_weights())
    return 1 / (1 + np.exp(-(x.mean(axis=(1, 2)) @ kernel + bias)))


def test_own_routing_by_hand(rng):
    layer = tfconv.CondConv2D(5, 3, num_experts=3, dtype="float64")
    x = rng.standard_normal((3, 6, 5, 4))
    layer(x)
    randomize(layer)
    kernels, bias = layer.get_weights()[:2]
    routing = routing_by_hand(layer, x)
    mixed = (routing @ kernels).reshape(3, 3, 3, 4, 5)
    expected = reference.per_example_conv(x, mixed, reference.window((6, 5), 3))
    expected += (routing @ bias)[:, None, None]
    np.testing.assert_allclose(layer(x), expected, rtol=1e-10, atol=1e-10)


def test_depthwise_by_hand(rng):
    layer = tfconv.DepthwiseCondConv2D(
        3, strides=2, padding="same", depth_multiplier=2, num_experts=3, dtype="float64"
    )
    x = rng.standard_normal((2, 6, 5, 4))
    layer(x)
    randomize(layer)
    kernels, bias = layer.get_weights()[:2]
    routing = routing_by_hand(layer, x)
    for n in range(2):
        kernel = (routing[n] @ kernels).reshape(3, 3, 4, 2)
        expected = tf.nn.depthwise_conv2d(x[n : n + 1], kernel, [1, 2, 2, 1], "SAME")
        expected += routing[n] @ bias
        np.testing.assert_allclose(layer(x)[n : n + 1], expected, rtol=1e-10, atol=1e-10)


def test_one_expert_is_plain_convolution(rng):
    x = rng.standard_normal((3, 6, 5, 4)).astype(np.float32)
    plain = keras.layers.Conv2D(4, 3, groups=2, activation="relu")
    layer = tfconv.CondConv2D(4, 3, num_experts=1, groups=2, activation="relu")
    layer(x, np.ones((3, 1), np.float32))
    plain.build(x.shape)
    kernel, bias = layer.get_weights()
    plain.set_weights([kernel.reshape(3, 3, 2, 4), bias[0]])
    np.testing.assert_allclose(layer(x, np.ones((3, 1))), plain(x), rtol=1e-4, atol=1e-5)


def test_linear_in_the_routing_weights(rng):
    layer = tfconv.CondConv2D(5, 3, num_experts=3, bias_initializer="normal", dtype="float64")
    x = rng.standard_normal((2, 6, 5, 4))
    first, second = rng.standard_normal((2, 2, 3))
    expected = 2 * layer(x, first) - 3 * layer(x, second)
    np.testing.assert_allclose(layer(x, 2 * first - 3 * second), expected, rtol=1e-10, atol=1e-10)


def test_examples_do_not_mix(rng):
    layer = tfconv.CondConv2D(5, 3, num_experts=3)
    x = rng.standard_normal((33, 5, 5, 2)).astype(np.float32)
    alone = [layer(x[n : n + 1]) for n in range(33)]
    np.testing.assert_allclose(layer(x), tf.concat(alone, 0), rtol=1e-4, atol=1e-5)


# The two orders.

ORDERS = ["mix_kernels", "mix_outputs", "auto"]


@pytest.mark.parametrize("experts", [1, 3])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    "sizes, arguments",
    [
        ((7,), {"padding": "causal", "strides": 2, "dilation_rate": 2}),
        ((1,), {"padding": "same"}),
        ((6, 5), {"padding": "full"}),
        ((6, 5), {"padding": "same", "strides": 2, "dilation_rate": 2}),
        ((3, 4, 3), {"padding": 1, "strides": (1, 2, 1)}),
    ],
    ids=str,
)
def test_orders_give_the_same(sizes, arguments, groups, experts, rng):
    """Outputs and gradients, against the reference."""
    x = rng.standard_normal((2, *sizes, 4))
    kernels = rng.standard_normal((experts, *(3 for _ in sizes), 4 // groups, 6))
    weights = rng.standard_normal((2, experts))
    given = {"strides": 1, "dilation_rate": 1, **arguments}
    window = reference.window(sizes, 3, given["strides"], given["padding"], given["dilation_rate"])
    expected = reference.per_example_conv(x, np.tensordot(weights, kernels, 1), window)
    first = None
    for order in ORDERS:
        results = gradients(
            lambda *t, order=order: mixed_conv(*t, execution=order, **arguments),
            [x, kernels, weights],
        )
        np.testing.assert_allclose(results[0], expected, rtol=1e-9, atol=1e-9)
        first = first or results
        for actual, other in zip(results, first):
            np.testing.assert_allclose(actual, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", ORDERS)
def test_numeric_gradients_of_orders(order, rng):
    inputs = [rng.standard_normal(s) for s in ((2, 3, 2, 4), (2, 2, 1, 2, 2), (2, 2))]
    assert_numeric_gradients(lambda *t: mixed_conv(*t, execution=order), inputs)


@pytest.mark.parametrize("batch", [0, 1, 33])
@pytest.mark.parametrize("order", ORDERS)
def test_batches(order, batch, rng):
    layer = tfconv.CondConv2D(4, 3, groups=2, num_experts=3, execution=order, dtype="float64")
    x, routing = rng.standard_normal((batch, 5, 4, 2)), rng.standard_normal((batch, 3))
    y, *grads = gradients(layer, [x, routing])
    assert y.shape == (batch, 3, 2, 4)
    assert [g.shape for g in grads] == [x.shape, routing.shape]


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32])
@pytest.mark.parametrize("order", ORDERS)
def test_data_types(order, dtype, rng):
    shapes = ((2, 5, 4, 4), (3, 3, 2, 2, 6), (2, 3))
    inputs = [tf.cast(rng.standard_normal(shape), dtype) for shape in shapes]
    results = gradients(lambda *t: mixed_conv(*t, execution=order), inputs)
    assert [t.dtype for t in results] == [dtype] * 4
    exact = mixed_conv(*(tf.cast(t, tf.float64) for t in inputs))
    tolerance = {tf.float16: 0.02, tf.bfloat16: 0.15, tf.float32: 1e-4}[dtype]
    np.testing.assert_allclose(tf.cast(results[0], tf.float64), exact, atol=tolerance)


@pytest.mark.parametrize(
    "experts, size, filters, positions, order",
    [
        (4, 900, 10, 100, "mix_kernels"),
        (4, 900, 10, None, "mix_kernels"),
        (4, 900, 10, 1, "mix_outputs"),  # 4 * 910 against 5 * 900
        (900, 2, 2, 1, "mix_kernels"),  # 900 * 4 against 901 * 2
        (1, 900, 10, 100, "mix_kernels"),  # 91000 against 90900
        (1, 900, 10, 10, "mix_outputs"),
    ],
)
def test_cheaper_execution(experts, size, filters, positions, order):
    assert cheaper_execution((experts, size), filters, positions) == order


def test_depthwise_orders(rng):
    x = rng.standard_normal((2, 6, 5, 4))
    arguments = {"depth_multiplier": 2, "num_experts": 3, "dtype": "float64"}
    first = tfconv.DepthwiseCondConv2D(3, execution="mix_kernels", **arguments)
    second = tfconv.DepthwiseCondConv2D(3, execution="mix_outputs", **arguments)
    first(x), second(x)
    randomize(first)
    second.set_weights(first.get_weights())
    np.testing.assert_allclose(second(x), first(x), rtol=1e-10, atol=1e-10)


# Experts.


def experts(layer, shape, input_shape):
    layer.build(input_shape)
    return layer.get_weights()[0].reshape(-1, *shape)


@pytest.mark.parametrize(
    "layer, shape",
    [
        (lambda **k: tfconv.CondConv2D(32, 3, num_experts=4, **k), (3, 3, 16, 32)),
        (lambda **k: tfconv.DepthwiseCondConv2D(7, num_experts=4, **k), (7, 7, 16, 1)),
    ],
    ids=["CondConv2D", "DepthwiseCondConv2D"],
)
class TestExperts:
    @pytest.mark.parametrize("initializer", ["glorot_uniform", "he_normal"])
    def test_each_is_initialised_as_a_plain_kernel(self, layer, shape, initializer):
        values = experts(layer(kernel_initializer=initializer), shape, (None, 8, 8, 16))
        plain = np.asarray(keras.initializers.get(initializer)(shape))
        for i, expert in enumerate(values):
            assert abs(expert.std() / plain.std() - 1) < 0.1
            assert abs(expert.mean()) < 0.1 * plain.std()
            for other in values[:i]:
                assert abs(np.corrcoef(expert.ravel(), other.ravel())[0, 1]) < 0.1

    def test_seeded_initializer_is_reproducible(self, layer, shape):
        def draw(seed):
            initializer = keras.initializers.GlorotUniform(seed=seed)
            return experts(layer(kernel_initializer=initializer), shape, (None, 8, 8, 16))

        np.testing.assert_array_equal(draw(7), draw(7))
        assert not np.array_equal(draw(7), draw(8))
        assert not np.array_equal(draw(7)[0], draw(7)[1])

    def test_unseeded_initializers_differ(self, layer, shape):
        first, second = (experts(layer(), shape, (None, 8, 8, 16)) for _ in range(2))
        assert not np.array_equal(first, second)

    def test_constraint_holds_for_each_expert(self, layer, shape, rng):
        constrained = layer(kernel_constraint=keras.constraints.MaxNorm(0.5, axis=[0, 1, 2]))
        model = keras.Sequential([keras.Input((8, 8, 16)), constrained])
        model.compile(keras.optimizers.SGD(10.0), "mse")
        x = rng.standard_normal((4, 8, 8, 16)).astype(np.float32)
        target = np.ones(model(x).shape, np.float32)
        model.fit(x, target, verbose=0)
        values = model.get_weights()[0].reshape(-1, *shape)
        norms = np.sqrt((values**2).sum(axis=(1, 2, 3)))
        assert norms.max() < 0.5 + 1e-5
        assert (norms > 0.5 - 1e-5).any(axis=1).all()


# Routing weights from the caller.


def test_given_routing_leaves_no_routing_weights():
    layer = tfconv.CondConv2D(5, 3, num_experts=3)
    layer(tf.ones([2, 6, 6, 4]), tf.ones([2, 3]))
    assert [tuple(w.shape) for w in layer.weights] == [(3, 180), (3, 5)]
    with pytest.raises(ValueError, match="`routing_weights` given.*Received: routing_weights=None"):
        layer(tf.ones([2, 6, 6, 4]))


def test_own_routing_can_be_overruled(rng):
    layer = tfconv.CondConv2D(5, 3, num_experts=3)
    x = rng.standard_normal((2, 6, 6, 4)).astype(np.float32)
    own = layer(x)
    routing = routing_by_hand(layer, x)
    np.testing.assert_allclose(layer(x, routing), own, rtol=1e-4, atol=1e-5)
    assert not np.allclose(layer(x, 1 - routing), own, atol=1e-3)


def test_gradient_reaches_the_routing(rng):
    layer = tfconv.CondConv2D(5, 3, num_experts=3, dtype="float64")
    inputs = [rng.standard_normal((2, 6, 6, 4)), rng.standard_normal((2, 3))]
    _, dx, drouting = gradients(layer, inputs)
    assert np.abs(dx).sum(axis=(1, 2, 3)).min() > 1e-6
    assert (np.abs(drouting) > 1e-6).all()


# Arguments.


def test_depthwise_names_of_keras():
    layer = tfconv.DepthwiseCondConv2D(3, depthwise_initializer="ones", num_experts=2)
    layer.build((None, 4, 4, 2))
    np.testing.assert_array_equal(layer.get_weights()[0], np.ones((2, 18)))
