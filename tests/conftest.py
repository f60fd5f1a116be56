"""What all tests share: the environment, seeds, and the choice of the implementation."""

import collections
import importlib.util
import os
import zlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.pop("TFCONV_NATIVE", None)  # the tests choose

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import tensorflow as tf  # noqa: E402

import tfconv  # noqa: E402
from tfconv._compat import keras  # noqa: E402

tf.config.threading.set_intra_op_parallelism_threads(2)
tf.config.experimental.enable_tensor_float_32_execution(False)  # GPUs: tolerances are of float32

collect_ignore = []
if importlib.util.find_spec("tensorflow_addons") is None:
    collect_ignore.append("test_addons.py")  # TensorFlow Addons exists for TensorFlow 2.15 only


def pytest_addoption(parser):
    parser.addoption(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="of a test with many cases, run about every N-th: always the same ones",
    )


def pytest_collection_modifyitems(config, items):
    every = config.getoption("every")
    cases = collections.Counter(map(_function, items))
    chosen = [
        item
        for item in items
        if cases[_function(item)] < 4 * every or zlib.crc32(item.nodeid.encode()) % every == 0
    ]
    if len(chosen) < len(items):
        left_out = set(items).difference(chosen)
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = chosen


def _function(item):
    return item.nodeid.partition("[")[0]


@pytest.fixture(autouse=True)
def seeds():
    """Every test draws the same numbers every time."""
    keras.utils.set_random_seed(0)


@pytest.fixture
def rng():
    """A generator of the test's own."""
    return np.random.default_rng(0)


@pytest.fixture(params=["native", "portable"])
def implementation(request):
    """Runs a test with the native ops and with their portable twins.

    The native library belongs to what is tested: where it is missing, the test fails.
    """
    if request.param == "portable":
        with tfconv.portable():
            yield request.param
    else:
        require_native()
        yield request.param


def require_native():
    """Fails unless native ops serve."""
    status = tfconv.native_status()
    assert status.in_force == "native", f"no native ops: {status.reason}"


@pytest.fixture
def native_module():
    """The Python wrappers of the native ops, without tfconv's own checks in front."""
    require_native()
    return tfconv.ops.native.library().module
