"""factorize: exact for kernels of the form, nearest where that is known, and what it reports."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv._compat import keras
from tfconv.analysis import profile
from tfconv.surgery import factorize, rank_choice
from tfconv.surgery.decompositions import FORMS, Positions
from tfconv.surgery.polyadic import polyadic
from tfconv.surgery.rank_choice import Choice

SIZES = {1: (3,), 2: (3, 2), 3: (3, 2, 3)}
WIDTH, FILTERS = 6, 8
METHODS = list(FORMS)


def factorized(model, method, **arguments):
    """The new model and the report."""
    reports = []
    made = factorize(model, method, report=reports.append, **arguments)
    return (made, *reports)


def form_of(method, kernel):
    """A form of a kernel that is multiplied at as many pixels of input and output."""
    sizes = (8,) * (kernel.ndim - 2)
    return FORMS[method](kernel, Positions.of([(sizes, sizes)]))


def low_rank_kernel(method, rank, dimensions, rng, width=WIDTH, filters=FILTERS):
    """A kernel that a form holds at a rank, and nothing smaller."""
    form = form_of(method, rng.standard_normal((*SIZES[dimensions], width, filters)))
    factors = form.factors(rank_choice.of_given(form, rank))
    return form.product({name: rng.standard_normal(x.shape) for name, x in factors.items()})


# Decompositions.


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_kernels_of_the_form_are_found_again(method, rank, dimensions, rng):
    kernel = low_rank_kernel(method, rank, dimensions, rng)
    form = form_of(method, kernel)
    given = rank_choice.of_given(form, rank)
    assert form.error(form.factors(given)) < 1e-10
    if given != (1,) * len(given):
        less = tuple(number - 1 for number in given)
        assert form.error(form.factors(less)) > 1e-2


@pytest.mark.parametrize("method", ["separable", "tucker"])
def test_nothing_is_lost_at_full_rank(method, rng):
    form = form_of(method, rng.standard_normal((3, 2, WIDTH, FILTERS)))
    assert form.error(form.factors(form.full)) < 1e-12


def test_low_rank_of_one_tap_is_the_singular_value_decomposition(rng):
    kernel = rng.standard_normal((1, 1, WIDTH, FILTERS))
    values = np.linalg.svd(kernel[0, 0], compute_uv=False)
    form = form_of("low_rank", kernel)
    for rank in range(1, WIDTH + 1):
        lost = np.sqrt(np.sum(values[rank:] ** 2) / np.sum(values**2))
        assert form.error(form.factors((rank,))) == pytest.approx(lost, abs=1e-12)


def test_separable_is_nearest(rng):
    kernel = rng.standard_normal((3, 2, WIDTH, FILTERS))
    form = form_of("separable", kernel)
    values = np.linalg.svd(np.moveaxis(kernel.reshape(6, WIDTH, FILTERS), 1, 0), compute_uv=False)
    for rank in range(1, 6):
        kept = np.sum(values[:, :rank] ** 2) / np.sum(values**2)
        assert form.kept((rank,)) == pytest.approx(kept, abs=1e-12)


def test_flattened_of_one_axis_is_nearest(rng):
    kernel = rng.standard_normal((3, WIDTH, FILTERS))
    values = np.linalg.svd(np.moveaxis(kernel, -1, 0), compute_uv=False)
    kept = np.sum(values[:, 0] ** 2) / np.sum(values**2)
    assert form_of("flattened", kernel).kept((1,)) == pytest.approx(kept, abs=1e-12)


@pytest.mark.parametrize("rank", [2, 6, 20])
def test_polyadic_is_as_near_as_that_of_tensorly(rank, rng):
    tensorly = pytest.importorskip("tensorly")
    from tensorly.decomposition import parafac

    # Channels that differ in importance, as trained ones do.
    kernel = rng.standard_normal((3, 2, 12, 16)) * np.exp(-np.arange(16) / 4)
    theirs = tensorly.cp_to_tensor(
        parafac(kernel, rank, n_iter_max=100, init="random", random_state=0)
    )
    form = form_of("low_rank", kernel)
    lost = np.linalg.norm(kernel - theirs) / np.linalg.norm(kernel)
    assert form.error(form.factors((rank,))) < 1.02 * lost


def test_polyadic_begins_at_the_singular_vectors(rng):
    """Where the terms are orthogonal along each axis, these are the factors."""
    factors = [np.linalg.qr(rng.standard_normal((n, n)))[0][:, :3] for n in (4, 5, 6, 7)]
    tensor = np.einsum("ar,br,cr,dr,r->abcd", *factors, [4, 2, 1])
    found = polyadic(tensor[None], 3, iterations=1)
    product = np.einsum("ar,br,cr,dr->abcd", *(factor[0] for factor in found))
    assert np.abs(product - tensor).max() < 1e-12


def test_flattened_is_as_near_as_the_best_of_many_tries(rng):
    """Rank-one least squares for each filter by itself, from many random starts."""
    kernel = rng.standard_normal((3, 3, 4, 5))
    form = form_of("flattened", kernel)
    found = kernel - form.product(form.factors((1,)))
    for f in range(5):
        one, best = kernel[..., f], np.inf
        for _ in range(20):
            x, y, z = (rng.standard_normal(n) for n in one.shape)
            for _ in range(100):
                x = np.einsum("ijk,j,k", one, y, z) / (y @ y * (z @ z))
                y = np.einsum("ijk,i,k", one, x, z) / (x @ x * (z @ z))
                z = np.einsum("ijk,i,j", one, x, y) / (x @ x * (y @ y))
            best = min(best, np.linalg.norm(one - np.einsum("i,j,k", x, y, z)))
        assert np.linalg.norm(found[..., f]) < 1.05 * best


def test_tucker_keeps_what_it_says(rng):
    """HOSVD tells at least what is kept, and tensorly's iteration keeps no less."""
    form = form_of("tucker", rng.standard_normal((3, 2, WIDTH, FILTERS)))
    assert form.ranks
    for rank in form.ranks:
        assert form.kept(rank) <= 1 - form.error(form.factors(rank)) ** 2 + 1e-12
    products = [form.products(rank) for rank in form.ranks]
    kept = [form.kept(rank) for rank in form.ranks]
    assert products == sorted(products) and products[-1] < form.products_of_kernel
    assert all(before < after for before, after in zip(kept, kept[1:]))


def test_a_filter_of_zeros_stays_one(rng):
    kernel = rng.standard_normal((3, 3, WIDTH, FILTERS))
    kernel[..., 2] = 0
    form = form_of("flattened", kernel)
    product = form.product(form.factors((1,)))
    assert np.max(np.abs(product[..., 2])) < 1e-9 and np.all(np.isfinite(product))


# Ranks.


def test_a_budget_is_spent_where_it_saves_most(rng):
    """As the best of all combinations."""
    for _ in range(10):
        layers = []
        for _ in range(3):
            products = rng.choice(np.arange(10, 200), 8, replace=False).tolist()
            layer = [Choice(n, x, (1,)) for n, x in zip(products, rng.uniform(0, 1, 8))]
            layers.append([Choice(200, 0.0, None), *layer])
        cheapest = sum(min(layer).products for layer in layers)
        for budget in (cheapest, 100, 200, 300, 400, 600):
            chosen = rank_choice.within(layers, budget)
            fitting = [
                sum(choice.loss for choice in choices)
                for choices in itertools.product(*layers)
                if sum(choice.products for choice in choices) <= budget
            ]
            if not fitting:
                assert chosen is None
                continue
            assert sum(choice.products for choice in chosen) <= budget
            assert sum(choice.loss for choice in chosen) == pytest.approx(min(fitting))


def test_a_large_budget_is_counted_in_units():
    layers = [[Choice(9 * 10**9, 0.0, None), Choice(10**9 + 1, 0.5, (1,))] for _ in range(3)]
    chosen = rank_choice.within(layers, 3 * 10**9 + 3)  # just what the cheapest cost
    assert [choice.rank for choice in chosen] == [(1,)] * 3
    chosen = rank_choice.within(layers, 12 * 10**9)
    assert sorted(choice.loss for choice in chosen) == [0, 0.5, 0.5]
    assert rank_choice.within(layers, 3 * 10**9) is None
    assert rank_choice.within([], -1) is None
    free = [[Choice(1, 0.0, None)], [Choice(0, 0.0, None)]]
    assert rank_choice.within(free, 1) == [free[0][0], free[1][0]]


# Models.


def branches(dtype):
    """A model with a convolution of each kind that a form has to take over, side by side."""
    own = {"bias_initializer": "random_normal", "dtype": dtype}
    layers = {
        (16, WIDTH): [
            keras.layers.Conv1D(
                FILTERS, 3, padding="causal", dilation_rate=2, name="causal", **own
            ),
        ],
        (9, 8, WIDTH): [
            keras.layers.Conv2D(
                FILTERS, (3, 2), 2, "same", activation="relu", name="strided", **own
            ),
            keras.layers.Conv2D(FILTERS, (3, 2), use_bias=False, name="no_bias", **own),
            tfconv.Conv2D(FILTERS, (3, 2), 2, "full", dilation_rate=2, name="full", **own),
            tfconv.Conv2D(FILTERS, (3, 2), padding=[(1, 0), (2, 1)], name="padded", **own),
            tfconv.Conv2D(FILTERS, (3, 2), 1, "same", padding_mode="reflect", name="mirror", **own),
        ],
        (WIDTH, 7, 5): [
            tfconv.Conv2D(FILTERS, (3, 2), data_format="channels_first", name="first", **own),
        ],
        (5, 4, 6, WIDTH): [keras.layers.Conv3D(FILTERS, (3, 2, 3), name="volume", **own)],
    }
    inputs = {shape: keras.Input(shape, dtype=dtype) for shape in layers}
    outputs = [layer(inputs[shape]) for shape in layers for layer in layers[shape]]
    return keras.Model(list(inputs.values()), outputs)


@pytest.mark.parametrize(
    "method, dtype, bound",
    [*((method, "float64", 1e-10) for method in METHODS), ("low_rank", "float32", 1e-5)],
)
def test_outputs_are_those_of_kernels_of_the_form(method, dtype, bound, rng):
    model = branches(dtype)
    convolutions = [layer for layer in model.layers if hasattr(layer, "kernel")]
    for layer in convolutions:
        layer.kernel.assign(low_rank_kernel(method, 2, len(layer.kernel_size), rng))
    weights = model.get_weights()
    x = [rng.standard_normal((2, *x.shape[1:])).astype(dtype) for x in model.inputs]
    y = model(x)
    made, report = factorized(model, method, rank=1 if method == "flattened" else 2)
    assert report.left == {}
    assert [row.name for row in report.rows] == [layer.name for layer in convolutions]
    for layer, row in zip(convolutions, report.rows):
        new = made.get_layer(layer.name)
        assert type(new).__name__ == f"{FORMS[method].family}{len(layer.kernel_size)}D"
        assert row.error < bound
        assert row.parameters == (layer.count_params(), new.count_params())
    for expected, output in zip(y, made(x)):
        assert output.dtype == expected.dtype
        np.testing.assert_allclose(output, expected, rtol=0, atol=bound * np.max(np.abs(expected)))
    assert report.multiply_adds == (
        profile(model).multiply_adds,
        profile(made).multiply_adds,
    )
    assert report.parameters == (model.count_params(), made.count_params())
    for before, after in zip(weights, model.get_weights()):
        np.testing.assert_array_equal(before, after)


def network():
    """A trained network's shapes: a layer used twice, a model inside, one with groups."""
    shared = keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="shared")
    inner = keras.Sequential(
        [
            keras.Input((None, None, 16)),
            tfconv.Conv2D(24, 3, name="own", kernel_regularizer="l2"),
            keras.layers.Conv2D(24, 3, groups=2, name="grouped"),
        ],
        name="inner",
    )
    inputs = keras.Input((12, 10, 3))
    x = keras.layers.Conv2D(16, 3, strides=2, padding="same", name="stem")(inputs)
    x = inner(shared(shared(x)))
    outputs = keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(0)
    for layer in (shared, inner.layers[0], model.get_layer("stem")):
        # Channels that differ in importance, as trained ones do.
        *size, channels, filters = layer.kernel.shape
        kernel = rng.standard_normal(tuple(layer.kernel.shape))
        kernel *= np.exp(-np.arange(channels) / 4)[:, None] * np.exp(-np.arange(filters) / 4)
        layer.kernel.assign(kernel)
    return model


@pytest.fixture(scope="module")
def model():
    return network()


def product_of(layer):
    """The kernel that a factorized layer stands for."""
    if hasattr(layer, "effective_kernel"):
        return layer.effective_kernel().numpy()
    depthwise, pointwise = layer.depthwise_kernel.numpy(), layer.pointwise_kernel.numpy()
    pointwise = pointwise.reshape(*depthwise.shape[-2:], -1)
    return np.einsum("hwcm,cmf->hwcf", depthwise, pointwise)


def parts(model):
    return {
        "stem": model.get_layer("stem"),
        "shared": model.get_layer("shared"),
        "inner/own": model.get_layer("inner").get_layer("own"),
        "inner/grouped": model.get_layer("inner").get_layer("grouped"),
    }


@pytest.mark.parametrize("method", METHODS)
def test_speedup_is_reached_and_errors_are_those_measured(method, model, capfd):
    made, report = factorized(model, method, speedup=2.2)
    assert 2.2 <= report.speedup < 3
    assert report.multiply_adds == (profile(model).multiply_adds, profile(made).multiply_adds)
    assert report.left["inner/grouped"] == "it has groups"
    assert sorted([*report.left, *(row.name for row in report.rows)]) == sorted(parts(model))
    lost = kernels = 0
    for row in report.rows:
        kernel = parts(model)[row.name].kernel.numpy()
        squares = np.sum((kernel - product_of(parts(made)[row.name])) ** 2)
        assert row.error == pytest.approx(np.sqrt(squares / np.sum(kernel**2)), rel=1e-4)
        lost, kernels = lost + squares, kernels + np.sum(kernel**2)
        assert row.name in str(report) and f"{row.error:.2%}" in str(report)
    assert report.error == pytest.approx(np.sqrt(lost / kernels), rel=1e-4)
    assert capfd.readouterr().err == ""  # the progress bar is for terminals


@pytest.mark.parametrize("method", METHODS)
def test_energy_is_kept_by_the_smallest_rank(method, model):
    energy = 0.4 if method == "flattened" else 0.8
    _, report = factorized(model, method, energy=energy)
    assert report.rows
    for row in report.rows:
        assert 1 - row.error**2 >= energy
        if method == "separable" and row.rank > (1,):
            rank = {row.name: row.rank[0] - 1}
            _, smaller = factorized(model, method, rank=rank)
            assert 1 - smaller.rows[0].error ** 2 < energy
    reasons = {f"no rank that saves multiply-adds keeps {energy:g} of it", "it has groups"}
    assert set(report.left.values()) <= {*reasons, "its factors would save no multiply-adds"}


def test_ranks_are_integers_pairs_shares_and_by_name(model):
    rank = {"shared": 3, "inner/own": (2, 5), "stem": 0.5}
    _, report = factorized(model, "tucker", rank=rank)
    assert {row.name: row.rank for row in report.rows} == {
        "stem": (2, 8),
        "shared": (3, 3),
        "inner/own": (2, 5),
    }
    _, report = factorized(model, "separable", rank=100)
    assert report.rows == []  # cut to the full rank, which saves nothing
    assert report.error == 0 and report.speedup == 1


def test_layers_are_chosen_by_name_or_function(model):
    made, report = factorized(model, "separable", rank=1, layers=["shared"])
    assert [row.name for row in report.rows] == ["shared"]
    assert report.left == dict.fromkeys(["stem", "inner/own", "inner/grouped"], "it was not chosen")
    x = np.ones((1, 12, 10, 3), np.float32)
    np.testing.assert_array_equal(made.get_layer("stem")(x), model.get_layer("stem")(x))
    _, report = factorized(model, "separable", rank=1, layers=lambda layer: layer.filters == 24)
    assert [row.name for row in report.rows] == ["inner/own"]


def test_what_stays_and_what_is_taken_over(model):
    made, _ = factorized(model, "low_rank", rank=2)
    own = parts(made)["inner/own"]
    assert isinstance(own.kernel_regularizer, keras.regularizers.L2)
    assert not made.get_layer("shared").losses and len(own.losses) == 4
    made, _ = factorized(model, "separable", rank=1)
    own = parts(made)["inner/own"]
    assert len(own.losses) == 2

    layers = [
        keras.Input((8, 8, 8)),
        keras.layers.Conv2D(16, 3, kernel_constraint="unit_norm", name="constrained"),
        keras.layers.Conv2D(16, 3, kernel_initializer="zeros", name="zero"),
        keras.layers.Conv2D(2, 1, name="small"),
    ]
    _, report = factorized(keras.Sequential(layers), "separable", rank=1)
    assert report.left == {
        "constrained": "its kernel is constrained",
        "zero": "its kernel is zero",
        "small": "its factors would save no multiply-adds",
    }


def doubled(x):
    return 2 * x


def test_functions_of_ones_own_are_taken_over():
    own = {"activation": doubled, "kernel_regularizer": tf.nn.l2_loss}
    layers = [keras.Input((8, 8, 8)), keras.layers.Conv2D(16, 3, **own, name="conv")]
    for method, factors in (("separable", 2), ("low_rank", 4)):
        made, _ = factorized(keras.Sequential(layers), method, rank=1)
        assert made.get_layer("conv").activation is doubled
        assert len(made.losses) == factors


def test_a_convolution_that_is_never_called_stays_out():
    inputs = keras.Input((8, 8, 8))
    model = keras.Model(inputs, keras.layers.Conv2D(16, 3, name="conv")(inputs))
    model.extra = keras.layers.Conv2D(16, 3, name="extra")
    model.extra.build((None, 8, 8, 8))
    _, report = factorized(model, "separable", rank=1)
    assert [row.name for row in report.rows] == ["conv"] and report.left == {}


def test_a_model_without_multiply_adds():
    model = keras.Sequential([keras.Input((8,)), keras.layers.ReLU()])
    _, report = factorized(model, "separable", rank=1)
    assert report.speedup == 1 and "the model" in str(report)


def test_unknown_sizes_need_an_input_shape():
    layers = [keras.Input((None, None, 8)), keras.layers.Conv2D(16, 3, name="conv")]
    model = keras.Sequential(layers)
    with pytest.raises(ValueError, match="input_shape"):
        factorized(model, "separable", rank=1)
    made, report = factorized(model, "separable", rank=1, input_shape=(10, 10, 8))
    assert report.multiply_adds == (64 * 9 * 8 * 16, 64 * 8 * (9 + 16))
    assert made(np.ones((1, 7, 9, 8), np.float32)).shape == (1, 5, 7, 16)


ERRORS = {
    "method": ({"method": "svd", "rank": 1}, "`method` must be one of 'separable'"),
    "nothing": ({}, "Exactly one of"),
    "two": ({"rank": 1, "energy": 0.5}, "Exactly one of"),
    "energy": ({"energy": 1.0}, "`energy` must lie between 0 and 1"),
    "speedup": ({"speedup": 1}, "`speedup` must be larger than 1"),
    "unreachable": ({"speedup": 1e6}, "smallest ranks make it"),
    "rank 0": ({"rank": 0}, "`rank` must be a positive integer, or"),
    "rank True": ({"rank": True}, "`rank` must be a positive integer"),
    "share": ({"rank": 1.5}, "`rank` must be a positive integer"),
    "pair": ({"rank": (1, 2)}, "`rank` must be a positive integer"),
    "triple": ({"method": "tucker", "rank": (1, 2, 3)}, "`rank` must be a positive integer, 2"),
    "names of ranks": ({"rank": {"pool": 1}}, "`rank` must name convolutions"),
    "names of layers": ({"rank": 1, "layers": ["pool"]}, "`layers` must name convolutions"),
    "one name": ({"rank": 1, "layers": "stem"}, "`layers` must name convolutions"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name, model):
    arguments, message = ERRORS[name]
    with pytest.raises(ValueError, match=f"{message}(?s:.*)Received: "):
        factorize(model, **{"method": "separable", **arguments})


def test_kernels_must_be_finite():
    model = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.Conv2D(8, 3, name="broken")])
    model.layers[0].kernel.assign(np.full((3, 3, 4, 8), np.nan))
    with pytest.raises(ValueError, match="finite.*'broken'"):
        factorized(model, "separable", rank=1)


def test_tucker_says_that_it_needs_tensorly(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorly", None)
    with pytest.raises(ImportError, match=r"pip install tensorly"):
        factorized(model, "tucker", rank=1)
