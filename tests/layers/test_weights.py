"""How layers' weights start, are regularized and constrained, and adapted by few numbers."""

import inspect

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv._compat import KERAS_3, keras
from tfconv.layers.arguments import KINDS
from tfconv.testing import assert_same, layer_cases, randomize

# One case of each layer, which then has all its weights.
CASES = {case.layer_class.__name__: case for case in layer_cases() if not case.extra}


def called(case, layer, batch=2):
    first, *others = case.arrays(batch).values()
    return layer([first, *others] if case.as_list else first)


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_weight_has_arguments(name):
    """Initializer, regularizer and constraint reach every weight that is trained."""
    case = CASES[name]
    taken = inspect.signature(case.layer_class).parameters
    values = {"initializer": "ones", "regularizer": "l2", "constraint": "non_neg"}
    given = {
        argument: values[kind]
        for argument in taken
        for kind in KINDS
        if argument.endswith("_" + kind) and argument != "activity_regularizer"
    }
    if name == "SplitTransformMerge":  # whose copies have arguments of their own
        layer = case.layer(**given, merge="weighted_sum")
        called(case, layer)
        layer = layer.weighted_sum
    else:
        layer = case.layer(**given)
        called(case, layer)
    assert len(layer.losses) == len(layer.trainable_weights)
    for weight in layer.trainable_weights:
        assert np.all(np.asarray(weight) == 1), weight.name
        assert getattr(weight, "constraint", None) is not None, weight.name


SEEDED = {
    "FlattenedConv2D": {"filters": 4, "kernel_size": 3},
    "LowRankConv2D": {"filters": 4, "kernel_size": 3, "kernel_rank": 4},
    "GatedConv2D": {"filters": 4, "kernel_size": 3},
    "CondConv2D": {"filters": 4, "kernel_size": 3, "num_experts": 4},
    "DynamicConv2D": {"filters": 4, "kernel_size": 3, "num_experts": 4},
    "SelfAttention2D": {"num_heads": 1, "key_dim": 4},
    "LocalSelfAttention2D": {"filters": 4, "kernel_size": 3, "num_heads": 1, "use_bias": True},
    "Involution2D": {"kernel_size": 3, "groups": 1},
    "DeformableAggregation2D": {"kernel_size": 3, "groups": 1, "center_feature_scale": True},
    "SqueezeExcite": {"reduction_ratio": 1},
    "CondDense": {"units": 4, "num_experts": 4},
    "TuckerConv2D": {"filters": 4, "kernel_size": 3, "ranks": 4},
    "SeparableConv2D": {"filters": 4, "kernel_size": 3},
    "LocallyConnected2D": {"filters": 4, "kernel_size": 3},
}


@pytest.mark.parametrize("name", SEEDED)
def test_independent_draws(name):
    """Numbers of its own for each part of a layer and for each seed; the same for the same seed."""

    def drawn(seed):
        initializers = [
            argument
            for argument in inspect.signature(getattr(tfconv, name)).parameters
            if argument.endswith("_initializer")
        ]
        seeds = range(seed, 1000, 10)  # of arguments; what one is for draws from one
        if not KERAS_3:
            seeds = map(np.int64, seeds)
        draw = keras.initializers.RandomUniform
        given = {name: draw(seed=each) for name, each in zip(initializers, seeds)}
        layer = getattr(tfconv, name)(**SEEDED[name], **given)
        layer.build((None, 5, 5, 4))
        return [part for w in layer.weights if np.asarray(w).size > 3 for part in parts(w)]

    def parts(weight):
        value = np.asarray(weight)
        if name.startswith(("Cond", "DynamicConv")) and value.shape[0] == 4 and value.ndim == 2:
            return list(value)  # experts
        if name == "LocallyConnected2D" and value.ndim == 4:
            return list(value.reshape(9, -1))
        if value.ndim == 2 and len(value) == 3:
            return list(value.T)  # filters along an axis
        return [value.ravel()]

    first, second, again = (drawn(seed) for seed in (0, 1, 0))
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    everything = [part for part in [*first, *second] if np.ptp(part) > 0]
    starts = {tuple(np.round(part[:3], 6)) for part in everything}
    assert len(starts) == len(everything) > 2


@pytest.mark.skipif(not KERAS_3, reason="Keras 2 has no low-rank adaptation")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_rank_adaptation_is_rounded_once(dtype):
    """The product of the two weights is formed in float32, whatever the layer computes in."""
    layer, plain = (tfconv.Conv2D(4, 3, dtype=f"mixed_{dtype}", use_bias=False) for _ in "12")
    for each in (layer, plain):
        each.build((None, 5, 5, 4))
    layer.enable_lora(2, lora_alpha=3)
    randomize(layer)
    layer._kernel.assign(tf.zeros_like(layer._kernel))
    plain.kernel.assign(layer.kernel)
    x = np.random.default_rng(0).standard_normal((2, 5, 5, 4))
    assert np.array_equal(layer(x), plain(x))


ADAPTED = {
    "Conv2D": {"filters": 6, "kernel_size": 3},
    "GroupConv2D": {"filters": 6, "kernel_size": 3, "groups": 2, "share_kernel": True},
    "PointwiseConv2D": {"filters": 6},
    "Conv2DTranspose": {"filters": 6, "kernel_size": 3, "strides": 2},
    "DepthwiseConv2D": {"kernel_size": 3, "depth_multiplier": 2},
    "DeformableConv2D": {"filters": 6, "kernel_size": 3},
    "CondConv2D": {"filters": 6, "kernel_size": 3, "num_experts": 3},
    "DepthwiseCondConv2D": {"kernel_size": 3, "num_experts": 3},
    "DynamicConv2D": {"filters": 6, "kernel_size": 3, "num_experts": 3},
    "LocallyConnected2D": {"filters": 6, "kernel_size": 3},
    "CondDense": {"units": 6, "num_experts": 3},
}


@pytest.mark.parametrize("name", ADAPTED)
def test_low_rank_adaptation(name, tmp_path):
    """Every layer with one kernel: outputs stay, the kernel stays, files hold what was trained."""
    x = np.random.default_rng(0).standard_normal((2, 5, 5, 4)).astype("float32")
    given = ADAPTED[name]
    if not KERAS_3:
        with pytest.raises(ValueError, match="Keras 3.*Received"):
            getattr(tfconv, name)(**given, lora_rank=2)
        return
    layer = getattr(tfconv, name)(**given)
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    before, kernel = model(x), np.asarray(layer.kernel)
    layer.enable_lora(2)
    assert_same(model(x), before, 1e-6)
    model.compile(keras.optimizers.SGD(0.5), "mse")
    model.train_on_batch(x, np.ones(before.shape))
    assert np.array_equal(layer._kernel, kernel)
    expected = model(x)
    assert np.max(np.abs(layer.kernel - kernel)) > 1e-6
    for file in ("model.h5", "model.keras"):  # the first has weights in their order
        model.save(tmp_path / file)
        again = keras.models.load_model(tmp_path / file, compile=False)
        assert_same(again(x), expected, 1e-5)
    adapted = again.layers[-1]
    assert (adapted.lora_enabled, adapted.lora_rank, adapted.lora_alpha) == (True, 2, 2)
    counts = [len(m.trainable_weights) for m in (model, again)]
    assert counts[0] == counts[1]
    again.compile(keras.optimizers.SGD(0.5), "mse")
    again.train_on_batch(x, np.ones(before.shape))
    assert np.max(np.abs(again(x) - expected)) > 1e-6  # goes on


@pytest.mark.skipif(not KERAS_3, reason="Keras 2 has no low-rank adaptation")
def test_low_rank_adaptation_that_is_refused():
    layer = tfconv.Conv1D(2, 3)
    with pytest.raises(ValueError, match="built"):
        layer.enable_lora(2)
    layer.build((None, 5, 4))
    with pytest.raises(ValueError, match="`rank` must be a positive integer"):
        layer.enable_lora(0)
    layer.enable_lora(2)
    with pytest.raises(ValueError, match="already"):
        layer.enable_lora(2)
    with pytest.raises(ValueError, match="kernel_constraint"):
        tfconv.Conv1D(2, 3, kernel_constraint="non_neg", lora_rank=2)
    for name in ("SeparableConv1D", "FlattenedConv1D", "GatedConv1D"):
        with pytest.raises(TypeError, match="lora_rank"):
            getattr(tfconv, name)(2, 3, lora_rank=2)
        layer = getattr(tfconv, name)(2, 3)
        layer.build((None, 5, 4))
        with pytest.raises(ValueError, match="several kernels"):
            layer.enable_lora(2)


@pytest.mark.skipif(not KERAS_3, reason="Keras 2 normalizes no depthwise kernels")
@pytest.mark.parametrize("rank", (1, 2, 3))
def test_spectral_normalization(rank):
    """It takes `kernel` for the name of what it normalizes, of depthwise layers too."""
    inner = getattr(tfconv, f"DepthwiseConv{rank}D")(2, depth_multiplier=2)
    layer = keras.layers.SpectralNormalization(inner, power_iterations=30)
    layer(np.ones((1, *[3] * rank, 4), "float32"), training=True)
    kernel = np.asarray(inner.depthwise_kernel).reshape(-1, 2)
    assert abs(np.linalg.svd(kernel, compute_uv=False)[0] - 1) < 1e-3


@pytest.mark.skipif(KERAS_3, reason="Keras 3 has no such layers")
@pytest.mark.parametrize("data_format", ("channels_last", "channels_first"))
@pytest.mark.parametrize("rank", (1, 2))
def test_locally_connected_of_keras_2(rank, data_format):
    """Its configuration and its weights, by `set_weights` and by `replace`."""
    name, shape = f"LocallyConnected{rank}D", (5, 6)[:rank]
    shape = (*shape, 3) if data_format == "channels_last" else (3, *shape)
    theirs = getattr(keras.layers, name)(4, 3, data_format=data_format, bias_initializer="normal")
    model = keras.Sequential([keras.Input(shape), theirs])
    x = np.random.default_rng(0).standard_normal((2, *shape)).astype("float32")
    told = []
    choices = [(type(theirs), getattr(tfconv, name))]
    replaced = tfconv.surgery.replace(model, choices, report=told.append)
    assert_same(replaced(x), model(x), 1e-5)
    assert [each.kept for each in told] == [True]
    ours = getattr(tfconv, name).from_config(theirs.get_config())
    ours.build((None, *shape))
    if rank == 2 or data_format == "channels_last":  # else they look like our own
        ours.set_weights(theirs.get_weights())
        assert_same(ours(x), model(x), 1e-5)


@pytest.mark.skipif(KERAS_3, reason="Keras 3 takes one batch axis")
@pytest.mark.parametrize("name", ("Conv1D", "Conv2D", "Conv3D"))
def test_several_batch_axes(name):
    """As Keras 2's layers, with sizes known and not."""
    rank = int(name[4])
    theirs, ours = (getattr(m, name)(4, 2, padding="same") for m in (keras.layers, tfconv))
    x = np.random.default_rng(0).standard_normal((2, 3, *[4] * rank, 2)).astype("float32")
    expected = theirs(x)
    ours.build(x.shape)
    ours.set_weights(theirs.get_weights())
    assert_same(ours(x), expected, 1e-5)
    run = tf.function(ours, input_signature=[tf.TensorSpec([None] * (rank + 2) + [2])])
    assert_same(run(x), expected, 1e-5)
    assert ours.compute_output_shape((None, *x.shape[1:])) == (None, *expected.shape[1:])


@pytest.mark.parametrize("rank", (1, 2, 3))
@pytest.mark.parametrize("arguments", ({"padding": "same", "strides": 2}, {"strides": 1}))
def test_transposed_convolutions_of_no_pixels(rank, arguments):
    """The bias is all that there is, and no weight has a gradient; sizes known and not."""
    layer = getattr(tfconv, f"Conv{rank}DTranspose")(6, 3, **arguments, bias_initializer="ones")
    x = np.ones((2, *[3] * (rank - 1), 0, 4), "float32")
    shape = layer.compute_output_shape(x.shape)
    layer.build((None,) * (rank + 1) + (4,))
    run = tf.function(layer, input_signature=[tf.TensorSpec([None] * (rank + 1) + [4])])
    for function in (layer, run):
        with tf.GradientTape() as tape:
            y = function(tf.constant(x))
        assert tuple(y.shape) == tuple(shape)
        assert np.all(y.numpy() == 1)
        gradient = tape.gradient(y, layer.trainable_variables[0].value if KERAS_3 else layer.kernel)
        assert not np.any(gradient)
    x = np.ones((1, *[3] * rank, 4), "float32")
    assert_same(run(x), layer(x), 1e-5)


@pytest.mark.skipif(KERAS_3, reason="the Model Optimization Toolkit knows Keras 2 only")
@pytest.mark.parametrize(
    "make, own, prunable",
    [
        (
            lambda: tfconv.TuckerConv2D(4, 3, ranks=2),
            ["input_kernel", "core_kernel", "output_kernel"],
            3,
        ),
        (lambda: tfconv.DeformableConv2D(4, 3), ["kernel"], 1),  # coordinates stay
        (tfconv.SqueezeExcite, [], 2),  # those of layers inside, which are asked themselves
    ],
)
def test_what_may_be_pruned_and_clustered(make, own, prunable):
    """Kernels alone; those to be clustered with their names, in the order of the weights."""
    layer = make()
    layer.build((None, 5, 5, 4))
    clusterable = layer.get_clusterable_weights()
    assert [name for name, _ in clusterable] == own
    assert all(weight is getattr(layer, name) for name, weight in clusterable)
    assert len(layer.get_prunable_weights()) == prunable
    assert {len(kernel.shape) for kernel in layer.get_prunable_weights()} <= {2, 4}
