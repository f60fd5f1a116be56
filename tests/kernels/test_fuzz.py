"""Random sizes and adverse values against the references and across instruction sets.

By default few examples, the same every time, more under sanitizers. `$TFCONV_FUZZ_EXAMPLES` asks
for a number of random ones for each family; the one that runs is always in `last_case*.txt` in
build/kernels/<variant>/, for when a sanitizer ends the process.
"""

import math
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.kernels.build import folder_of
from tests.kernels.conftest import VARIANT
from tests.kernels.families import (
    FAMILIES,
    Case,
    as_taps,
    assert_matches,
    assert_not_flushed,
    assert_rounded,
    assert_same_bits,
    cast,
    multiplies_bfloat16,
    narrow,
    rounded,
    slack_of_products,
    tap_positions,
    widen,
)
from tests.sliding_windows import Geometry

EXAMPLES = os.environ.get("TFCONV_FUZZ_EXAMPLES", "")
# Positions times taps, for the references are slow.
WORK = 3000
DEFORMABLE_WORK = 400

FUZZ = settings(
    max_examples=int(EXAMPLES or (30 if VARIANT == "plain" else 100)),
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)

WIDTHS = [1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 64, 65]
FILTERS = [1, 2, 3, 4, 7, 8, 9, 16, 17, 31, 32, 33, 65]


@st.composite
def geometries(draw, rank, work, kernel_sizes):
    """Any that the ops accept: also empty inputs, windows beyond the input, only padding."""
    limit = {1: 20, 2: 9, 3: 5}[rank]
    long = [66, 130] if rank == 1 else []
    size = st.sampled_from([0, 1, *range(1, limit + 1), *range(limit // 2, limit + 1), *long])
    kernel = st.sampled_from(kernel_sizes)
    step = st.sampled_from([*[1] * 2 * limit, 2, 2, 3, *range(2, limit + 4)])
    sizes, kernels, strides, dilations, pads = [], [], [], [], []
    same = draw(st.booleans())
    room = work
    for _ in range(rank):
        n, k, s, d = draw(size), draw(kernel), draw(step), draw(step)
        extent = (k - 1) * d + 1
        before, after = draw(
            st.one_of(
                st.just((0, 0)),
                st.tuples(st.integers(0, 4), st.integers(0, 4)),
                st.just((extent - 1, extent - 1)),
                st.tuples(st.integers(0, extent + 2), st.integers(0, extent + 2)),
            )
        )
        after += max(0, extent - n - before - after)
        padded = n if same else n + before + after - extent + 1
        s = max(s, -(-padded * k // room))
        room = max(1, room // (max(1, -(-padded // s)) * k))
        for values, value in zip(
            (sizes, kernels, strides, dilations, pads), (n, k, s, d, (before, after))
        ):
            values.append(value)
    padding = "same" if same else tuple(pads)
    return Geometry(tuple(sizes), tuple(kernels), tuple(strides), padding, tuple(dilations))


@st.composite
def cases(draw, family):
    rank = draw(st.sampled_from(FAMILIES[family].ranks))
    if "deformable" in family or family == "aggregation":
        geometry = draw(geometries(rank, DEFORMABLE_WORK, [1, 2, 3, 1, 2, 3, 5]))
    else:
        sizes = [1, 2, 3, 4, 5, 7, 9] if rank < 3 else [1, 2, 3]
        geometry = draw(geometries(rank, WORK, sizes))
    empty = draw(st.integers(0, 19))
    groups = draw(st.sampled_from([1, 1, 2, 3, 4, 5]))
    width = draw(st.sampled_from(WIDTHS))
    filters = draw(st.sampled_from(FILTERS))
    batch = draw(st.integers(1, 3))
    if empty == 17:
        groups, width = 1, 0
    elif empty == 18:
        batch = 0
    elif empty == 19 and family != "involution":
        filters = 0
    channels = groups * width
    divisors = [g for g in range(1, 9) if channels % g == 0 and g <= max(channels, 3)]
    offset_groups = draw(st.sampled_from(divisors))
    return Case(geometry, batch, groups, width, filters, offset_groups, draw(st.booleans()))


def adverse_offsets(rng, case, offset):
    """Puts samples on and beside the image's borders, far away and nowhere."""
    taps, base = as_taps(case, offset), tap_positions(case)
    base = np.broadcast_to(base, taps.shape)
    tiny = np.finfo(offset.dtype).smallest_subnormal
    for axis, size in enumerate(case.geometry.sizes):
        borders = [-1, 0, size - 1, size]
        where = rng.random(taps.shape[:-1])
        exact = rng.choice(borders, where.shape)
        beside = np.nextafter(
            exact.astype(offset.dtype), rng.choice(np.array([-9e9, 9e9], offset.dtype), where.shape)
        )
        odd = rng.choice(
            [np.nan, np.inf, -np.inf, 1e30, -1e30, 3e9, tiny, -tiny, -0.0], where.shape
        )
        along = taps[..., axis]
        along[...] = np.select(
            [where < 0.15, where < 0.3, where < 0.35, where < 0.5],
            [
                exact - base[..., axis],
                beside - base[..., axis],
                odd,
                np.round(along),
            ],
            along,
        )


def adverse_values(rng, tensor):
    """A few elements that are not finite, or next to nothing."""
    if tensor.size:
        tiny = np.finfo(tensor.dtype).smallest_subnormal
        values = np.array([np.nan, np.inf, -np.inf, tiny, -0.0], tensor.dtype)
        count = min(3, tensor.size)
        tensor.flat[rng.integers(0, tensor.size, count)] = rng.choice(values, count)


OPTIONS = st.fixed_dictionaries(
    {
        "slices": st.integers(1, 9),
        "reversed": st.booleans(),
        "threads": st.integers(1, 3),
        "offset": st.integers(0, 17),
    }
)
ODD = st.sets(st.sampled_from(["offset", "x", "upstream", "denormal"]))


def drawn_inputs(family, case, dtype, seed, odd):
    rng = np.random.default_rng(seed)
    drawn = FAMILIES[family].draw(rng, case)
    if "denormal" in odd:
        drawn["x"] *= 2.0**14 * np.finfo(dtype).smallest_subnormal
    inputs = cast(drawn, dtype)
    if "offset" in odd and "offset" in inputs:
        adverse_offsets(rng, case, inputs["offset"])
    if "x" in odd:
        adverse_values(rng, inputs["x"])
    if "upstream" in odd:
        adverse_values(rng, inputs["dy" if "dy" in inputs else "dcolumns"])
    return inputs


def file_of_last_case():
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    return folder_of(VARIANT) / f"last_case{worker}.txt"


def takes_long(family, case):
    """Whether a thread of a GPU after the other would compute for a second or more."""
    products = math.prod(case.inputs) * case.taps * (1 + case.filters)
    return family == "local_attention" and products > 300_000


@pytest.mark.parametrize("family", FAMILIES)
def test_fuzz(family, kernels):
    last_case = file_of_last_case()

    @FUZZ
    @given(
        case=cases(family),
        dtype=st.sampled_from([np.float32, np.float64]),
        seed=st.integers(0, 2**32 - 1),
        odd=ODD,
        options=OPTIONS,
    )
    def check(case, dtype, seed, odd, options):
        last_case.write_text(f"{family} {case} {dtype.__name__} {seed} {odd} {options}\n")
        inputs = drawn_inputs(family, case, dtype, seed, odd)
        with np.errstate(invalid="ignore"):
            expected = FAMILIES[family].expected(case, **inputs)
        kinds = {}
        for isa in kernels.available():
            if isa == "cuda" and takes_long(family, case):
                continue
            note(f"instruction set {isa}")
            plain = FAMILIES[family].run(kernels, kernels.Run(isa), case, **inputs)
            assert_matches(plain, expected, dtype, isa)
            assert_not_flushed(plain, expected, dtype, isa)
            if case.channels and case.filters and not odd & {"x", "upstream"}:
                for name, value in expected.items():  # where NaN is that of offsets
                    assert np.isnan(plain[name][np.isnan(value)]).all(), name
            run = kernels.Run(isa, **options)
            divided = FAMILIES[family].run(kernels, run, case, **inputs)
            assert_same_bits(divided, plain, "the division of the work")
            for name, value in plain.items():
                kind = np.isnan(value) + 2 * np.isposinf(value) + 4 * np.isneginf(value)
                np.testing.assert_array_equal(kind, kinds.setdefault(name, kind), name)

    check()


@pytest.mark.parametrize("family", FAMILIES)
def test_fuzz_of_16_bits(family, kernels):
    """What float32 gives for the same numbers, rounded once at the end; products of bfloat16 may
    have another order, and round samples."""
    last_case = file_of_last_case()

    @FUZZ
    @given(
        case=cases(family),
        dtype=st.sampled_from([np.float16, np.uint16]),
        seed=st.integers(0, 2**32 - 1),
        odd=st.sets(st.sampled_from(["offset", "x", "upstream"])),
        options=OPTIONS,
    )
    def check(case, dtype, seed, odd, options):
        last_case.write_text(f"{family} {case} {dtype.__name__} {seed} {odd} {options}\n")
        drawn = drawn_inputs(family, case, np.float32, seed, odd)
        with np.errstate(over="ignore"):
            inputs = {k: None if v is None else narrow(v, dtype) for k, v in drawn.items()}
        wide = {k: None if v is None else widen(v) for k, v in inputs.items()}
        for isa in kernels.available(bfloat16=dtype == np.uint16):
            if isa == "cuda":
                continue  # which adds up in another order
            note(f"instruction set {isa}")
            plain = FAMILIES[family].run(kernels, kernels.Run(isa), case, **inputs)
            of_float = FAMILIES[family].run(kernels, kernels.Run(isa), case, **wide)
            if multiplies_bfloat16(isa, inputs):
                slack = slack_of_products(FAMILIES[family], kernels, case, wide, of_float)
                assert_rounded(plain, of_float, slack, dtype, isa)
            else:
                for name, value in of_float.items():
                    np.testing.assert_array_equal(
                        widen(plain[name]), widen(rounded(value, dtype)), f"{name} {isa}"
                    )
            run = kernels.Run(isa, **options)
            divided = FAMILIES[family].run(kernels, run, case, **inputs)
            assert_same_bits(divided, plain, "the division of the work")

    check()
