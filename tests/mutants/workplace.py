"""Where mutants live: a copy of the project, and a server of tests for each environment."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.mutants.mutations import Mutant


@dataclasses.dataclass(frozen=True)
class Environment:
    """One of the runs of pytest that a target of the Makefile makes.

    Attributes:
        name: Its name there.
        python: The interpreter.
        legacy: TF_USE_LEGACY_KERAS.
        arguments: pytest's.
    """

    name: str
    python: Path
    legacy: str
    arguments: tuple[str, ...]


def environments(root: Path, level: str) -> list[Environment]:
    """What `make test` would run: `run NAME PYTHON TF_USE_LEGACY_KERAS ARGUMENTS` in its recipe.

    Args:
        root: The project.
        level: How many cases of each test: LEVEL.
    """
    recipe = (root / "Makefile").read_text().partition("\ntest:")[2].partition("\n\n")[0]
    lines = re.findall(r"^\t(?:run \w|\w+=).*$", recipe, re.M)
    told = ["tell-runs:", "\t@run() { printf '%s\\n' \"$$(printf '%q ' \"$$@\")\"; }", *lines]
    command = ["make", "-s", "--eval", "\n".join(told), "tell-runs", f"LEVEL={level}"]
    said = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    return [
        Environment(name, root / python, legacy, ("tests", "--ignore=tests/gpu", *arguments))
        for name, python, legacy, *arguments in map(shlex.split, said.splitlines())
    ]


class Workplace:
    """A copy of the project in ``folder``, in which files may change.

    The working tree stays as it is; the copy is made anew each time.
    """

    def __init__(self, root: Path, folder: Path):
        self.root, self.folder, self.tree = root, folder, folder / "tree"
        shutil.rmtree(self.folder, ignore_errors=True)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=root, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        for name in filter(None, listed.split("\0")):
            if (root / name).is_file():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, self.tree / name)
        for built in [root / "tfconv/_native", *(root / "tfconv").glob("_kernels*.so")]:
            if built.exists():
                (self.tree / "tfconv" / built.name).symlink_to(built)
        self._servers: dict[str, subprocess.Popen] = {}

    @contextlib.contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        """The copy with the mutant in it."""
        file = self.tree / mutant.path
        source = file.read_bytes()
        _write(file, mutant.mutated(source))
        try:
            yield
        finally:
            _write(file, source)

    def ask(self, environment: Environment, limit: float, **request) -> dict:
        """Asks the environment's server, which is started when it is first needed."""
        server = self._servers.get(environment.name)
        if server is None or server.poll() is not None:
            server = self._servers[environment.name] = self._started(environment)
        server.stdin.write(json.dumps({**request, "limit": limit}) + "\n")
        server.stdin.flush()
        line = server.stdout.readline()
        if not line:
            raise RuntimeError(f"the server of {environment.name} ended: see {self.log}")
        return json.loads(line)

    @property
    def log(self) -> Path:
        """What the servers and pytest print."""
        return self.folder / "log.txt"

    def _started(self, environment: Environment) -> subprocess.Popen:
        subprocess.run(
            [environment.python, "-m", "compileall", "-q", "tfconv"], cwd=self.tree, check=True
        )
        with open(self.log, "a") as log:
            return subprocess.Popen(
                [environment.python, "tests/mutants/server.py", self.log],
                cwd=self.tree, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                env={**os.environ, "TF_USE_LEGACY_KERAS": environment.legacy},
            )  # fmt: skip

    def close(self) -> None:
        for server in self._servers.values():
            server.terminate()
            server.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def _write(file: Path, source: bytes) -> None:
    """Python takes compiled files by time and size, which need not differ."""
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
        compiled.unlink()
    file.write_bytes(source)
