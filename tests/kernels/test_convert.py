"""Conversions between 16-bit types and float32: every 16-bit value, and rounding."""

import numpy as np
import pytest

ALL = np.arange(2**16, dtype=np.uint16)
LENGTHS = [*range(20), 31, 64, 100]


def instruction_sets(kernels):
    """All but the GPU's, whose kernels convert while they compute."""
    return [isa for isa in kernels.available() if isa != "cuda"]


def bits(array):
    return np.asarray(array, np.float32).view(np.uint32)


def bfloat16_to_float(values):
    return (values.astype(np.uint32) << 16).view(np.float32)


def half_to_float(values):
    return values.view(np.float16).astype(np.float32)


WIDEN = {"half_to_float": half_to_float, "bfloat16_to_float": bfloat16_to_float}


def around(values):
    """Every finite value that a type has, the middle to the next one, and what lies beside both."""
    values = np.unique(values[np.isfinite(values)]).astype(np.float64)
    middles = (values[1:] + values[:-1]) / 2
    end = values[-1] + (values[-1] - values[-2]) / 2  # from here on, infinity is nearer
    largest = np.finfo(np.float32).max
    exact = np.concatenate([values, middles, [end, -end, largest, -largest]]).astype(np.float32)
    beside = [np.nextafter(exact, np.float32(side * largest)) for side in (-1, 1)]
    result = np.concatenate([exact, *beside])
    return result[np.isfinite(result)]


def nearest(values, widened):
    """Index of the 16-bit value nearest to each of ``values``; ties to the even one."""
    finite = np.flatnonzero(np.isfinite(widened))
    finite = finite[finite != 0x8000]  # -0 is found by its sign
    order = finite[np.argsort(widened[finite], kind="stable")]
    sorted_ = widened[order].astype(np.float64)
    above = np.clip(np.searchsorted(sorted_, values.astype(np.float64)), 1, len(order) - 1)
    low, high = order[above - 1], order[above]
    down = values.astype(np.float64) - sorted_[above - 1]
    up = sorted_[above] - values.astype(np.float64)
    take_low = (down < up) | ((down == up) & (low % 2 == 0))
    result = np.where(take_low, low, high)
    # Half a step beyond the largest value, rounding reaches infinity.
    limit = sorted_[-1] + (sorted_[-1] - sorted_[-2]) / 2
    infinity = np.flatnonzero(np.isinf(widened) & (widened > 0))[0]
    result = np.where(np.abs(values.astype(np.float64)) >= limit, infinity, result)
    return np.where(np.signbit(values), result | 0x8000, result).astype(np.uint16)


@pytest.mark.parametrize("name", WIDEN)
def test_widening_every_value(name, kernels):
    expected = WIDEN[name](ALL)
    number = ~np.isnan(expected)
    for isa in instruction_sets(kernels):
        for slices in (1, 7):
            actual = kernels.convert(kernels.Run(isa, slices=slices), name, ALL)
            np.testing.assert_array_equal(bits(actual)[number], bits(expected)[number])
            assert np.isnan(actual[~number]).all()


@pytest.mark.parametrize("name", WIDEN)
def test_narrowing(name, kernels):
    widened = WIDEN[name](ALL)
    values = around(widened)
    expected = nearest(values, widened)
    narrow = "float_to_half" if name == "half_to_float" else "float_to_bfloat16"
    for isa in instruction_sets(kernels):
        actual = kernels.convert(kernels.Run(isa), narrow, values)
        wrong = np.flatnonzero(actual != expected)
        assert wrong.size == 0, [(values[i], hex(actual[i]), hex(expected[i])) for i in wrong[:5]]


@pytest.mark.parametrize("name", WIDEN)
def test_infinity_and_nan(name, kernels):
    narrow = "float_to_half" if name == "half_to_float" else "float_to_bfloat16"
    nan = np.array([0x7F800001, 0x7FFFFF00, 0xFF800001, 0x7FC00000], np.uint32).view(np.float32)
    values = np.tile(np.concatenate([nan, np.float32([np.inf, -np.inf])]), 4)
    for isa in instruction_sets(kernels):
        actual = WIDEN[name](kernels.convert(kernels.Run(isa), narrow, values))
        np.testing.assert_array_equal(np.isnan(actual), np.isnan(values))
        infinite = np.isinf(values)
        np.testing.assert_array_equal(actual[infinite], values[infinite])


@pytest.mark.parametrize("offset", [0, 1, 3])
def test_lengths(offset, rng, kernels):
    values = rng.standard_normal(max(LENGTHS)).astype(np.float32)
    halves = values.astype(np.float16).view(np.uint16)
    for isa in instruction_sets(kernels):
        run = kernels.Run(isa, offset=offset)
        for n in LENGTHS:
            np.testing.assert_array_equal(
                kernels.convert(run, "float_to_half", values[:n]), halves[:n]
            )
            np.testing.assert_array_equal(
                kernels.convert(run, "half_to_float", halves[:n]),
                half_to_float(halves[:n]),
            )
