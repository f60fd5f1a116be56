"""The machine that figures are of."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path


def processor_name() -> str:
    """The name of the processor's model."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(x for x in lines if x.startswith("model name")).partition(":")[2].strip()
    return platform.processor() or platform.machine()


def processor() -> str:
    """The processor's name and how many of them this process may use."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        count = os.cpu_count() or 1
    return f"{processor_name()}, {count} processor{'s' if count > 1 else ''}"
