"""How fast memory moves: copies and readings by NumPy, a part to each thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.cases import Rival


class Engine:
    """Prepares rivals named "copy" and "read". NumPy lets go of the interpreter in both."""

    def __init__(self, threads: int):
        self.threads = threads
        self.pool = ThreadPoolExecutor(threads)
        self.description = f"NumPy {np.__version__}"

    def prepare(self, rival: Rival) -> Callable[[], list[None]]:
        """What moves the bytes, as often as the case says."""
        count = rival.case.bytes // self.threads // 8  # floats a thread in each of two arrays
        pairs = [np.ones((2, count), np.float32) for _ in range(self.threads)]

        def copy(pair):
            for _ in range(rival.case.repeats):
                np.copyto(pair[0], pair[1])

        def read(pair):
            for _ in range(rival.case.repeats):
                np.dot(pair[0], pair[1])

        task = {"copy": copy, "read": read}[rival.name]
        return lambda: list(self.pool.map(task, pairs))
