"""Jobs in runtimes, each in processes of its own: what came of them."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.runtimes import jobs as jobs_module
from tests.runtimes.jobs import BOUNDS, TFLITE, Job

ROOT = Path(__file__).parents[2]
FORMATS = {
    "LiteRT": TFLITE,
    "LiteRT without XNNPACK": TFLITE,
    "LiteRT CompiledModel": TFLITE,
    "LiteRT.js": TFLITE,
    "tflite-micro": ("float32", "int8"),
    "ONNX Runtime": ("ONNX",),
    "ONNX Runtime web": ("ONNX",),
    "OpenVINO": ("ONNX", "SavedModel", "float32", "int8"),
}
PACKAGES = {
    "LiteRT": "ai_edge_litert",
    "LiteRT without XNNPACK": "ai_edge_litert",
    "LiteRT CompiledModel": "ai_edge_litert",
    "tflite-micro": "tflite_micro",
    "ONNX Runtime": "onnxruntime",
    "OpenVINO": "openvino",
}
_SECONDS = 600
_LONGEST = 160


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of a job: an error, or the reason why there is none."""

    job: Job
    error: float | None = None
    reason: str = ""

    @property
    def is_equal(self) -> bool:
        return self.error is not None and self.error <= BOUNDS[self.job.format]

    def __str__(self) -> str:
        if self.is_equal:
            return "equal"
        if self.error is not None:
            return f"other results: {self.error:.1e}" if self.error == self.error else "NaN"
        return self.reason


def is_installed(runtime: str) -> bool:
    return importlib.util.find_spec(PACKAGES[runtime]) is not None


def of_runtime(runtime: str, jobs: Sequence[Job]) -> list[Result]:
    """Runs the jobs whose formats the runtime has."""
    jobs = [job for job in jobs if job.format in FORMATS[runtime]]
    found: dict[int, Result] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "jobs.json"
        jobs_module.save(jobs, path)
        while len(found) < len(jobs):
            first = len(found)
            command = [sys.executable, "-m", "tests.runtimes.worker", runtime, path, first]
            done = subprocess.run(
                list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS
            )
            for line in done.stdout.splitlines():
                if line.startswith("{"):
                    said = json.loads(line)
                    number = said.pop("job")
                    found[number] = result(jobs[number], **said)
            if len(found) < len(jobs):  # that one ended the process
                reason = f"ends the process ({done.returncode}): {last_words(done.stderr)}"
                found[len(found)] = Result(jobs[len(found)], None, reason)
    return [found[number] for number in range(len(jobs))]


def result(job: Job, error: float | None = None, reason: str = "") -> Result:
    return Result(job, math.nan if error is None and not reason else error, shortened(reason))


def last_words(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return shortened(lines[-1]) if lines else "no word"


def shortened(reason: str) -> str:
    """A reason without what differs from run to run."""
    reason = re.sub(r"\s+", " ", re.sub(r"(/[\w.+-]+){2,}|0x[0-9a-f]+", "...", reason))
    return reason[:_LONGEST].strip()
