"""Installs the wheel of `make wheels` where there is no compiler, under version after version.

    python release/check.py --wheels build/wheels/some 2.15 2.21  # make wheels-test
    python release/check.py --layers docs/versions.md         # make release-check

In one environment, whose PATH has nothing else, TensorFlow is exchanged for the next version and
tfconv stays: its native ops are to be in force, and a model to train. With --layers, one
configuration of each family goes through all checks of `tfconv layers`, some minutes a version, and
the table says what passes. An interrupted run goes on where it was. In the end TensorFlow claims to
be of a version that no library was built for.
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
from collections.abc import Sequence
from pathlib import Path

from tensorflows import CACHE, ROOT, VERSIONS, fetch, package

LEFT_OUT = (
    "Under TensorFlow 2.16 the check of TensorFlow Lite is left out: its own converter ends the",
    "process for models of Keras 3, those of Keras's layers included (TensorFlow's issue 63987).",
    "`tfconv.export.to_tflite` converts there, too.",
)
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
        self.run("pip", "install", "-q", "--no-compile", "--find-links", str(CACHE), *arguments)
        return time.monotonic() - start


def check(environment: Environment, version: str) -> dict:
    """Native ops are in force, with the library that the wheel brought, and a model trains."""
    status = json.loads(environment.run("tfconv", "status", "--json"))
    native = status["native"]
    assert status["tensorflow"].startswith(f"{version}."), status
    assert native["in_force"] == "native" and native["built_with"].startswith(f"{version}."), status
    assert Path(native["library"]).is_relative_to(environment.folder), status
    assert status["rebuild"] is None, status
    print(f"  TensorFlow {status['tensorflow']}, Keras {status['keras']}: native, {native['isa']}")
    print(environment.run("python", "-c", TRAIN), end="", flush=True)
    return status


def check_layers(environment: Environment, of_all: bool, names: Sequence[str] = ()) -> list[dict]:
    """What `tfconv layers` says of families of layers after its checks.

    Where the process ends without an answer, each half of the families is asked for by itself.
    """
    command = ["layers", *names, "--json", *([] if of_all else ["--one-each"])]
    told = environment.run("tfconv", *command, "--check", failing=True)
    if told:
        return json.loads(told)
    families = json.loads(environment.run("tfconv", *command))
    names = [family["family"] for family in families]
    if len(names) == 1:
        return [{**families[0], "failures": {"process": [f"{names[0]}: the process ended"]}}]
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    return [family for half in halves for family in check_layers(environment, of_all, half)]


def table(found: dict[str, dict], of_all: bool) -> str:
    """Layers by versions: how many checks passed, of how many."""
    rows: dict[str, list[str]] = {}
    for record in found.values():
        for family in record["families"]:
            count = sum(family["checks"].values())
            failed = sum(map(len, family["failures"].values()))
            text = f"**{count - failed} of {count}**" if failed else str(count)
            rows.setdefault(family["family"], []).append(text)
    heads = [f"{r['tensorflow']}<br>Keras {r['keras']}" for r in found.values()]
    lines = [
        "# Layers under versions of TensorFlow\n",
        "Made by `make release-check`: the wheel of `make wheels` beside each TensorFlow that it",
        "has native ops for, in an environment without a compiler. A row is a family of",
        "layers; the number is that of the checks of `tfconv layers` (files, training, mixed",
        "precision, XLA, native against portable ops, TensorFlow Lite, SavedModel and others) that",
        f"{'all its configurations' if of_all else 'one of its configurations'} passed; where some",
        "failed, it says of how many.\n",
        f"| layer | {' | '.join(heads)} |",
        "|---" * (len(found) + 1) + "|",
        *(f"| `{name}` | {' | '.join(cells)} |" for name, cells in rows.items()),
    ]
    if "2.16" in found:
        lines += ["", *LEFT_OUT]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("versions", nargs="*", default=VERSIONS, help="of TensorFlow; all")
    parser.add_argument("--wheels", type=Path, default=ROOT / "dist", help="folder of the wheel")
    parser.add_argument("--layers", metavar="FILE", type=Path, help="write the table of layers")
    parser.add_argument("--all", action="store_true", help="check all configurations of the layers")
    arguments = parser.parse_args()
    machine = platform.machine()
    wheels = list(arguments.wheels.resolve().glob(f"tfconv-*-manylinux*_{machine}.whl"))
    if len(wheels) != 1:
        raise SystemExit(f"error: there must be one wheel in {arguments.wheels}: {wheels}")
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()[:16]
    environment = None
    found: dict[str, dict] = {}
    for version in arguments.versions:
        known = f"{version}-{digest}{'-all' if arguments.all else ''}.json"
        known = ROOT / "build" / "release-checks" / known
        if arguments.layers and known.is_file():  # an interrupted run goes on
            found[version] = json.loads(known.read_text(encoding="utf-8"))
            print(f"TensorFlow {version}: has been checked", flush=True)
            continue
        fetch(version, machine)
        is_new = environment is None
        environment = environment or Environment(ROOT / "build" / f"release-{version}")
        seconds = environment.install(f"{package(version, machine)}=={version}.*")
        print(f"TensorFlow {version}: installed in {seconds:.0f} s", flush=True)
        if is_new:
            seconds = environment.install(str(wheels[0]))
            print(f"  {wheels[0].name}: installed in {seconds:.1f} s")
        status = check(environment, version)
        if arguments.layers:
            start = time.monotonic()
            record = {name: status[name] for name in ("tensorflow", "keras")}
            record["families"] = check_layers(environment, arguments.all)
            known.parent.mkdir(parents=True, exist_ok=True)
            known.write_text(json.dumps(record, indent=2), encoding="utf-8")
            found[version] = record
            print(f"    checks of the layers: {time.monotonic() - start:.0f} s", flush=True)
    if environment is not None:
        print(environment.run("python", "-c", FUTURE), end="")
    if arguments.layers:
        arguments.layers.write_text(table(found, arguments.all), encoding="utf-8")
    failures = [
        f"{version}: {text}"
        for version, record in found.items()
        for family in record["families"]
        for texts in family["failures"].values()
        for text in texts
    ]
    print("\n".join(failures))
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
