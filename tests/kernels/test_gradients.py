"""The gradients that kernels are held against are those of the references: numeric differences."""

import numpy as np
import pytest

from tests import reference
from tests.kernels.families import FAMILIES, Case, DeformableSample
from tests.sliding_windows import Geometry

STEP = 1e-5
G2 = Geometry((3, 4), 2, (2, 1), "same", (1, 2))
CASES = {
    "involution": Case(Geometry((5,), 3, 2, "causal", 2), 2, 2, 2),
    "span_involution": Case(Geometry((5,), 3, 2, "causal", 2), 2, 2, 2, 3),
    "local_attention": Case(Geometry((5,), 3), 2, 2, 2, 4),
    "per_example": Case(G2, 2, 2, 2, 3),
    "aggregation": Case(Geometry((3, 2, 3), 2, (2, 1, 1)), 1, 1, 4, offset_groups=2),
    "deformable_sample": Case(G2, 1, 1, 4, offset_groups=2),
    "deformable_conv": Case(G2, 1, 2, 2, 3, offset_groups=2),
}
ATTENTION = FAMILIES["local_attention"]
FORWARD = {
    "local_attention": lambda w, **inputs: ATTENTION.expected(
        CASES["local_attention"], **inputs, dy=np.zeros((2, 5, 8))
    )["y"],
    "involution": lambda w, x, kernel: reference.involution(x, kernel, w),
    "span_involution": lambda w, x, features, span, bias: reference.involution(
        x, features @ span + bias, w
    ),
    "per_example": lambda w, x, filter: reference.per_example_conv(x, filter, w),
    "aggregation": lambda w, x, offset, weights: reference.deformable_aggregation(
        x, offset, weights, w
    ),
    "deformable_sample": lambda w, x, offset, mask: reference.deformable_sample(x, offset, mask, w),
    "deformable_conv": lambda w, x, offset, mask, filter: reference.deformable_conv(
        x, offset, filter, mask, None, w
    ),
}


@pytest.mark.parametrize(
    "name, case",
    [
        *CASES.items(),
        ("deformable_sample", Case(Geometry((5,), 2, 1, "full", 2), 2, 1, 4, offset_groups=2)),
        ("deformable_conv", Case(Geometry((2, 3, 2), (2, 1, 2), (2, 1, 1)), 1, 2, 1, 2, 2)),
    ],
)
def test_gradients_of_references(name, case, rng):
    inputs = FAMILIES[name].draw(rng, case)
    if "offset" in inputs:  # between pixels, where gradients exist
        offset = inputs["offset"]
        inputs["offset"] = np.floor(offset) + 0.25 + 0.5 * (offset - np.floor(offset))
    expected = FAMILIES[name].expected(case, **inputs)
    *upstream_name, upstream = [inputs.pop(n) for n in ("dy", "dcolumns") if n in inputs]

    def forward(**changed):
        return FORWARD[name](case.geometry.window, **{**inputs, **changed})

    result = expected["columns" if name == "deformable_sample" else "y"]
    np.testing.assert_allclose(result, forward(), rtol=1e-12, atol=1e-12)
    for what, value in inputs.items():
        numeric = np.zeros_like(value)
        for at in np.ndindex(*value.shape):
            more, less = value.copy(), value.copy()
            more[at] += STEP
            less[at] -= STEP
            change = (forward(**{what: more}) - forward(**{what: less})) / (2 * STEP)
            numeric[at] = np.sum(change * upstream)
        assert np.abs(numeric).max() > 1e-2
        np.testing.assert_allclose(
            expected[f"d{what}"], numeric, rtol=1e-7, atol=1e-7, err_msg=what
        )


def test_columns_where_offsets_are_undefined(rng):
    case = CASES["deformable_sample"]
    inputs = DeformableSample.draw(rng, case)
    ordinary = DeformableSample.expected(case, **inputs)
    inputs["offset"][0, 1, 2, 3] = np.nan  # of the first offset group's second tap
    inputs["offset"][0, 0, 0, 8] = np.inf  # and the second's first
    odd = DeformableSample.expected(case, **inputs)
    columns = ordinary["columns"].copy()
    columns[0, 1, 2, 1, :2] = np.nan
    columns[0, 0, 0, 0, 2:] = 0
    np.testing.assert_array_equal(odd["columns"], columns)
    assert np.isfinite(odd["dx"]).all()
    assert np.argwhere(np.isnan(odd["doffset"])).tolist() == [[0, 1, 2, 2], [0, 1, 2, 3]]
    assert np.argwhere(np.isnan(odd["dmask"])).tolist() == [[0, 1, 2, 1]]
