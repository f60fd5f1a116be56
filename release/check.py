"""Installs the wheel of `make wheels` where there is no compiler, under version after version.

    python release/check.py --wheels build/wheels/some 2.15 2.21  # make wheels-test
    python release/check.py --layers docs/versions.md         # make release-check

In one environment, whose PATH has nothing else, TensorFlow is exchanged for the next version and
tfconv stays: its native ops are to be in force, and a model to train. With --layers, all checks of
`tfconv layers` are run too, and written into a table. In the end TensorFlow claims to be of a
version that no library was built for.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tensorflows import CACHE, ROOT, VERSIONS, fetch, package

TRAIN = """
import numpy as np
import tensorflow as tf
import tfconv
from tensorflow import keras

keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(64, 8, 8, 4)).astype(np.float32)
y = (x.mean(axis=(1, 2)) @ np.ones(4) > 0).astype(np.int32)
inputs = keras.Input((8, 8, 4))
z = tfconv.Involution2D(3, group_channels=2)(inputs)
z = tfconv.DeformableConv2D(8, 3)(z)
z = tfconv.CondConv2D(8, 3, num_experts=2)(z)
z = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(z))
model = keras.Model(inputs, z)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(0.01), loss)
losses = model.fit(x, y, epochs=8, verbose=0).history["loss"]
assert losses[-1] < 0.7 * losses[0], losses
print(f"    trains: loss {losses[0]:.2f} -> {losses[-1]:.2f}")
"""
FUTURE = """
import warnings
import tensorflow as tf
tf.__version__ = "2.99.0"
import tfconv
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for _ in range(2):
        tfconv.Involution2D(3, group_channels=2)(tf.zeros((1, 4, 4, 2)))
said = [w for w in said if w.category is RuntimeWarning]
assert len(said) == 1 and "2.99.0 is running" in str(said[0].message), said
assert tfconv.native_status().in_force == "portable"
print("TensorFlow 2.99.0: portable, after one warning")
"""


class Environment:
    """A virtual environment without a compiler on its PATH."""

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        self.folder = folder
        self.variables = {"PATH": str(folder / "bin"), "HOME": str(folder), "LANG": "C.UTF-8"}
        assert shutil.which("g++", path=self.variables["PATH"]) is None

    def run(self, program: str, *arguments: str, failing: bool = False) -> str:
        """What a program of the environment prints."""
        done = subprocess.run(
            [self.folder / "bin" / program, *arguments],
            env=self.variables,
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0 and not failing:
            raise SystemExit(
                f"{program} {' '.join(arguments[:3])} failed:\n{done.stdout}{done.stderr}"
            )
        return done.stdout

    def install(self, *arguments: str) -> float:
        """Seconds that pip takes."""
        start = time.monotonic()
        self.run("pip", "install", "-q", "--find-links", str(CACHE), *arguments)
        return time.monotonic() - start


def check(environment: Environment, version: str) -> None:
    """Native ops are in force, with the library that the wheel brought, and a model trains."""
    status = json.loads(environment.run("tfconv", "status", "--json"))
    native = status["native"]
    assert status["tensorflow"].startswith(f"{version}."), status
    assert native["in_force"] == "native" and native["built_with"].startswith(f"{version}."), status
    assert Path(native["library"]).is_relative_to(environment.folder), status
    assert status["rebuild"] is None, status
    print(f"  TensorFlow {status['tensorflow']}, Keras {status['keras']}: native, {native['isa']}")
    print(environment.run("python", "-c", TRAIN), end="", flush=True)


def table(found: dict[str, list[dict]]) -> str:
    """Layers by versions: how many checks passed, of how many."""
    rows: dict[str, list[str]] = {}
    for families in found.values():
        for family in families:
            count = sum(family["checks"].values())
            failed = sum(map(len, family["failures"].values()))
            text = f"**{count - failed} of {count}**" if failed else str(count)
            rows.setdefault(family["family"], []).append(text)
    lines = [
        "# Layers under versions of TensorFlow\n",
        "How many checks (`tfconv layers`) each layer passes in all its configurations, under",
        "every version of TensorFlow that wheels have native ops for. Where some fail, it says of",
        "how many. Made by `make release-check`.\n",
        f"| layer | {' | '.join(found)} |",
        "|---" * (len(found) + 1) + "|",
        *(f"| `{name}` | {' | '.join(cells)} |" for name, cells in rows.items()),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("versions", nargs="*", default=VERSIONS, help="of TensorFlow; all")
    parser.add_argument("--wheels", type=Path, default=ROOT / "dist", help="folder of the wheel")
    parser.add_argument("--layers", metavar="FILE", type=Path, help="write the table of layers")
    arguments = parser.parse_args()
    machine = platform.machine()
    wheels = list(arguments.wheels.resolve().glob(f"tfconv-*-manylinux*_{machine}.whl"))
    if len(wheels) != 1:
        raise SystemExit(f"error: there must be one wheel in {arguments.wheels}: {wheels}")
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()[:16]
    environment = Environment(ROOT / "build" / "release")
    found: dict[str, list[dict]] = {}
    for number, version in enumerate(arguments.versions):
        fetch(version, machine)
        seconds = environment.install(f"{package(version, machine)}=={version}.*")
        print(f"TensorFlow {version}: installed in {seconds:.0f} s", flush=True)
        if number == 0:
            seconds = environment.install(str(wheels[0]))
            print(f"  {wheels[0].name}: installed in {seconds:.1f} s")
        check(environment, version)
        if arguments.layers:
            start = time.monotonic()
            known = ROOT / "build" / "release-checks" / f"{version}-{digest}.json"
            if not known.is_file():  # an interrupted run goes on
                told = environment.run("tfconv", "layers", "--check", "--json", failing=True)
                json.loads(told)
                known.parent.mkdir(parents=True, exist_ok=True)
                known.write_text(told, encoding="utf-8")
            found[version] = json.loads(known.read_text(encoding="utf-8"))
            print(f"    checks of the layers: {time.monotonic() - start:.0f} s", flush=True)
    print(environment.run("python", "-c", FUTURE), end="")
    if arguments.layers:
        arguments.layers.write_text(table(found), encoding="utf-8")
    failures = [
        f"{version}: {text}"
        for version, families in found.items()
        for family in families
        for texts in family["failures"].values()
        for text in texts
    ]
    print("\n".join(failures))
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
