"""The command: draws mutants, runs tests on each, tells what survives."""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from tests.mutants import __doc__ as description
from tests.mutants.mutations import Mutant, draw
from tests.mutants.sight import Sight, file_of
from tests.mutants.workplace import Environment, Workplace, environments

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = [
    f"tfconv/{name}" for name in ("ops", "export", "surgery", "analysis", "blocks", "layers")
]
LEVELS = ["fast", "more", "all"]
BUILD = ROOT / "build" / "mutants"
RESULTS = ROOT / "build" / "mutants.json"
# Seconds that tests may take longer than they did when they were measured; then they are stopped.
PATIENCE = 60


class Trial:
    """Mutants against the tests of some environments.

    Attributes:
        results: What became of each mutant, by its key; kept in a file.
    """

    def __init__(self, places: list[Workplace], chosen: list[Environment], sight: Sight):
        self.places: queue.Queue[Workplace] = queue.Queue()
        for place in places:
            self.places.put(place)
        self.environments, self.sight = chosen, sight
        self.results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        self.tests: dict[str, list[str]] = {}
        self.sound: dict[tuple[str, str], bool] = {}
        self.lock = threading.Lock()

    @contextlib.contextmanager
    def place(self) -> Iterator[Workplace]:
        place = self.places.get()
        try:
            yield place
        finally:
            self.places.put(place)

    def collect(self) -> None:
        """Finds the tests, and measures those of the first environment that are new."""
        with self.place() as place:
            for environment in self.environments:
                arguments = environment.arguments
                answer = place.ask(environment, 600, do="collect", arguments=arguments)
                if answer["code"] != 0:
                    print(*place.log.read_text().splitlines()[-15:], sep="\n")
                    raise SystemExit(f"{environment.name}: the tests cannot be collected")
                self.tests[environment.name] = answer["tests"]
                print(f"{environment.name}: {len(answer['tests']):,} tests", flush=True)

    def measure(self) -> None:
        first = self.environments[0]
        missing = self.sight.missing(self.tests[first.name])

        def measured(file: str) -> None:
            with self.place() as place:
                start = time.monotonic()
                answer = place.ask(
                    first, 3600, do="measure", files=[file], tests=missing[file], sources=FOLDERS
                )
            if "tests" not in answer:
                raise SystemExit(f"{file}: {answer}")
            self.sight.note(file, answer)
            seconds = time.monotonic() - start
            print(f"measured {file}: {len(answer['tests'])} tests in {seconds:.0f} s", flush=True)
            for test in answer["failed"]:
                print(f"left out, for it fails without a mutant: {test}", flush=True)

        with ThreadPoolExecutor(self.places.qsize()) as pool:
            list(pool.map(measured, missing))

    def run(self, mutant: Mutant) -> dict:
        """The mutant's result, from tests that have not yet passed on it."""
        result = self.results.get(mutant.key, {})
        if result.get("killed_by") and self._is_there(result):
            return result
        start, passed = time.monotonic(), result.get("passed", {})
        result = {"killed_by": None, "passed": passed, "seconds": result.get("seconds", 0)}
        for environment, batch in self._batches(mutant, passed):
            killer = self._killer(mutant, environment, batch)
            if killer:
                file = file_of(killer) if "::" in killer else None
                state = self.sight.digest(file) if file else None
                result.update(killed_by=killer, environment=environment.name, state=state)
                result["passed"] = {}
                break
            known = passed.setdefault(environment.name, {})
            for test in batch:
                state, file = self.sight.digest(file_of(test)), file_of(test)
                if known.get(file, [""])[0] != state:
                    known[file] = [state]
                known[file].append(test)
        result["seconds"] = round(result["seconds"] + time.monotonic() - start, 1)
        with self.lock:
            self.results[mutant.key] = result
            made = RESULTS.with_suffix(".new")
            made.write_text(json.dumps(self.results, indent=1))
            made.replace(RESULTS)
        return result

    def _is_there(self, result: dict) -> bool:
        """Whether the test that killed a mutant is still the same, and among those that run."""
        killer = result["killed_by"]
        if "::" not in killer:
            return True
        tests = self.tests.get(result["environment"], ())
        return killer in tests and self.sight.digest(file_of(killer)) == result["state"]

    def _batches(self, mutant: Mutant, passed: dict) -> Iterator[tuple[Environment, list[str]]]:
        for environment in self.environments:
            done = set()
            for file, (state, *tests) in passed.get(environment.name, {}).items():
                if state == self.sight.digest(file):
                    done.update(tests)
            tests = [test for test in self.tests[environment.name] if test not in done]
            elsewhere = environment is not self.environments[0]
            for batch in self.sight.batches(mutant, tests, elsewhere):
                yield environment, batch

    def _killer(self, mutant: Mutant, environment: Environment, batch: list[str]) -> str | None:
        """The first test of a batch that fails because of the mutant."""
        while batch:
            with self.place() as place, place.mutated(mutant):
                answer = self._ran(place, environment, batch)
            if not answer.get("failed"):
                return None if answer["code"] in (0, 5) else answer.get("said", "import")
            if self._passes(environment, answer["failed"][0]):
                return answer["failed"][0]
            batch = [test for test in batch if test != answer["failed"][0]]
        return None

    def _passes(self, environment: Environment, test: str) -> bool:
        """Whether a test passes without a mutant."""
        name = environment.name
        if name == self.environments[0].name and test in self.sight.seconds:
            return True
        if (name, test) not in self.sound:
            with self.place() as place:
                self.sound[name, test] = self._ran(place, environment, [test])["code"] == 0
            if not self.sound[name, test]:
                print(f"{name}: left out, for it fails without a mutant: {test}", flush=True)
        return self.sound[name, test]

    def _ran(self, place: Workplace, environment: Environment, batch: list[str]) -> dict:
        files = list(dict.fromkeys(map(file_of, batch)))
        limit = PATIENCE + 4 * sum(self.sight.seconds.get(test, 5) for test in batch)
        return place.ask(environment, limit, do="run", files=files, tests=batch)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--tests", choices=LEVELS, default="fast", help="`make test` of which LEVEL"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    parser.add_argument("--count", type=int, default=100, help="of mutants (default: 100)")
    parser.add_argument("--only", default="", help="mutants whose key or file starts with this")
    parser.add_argument("--list", action="store_true", help="print the mutants, and run nothing")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time (default: 1)")
    arguments = parser.parse_args()
    mutants = [
        mutant
        for mutant in draw(ROOT, FOLDERS, arguments.seed, arguments.count)
        if mutant.key.startswith(arguments.only) or mutant.path.startswith(arguments.only)
    ]
    reasons = equivalents()
    if arguments.list:
        for mutant in mutants:
            print(_title(mutant), mutant.diff((ROOT / mutant.path).read_bytes()), "", sep="\n")
        return
    chosen = [e for e in environments(ROOT, arguments.tests) if _exists(e)]
    places = []
    try:
        places += [Workplace(ROOT, BUILD / str(number)) for number in range(arguments.jobs)]
        trial = Trial(places, chosen, Sight(places[0].tree, FOLDERS, BUILD / "sight"))
        trial.collect()
        trial.measure()

        def run(mutant: Mutant) -> dict:
            reason = reasons.get((mutant.path, mutant.was, mutant.now))
            if reason:
                return {"equivalent": reason}
            result = trial.run(mutant)
            told = result["killed_by"] or "SURVIVES"
            print(f"{_title(mutant)}: {told} ({result['seconds']:.0f} s)", flush=True)
            return result

        with ThreadPoolExecutor(arguments.jobs) as pool:
            results = list(pool.map(run, mutants))
    finally:
        for place in places:
            place.close()
    _report(mutants, results)


def _exists(environment: Environment) -> bool:
    if not environment.python.exists():
        print(f"{environment.name} is left out: no {environment.python}")
    return environment.python.exists()


def equivalents() -> dict[tuple[str, ...], str]:
    """Why mutants change nothing, by their file and code."""
    entries = yaml.safe_load(Path(__file__).with_name("equivalents.yaml").read_text())
    return {
        tuple(" ".join(entry[name].split()) for name in ("file", "was", "now")): entry["reason"]
        for entry in entries
    }


def _title(mutant: Mutant) -> str:
    return f"{mutant.key} {mutant.path}:{mutant.lines[0]} {mutant.kind}"


def _report(mutants: list[Mutant], results: list[dict]) -> None:
    counts: dict[str, Counter] = {folder: Counter() for folder in [*FOLDERS, "all"]}
    for mutant, result in zip(mutants, results):
        fate = "equivalent" if "equivalent" in result else "killed"
        fate = fate if result.get("killed_by", "none") else "survives"
        for folder in counts:
            counts[folder][fate] += folder == "all" or mutant.path.startswith(f"{folder}/")
        if fate == "equivalent":
            print("", _title(mutant), f"equivalent: {result['equivalent']}", sep="\n")
        elif fate == "survives":
            print("", _title(mutant), mutant.diff((ROOT / mutant.path).read_bytes()), sep="\n")
    row = "{:16}{:>8}{:>9}{:>12}{:>21}".format
    print("\n" + row("", "killed", "survive", "equivalent", "killed of the others"))
    for name, count in counts.items():
        valid = count["killed"] + count["survives"]
        share = f"{count['killed'] / valid:.0%}" if valid else ""
        print(row(name, count["killed"], count["survives"], count["equivalent"], share))


if __name__ == "__main__":
    main()
