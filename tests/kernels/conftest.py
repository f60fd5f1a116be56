"""The module of kernels. Nothing here or below needs TensorFlow: sanitizers run without it."""

import os

import numpy as np
import pytest
from hypothesis.configuration import set_hypothesis_home_dir

from tests.kernels import build

set_hypothesis_home_dir(build.ROOT / "build" / "hypothesis")

VARIANT = os.environ.get("TFCONV_KERNELS", "plain")


@pytest.fixture(scope="session")
def kernels():
    """The kernels as a Python module, built if need be: `$TFCONV_KERNELS` or plain."""
    return build.load(VARIANT)


@pytest.fixture(autouse=True)
def seeds():
    """Takes the place of the fixture for all tests, which sets TensorFlow's seed."""


@pytest.fixture
def rng():
    """A generator of the test's own."""
    return np.random.default_rng(0)
