"""The versions of TensorFlow that wheels hold libraries for, and where they come from.

Wheels of TensorFlow are fetched once, into build/tensorflow/.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tfconv"))

import _build  # noqa: E402

VERSIONS = ("2.15", "2.16", "2.17", "2.18", "2.19", "2.20", "2.21")
CACHE = ROOT / "build" / "tensorflow"
PYTHON = "311"  # the last of Python that all of them were released for
FRAMEWORK, BRIDGE = "libtensorflow_framework.so.2", "libtensorflow_cc.so.2"
# What `tf.sysconfig` says in each of them.
FLAGS = ("--std=c++17", "-D_GLIBCXX_USE_CXX11_ABI=1", "-DEIGEN_MAX_ALIGN_BYTES=64")


def package(version: str, machine: str) -> str:
    """The package that has TensorFlow for CPUs."""
    if machine == "x86_64":
        return "tensorflow-cpu"
    return "tensorflow-cpu-aws" if version == "2.15" else "tensorflow"


def fetch(version: str, machine: str) -> Path:
    """TensorFlow's wheel, of the newest patch release."""
    name = package(version, machine).replace("-", "_")
    pattern = f"{name}-{version}.*_{machine}*.whl"
    if not list(CACHE.glob(pattern)):
        platforms = (f"manylinux2014_{machine}", f"manylinux_2_27_{machine}")
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(CACHE)]
        command += ["--only-binary", ":all:", "--python-version", PYTHON, "--abi", f"cp{PYTHON}"]
        command += [word for name in platforms for word in ("--platform", name)]
        subprocess.run([*command, f"{package(version, machine)}=={version}.*"], check=True)
    return max(CACHE.glob(pattern))


def unpack(version: str, machine: str) -> _build.TensorFlowConfig:
    """Unpacks the headers and libraries of TensorFlow; nothing of it is installed or run."""
    wheel = fetch(version, machine)
    folder = CACHE / f"{wheel.name.split('-')[1]}-{machine}"
    include = folder / "tensorflow" / "include"
    done = folder / "unpacked"
    if not done.is_file():
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith("tensorflow/include/") or name.endswith((FRAMEWORK, BRIDGE)):
                    archive.extract(name, folder)
        done.touch()
    return _build.TensorFlowConfig(
        version=wheel.name.split("-")[1],
        compile_flags=(f"-I{include}", *FLAGS),
        link_flags=(f"-L{include.parent}", f"-l:{FRAMEWORK}"),
        include_dir=str(include),
    )
