"""Work is cut finely enough for many threads: benchmarks/units.py prints the table."""

import numpy as np
import pytest

from benchmarks.units import Row, rows


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_no_thread_has_much_more_than_its_part(dtype, kernels):
    checked = 0
    for isa in kernels.available(bfloat16=dtype == np.uint16):
        if isa in ("base", "cuda"):
            continue
        for row in rows(kernels, isa, dtype=dtype):
            assert not row.uneven, f"{isa}: {row}"
            checked += not row.is_short
    if len(kernels.available()) > 2:
        assert checked > 50


def test_uneven_work_is_noticed():
    assert Row("f", (1, 1, 1), "pass", 18, 10**6).uneven == [16, 64]
    assert Row("f", (1, 1, 1), "pass", 1, 10**6).uneven == [2, 8, 16, 64]
    assert not Row("f", (1, 1, 1), "pass", 32, 10**6).uneven
    assert not Row("f", (1, 1, 1), "pass", 1, 10).uneven
