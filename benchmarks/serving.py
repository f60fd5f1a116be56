"""Latency and throughput of served models: tfconv's layers beside Keras's own.

    python -m benchmarks.serving            # about six minutes
    python -m benchmarks.serving --rounds 3 --seconds 1

The models are exported by `to_saved_model` and served by tests/serving/host.py, each in a process
of its own, and asked by the stubs of tensorflow-serving-api. They take turns, so that what slows
the machine for a while slows all of them. What is being done is said on standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # on every processor, for both sides

import numpy as np  # noqa: E402

import tfconv  # noqa: E402
from benchmarks import machine  # noqa: E402
from tests.serving.client import Client, host, predict_request  # noqa: E402
from tfconv._compat import keras, tensorflow_version  # noqa: E402
from tfconv.export import to_saved_model  # noqa: E402

CLIENTS = 8
BATCH = 8
_SIZE = (32, 32, 3)
_LEAST_REQUESTS = 20


def network(depthwise, strided, plain) -> keras.Model:
    """A small network with three places for layers: 32 to 32, 32 to 64 and 64 to 64 channels."""
    inputs = keras.Input(_SIZE)
    x = keras.layers.Conv2D(32, 3, padding="same", activation="relu")(inputs)
    for layer in (depthwise, strided, plain):
        x = layer(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))


def stock(layers=keras.layers) -> keras.Model:
    """The network of Keras's layers, or of tfconv's that have their names."""
    same = {"padding": "same", "activation": "relu"}
    return network(
        layers.DepthwiseConv2D(7, **same),
        layers.Conv2D(64, 3, strides=2, **same),
        layers.Conv2D(64, 3, **same),
    )


def own() -> keras.Model:
    """The network with the layers that Keras has not."""
    same = {"padding": "same", "activation": "relu"}
    return network(
        tfconv.Involution2D(7, group_channels=16),
        tfconv.DeformableConv2D(64, 3, strides=2, **same),
        tfconv.CondConv2D(64, 3, num_experts=4, **same),
    )


@dataclasses.dataclass
class Served:
    """A model that is served, and its figures by round.

    Attributes:
        name: What it is made of.
        port: Of its host.
        latencies: Milliseconds of single requests with one image, a list for each round.
        rates: Images per second, for each round.
    """

    name: str
    port: int
    latencies: list[list[float]] = dataclasses.field(default_factory=list)
    rates: list[float] = dataclasses.field(default_factory=list)

    def percentile(self, percent: float) -> float:
        """Of all latencies."""
        return float(np.percentile(np.concatenate(self.latencies), percent))

    def take_turn(self, seconds: float) -> None:
        """One client with one image at a time; then several with batches."""
        images = np.random.default_rng(0).normal(size=(BATCH, *_SIZE)).astype(np.float32)
        one, many = (predict_request({"inputs": images[:n]}) for n in (1, BATCH))
        times = []
        limit = time.monotonic() + seconds
        with Client(self.port) as client:
            while len(times) < _LEAST_REQUESTS or time.monotonic() < limit:
                start = time.perf_counter()
                client.predict(one)
                times.append(1000 * (time.perf_counter() - start))
        self.latencies.append(times)

        def ask(client: Client) -> int:
            answers = 0
            while time.monotonic() < limit:
                client.predict(many)
                answers += 1
            return answers

        with contextlib.ExitStack() as scope:
            clients = [scope.enter_context(Client(self.port)) for _ in range(CLIENTS)]
            for client in clients:  # connects
                client.predict(many)
            pool = scope.enter_context(ThreadPoolExecutor(CLIENTS))
            begin = time.perf_counter()
            limit = time.monotonic() + seconds
            answers = sum(pool.map(ask, clients))
            self.rates.append(BATCH * answers / (time.perf_counter() - begin))


def ratio(mine: list[float], theirs: list[float]) -> float:
    """Median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(mine, theirs))


def table(served: list[Served]) -> str:
    """The figures in Markdown; ratios are over the first model's of the same round."""
    lines = [
        "| model | latency p50, ms | p99, ms | ratio of p50 | images/s | ratio |",
        "|---|---|---|---|---|---|",
    ]
    medians = {id(s): [statistics.median(turn) for turn in s.latencies] for s in served}
    for s in served:
        latency = ratio(medians[id(s)], medians[id(served[0])])
        rate = ratio(s.rates, served[0].rates)
        lines.append(
            f"| {s.name} | {s.percentile(50):.1f} | {s.percentile(99):.1f} | {latency:.2f} | "
            f"{statistics.median(s.rates):.0f} | {rate:.2f} |"
        )
    return "\n".join(lines)


def take_turns(served: list[Served], rounds: int, seconds: float, minutes: float) -> int:
    """Rounds in which every model has a turn; says how many there were when time was up."""
    start = time.monotonic()
    for done in range(1, rounds + 1):
        for model in served:
            model.take_turn(seconds)
        spent = time.monotonic() - start
        left = (rounds - done) * spent / done
        say(f"round {done} of {rounds}; {left:.0f} s left")
        if spent * (done + 1) / done > 60 * minutes:
            break
    return done


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each model (15)")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each half of a turn (1.5)")
    parser.add_argument("--minutes", type=float, default=10, help="of all turns at most (10)")
    arguments = parser.parse_args()
    others = "involution, deformable, CondConv"
    models: dict[str, tuple[Callable[[], keras.Model], dict[str, bool]]] = {
        "Keras's layers": (stock, {}),
        "tfconv's layers of the same names": (lambda: stock(tfconv), {}),
        f"{others}: stock ops": (own, {}),
        f"{others}: stock ops, compiled by XLA": (own, {"jit_compile": True}),
    }
    library = tfconv.native_status().library
    if library is not None:
        models[f"{others}: native ops"] = (own, {"keep_native": True})
    with contextlib.ExitStack() as scope:
        folder = Path(scope.enter_context(tempfile.TemporaryDirectory()))
        served = []
        batching = {"max_batch_size": BATCH, "allowed_batch_sizes": [1, BATCH]}
        warmup = [np.zeros([size, *_SIZE], np.float32) for size in (1, BATCH)]
        for number, (name, (make, form)) in enumerate(models.items()):
            say(f"model {number + 1} of {len(models)}: {name}")
            path = folder / str(number)
            to_saved_model(make(), path, warmup=warmup, batching=batching, **form)
            options = ["--library", library] if "keep_native" in form else []
            served.append(Served(name, scope.enter_context(host(path, *options))))
        rounds = take_turns(served, arguments.rounds, arguments.seconds, arguments.minutes)
    command = shlex.join(["python", "-m", "benchmarks.serving", *sys.argv[1:]])
    facts = machine.description(command, [f"TensorFlow {tensorflow_version()}"])
    print("\n".join(f"{name}: {fact}" for name, fact in facts.items()), end="\n\n")
    print(f"{rounds} rounds; images/s of {CLIENTS} clients with batches of {BATCH}:\n")
    print(table(served))
    return 0


if __name__ == "__main__":
    sys.exit(main())
