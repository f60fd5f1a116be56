"""Starts tests/serving/host.py, and asks it with the stubs of tensorflow-serving-api."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

HOST = Path(__file__).with_name("host.py")
NAME = "net"
_START_SECONDS = 120


class Port(int):
    """Where a host listens to gRPC; `rest` is where to REST."""

    rest: int


@contextlib.contextmanager
def host(folder: Path, *options: str, name: str = NAME) -> Iterator[Port]:
    """Scope in which the versions in `folder` are served as the model `name`; yields the port."""
    process = subprocess.Popen(
        [sys.executable, "-I", str(HOST), name, str(folder), *options],
        env={"PATH": os.environ["PATH"], "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    timer = threading.Timer(_START_SECONDS, process.kill)
    timer.start()
    try:
        line = process.stdout.readline()
        timer.cancel()
        if not line.startswith("ports: "):
            raise RuntimeError(f"The host did not start. Received: {line!r}")
        number, rest = map(int, line.split()[1:])
        port = Port(number)
        port.rest = rest
        yield port
    finally:
        timer.cancel()
        process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            process.stdout.close()


class Client:
    """A connection of its own to a host."""

    def __init__(self, port: int):
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(f"localhost:{port}", options=options)
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_) -> None:
        self.channel.close()

    def predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        return self.prediction.Predict(request, timeout=60)

    def version(self, name: str = NAME) -> int:
        """The version of the model that answers now."""
        states = get_model_status_pb2.ModelVersionStatus
        (version,) = (n for n, state in self.states(name).items() if state == states.AVAILABLE)
        return version

    def states(self, name: str = NAME) -> dict[int, int]:
        """The states of all versions that the host knows."""
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = name
        found = self._models.GetModelStatus(request, timeout=60).model_version_status
        return {status.version: status.state for status in found}

    def wait_for(self, version: int, name: str = NAME, seconds: float = 60) -> None:
        """Waits until a version answers."""
        limit = time.monotonic() + seconds
        while self.version(name) != version:
            assert time.monotonic() < limit, f"version {version} does not come"
            time.sleep(0.05)


def predict_request(
    inputs: Mapping[str, np.ndarray], signature: str = "", name: str = NAME
) -> predict_pb2.PredictRequest:
    """A request for the newest version of the model."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return request


def in_threads(count: int, work: Callable[[int], None]) -> list[threading.Thread]:
    """Starts `work(number)` in threads."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads
