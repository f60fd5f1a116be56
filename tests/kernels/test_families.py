"""Every family of kernels on every instruction set, in all types, against the references."""

import itertools
import platform

import numpy as np
import pytest

from tests.kernels import gradients
from tests.kernels.families import (
    FAMILIES,
    Case,
    assert_matches,
    assert_rounded,
    assert_same_bits,
    cast,
    multiplies_bfloat16,
    narrow,
    rounded,
    slack_of_products,
    widen,
)
from tests.sliding_windows import GEOMETRIES, Geometry

# Batch, groups, channels of a group, filters of a group, offset groups.
SIZES = [
    (2, 1, 1, 1, 1),
    (1, 3, 1, 2, 3),
    (3, 1, 5, 3, 1),
    (1, 2, 8, 4, 4),
    (2, 4, 5, 1, 2),
    (1, 1, 33, 17, 3),
    (2, 1, 16, 33, 1),
]
# Sizes at which blocks end within a row, a group, the channels or the filters.
BLOCKS = {
    "involution": [
        Case(Geometry((150,), 7), 1, 2, 16),  # rows in several segments
        Case(Geometry((67,), 5, 1, "full"), 2, 1, 24),
        Case(Geometry((4, 13), 9), 1, 3, 4),
        Case(Geometry((5, 11), 3), 2, 2, 36),  # vectors of half the width
        Case(Geometry((6, 9), 3, 2, "same", 2), 1, 1, 72),
        Case(Geometry((5, 4), 1, 10**9, "same", 10**9), 2, 2, 4),  # one position, one tap
        Case(Geometry((6, 15), 7), 1, 33, 1),  # weights rearranged by groups
        Case(Geometry((5, 9), 3), 2, 18, 3),
        Case(Geometry((40, 3), 5, 2, "full"), 1, 2, 20),  # bands of the gradient for x
        Case(Geometry((3, 20), (2, 9)), 2, 1, 65),
    ],
    "span_involution": [
        Case(Geometry((150,), 7), 1, 2, 16, 5),  # rows in several segments
        Case(Geometry((7, 7), 7), 5, 12, 16, 20),  # tiles of several rows, blocks of groups
        Case(Geometry((10, 9), 7, 2, "full"), 2, 9, 3, 8),
        Case(Geometry((3, 4), 3), 2, 2, 5, 600),  # more features than a tile has columns
        Case(Geometry((30,), 29 * 19), 1, 3, 4, 3),  # more taps than a tile has columns
        Case(Geometry((29, 31), 3), 3, 1, 16, 4),  # slices of several tiles
        Case(Geometry((5, 4), 1, 10**9, "same", 10**9), 2, 2, 4),
    ],
    "local_attention": [
        Case(Geometry((130,), 5), 1, 2, 16, 16),  # lines in several parts
        Case(Geometry((70,), 3, 1, "same", 9), 1, 1, 8, 20, 2),
        Case(Geometry((4, 13), (3, 9)), 1, 3, 4, 8, 4),  # more taps than two vectors have lanes
        Case(Geometry((3, 4), 2), 2, 37, 3, 1),  # blocks of heads
        Case(Geometry((5, 4), 1, 10**9, "same", 10**9), 2, 2, 4, 4),
        Case(Geometry((9, 8), 3, 2, "same", 2), 1, 1, 33, 65, 2, False),  # blocks by phases
        Case(Geometry((9, 8), (3, 2), 2), 1, 2, 16, 7, 4, True),
        Case(Geometry((30, 5), 3, 3), 2, 2, 5, 31, 3, True),
        Case(Geometry((3, 5), 3), 1, 2, 270, 4),  # queries in several turns
    ],
    "per_example": [
        Case(Geometry((31, 33), 3), 1, 1, 20, 18),  # tiles of rows
        Case(Geometry((9, 8), 3, 2), 2, 1, 420, 40),  # channels of a tap in blocks
        Case(Geometry((5, 6), (2, 3)), 2, 1, 24, 1100),  # filters in blocks
        Case(Geometry((6, 5), 3, (3, 2)), 2, 1, 1100, 8),
        Case(Geometry((11,), 2, 4, "valid"), 2, 1, 4, 4),  # pixels that no tap meets
        Case(Geometry((6, 6), 3), 3, 40, 2, 2),
        Case(Geometry((12, 11), 3), 2, 37, 1, 1),  # groups narrower than a vector
        Case(Geometry((5, 7), 3, 2), 2, 11, 4, 4),
        Case(Geometry((6, 5), (2, 3)), 1, 9, 1, 4),
        Case(Geometry((4, 5), 3), 1, 300, 2, 2),  # not all of a tap in one block
        Case(Geometry((4, 4), 2), 2, 5, 8, 8),
        Case(Geometry((5, 4), 1, 10**9, "same", 10**9), 2, 2, 4, 4),
    ],
    "aggregation": [
        Case(Geometry((16, 15), (1, 2)), 1, 1, 40),  # slices of positions
        Case(Geometry((4, 4), 2), 1, 1, 204, offset_groups=3),
        Case(Geometry((3, 3), 2), 1, 1, 300),  # parts of a group's channels
        Case(Geometry((4, 3), 7), 2, 1, 36, offset_groups=4),  # groups that are found apart
        Case(Geometry((3, 4, 5), 2), 3, 1, 40, offset_groups=2),
        Case(Geometry((200,), 3), 1, 1, 24, offset_groups=3),
        Case(Geometry((3, 3), 1), 20, 1, 7),  # more images than units
        Case(Geometry((5, 4), 1, 10**9, "same", 10**9), 2, 2, 4, offset_groups=2),
        Case(Geometry((2, 3), (14, 15)), 1, 2, 20, offset_groups=2),  # a group's taps in parts
        Case(Geometry((2, 3, 4), (6, 5, 7)), 1, 1, 6, offset_groups=1),
    ],
    "deformable_sample": [
        Case(Geometry((16, 15), (1, 2)), 1, 1, 40),  # several tiles of positions
        Case(Geometry((4, 4), 2), 1, 1, 200),  # partial sums of offset gradients
        Case(Geometry((4, 4), 2), 1, 1, 204, offset_groups=3, masked=False),
        Case(Geometry((3, 3), 1), 20, 1, 7),  # more images than units
        Case(Geometry((300,), 2), 1, 1, 24),
        Case(Geometry((3, 5, 9), (1, 2, 1)), 1, 1, 72),  # slices of the positions
    ],
    "deformable_conv": [
        Case(Geometry((16, 15), (1, 2)), 1, 1, 40, 20),
        Case(Geometry((4, 4), 2), 1, 1, 420, 40, masked=False),  # depth in blocks
        Case(Geometry((3, 4), 2), 2, 2, 60, 300, offset_groups=3),  # groups in blocks
        Case(Geometry((3, 3), 2), 1, 3, 100, 5, offset_groups=2),  # blocks across both groups
        Case(Geometry((3, 3), 2), 1, 40, 4, 2, offset_groups=5),
        Case(Geometry((12, 11), 3), 1, 36, 1, 1, offset_groups=4),  # groups narrower than a vector
        Case(Geometry((5, 4), 3), 2, 12, 4, 4, offset_groups=3, masked=False),
        Case(Geometry((4, 5), 2), 1, 9, 1, 4),
        Case(Geometry((3, 4), 3), 1, 300, 2, 2),  # not all of a tap in one block
        Case(Geometry((3, 3), 2), 2, 5, 8, 8),
        Case(Geometry((2, 3), 1), 1, 1, 6, 1100),
        Case(Geometry((28, 28), 1), 1, 1, 260, 1030),  # a filter that is packed by blocks
        Case(Geometry((2, 3), 1), 1, 1, 400, 700),  # the same for few rows
        Case(Geometry((2, 2), 2), 1, 2, 180, 400, offset_groups=3),
        Case(Geometry((90,), 3, 1, "causal", 2), 2, 2, 20, 3, offset_groups=4),
        Case(Geometry((2, 3, 4), 2), 2, 2, 36, 20, offset_groups=3),
        Case(Geometry((4, 6, 7), (2, 1, 2)), 1, 9, 1, 1),
    ],
}

# What the ops accept: no examples, no pixels, only padding, no positions, no channels, no filters.
EMPTY = [
    Case(Geometry((3, 4), 2), 0, 2, 3, 2),
    Case(Geometry((0, 4), 3), 2, 2, 3, 2),
    Case(Geometry((0, 4), (3, 1), 1, ((2, 3), (0, 0))), 2, 2, 3, 2),
    Case(Geometry((3, 4), 2), 2, 1, 0, 2, masked=False),
    Case(Geometry((3, 4), 2), 2, 2, 3, 0),
]


def table():
    result = []
    for name, family in FAMILIES.items():
        sizes = itertools.cycle(SIZES)
        for rank in family.ranks:
            for number, geometry in enumerate(GEOMETRIES[rank]):
                case = Case(geometry, *next(sizes), masked=number % 2 == 0)
                result.append(pytest.param(name, case, id=f"{name} {geometry}"))
    return result


def rows(cases):
    return [
        pytest.param(name, case, id=f"{name} {case.geometry} {case[1:6]}")
        for name, mine in cases.items()
        for case in mine
    ]


@pytest.mark.parametrize(
    "name, case", table() + rows(BLOCKS) + rows(dict.fromkeys(FAMILIES, EMPTY))
)
def test_matches_reference(name, case, rng, kernels):
    family = FAMILIES[name]
    drawn = family.draw(rng, case)
    for dtype in (np.float32, np.float64):
        inputs = cast(drawn, dtype)
        expected = family.expected(case, **inputs)
        for isa in kernels.available():
            results = family.run(kernels, kernels.Run(isa), case, **inputs)
            assert_matches(results, expected, dtype, isa)


def test_cuda_is_there(kernels):
    """The rows above have run the CUDA kernels, on the CPU."""
    if platform.machine() == "x86_64" and kernels.sanitizer != "thread":
        assert "cuda" in kernels.available()


@pytest.mark.parametrize("dtype", [np.float16, np.uint16])
@pytest.mark.parametrize(
    "name, case", table()[::3] + rows(BLOCKS) + rows(dict.fromkeys(FAMILIES, EMPTY))
)
def test_half_precision(name, case, dtype, rng, kernels):
    """float32 all the way, rounded once at the end; or products of bfloat16, summed in float32.

    On GPUs, products take columns that are rounded to either type.
    """
    family = FAMILIES[name]
    drawn = {k: v for k, v in family.draw(rng, case).items() if v is not None}
    inputs = {k: narrow(v, dtype) for k, v in drawn.items()}
    wide = {k: widen(v) for k, v in inputs.items()}
    if "deformable" in name and not case.masked:
        inputs["mask"] = wide["mask"] = None
    for isa in kernels.available(bfloat16=dtype == np.uint16):
        run = kernels.Run(isa)
        results = family.run(kernels, run, case, **inputs)
        of_float = "base" if isa in ("cuda", "emulated") else isa
        expected = family.run(kernels, kernels.Run(of_float), case, **wide)
        slack = dict.fromkeys(expected, 0.0)  # the same sums in the same order
        if multiplies_bfloat16(isa, inputs):
            slack = slack_of_products(family, kernels, case, wide, expected)
        if isa == "cuda":
            if name == "deformable_conv" and results["y"].size and case.channels:
                expected = of_rounded_columns(kernels, run, case, inputs, dtype)
            slack = slack_on_gpus(kernels, run, name, case, inputs, expected)
        assert_rounded(results, expected, slack, dtype, isa)


def slack_on_gpus(kernels, run, name, case, inputs, expected):
    """Sums have another order; those of rounded terms are as far off as their magnitudes say."""
    slack = {k: 2e-5 * max(1.0, np.abs(v).max(initial=0)) for k, v in expected.items()}
    wide = {k: v if v is None else widen(v) for k, v in inputs.items()}
    rounding = 2**-11 if inputs["x"].dtype == np.float16 else 2**-8
    if name == "per_example":
        positive = {k: np.abs(v) for k, v in wide.items()}
        magnitude = FAMILIES[name].run(kernels, kernels.Run("base"), case, **positive)
        slack["dx"] = slack["dx"] + rounding * magnitude["dx"]
    if name == "deformable_conv" and expected["y"].size and case.channels:
        sampling = [inputs[k] for k in ("x", "offset", "mask")]
        columns = np.abs(widen(kernels.deformable_sample(run, *sampling, case.axes)))
        sums = gradients.of_columns_times_filter(columns, wide["filter"], np.abs(wide["dy"]))[1]
        slack["dfilter"] = slack["dfilter"] + rounding * sums
    return slack


def of_rounded_columns(kernels, run, case, inputs, dtype):
    """The deformable convolution from columns, and their gradient, that are rounded to the type."""
    sampling = [inputs[k] for k in ("x", "offset", "mask")]
    columns = widen(kernels.deformable_sample(run, *sampling, case.axes))
    filter_, dy = widen(inputs["filter"]), widen(inputs["dy"])
    taps = filter_.reshape(case.taps, case.width, -1)
    dcolumns = np.zeros(columns.shape, np.float32)
    for f in range(dy.shape[-1]):  # one after the other, as the product adds up
        first = f // case.filters * case.width
        own = dcolumns[..., first : first + case.width]
        own += dy[..., f, np.newaxis, np.newaxis] * taps[..., f]
    dx, doffset, dmask = kernels.deformable_sample_gradients(
        run, *sampling, rounded(dcolumns, dtype), case.axes
    )
    expected = {
        "y": gradients.columns_times_filter(columns, filter_),
        "dx": widen(dx),
        "doffset": widen(doffset),
        "dfilter": gradients.of_columns_times_filter(columns, filter_, dy)[1],
    }
    if case.masked:
        expected["dmask"] = widen(dmask)
    return expected


def test_cuda_refuses_what_32_bits_do_not_reach(kernels):
    if "cuda" not in kernels.available():
        pytest.skip("the CUDA kernels are not compiled for this CPU or sanitizer")
    x, kernel = np.zeros((1, 2, 3), np.float32), np.zeros((1, 2, 2), np.float32)
    axes = [(2, 2, 2**29, 2**29, 0)]
    assert not kernels.involution(kernels.Run("base"), x, kernel, axes)[0, 1].any()
    with pytest.raises(RuntimeError, match="CUDA error 1"):
        kernels.involution(kernels.Run("cuda"), x, kernel, axes)


# Of every family, sizes with enough units to be cut in many ways.
DIVIDED = {
    "span_involution": [
        Case(Geometry((5, 70), 3), 2, 2, 5, 3),
        Case(Geometry((9, 8), 7), 2, 9, 16, 7),
        Case(Geometry((9, 8), 4, 2), 1, 1, 24, 40),
    ],
    "local_attention": [
        Case(Geometry((5, 70), 3), 2, 2, 5, 4),
        Case(Geometry((9, 8), 4, 2), 1, 4, 16, 16, 2),
        Case(Geometry((9, 8), (3, 5)), 3, 3, 8, 32),
    ],
    "involution": [Case(Geometry((5, 70), 3), 2, 2, 5), Case(Geometry((9, 8), 4, 2), 1, 1, 24)],
    "per_example": [
        Case(Geometry((30, 29), 3), 2, 2, 3, 4),
        Case(Geometry((9, 8), 3, (2, 3)), 2, 1, 130, 70),
    ],
    "aggregation": [
        Case(Geometry((9, 8), 3), 2, 1, 12, offset_groups=3),
        Case(Geometry((14, 10), 3), 1, 1, 100),
        Case(Geometry((5, 6, 7), 2), 1, 1, 24, offset_groups=2),
    ],
    "deformable_sample": [
        Case(Geometry((9, 8), 3), 2, 1, 12, offset_groups=3),
        Case(Geometry((9, 8), 3, 2), 1, 1, 200),
        Case(Geometry((70,), 3), 1, 1, 20),
        Case(Geometry((4, 5, 6), 2), 1, 1, 36, offset_groups=2),
    ],
    "deformable_conv": [
        Case(Geometry((9, 8), 3), 2, 3, 4, 5, offset_groups=2),
        Case(Geometry((9, 8), 3, 2), 1, 1, 200, 40, masked=False),
        Case(Geometry((3, 5, 6), 2), 1, 1, 40, 20),
    ],
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.uint16])
@pytest.mark.parametrize("name, case", rows(DIVIDED))
def test_bits_do_not_depend_on_the_division_of_the_work(name, case, dtype, rng, kernels):
    """Nor on its order, on threads, or on where the tensors lie in memory."""
    family = FAMILIES[name]
    inputs = cast(family.draw(rng, case), np.float32 if dtype == np.uint16 else dtype)
    if dtype == np.uint16:
        inputs = {k: None if v is None else narrow(v, dtype) for k, v in inputs.items()}
    for isa in kernels.available(bfloat16=dtype == np.uint16):
        expected = family.run(kernels, kernels.Run(isa), case, **inputs)
        for options in (
            {"slices": 2},
            {"slices": 3, "reversed": True},
            {"slices": 10**6},
            {"slices": 10**6, "reversed": True},
            {"slices": 10**6, "threads": 2},
            {"slices": 5, "threads": 4, "reversed": True},
            {"offset": 1},
            {"offset": 7, "slices": 2},
        ):
            if isa == "cuda" and "threads" in options:
                continue  # which are not for them
            results = family.run(kernels, kernels.Run(isa, **options), case, **inputs)
            assert_same_bits(results, expected, f"{isa} {options}")
