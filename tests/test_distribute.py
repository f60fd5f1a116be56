"""Training on several devices gives what training on one gives."""

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tfconv._compat import KERAS_3

# Keras 3 cannot fit under MultiWorkerMirroredStrategy, whatever the layers; a loop can.
LOOPS_OF_WORKERS = ["loop"] if KERAS_3 else ["fit", "loop"]


def start(how, loop="fit", **variables):
    """Starts tests/distributed_training.py."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.distributed_training", how, loop],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, **variables},
    )


def finished(process):
    """What it prints."""
    try:
        output, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-4000:]
    return json.loads(output.splitlines()[-1])


def free_ports(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="module")
def one():
    return finished(start("one"))


@pytest.mark.late
@pytest.mark.parametrize("loop", ["fit", "loop"])
def test_two_replicas_train_as_one_device(loop, one):
    two = finished(start("mirrored", loop))
    assert one["native"] == two["native"] == "native"
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-4)
    assert one["losses"][2] < one["losses"][0]
    # The replica without an image, the first, has left them at 2. Keras 3 takes what the first one
    # has, Keras 2 the mean.
    moved = np.array(one["averages"]) - 2
    assert np.abs(moved).min() > 0.01
    np.testing.assert_allclose(two["averages"], 2 + (0 if KERAS_3 else 0.5) * moved, rtol=1e-5)


@pytest.mark.late
@pytest.mark.parametrize("loop", LOOPS_OF_WORKERS)
def test_two_workers_train_as_one_device(loop, one):
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    running = [
        start("worker", loop, TF_CONFIG=json.dumps({"cluster": {"worker": workers}, "task": task}))
        for task in ({"type": "worker", "index": i} for i in range(2))
    ]
    for worker in [finished(process) for process in running]:
        np.testing.assert_allclose(worker["losses"], one["losses"], rtol=1e-4)
