"""Which tests could see a mutant, and which of them to ask first: measured, then kept in build/."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.mutants.mutations import Mutant

# Seconds of tests that run together: first those that are quick to say no, at last all others.
BATCHES = (6, 40, float("inf"))


def file_of(test: str) -> str:
    return test.partition("::")[0]


class Sight:
    """The lines that every test runs.

    Lines are known by their text and the function they stand in, so that what was measured stays
    good where other lines of a file change.
    """

    def __init__(self, root: Path, sources: list[str], folder: Path):
        self.root, self.sources, self.folder = root, sources, folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.seconds: dict[str, float] = {}
        self.failing: set[str] = set()
        self.skipped: set[str] = set()  # where they were measured: elsewhere they may take long
        self.tests: dict[int, set[str]] = defaultdict(set)
        self._lines: dict[str, dict[int, tuple[str, int]]] = {}
        self._known: dict[str, set[int]] = {}  # lines that there were at a time
        self._times: dict[str, str] = {}  # when each test was measured
        self._digests: dict[str, str] = {}
        for path in sorted(folder.glob("*.json")):
            record = json.loads(path.read_text())
            if record["digest"] == self.digest(record["file"]) and "skipped" in record:
                self._take(record)

    def digest(self, file: str) -> str:
        """Of a file of tests: another one where the file has changed."""
        if file not in self._digests:
            path = self.root / file
            content = path.read_bytes() if path.exists() else b""
            self._digests[file] = hashlib.sha256(content).hexdigest()[:16]
        return self._digests[file]

    def missing(self, tests: Iterable[str]) -> dict[str, list[str]]:
        """Tests that have not been measured, by file."""
        result = defaultdict(list)
        for test in tests:
            if test not in self.seconds and test not in self.skipped:
                result[file_of(test)].append(test)
        return dict(result)

    def note(self, file: str, answer: dict) -> None:
        """Keeps what was measured of some tests of a file."""
        names = list(answer["tests"])
        lines = defaultdict(list)
        for number, name in enumerate(names):
            for path, ran in answer["tests"][name]["lines"].items():
                for line in ran:
                    if line in self.lines(path):
                        lines[self.lines(path)[line][1]].append(number)
        record = {
            "file": file,
            "digest": self.digest(file),
            "time": self._now(),
            "tests": names,
            "seconds": [answer["tests"][name]["seconds"] for name in names],
            "failing": answer["failed"],
            "skipped": answer["skipped"],
            "lines": {str(key): sorted(set(numbers)) for key, numbers in lines.items()},
        }
        text = json.dumps(record)
        name = f"{file.replace('/', '.')}.{zlib.crc32(text.encode()):08x}.json"
        (self.folder / name).write_text(text)
        self._take(record)

    def _take(self, record: dict) -> None:
        self.failing.update(record["failing"])
        self.skipped.update(record["skipped"])
        for test, seconds in zip(record["tests"], record["seconds"]):
            if test not in self.skipped:
                self.seconds[test] = seconds
        self._times.update(dict.fromkeys(record["tests"], record["time"]))
        for key, numbers in record["lines"].items():
            self.tests[int(key)].update(record["tests"][number] for number in numbers)

    def _now(self) -> str:
        """A name for the lines of all sources as they are."""
        paths = [p for folder in self.sources for p in sorted((self.root / folder).rglob("*.py"))]
        names = [path.relative_to(self.root).as_posix() for path in paths]
        text = json.dumps(sorted({key for name in names for _, key in self.lines(name).values()}))
        name = f"lines.{zlib.crc32(text.encode()):08x}"
        (self.folder / name).write_text(text)
        return name

    def _known_to(self, test: str) -> set[int]:
        name = self._times[test]
        if name not in self._known:
            self._known[name] = set(json.loads((self.folder / name).read_text()))
        return self._known[name]

    def lines(self, path: str) -> dict[int, tuple[str, int]]:
        """Of each line in a function of a source: the function's name, and the line's key."""
        if path not in self._lines:
            text = (self.root / path).read_text(encoding="utf-8")
            lines = [line.strip() for line in text.splitlines()]
            self._lines[path] = {
                number: (scope, zlib.crc32("\0".join((path, scope, lines[number - 1])).encode()))
                for number, scope in _scopes(ast.parse(text))
            }
        return self._lines[path]

    def seers(self, mutant: Mutant, elsewhere: bool = False) -> set[str]:
        """Tests that run the mutant's lines, or may run them.

        May: those that run something of the same function or class, or else of the same file.
        That counts for what is run at import (defaults, attributes of classes), for lines that are
        newer than the measurement, and in another environment than that of the measurement.
        """
        lines, inside = self.lines(mutant.path), f"{mutant.scope}."
        own = {lines[n][1] for n in range(mutant.lines[0], mutant.lines[1] + 1) if n in lines}
        around = {key for scope, key in lines.values() if f"{scope}.".startswith(inside)}
        seers = self._running(own)
        may = self._running(around) or self._running({key for _, key in lines.values()})
        if own and (seers or not elsewhere):
            may = {test for test in may if not own <= self._known_to(test)}
        return seers | may

    def _running(self, keys: Iterable[int]) -> set[str]:
        return set().union(*(self.tests[key] for key in keys if key in self.tests))

    def batches(
        self, mutant: Mutant, tests: Iterable[str], elsewhere: bool = False
    ) -> list[list[str]]:
        """The tests that could see the mutant, those first that will most likely and soon."""
        tests = [test for test in tests if test not in self.failing]
        seers = self.seers(mutant, elsewhere)
        # Where tests share what they made, only the first of them is seen making it.
        sharing = {file for file in map(file_of, seers) if self._shares(file)}
        candidates = [
            test
            for test in tests
            if test in seers
            or (test not in self.seconds and (elsewhere or test not in self.skipped))
            or file_of(test) in sharing
        ]
        rounds: dict[str, int] = defaultdict(int)
        places = {}
        for test in sorted(candidates, key=lambda test: (self.seconds.get(test, 60), test)):
            function = test.partition("[")[0]
            rounds[function] += 1
            seconds = self.seconds.get(test, 60) + 0.05
            far = 1 if _close(mutant, test) else 5
            places[test] = seconds * rounds[function] * far * (1 if test in seers else 20)
        result, spent, limits = [[]], 0.0, iter(BATCHES)
        limit = next(limits)
        for test in sorted(candidates, key=places.get):
            spent += self.seconds.get(test, 5)
            if spent > limit and result[-1]:
                limit, spent = next(limits), 0.0
                result.append([])
            result[-1].append(test)
        return result if candidates else []

    def _shares(self, file: str) -> bool:
        text = (self.root / file).read_text(encoding="utf-8")
        return re.search(r"functools\.(lru_)?cache|scope=", text) is not None


def _close(mutant: Mutant, test: str) -> bool:
    path, file = Path(mutant.path), Path(file_of(test))
    return path.stem in file.stem or bool({*file.parts[:-1]} & {*path.parts[1:-1]})


def _scopes(node: ast.AST, scope: tuple[str, ...] = ()) -> Iterator[tuple[int, str]]:
    """The lines of functions, without their first ones, and the functions' names."""
    for child in ast.iter_child_nodes(node):
        inner = scope
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            inner = (*scope, child.name)
            if not isinstance(child, ast.ClassDef):
                for number in range(child.body[0].lineno, child.end_lineno + 1):
                    yield number, ".".join(inner)
        yield from _scopes(child, inner)
