"""The project as a whole: what its files say of it, and how its modules hang together."""

import ast
import re
import sys
from pathlib import Path

import pytest

import tfconv

ROOT = Path(__file__).resolve().parents[1]
if sys.version_info >= (3, 11):
    import tomllib

    PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


# Imports.


def modules():
    """The package's modules: their names and files."""
    found = {"tfconv_command": ROOT / "tfconv_command.py"}
    for path in (ROOT / "tfconv").rglob("*.py"):
        *parents, last = path.relative_to(ROOT).with_suffix("").parts
        if not {"_cc", "_examples", "_native"}.intersection(parents):
            found[".".join(parents if last == "__init__" else [*parents, last])] = path
    return found


MODULES = modules()


def imported(name):
    """The modules that a module imports anywhere, functions included."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} has a relative import"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(members.intersection(MODULES) or {node.module})
    return found.intersection(MODULES)


def test_no_circles_among_imports():
    """Every module can be imported after those that it imports."""
    waiting = {name: imported(name) - {name} for name in MODULES}
    assert sum(map(len, waiting.values())) > 2 * len(waiting) > 200
    while ready := [name for name, needed in waiting.items() if not needed]:
        for name in ready:
            del waiting[name]
        for needed in waiting.values():
            needed.difference_update(ready)
    assert not waiting, waiting


def test_ways_through_the_house():
    """As CONTRIBUTING.md has it: layers know no library, ops no Keras, nobody imports commands."""
    for name in MODULES:
        family, needs = name.split(".")[1:2], imported(name)
        if family == ["ops"]:
            assert not any(other.startswith("tfconv.layers") for other in needs), name
        if family == ["layers"]:
            assert needs.isdisjoint({"tfconv.ops.native", "tfconv._build"}), name
        if family not in ([], ["cli"], ["commands"], ["__main__"]):
            assert not any(re.match(r"tfconv\.(cli|commands)\b", other) for other in needs), name


def test_names_that_are_imported_later():
    """`dir` shows them before they are there, and all that Keras has to know is there at once."""
    assert set(tfconv._LATER) < set(tfconv.__all__) <= set(dir(tfconv))
    assert all(getattr(tfconv, name).__name__ == f"tfconv.{name}" for name in tfconv._LATER)
    with pytest.raises(AttributeError, match="module 'tfconv' has no attribute 'Convolution4D'"):
        _ = tfconv.Convolution4D
    later = tuple(f"tfconv.{name}." for name in tfconv._LATER)
    for name, path in MODULES.items():
        if f"{name}.".startswith(later):
            source = path.read_text(encoding="utf-8")
            assert not re.search(r"@register\b|register_keras_serializable", source), name


# What the project says of itself.


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python reads TOML from 3.11 on")
def test_metadata():
    assert PROJECT["authors"] and PROJECT["urls"]["Changelog"].endswith("CHANGELOG.md")
    lowest = PROJECT["requires-python"].removeprefix(">=")
    minors = [
        kind.rpartition(" ")[2]
        for kind in PROJECT["classifiers"]
        if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", kind)
    ]
    assert minors == [f"3.{n}" for n in range(int(lowest[2:]), int(minors[-1][2:]) + 1)]
    assert f"Python {lowest} or later" in text("README.md")
    assert f"url: {PROJECT['urls']['Homepage']}\n" in text("CITATION.cff")
    assert (ROOT / "tfconv" / "py.typed").is_file()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python reads TOML from 3.11 on")
def test_extras():
    """docs/install.md says what each is for."""
    said = re.findall(r"^\| `(\w+)` \| ", text("docs/install.md"), re.M)
    assert set(PROJECT["optional-dependencies"]) - {"legacy"} <= set(said)


def test_versions():
    """The newest one in the changelog is the one that was released last, or the one to come."""
    version = tfconv.__version__
    released = re.findall(r"^## (\d\S*) \((\d{4}-\d\d-\d\d)\)$", text("CHANGELOG.md"), re.M)
    assert released == sorted(released, key=lambda each: each[1], reverse=True)
    assert released[0][0] == version
    cited = "version: {}\ndate-released: {}\n".format(*released[0])
    assert cited in text("CITATION.cff")


def test_docker_runs_what_the_readme_says():
    shell = text("README.md").partition("## Try it")[2].partition("```sh\n")[2].partition("```")[0]
    docker = re.sub(r"\\\n *", "", text("Dockerfile"))
    install, *commands = shell.strip().splitlines()
    assert f"&& {install} " in docker
    assert commands and re.findall("^RUN (make .*)$", docker, re.M) == commands


def test_extras_are_not_named_to_users():
    """`pip install tfconv[...]` works for what is on an index only, a checkout is not."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tfconv").rglob("*.py")]
    assert len(pages) > len(MODULES)
    for page in pages:
        assert "tfconv[" not in page.read_text(encoding="utf-8").replace("~", ""), page
