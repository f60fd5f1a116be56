"""Every layer in every runtime: `python -m tests.runtimes` writes docs/runtime_table.md."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

from tests.runtimes import browser, jobs, running  # noqa: E402
from tests.runtimes.jobs import TFLITE  # noqa: E402
from tests.runtimes.running import FORMATS, Result  # noqa: E402

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "runtime_table.md"
HEAD = """# Layers in other runtimes

Made by `make test-runtimes`: every layer as a model of its own, for one example at a time, in each
format that a runtime reads. "all": the outputs are those of Keras, or for int8 those of the plain
kernels of LiteRT. Otherwise the formats of which that holds, and of the others the number of the
reason, which stands below.

"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="names of layers; the table is printed then")
    parser.add_argument("--runtimes", nargs="*", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "runtimes")
    given = parser.parse_args(arguments)
    made = []
    formats = [*TFLITE, "ONNX", "SavedModel"]
    for layer, shape in jobs.layers():
        if not given.only or type(layer).__name__ in given.only:
            made += jobs.made(layer, shape, given.folder, formats)
            print(type(layer).__name__, flush=True)
    results, missing = {}, {}
    modules = given.folder / "node_modules"
    for runtime in given.runtimes:
        if runtime in browser.PACKAGES:
            if browser.chromium() is None or not (modules / browser.PACKAGES[runtime]).is_dir():
                missing[runtime] = "needs Chromium, and npm's package"
                continue
            results[runtime] = browser.of_runtime(runtime, made, modules)
        elif not running.is_installed(runtime):
            missing[runtime] = f"needs the package {running.PACKAGES[runtime]}"
            continue
        else:
            results[runtime] = running.of_runtime(runtime, made)
        equal = sum(result.is_equal for result in results[runtime])
        print(f"{runtime}: {equal} of {len(results[runtime])}", flush=True)
    page = table(results, missing, modules)
    if given.only:
        print(page)
    else:
        PAGE.write_text(page, encoding="utf-8")
    return 0


def table(results: dict[str, list[Result]], missing: dict[str, str], modules: Path) -> str:
    """The page."""
    rows: dict[str, dict[str, list[Result]]] = {}
    for runtime, found in results.items():
        for result in found:
            rows.setdefault(result.job.layer, {}).setdefault(runtime, []).append(result)
    reasons: dict[str, int] = {}
    lines = [f"| layer | {' | '.join(results)} |", f"|---|{'---|' * len(results)}"]
    for layer, of_runtimes in rows.items():
        cells = [cell(of_runtimes.get(runtime, []), reasons) for runtime in results]
        lines.append(f"| {layer} | {' | '.join(cells)} |")
    lines += ["", *(f"{number}. {reason}" for reason, number in reasons.items())]
    lines += ["", "| runtime | version | equal |", "|---|---|---|"]
    for runtime, found in results.items():
        equal = sum(result.is_equal for result in found)
        lines.append(f"| {runtime} | {version(runtime, modules)} | {equal} of {len(found)} |")
    lines += [f"| {runtime} | not run: {why} | |" for runtime, why in missing.items()]
    return HEAD + "\n".join(lines) + "\n"


def cell(results: Sequence[Result], reasons: dict[str, int]) -> str:
    """What came of a layer's files in a runtime."""
    if not results:
        return "-"
    others = [result for result in results if not result.is_equal]
    if not others:
        return "all" if len(results) > 1 else results[0].job.format
    words = [result.job.format for result in results if result.is_equal]
    for result in others:
        reason = str(result).replace("|", "\\|")
        words.append(f"no {result.job.format} ({reasons.setdefault(reason, len(reasons) + 1)})")
    return "<br>".join(words)


def version(runtime: str, modules: Path) -> str:
    if runtime in browser.PACKAGES:
        package = modules / browser.PACKAGES[runtime] / "package.json"
        return json.loads(package.read_text())["version"]
    return importlib.metadata.version(running.PACKAGES[runtime])


if __name__ == "__main__":
    raise SystemExit(main())
