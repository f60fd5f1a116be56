"""Runs jobs in one runtime and writes a line of JSON for each: `python -m tests.runtimes.worker`.

A process of its own, since some runtimes end theirs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.runtimes import jobs
from tests.runtimes.runners import RUNNERS


def main(runtime: str, path: str, first: str) -> None:
    run = RUNNERS[runtime]
    for number, job in list(enumerate(jobs.load(Path(path))))[int(first) :]:
        try:
            made = run(job.path, job.given(), job.outputs)
            found = {"error": job.error(made)}
        except Exception as error:  # whatever a runtime has to say
            found = {"reason": f"{type(error).__name__}: {error}"}
        print(json.dumps({"job": number, **found}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
