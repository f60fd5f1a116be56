"""What all tests share: the environment, seeds, and the choice of the implementation."""

import collections
import contextlib
import gc
import importlib.util
import os
import random
import zlib
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# TensorFlow has oneDNN on by itself for some processors only; without it Keras cannot dilate
# transposed convolutions.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.pop("TFCONV_NATIVE", None)  # the tests choose

import pytest  # noqa: E402

FEW = 2  # cases of a test that always run, unless any will do
LATE = 4  # tests that are marked `late` run where at least every fourth of the dear cases does


def pytest_collection(session):
    """Imports TensorFlow, which xdist's controller does without: it collects nothing."""
    if session.config.pluginmanager.hasplugin("dsession"):
        return
    gc.disable()  # it would look at what TensorFlow and pytest make, again and again
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(2)
    tf.config.experimental.enable_tensor_float_32_execution(False)  # tolerances are of float32


def pytest_collection_finish():
    gc.freeze()  # they stay
    gc.enable()


collect_ignore = []
if importlib.util.find_spec("tensorflow_addons") is None:
    collect_ignore.append("test_addons.py")  # TensorFlow Addons exists for TensorFlow 2.15 only


def pytest_addoption(parser):
    parser.addoption(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="of a test with many cases, run about every N-th: always the same ones, in which each "
        "value of each parameter occurs if so many are run",
    )
    parser.addoption(
        "--dear",
        type=int,
        default=1,
        metavar="N",
        help="the same, of the tests that are marked `dear` only",
    )
    parser.addoption(
        "--any",
        action="store_true",
        help="any case will do, not one of each kind (the mark `kind`); and no test that is marked "
        "`dear` and has no cases",
    )
    parser.addoption(
        "--besides",
        metavar="N[,M][,any]",
        help="leave out what runs with --every=N --dear=M, and --any",
    )


def pytest_collection_modifyitems(config, items):
    option = config.getoption
    chosen = _chosen(items, option("every"), max(option("every"), option("dear")), option("any"))
    if option("besides"):
        *numbers, last = option("besides").split(",")
        numbers += [last] if last != "any" else []
        every, *dear = map(int, numbers)
        chosen -= _chosen(items, every, max([every, *dear]), last == "any")
    left_out = [item for item in items if item not in chosen]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item in chosen]


def _chosen(items, every, dear, whichever):
    """The cases that stand for all of them."""
    tables = collections.defaultdict(list)
    for item in items:
        if item.get_closest_marker("late") and dear > LATE:
            continue
        tables[item.nodeid.partition("[")[0]].append(item)
    chosen = set()
    for cases in tables.values():
        if cases[0].get_closest_marker("dear"):
            if whichever and not hasattr(cases[0], "callspec"):
                continue
            count = -(-len(cases) // dear)
        else:
            count = max(1 if whichever else FEW, -(-len(cases) // every))
        chosen.update(_representatives(cases, count, whichever))
    return chosen


def _representatives(cases, count, whichever):
    """About ``count`` cases, chosen by a hash: with as many values of the parameters as they can

    have, and one of each kind, however many kinds there are, unless any will do.
    """
    cases = sorted(cases, key=lambda item: zlib.crc32(item.nodeid.encode()))
    seen, chosen, others = set(), [], []
    for item in cases:
        kinds = {("kind", mark.args) for mark in item.iter_markers("kind") if not whichever}
        values = kinds | set(item.callspec.indices.items() if hasattr(item, "callspec") else ())
        if kinds - seen or (len(chosen) < count and values - seen):
            seen |= values
            chosen.append(item)
        else:
            others.append(item)
    return chosen + others[: max(0, count - len(chosen))]


def kinds(values, name=str):
    """Values as parameters, each of a kind of its own: under Keras 3 none is left out."""
    return [
        pytest.param(value, id=name(value), marks=pytest.mark.kind(number))
        for number, value in enumerate(values)
    ]


def cases_by_family():
    """The configurations of every layer as parameters, a kind for each family."""
    from tfconv.catalog import family_name
    from tfconv.testing import layer_cases

    return [
        pytest.param(case, id=f"{number}-{name}", marks=pytest.mark.kind(family_name(name)))
        for number, case in enumerate(layer_cases())
        for name in [case.layer_class.__name__]
    ]


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef):
    """What tests share is made of the same numbers, whichever of them is the first."""
    if fixturedef.scope != "function":
        _seed()


@pytest.fixture(autouse=True)
def seeds():
    """Every test draws the same numbers every time."""
    _seed()


def _seed():
    """Sets the seeds of Python, NumPy and TensorFlow.

    A seed makes TensorFlow forget its kernels, and to make them again is a quarter of the tests'
    time: it gets none where no number was drawn since the last one.
    """
    from tensorflow.python.eager import context

    from tfconv._compat import keras

    eager = context.context()
    drawn_by = getattr(eager, "_rng", None)
    unused = drawn_by is not None and drawn_by.getstate() == random.Random(0).getstate()
    keeping = mock.patch.object(eager, "_set_global_seed") if unused else contextlib.nullcontext()
    with keeping:
        keras.utils.set_random_seed(0)


@pytest.fixture
def rng():
    """A generator of the test's own."""
    import numpy as np

    return np.random.default_rng(0)


@pytest.fixture(params=["native", "portable"])
def implementation(request):
    """Runs a test with the native ops and with their portable twins.

    The native library belongs to what is tested: where it is missing, the test fails.
    """
    import tfconv

    if request.param == "portable":
        with tfconv.portable():
            yield request.param
    else:
        require_native()
        yield request.param


def require_native():
    """Fails unless native ops serve."""
    import tfconv

    status = tfconv.native_status()
    assert status.in_force == "native", f"no native ops: {status.reason}"


@pytest.fixture
def native_module():
    """The Python wrappers of the native ops, without tfconv's own checks in front."""
    from tfconv.ops import native

    require_native()
    return native.library().module
