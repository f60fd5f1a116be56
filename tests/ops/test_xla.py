"""Native ops compiled by XLA: calls of their kernels, and XLA's operations in their place."""

import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests.ops.fingerprint import hashes, results
from tests.ops.geometries import (
    GEOMETRIES,
    Geometry,
    assert_close,
    gradients,
    rounding_of_samples,
    second_gradients,
)
from tfconv._compat import keras
from tfconv.ops import (
    deformable_aggregation,
    deformable_conv,
    deformable_sample,
    involution,
    local_attention,
    per_example_conv,
)
from tfconv.ops.involution import span_involution

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(params=["call", "lower"])
def compiled_to(request, monkeypatch):
    """Whether compiled code calls the kernels or has XLA's operations instead."""
    monkeypatch.setenv("TFCONV_XLA", request.param)
    return request.param


def compiled(function):
    return tf.function(function, jit_compile=True)


def of_geometry(op, geometry, **kwargs):
    return lambda *inputs: op(*inputs, **geometry.arguments, **kwargs)


def involution_case(rng, geometry):
    x = rng.standard_normal((2, *geometry.sizes, 6))
    kernel = rng.standard_normal((2, *geometry.outputs, 2 * len(geometry.window.taps)))
    kernel_size = geometry.window.kernel_size
    return of_geometry(involution, geometry, kernel_size=kernel_size), [x, kernel]


def span_case(rng, geometry):
    x = rng.standard_normal((2, *geometry.sizes, 6))
    features = rng.standard_normal((2, *geometry.outputs, 3))
    columns = 2 * len(geometry.window.taps)
    span, bias = rng.standard_normal((3, columns)), rng.standard_normal(columns)
    kernel_size = geometry.window.kernel_size
    function = of_geometry(span_involution, geometry, kernel_size=kernel_size)
    return function, [x, features, span, bias]


def per_example_case(rng, geometry):
    x = rng.standard_normal((3, *geometry.sizes, 6))
    kernels = rng.standard_normal((3, *geometry.window.kernel_size, 3, 4))
    return of_geometry(per_example_conv, geometry), [x, kernels]


def attention_case(rng, geometry):
    window = geometry.window
    arguments = {
        "strides": [min(s, k) for s, k in zip(window.strides, window.kernel_size)],
        "dilation_rate": window.dilations,
        "causal": [geometry.sizes[0] % 2 == 0] + [False] * (len(geometry.sizes) - 1),
    }
    x, key, value = (rng.standard_normal((2, *geometry.sizes, n)) for n in (6, 6, 3))
    shape = (3, len(window.taps))
    if geometry.sizes[-1] % 2:
        shape = (2, *geometry.sizes, 3 * len(window.taps))
    bias = rng.standard_normal(shape)

    def function(query, key, value, bias):
        return local_attention(
            query, key, value, window.kernel_size, num_heads=3, bias=bias, **arguments
        )

    return function, [x, key, value, bias]


def aggregation_case(rng, geometry):
    samples, axes = 2 * len(geometry.window.taps), len(geometry.sizes)
    x = rng.standard_normal((2, *geometry.sizes, 6))
    offset = rng.standard_normal((2, *geometry.outputs, samples * axes)) * 2
    weights = rng.standard_normal((2, *geometry.outputs, samples))
    kernel_size = geometry.window.kernel_size
    function = of_geometry(deformable_aggregation, geometry, kernel_size=kernel_size)
    return function, [x, offset, weights]


def deformable_inputs(rng, geometry, masked):
    count = 2 * len(geometry.window.taps)
    x = rng.standard_normal((2, *geometry.sizes, 6))
    offset = rng.standard_normal((2, *geometry.outputs, len(geometry.sizes) * count)) * 2
    mask = rng.standard_normal((2, *geometry.outputs, count))
    return [x, offset, mask] if masked else [x, offset]


def sample_case(rng, geometry, masked=True):
    kernel_size = geometry.window.kernel_size
    function = of_geometry(deformable_sample, geometry, kernel_size=kernel_size)
    return function, deformable_inputs(rng, geometry, masked)


def deformable_case(rng, geometry, masked=True):
    x, offset, *mask = deformable_inputs(rng, geometry, masked)
    kernel = rng.standard_normal((*geometry.window.kernel_size, 2, 9))
    return of_geometry(deformable_conv, geometry), [x, offset, kernel, *mask]


ALL = [
    *(involution_case, span_case, attention_case, per_example_case, aggregation_case),
    *(sample_case, deformable_case),
]
CASES = [
    *((involution_case, geometry) for rank in (1, 2, 3) for geometry in GEOMETRIES[rank][::3]),
    *((span_case, geometry) for rank in (1, 2, 3) for geometry in GEOMETRIES[rank][::5]),
    *((attention_case, geometry) for rank in (1, 2, 3) for geometry in GEOMETRIES[rank][::4]),
    *((per_example_case, geometry) for rank in (1, 2, 3) for geometry in GEOMETRIES[rank][1::3]),
    *((aggregation_case, geometry) for rank in (1, 2, 3) for geometry in GEOMETRIES[rank][::5]),
    *((sample_case, geometry) for rank in (1, 2, 3) for geometry in GEOMETRIES[rank][2::4]),
    *((deformable_case, geometry) for rank in (1, 2, 3) for geometry in GEOMETRIES[rank][::3]),
]


@pytest.mark.dear
@pytest.mark.parametrize(
    "case, geometry", CASES, ids=lambda v: getattr(v, "__name__", str(v)).replace("_case", "")
)
def test_geometries(case, geometry, compiled_to, rng, native_module):
    """Calls give the bits of the op, XLA's operations the same but for rounding."""
    function, inputs = case(rng, geometry)
    expected = gradients(function, inputs)
    actual = compiled(lambda *t: gradients(function, t))(*map(tf.constant, inputs))
    for a, e in zip(actual, expected):
        if compiled_to == "call":
            np.testing.assert_array_equal(a, e)
        assert_close(a, e)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32])
@pytest.mark.parametrize("case", ALL)
def test_dtypes(case, dtype, compiled_to, rng, native_module):
    function, inputs = case(rng, Geometry((7, 6), 3))
    inputs = [tf.cast(t, dtype) for t in inputs]
    actual = compiled(lambda *t: gradients(function, t))(*inputs)
    further = [0.0] * len(actual)
    if case is deformable_case and compiled_to == "lower":
        further = rounding_of_samples(function, inputs)
    for a, e, moved in zip(actual, gradients(function, inputs), further):
        assert a.dtype == dtype
        # XLA rounds at the end, too, but sums in another order: a unit in the last place.
        error = np.abs(tf.cast(a, tf.float64) - tf.cast(e, tf.float64)) - moved
        unit = {tf.float16: 2**-10, tf.bfloat16: 2**-7, tf.float32: 2e-5}[dtype]
        assert np.all(error <= unit * np.maximum(np.abs(tf.cast(e, tf.float64)), 0.1))


@pytest.mark.parametrize("case", [sample_case, deformable_case])
def test_without_mask(case, compiled_to, rng, native_module):
    function, inputs = case(rng, Geometry((5, 6), 3, 2), masked=False)
    expected = gradients(function, inputs)
    for a, e in zip(
        compiled(lambda *t: gradients(function, t))(*map(tf.constant, inputs)), expected
    ):
        assert_close(a, e)


@pytest.mark.dear
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -2.0, -1.0, 7.0])
def test_odd_offsets(value, compiled_to, rng, native_module):
    function, inputs = deformable_case(rng, Geometry((7, 6), 3))
    inputs[1][0, 2, 3, 4] = value
    inputs[1][1, 0, 0, 7] = value
    inputs[1][1, 4, 2, 10:12] = value, np.inf
    expected = gradients(function, inputs)
    for a, e in zip(
        compiled(lambda *t: gradients(function, t))(*map(tf.constant, inputs)), expected
    ):
        assert_close(a, e)


@pytest.mark.dear
@pytest.mark.parametrize(
    "case, rank",
    [(sample_case, 1), (aggregation_case, 1), (sample_case, 3), (aggregation_case, 2)],
    ids=lambda v: getattr(v, "__name__", v),
)
def test_coordinates_that_are_not_finite(case, rank, rng, native_module, monkeypatch):
    """NaN makes its sample NaN, and the gradients of its offsets and its weight; infinity makes
    them zero. The gradient of x has neither, by whatever way it is computed."""
    function, inputs = case(rng, Geometry((4, 3, 2)[:rank], 2))
    x, offset, weights = map(np.copy, inputs)
    tap = (0,) * (rank + 1) + (3,)  # of the first position
    plain = gradients(function, inputs)
    inputs[2][tap] = 0
    without = gradients(function, inputs)

    def jit():
        return compiled(lambda *t: gradients(function, t))

    def in_portable(f):
        def scoped(*t):
            with tfconv.portable():
                return f(*t)

        return scoped

    ways = {"eager": lambda *t: gradients(function, t), "call": jit(), "lower": jit()}
    ways |= {f"portable {name}": in_portable(f) for name, f in ways.items() if name != "lower"}
    for value in (np.nan, np.inf, -np.inf):
        offset.reshape(*weights.shape, rank)[(*tap, rank - 1)] = value
        expected = np.nan if np.isnan(value) else 0
        for name, way in ways.items():
            monkeypatch.setenv("TFCONV_XLA", name)
            y, dx, doffset, dweights = (t.numpy() for t in way(x, offset, weights))
            assert np.isnan(y).sum() == 3 * np.isnan(value), name  # the channels of a group
            assert_close(np.where(np.isnan(y), without[0], y), without[0])
            assert_close(dx, without[1])
            for actual, other in ((doffset, plain[2]), (dweights, plain[3])):
                other = other.numpy().reshape(*weights.shape, -1)
                other[tap] = expected
                assert_close(actual, other.reshape(actual.shape))


@pytest.mark.parametrize("case", ALL)
def test_nothing_to_do(case, compiled_to, rng, native_module):
    """An empty batch: gradients of what belongs to no example are zero."""
    function, inputs = case(rng, Geometry((5, 4), 3))
    inputs = [t[:0] if len(t) == len(inputs[0]) else t for t in inputs]
    expected = gradients(function, inputs)
    for a, e in zip(
        compiled(lambda *t: gradients(function, t))(*map(tf.constant, inputs)), expected
    ):
        assert a.shape == e.shape
        np.testing.assert_array_equal(a, e)


# Axes of inputs that are empty, and which of the output and the gradients are not zero.
NOTHING = {
    "features": (span_case, {1: -1, 2: 0}, (0, 1, 4)),
    "channels of queries": (attention_case, {0: -1, 1: -1}, (0, 3, 4)),
    "channels of values": (attention_case, {2: -1}, ()),
    "filters": (deformable_case, {2: -1}, ()),
}


@pytest.mark.parametrize("name", NOTHING)
def test_sums_of_nothing(name, compiled_to, rng, native_module):
    """What does not depend on what is empty is there: a bias, means, their gradients."""
    case, axes, others = NOTHING[name]
    function, inputs = case(rng, Geometry((5, 4), 3))
    for i, axis in axes.items():
        inputs[i] = np.take(inputs[i], np.arange(0), axis)
    results = compiled(lambda *t: gradients(function, t))(*map(tf.constant, inputs))
    with tfconv.portable():
        expected = gradients(function, inputs)
    for i, (a, e) in enumerate(zip(results, expected)):
        assert a.shape == e.shape
        assert bool(np.any(e)) == (i in others)
        np.testing.assert_allclose(a, e, atol=1e-12)


@pytest.mark.parametrize(
    "case", [involution_case, span_case, attention_case, per_example_case, deformable_case]
)
def test_second_gradients(case, compiled_to, rng, native_module):
    function, inputs = case(rng, Geometry((4, 3), 2))
    expected = second_gradients(function, inputs)
    for a, e in zip(
        compiled(lambda *t: second_gradients(function, t))(*map(tf.constant, inputs)), expected
    ):
        assert_close(a, e)


def test_threads(monkeypatch, native_module):
    """Work that is shared among threads gives the same bits."""
    monkeypatch.setenv("TFCONV_XLA", "call")
    assert hashes(compiled_results()) == hashes(results())


def test_texts_of_calls(monkeypatch, native_module):
    """Nothing but sizes is in what XLA knows programs by, which all are small here."""
    monkeypatch.setenv("TFCONV_XLA", "call")
    inputs = tf.ones([1, 4, 4, 2]), tf.zeros([1, 4, 4, 18]), tf.ones([3, 3, 2, 2])
    for _ in range(3):
        program = compiled(lambda *t: deformable_conv(*t)).experimental_get_compiler_ir(*inputs)
        text = re.search(r"DeformableConv;([\d,;-]*)", program(stage="hlo"))[1]
        assert max(map(int, re.split("[,;]", text))) <= 288


def compiled_results():
    """`results`, each of whose functions XLA compiles."""
    import tests.ops.fingerprint as fingerprint

    original = fingerprint.gradients
    fingerprint.gradients = lambda f, inputs: compiled(lambda *t: original(f, t))(*inputs)
    try:
        return results()
    finally:
        fingerprint.gradients = original


def test_unknown_batch(compiled_to, rng, native_module):
    function, (x, kernel) = involution_case(rng, Geometry((5, 4), 3))
    specs = [tf.TensorSpec([None, *t.shape[1:]], tf.float64) for t in (x, kernel)]
    traced = tf.function(function, input_signature=specs, jit_compile=True)
    for batch in (2, 1, 2):
        assert_close(traced(x[:batch], kernel[:batch]), function(x[:batch], kernel[:batch]))


def test_sizes_that_do_not_fit(native_module):
    def call(x, kernel):
        return native_module.tfconv_involution(
            x=x, kernel=kernel, kernel_size=[3], strides=[1], dilations=[1], padding="SAME"
        )

    specs = [tf.TensorSpec(None), tf.TensorSpec(None)]
    traced = tf.function(call, input_signature=specs, jit_compile=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"kernel has shape \[1,5,4\]"):
        traced(tf.ones([1, 5, 2]), tf.ones([1, 5, 4]))


@pytest.mark.late
def test_library_is_loaded_late():
    """TensorFlow has started, and XLA has compiled, before it hears of the ops."""
    program = """if True:
        import tensorflow as tf
        tf.function(lambda x: x + 1, jit_compile=True)(tf.ones([2]))
        import tfconv
        call = tf.function(lambda x, k: tfconv.ops.involution(x, k, 3), jit_compile=True)
        print(call(tf.ones([1, 4, 1]), tf.ones([1, 4, 3])).numpy().ravel())
    """
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip() == "[2. 3. 3. 2.]", done.stderr


@pytest.mark.parametrize("layer", ["Involution2D", "CondConv2D", "DeformableConv2D"])
def test_keras_trains(layer, rng):
    """`compile(jit_compile=True)` gives the losses of `compile(jit_compile=False)`."""
    x, y = rng.standard_normal((10, 6, 5, 4)).astype("float32"), np.arange(10) % 3

    def losses(jit_compile):
        keras.utils.set_random_seed(0)
        classes = getattr(tfconv, layer)
        model = keras.Sequential(
            [
                keras.Input((6, 5, 4)),
                classes(kernel_size=3, groups=2) if layer == "Involution2D" else classes(4, 3),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(3),
            ]
        )
        model.compile(
            keras.optimizers.SGD(0.5),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=jit_compile,
        )
        # The last batch is smaller.
        return model.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0).history["loss"]

    with_xla, without = losses(True), losses(False)
    assert with_xla[0] > with_xla[-1]
    np.testing.assert_allclose(with_xla, without, rtol=1e-4)
