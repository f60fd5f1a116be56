"""The same bits for any number of threads; the same numbers with any instruction set."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests.ops.fingerprint import hashes, results

ROOT = pathlib.Path(__file__).parents[2]

results_here = functools.cache(results)


def fingerprint(path, threads, isa):
    """Starts the program `tests.ops.fingerprint`."""
    environment = {**os.environ, "TFCONV_ISA": isa}
    command = [sys.executable, "-m", "tests.ops.fingerprint", str(threads), str(path)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run(folder, *keys):
    """What the program says and saves for each (threads, instruction set), run side by side."""
    files = [folder / f"{threads}{isa}.npz" for threads, isa in keys]
    started = [fingerprint(path, *key) for path, key in zip(files, keys)]
    for path, process in zip(files, started):
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()
        yield json.loads(output), np.load(path)


@pytest.mark.late
def test_threads(tmp_path, native_module):
    """One and four threads give what this process gives with two."""
    assert tf.config.threading.get_intra_op_parallelism_threads() == 2
    expected = hashes(results_here())
    for said, _ in run(tmp_path, (1, ""), (4, "")):
        assert said["hashes"] == expected


@pytest.mark.late
def test_instruction_sets(tmp_path, native_module):
    expected = results_here()
    values = np.arange(1024, dtype=np.uint16).view(np.float16)
    np.testing.assert_array_equal(expected["subnormal/float16/y"].ravel(), values)
    tolerances = {"float16": 1e-3, "bfloat16": 1e-2, "float32": 1e-5, "float64": 1e-12}
    isas = [isa for isa in ("base", "avx2") if isa in tfconv.native_status().isas]
    runs = list(run(tmp_path, *((2, isa) for isa in isas)))
    for said, isa in zip(runs, isas):
        assert said[0]["isa"] in (isa, "base")  # as far as the machine has it
    for said, actual in runs:
        assert sorted(actual.files) == sorted(expected)
        for name, array in expected.items():
            tolerance = tolerances[name.split("/")[1]]
            error = np.abs(actual[name] - array).max() / np.abs(array).max()
            assert error < tolerance, f"{said['isa']}: {name} differs by {error}"
