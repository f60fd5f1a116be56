"""Bazel compiles what CMake does, with the same flags. Bazel itself is not needed."""

import json
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tfconv import _build

ROOT = Path(__file__).resolve().parent.parent
TF_FLAGS = ["-DTENSORFLOW"]


class Bazel:
    """The rules in a `BUILD` file of a tree: near enough to Python to be run as such."""

    def __init__(self, root: Path, package: str = "cc"):
        self.root = root
        self.folder = root / package
        self.rules = {}
        rules = {name: self.rule(name) for name in ("cc_library", "cc_binary", "cc_test")}
        self.builtins = {
            **rules,
            "native": SimpleNamespace(**rules),
            "package": lambda **attributes: None,
            "filegroup": lambda **attributes: None,
            "exports_files": lambda names: None,
            "Label": lambda label: SimpleNamespace(workspace_root=""),
            "attr": SimpleNamespace(string_list=lambda **attributes: None),
            "repository_rule": lambda **attributes: None,
            "select": lambda choices: choices["@platforms//cpu:x86_64"],
        }
        names = {**self.builtins, "glob": self.glob, "load": lambda *args: self.load(names, *args)}
        exec((self.folder / "BUILD").read_text(), names)

    def rule(self, kind):
        def declare(name, **attributes):
            self.rules[name] = {"kind": kind, **attributes}

        return declare

    def run(self, path):
        """The names that a `.bzl` file defines."""
        names = dict(self.builtins)
        exec((self.root / path).read_text(), names)
        return names

    def load(self, names, label, *symbols):
        if label.startswith("@"):
            found = {"TF_COPTS": TF_FLAGS}
        else:
            found = self.run(label.lstrip("/").replace(":", "/"))
        names.update((symbol, found[symbol]) for symbol in symbols)

    def glob(self, include, exclude=()):
        def matches(patterns):
            return {path for pattern in patterns for path in self.folder.glob(pattern)}

        # A folder with a BUILD file is a package of its own.
        others = [file.parent for file in self.folder.glob("*/**/BUILD")]
        paths = matches(include) - matches(exclude)
        own = (path for path in paths if not any(other in path.parents for other in others))
        return sorted(path.relative_to(self.folder).as_posix() for path in own)

    def units(self, target):
        """Flags by (source, instruction set) of all that a target is linked from."""
        rule = self.rules[target]
        flags = rule.get("copts", [])
        isa = next((f.partition("=")[2] for f in flags if f.startswith("-DTFCONV_ISA=")), None)
        place = self.folder.relative_to(self.root).as_posix()
        sources = [f"{place}/{name}" for name in rule.get("srcs", []) if name.endswith(".cc")]
        found = {(source, isa): set(flags) for source in sources}
        for dependency in rule.get("deps", []):
            if dependency.startswith(":"):
                found.update(self.units(dependency[1:]))
            elif dependency.startswith("//cc:"):
                found.update(Bazel(self.root).units(dependency[len("//cc:") :]))
        return found


def units_of_cmake(root, folder):
    """Flags by (source, instruction set) of the ops, and of the delegate."""
    folder.mkdir()
    config = _build.TensorFlowConfig("9.9.0", tuple(TF_FLAGS), (), "/none")
    everything = {"TFCONV_ISAS": "all"}
    _build.Ninja(folder, root / "cc", _build.find_compiler(), everything, config=config)
    ops, lite = {}, {}
    for entry in json.loads((folder / "compile_commands.json").read_text()):
        source = Path(entry["file"])
        if source.parent.name == "Unity":  # many sources as one
            parts = map(Path, re.findall(r'#include "(.*)"', source.read_text()))
        else:
            parts = [source]
        _, *words = shlex.split(entry["command"].replace(f"-I{root}/cc", "-Icc"))
        isa = next((w.partition("=")[2] for w in words if w.startswith("-DTFCONV_ISA=")), None)
        # What no object depends on, and the macro that CMake gives to all libraries.
        own = re.compile(r"-fPIC|-ffile-prefix-map=.*|@.*|-D\w+_EXPORTS")
        flags = {word for word in words[: words.index("-o")] if not own.fullmatch(word)}
        target = entry["output"] if "output" in entry else entry["command"]
        for part in parts:
            key = (part.relative_to(root).as_posix(), isa)
            if not re.search(r"tfconv_lite_objects\.dir", target):
                ops[key] = flags
            if not re.search(r"tfconv_ops_9\.9\.0\.dir", target):
                lite[key] = flags
    return ops, lite


@pytest.fixture(scope="module")
def units(tmp_path_factory):
    return units_of_cmake(ROOT, tmp_path_factory.mktemp("cmake") / "build")


@pytest.fixture
def tree(tmp_path):
    """Bazel's files and new sources of every kind."""
    shutil.copytree(ROOT / "bazel", tmp_path / "bazel")
    own = ("CMakeLists.txt", "flags.cmake", "lite/BUILD", "lite/CMakeLists.txt")
    for name in own:
        (tmp_path / "cc" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "cc" / name, tmp_path / "cc" / name)
    found = ("tf2xla/new.cc", "a/new_cpu.cc", "a/new_op.cc", "common/isa.cc", "lite/new.cc")
    for name in (*found, "new_test.cc"):
        (tmp_path / "cc" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cc" / name).touch()
    for name in ("a/new_test.cc", "a/new_cpu_test.cc", "a/new.cu.cc", "tf2xla/new_test.cc"):
        (tmp_path / "cc" / name).touch()
    shutil.copy(ROOT / "cc" / "BUILD", tmp_path / "cc")
    return tmp_path


def test_same_sources_and_flags(units):
    bazel = Bazel(ROOT).units("libtfconv_ops.so")
    assert ("cc/common/convert_cpu.cc", "avx512") in bazel
    assert ("cc/common/convert_cpu.cc", "avx512bf16") not in bazel  # nothing of its own
    assert bazel == units[0]
    assert "build --force_pic\n" in (ROOT / ".bazelrc").read_text()  # for -fPIC


def test_same_delegate_for_tflite(units):
    bazel = Bazel(ROOT, "cc/lite")
    found = bazel.units("libtfconv_lite.so")
    assert ("cc/lite/delegate.cc", None) in found and ("cc/common/isa.cc", None) in found
    assert found == units[1]
    options = bazel.rules["libtfconv_lite.so"]["linkopts"]
    assert "-l:libstdc++.a" in options
    assert any("tfconv_lite.lds" in option for option in options)


def test_new_sources_are_found(tree, tmp_path):
    units = Bazel(tree).units("libtfconv_ops.so")
    assert sorted(units, key=str) == [
        ("cc/a/new_cpu.cc", "avx2"),
        ("cc/a/new_cpu.cc", "avx512"),
        ("cc/a/new_cpu.cc", "avx512bf16"),
        ("cc/a/new_cpu.cc", "base"),
        ("cc/a/new_op.cc", None),
        ("cc/common/isa.cc", None),
        ("cc/tf2xla/new.cc", None),
    ]
    assert units == units_of_cmake(tree, tmp_path / "build")[0]


def test_a_server_gets_all_but_xla(tree):
    bazel = Bazel(tree)
    whole, server = bazel.units("libtfconv_ops.so"), bazel.units("tfconv_ops")
    assert whole.keys() - server.keys() == {("cc/tf2xla/new.cc", None)}
    for name in ("tfconv_ops", "tfconv_xla"):
        assert bazel.rules[name]["alwayslink"], name


def test_every_test_is_run(tree):
    tests = {n: r["srcs"][0] for n, r in Bazel(tree).rules.items() if r["kind"] == "cc_test"}
    assert sorted(tests.values()) == [
        "a/new_cpu_test.cc",
        "a/new_test.cc",
        "new_test.cc",
        "tf2xla/new_test.cc",
    ]


def test_same_folders_of_headers():
    folders = Bazel(ROOT).run("bazel/tf_configure.bzl")["_EXTERNAL_INCLUDES"]
    assert folders == list(_build._TF_EXTERNAL_INCLUDES)
