"""The example on volumes runs, at a tiny size, and its volumes are what it says."""

import importlib.util
import sys
from pathlib import Path

import numpy as np

PATH = Path(__file__).parents[1] / "docs" / "deformable_volumes.py"
SPEC = importlib.util.spec_from_file_location("deformable_volumes", PATH)
example = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = example  # dataclasses look their module up
SPEC.loader.exec_module(example)


def test_volumes():
    x, tubes = example.volumes(6, (6, 10, 12), seed=0, noise=0.0)
    assert x.shape == tubes.shape == (6, 6, 10, 12, 1)
    assert set(np.unique(x)) == set(np.unique(tubes)) == {0.0, 1.0}
    assert np.all(x[tubes > 0] == 1) and x.sum() > tubes.sum()
    along = tubes[..., 0].any((1, 2))
    assert along.all(), "a tube goes from the first voxel to the last along the last axis"
    noisy, same = example.volumes(6, (6, 10, 12), seed=0)
    np.testing.assert_array_equal(same, tubes)
    assert 0.7 < np.std(noisy - x) < 0.9


def test_example():
    runs = example.measured(seeds=(0, 1), sizes=(4, 6, 6), count=8, epochs=1)
    text = example.page(runs)
    assert list(runs) == list(example.LAYERS)
    for layer, mine in runs.items():
        assert f"| {layer} | {mine[0].parameters:,} |" in text
        assert all(0 <= run.overlap <= 1 for run in mine)
    # Offsets of three axes and masks, for 27 taps, from 27 taps of 8 channels.
    plain, deformable = runs["Conv3D"][0], runs["DeformableConv3D"][0]
    assert deformable.parameters - plain.parameters == 2 * (27 * 8 + 1) * 27 * 4
