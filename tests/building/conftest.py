"""What the tests of the build share."""

import os

import pytest

from tests.building.small_tree import Tree


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch, tmp_path):
    """No settings of the caller's, all instruction sets, and a cache of the test's own."""
    for name in list(os.environ):
        if name.startswith("TFCONV_") or name in ("CXX", "CUDA_HOME", "SOURCE_DATE_EPOCH"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TFCONV_ISAS", "all")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)
