"""The packages that carry the sources and the libraries."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.building.small_tree import (
    ROOT,
    call,
    copy_package,
    copy_sources,
    copy_tensorflow,
    load_build_module,
    write,
)


def run_hook(project: Path, hook: str, *arguments: str, python=sys.executable, **variables):
    """Runs a hook of setuptools' build backend in a project, as pip does but offline."""
    code = (
        "import sys\nfrom setuptools import build_meta\n"
        f"print('@@' + str(build_meta.{hook}(*sys.argv[1:])))"
    )
    done = subprocess.run(
        [os.fspath(python), "-c", code, *arguments],
        cwd=project,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.rpartition("@@")[2].strip(), done.stdout + done.stderr


@pytest.fixture
def project(tmp_path):
    """A copy of this project: what a checkout has, without environments and build results."""
    ignored = shutil.ignore_patterns(
        ".git", ".venv*", "build", "dist", "_native", "_cc", "*.egg-info", "__pycache__", ".*_cache"
    )
    copy = tmp_path / "project"
    shutil.copytree(ROOT, copy, ignore=ignored, symlinks=True)
    write(copy, {"tfconv/_native/tf-1.0/libtfconv_ops.so": "stale"})
    return copy


@pytest.fixture
def small_project(tmp_path, monkeypatch):
    """The project's packaging around the small tree, in an environment with the stand-in."""
    root = tmp_path / "small"
    copy_package(root)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE"):
        shutil.copy(ROOT / name, root / name)
    write(root, {"README.md": "# tfconv\n", "tfconv/__init__.py": ""})
    write(root, {"tfconv/_native/tf-1.0/libtfconv_ops.so": "stale"})
    write(root, {"build/lib/tfconv/removed.py": "", "build/lib/tfconv/_native/x.so": ""})
    copy_sources(root / "cc")
    monkeypatch.setenv("PYTHONPATH", str(copy_tensorflow(tmp_path / "stand-in")))
    return root


def cc_files(root: Path) -> set:
    return {p.relative_to(root).as_posix() for p in (root / "cc").rglob("*") if p.is_file()}


def test_sdist_is_complete(project, tmp_path):
    name, _ = run_hook(project, "build_sdist", str(tmp_path))
    with tarfile.open(tmp_path / name) as archive:
        names = {n.partition("/")[2] for n in archive.getnames()}
    assert cc_files(project) and cc_files(project) <= names
    examples = {p.relative_to(project).as_posix() for p in (project / "examples").rglob("*.*")}
    assert len(examples) > 10 and examples <= names
    own = {"setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md", "Makefile"}
    assert own | {".ci/run", "tfconv/_build.py", "tests/building/test_packages.py"} <= names
    assert not [n for n in names if "/_native/" in n or n.endswith((".so", ".pyc"))]


@pytest.mark.late
def test_wheel_without_library_is_pure_and_has_the_sources(project, tmp_path):
    name, _ = run_hook(project, "build_wheel", str(tmp_path), TFCONV_NATIVE="0")
    assert name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(tmp_path / name) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    expected = {f.replace("cc/", "tfconv/_cc/", 1) for f in cc_files(project)}
    tests = {f for f in expected if f.endswith("_test.cc")}
    assert expected - tests <= names and not tests & names
    examples = {f"tfconv/_examples/{path.name}" for path in (project / "examples").glob("*.py")}
    assert examples and examples <= names
    assert {"tfconv/py.typed", "tfconv/layers/__init__.pyi", "tfconv_command.py"} <= names
    assert {p.relative_to(project).as_posix() for p in (project / "tfconv").rglob("*.py")} <= names
    assert not [n for n in names if "_native" in n or n.startswith(("tests/", "cc/"))]
    installed = load_build_module(tmp_path / "installed" / "tfconv")
    assert installed.sources_hash() == load_build_module(project / "tfconv").sources_hash()


@pytest.mark.late
def test_wheel_with_library(small_project, tmp_path):
    name, _ = run_hook(small_project, "build_wheel", str(tmp_path), TFCONV_REQUIRE_NATIVE="1")
    assert re.search(r"-py3-none-(?!any)\w+\.whl$", name)
    with zipfile.ZipFile(tmp_path / name) as archive:
        native = {n for n in archive.namelist() if n.startswith("tfconv/_native/")}
        archive.extractall(tmp_path / "installed")
    ops = {f"tfconv/_native/tf-9.9/{name}" for name in ("libtfconv_ops.so", "build_info.json")}
    assert native == ops | {"tfconv/_native/libtfconv_lite.so"}
    assert not (tmp_path / "installed" / "tfconv" / "removed.py").exists()
    module = load_build_module(tmp_path / "installed" / "tfconv")
    library, info = module.find_library("9.9.1")
    assert info["tf_version"] == "9.9.1" and not module.is_stale(info)
    assert module.built_versions() == ["9.9"]
    assert call(library, "tfconv_value") == 1

    # An editable installation takes the library into the source tree, from the same objects.
    _, log = run_hook(small_project, "build_editable", str(tmp_path), TFCONV_REQUIRE_NATIVE="1")
    assert not re.search(r"\[\d+/\d+\] cc/", log)
    in_tree = small_project / "tfconv"
    assert (in_tree / "_native" / "tf-9.9" / "libtfconv_ops.so").is_file()
    assert not (in_tree / "_cc").exists()


def test_wheel_of_libraries_that_are_ready(small_project, tmp_path):
    ready = {f"tf-9.{minor}/libtfconv_ops.so": "a library" for minor in (8, 9)}
    write(tmp_path / "ready", ready)
    name, _ = run_hook(
        small_project, "build_wheel", str(tmp_path), TFCONV_PREBUILT=str(tmp_path / "ready")
    )
    assert re.search(r"-py3-none-(?!any)\w+\.whl$", name)
    with zipfile.ZipFile(tmp_path / name) as archive:
        native = {n for n in archive.namelist() if n.startswith("tfconv/_native/")}
    assert native == {f"tfconv/_native/{path}" for path in ready}


@pytest.mark.late
def test_installation_without_a_compiler(small_project, tmp_path):
    bad = {"CXX": "no-such-compiler"}
    name, log = run_hook(small_project, "build_wheel", str(tmp_path), **bad)
    assert name.endswith("-py3-none-any.whl")
    assert "WITHOUT its native ops" in log and "Received: CXX=no-such-compiler" in log
    assert "python -m tfconv build" in log
    with pytest.raises(AssertionError, match="error: the native ops could not be built"):
        run_hook(small_project, "build_wheel", str(tmp_path), TFCONV_REQUIRE_NATIVE="1", **bad)
    with pytest.raises(AssertionError, match="TFCONV_NATIVE must be 0 or 1. Received: 'maybe'"):
        run_hook(small_project, "build_wheel", str(tmp_path), TFCONV_NATIVE="maybe")


@pytest.mark.late
def test_tensorflow_is_requested_only_for_wheels_and_only_where_it_is_missing(
    small_project, tmp_path
):
    def requirements(hook, **arguments):
        return run_hook(small_project, f"get_requires_for_build_{hook}", **arguments)[0]

    assert "tensorflow" not in requirements("wheel")

    # An environment without it, with setuptools in the PYTHONPATH as pip isolates a build.
    environment, overlay = tmp_path / "environment", tmp_path / "overlay"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", os.fspath(environment)], check=True
    )
    overlay.mkdir()
    for package in ("setuptools", "pkg_resources", "_distutils_hack", "wheel", "packaging"):
        spec = importlib.util.find_spec(package)
        if spec is not None:  # not every version of setuptools has all of them
            folder = Path(spec.origin).parent
            for path in (folder, *folder.parent.glob(f"{package}-*.dist-info")):
                (overlay / path.name).symlink_to(path)
    bare = {"python": environment / "bin" / "python", "PYTHONPATH": os.fspath(overlay)}
    assert "tensorflow-cpu>=2.15" in requirements("wheel", **bare)
    assert "tensorflow" not in requirements("sdist", **bare)
    assert "tensorflow" not in requirements("wheel", CXX="no-such-compiler", **bare)
