"""Processes that do the work, so that libraries do not meet in one and only one runs at a time."""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import statistics
import time
import traceback
from collections.abc import Callable
from typing import Any

from benchmarks.cases import Rival

# Seconds that a turn's calls are repeated for.
TURN = 0.03
# Seconds from which a call needs no other to warm up for it.
LONG = 0.2


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def turn(run: Callable[[], object]) -> float:
    """Seconds of a call: the median of those of a turn.

    The first call wakes threads and fills caches; it counts only if it is so long that this does
    not matter.
    """
    first = seconds(run)
    if first > LONG:
        return first
    times = [seconds(run)]
    end = time.perf_counter() + TURN
    while time.perf_counter() < end:
        times.append(seconds(run))
    return statistics.median(times)


def rest() -> None:
    """Returns when no thread of this process spins any more, waiting for work."""
    for _ in range(100):
        start = time.process_time()
        time.sleep(0.003)
        if time.process_time() - start < 0.0003:
            return


def _serve(connection: multiprocessing.connection.Connection, engine: str, threads: int) -> None:
    """Answers a `Worker`'s requests until it is ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process says when to end
    runs = {}
    try:
        host = importlib.import_module(f"benchmarks.{engine}_rivals").Engine(threads)

        def prepare(rival):
            runs[rival] = host.prepare(rival)
            runs[rival]()  # the first call allocates
            return seconds(runs[rival])

        def take_turn(rival):
            found = turn(runs[rival])
            rest()
            return found

        answers = {
            "describe": lambda: host.description,
            "prepare": prepare,
            "turn": take_turn,
            "extra_bytes": lambda rival: host.extra_bytes(runs[rival]),
            "forget": runs.clear,
            "results": lambda rival: host.results(rival),
        }
        connection.send(None)
        while True:
            question, *arguments = connection.recv()
            connection.send(answers[question](*arguments))
    except Exception:
        connection.send(WorkerError(traceback.format_exc()))


class WorkerError(Exception):
    """What went wrong in a worker: its traceback."""


class Worker:
    """A process with one of the engines, `benchmarks.<engine>_rivals`, and so many threads."""

    def __init__(self, engine: str, threads: int):
        # Of NumPy's library, whose threads nobody asked for.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        # TensorFlow's fastest kernels are the peers, on every processor; and the allocator that
        # comes with them counts memory.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, engine, threads), daemon=True)
        self._process.start()
        theirs.close()
        self._answer()

    def ask(self, question: str, *arguments: Any) -> Any:
        self._connection.send((question, *arguments))
        return self._answer()

    def _answer(self) -> Any:
        answer = self._connection.recv()
        if isinstance(answer, WorkerError):
            raise answer
        return answer

    def close(self) -> None:
        self._process.terminate()
        self._process.join()


class Workers:
    """One worker for each engine and number of threads, started when first asked for."""

    def __init__(self):
        self._workers: dict[tuple[str, int], Worker] = {}

    def of(self, rival: Rival) -> Worker:
        key = rival.engine, rival.threads
        if key not in self._workers:
            self._workers[key] = Worker(*key)
        return self._workers[key]

    def descriptions(self) -> list[str]:
        """What the engines are, each once."""
        return list(dict.fromkeys(worker.ask("describe") for worker in self._workers.values()))

    def forget(self) -> None:
        """Lets all of them drop what they have prepared."""
        for worker in self._workers.values():
            worker.ask("forget")

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
