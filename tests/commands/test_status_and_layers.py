"""`status` and `layers`: what is there, and what has been found of it."""

import itertools
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorflow as tf

import tfconv
from tfconv import _build, catalog, catalog_tables, cli, evidence, testing
from tfconv.commands import compare
from tfconv.commands import status as status_command
from tfconv.commands.arguments import check_layers, layer_names


def test_status_table(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["status"]) == 0
    printed = capsys.readouterr().out
    for word in ("TensorFlow", tf.__version__, "Keras", "CPU", "native library", "ops in force"):
        assert word in printed
    assert tfconv.native_status().in_force in printed
    assert ", ".join(tfconv.native_status().isas) in printed


def test_layers_json(capsys):
    assert cli.main(["layers", "--json"]) == 0
    rows = {row["family"]: row for row in json.loads(capsys.readouterr().out)}
    listed = [name for row in rows.values() for name in row["layers"]]
    assert sorted(listed) == sorted(tfconv.layers.__all__)
    assert rows["Involution"]["ranks"] == [1, 2, 3]
    assert rows["DeformableConv"]["replaces"] == ["Conv1D", "Conv2D", "Conv3D"]
    assert rows["CondDense"]["replaces"] == ["Dense"]
    assert all(row["source"] for row in rows.values())


@pytest.mark.parametrize("width", [70, pytest.param(200, marks=pytest.mark.late)])
def test_layers_table(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    assert cli.main(["layers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    for family in catalog.families():
        first, second = (line for line in lines if line.split()[:1] == [family.family])
        assert first.split()[1].strip(",") == str((family.ranks or ["any"])[0])
        assert second.split()[1:] == [str(n or "-") for n in family.checks.values()]
    for check in testing.CHECKS:
        assert any(check.name in line for line in lines)
    assert "python -m tfconv layers --check" in lines[-1]


def test_layers_chosen(capsys):
    """By the names of families and of layers, in any case."""
    assert cli.main(["layers", "conv2d", "CondDense", "Conv", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["family"] for row in rows] == ["CondDense", "Conv"]
    assert rows[1]["layers"] == ["Conv1D", "Conv2D", "Conv3D"]
    assert rows[1]["checks"]["output shape"] >= 3
    assert rows[1]["failures"] == {}


def test_layers_unknown(capsys):
    assert cli.main(["layers", "CondDense", "Convolution4D"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Received: 'Convolution4D'" in printed.err
    assert "SplitTransformMerge" in printed.err


def test_names_that_are_known_without_tensorflow():
    """They are those that the commands take."""
    assert layer_names() == tfconv.layers.__all__
    families = {catalog.family_name(name) for name in tfconv.layers.__all__}
    assert families.isdisjoint(compare.OTHERS)
    assert {each.name for each in evidence.candidates()} == {*families, *compare.OTHERS}
    for name in itertools.chain(tfconv.layers.__all__, families, compare.OTHERS):
        check_layers([name.upper()], compare.OTHERS)
        assert evidence.candidates([name.upper()])


def test_layers_are_checked(capfd):
    """All checks of a small layer, and not a word but the answer."""
    assert cli.main(["layers", "WeightedSum", "--check", "--json"]) == 0
    printed = capfd.readouterr()
    (row,) = json.loads(printed.out)
    assert "Saved" not in printed.err
    went_through = [name for name, count in row["checks"].items() if count]
    assert len(went_through) >= len(testing.CHECKS) - 1
    assert row["failures"] == {name: [] for name in went_through}


def test_layers_that_fail(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    seen = []

    def quick_look(case):
        """Fails for the first."""
        print("noise of Python")
        os.write(2, b"noise of C++")
        seen.append(case)
        assert len(seen) > 1, "the first is bad"

    def other(case):
        """Is for the second only."""

    checks = (testing.Check(quick_look), testing.Check(other, lambda case: not case.any_size))
    monkeypatch.setattr(testing, "CHECKS", checks)
    assert cli.main(["layers", "CondDense", "--check"]) == 1
    printed = capfd.readouterr()
    cases = [case for case in testing.layer_cases() if case.layer_class is tfconv.CondDense]
    assert seen == cases
    row = next(line for line in printed.out.splitlines() if line.startswith("CondDense"))
    assert row.split() == ["CondDense", f"{len(cases) - 1}/{len(cases)}", "-"]
    assert "1  quick look  Fails for the first." in printed.out
    words = " ".join(printed.out.split())
    assert "check `quick look` failed for CondDense(units=5" in words
    assert "AssertionError: the first is bad" in words
    assert "noise" not in printed.out + printed.err
    assert cli.main(["layers", "CondDense", "--check", "--json"]) == 0  # the second time round
    seen.clear()
    capfd.readouterr()
    assert cli.main(["layers", "CondDense", "CondConv", "--check", "--one-each", "--json"]) == 1
    assert [case.layer_class.__name__ for case in seen] == ["CondConv2D", "CondDense"]
    conv, dense = json.loads(capfd.readouterr().out)
    assert conv["checks"]["quick look"] == len(conv["failures"]["quick look"]) == 1
    assert dense["failures"] == {"quick look": []}


@pytest.mark.parametrize(
    "names, listed",
    [
        (["Conv1D", "DepthwiseConv1D", "Conv2D"], "Conv1D, 2D, DepthwiseConv1D"),
        (["Conv2DTranspose", "Conv3DTranspose"], "Conv2DTranspose, 3D"),
        (["Dense"], "Dense"),
        ([], ""),
    ],
)
def test_listed(names, listed):
    assert catalog_tables.listed(names) == listed


@pytest.mark.parametrize(
    "source, cited",
    [
        (
            "Li et al., A Title, with a Comma, arXiv:2103.06255, equation 4",
            "Li et al., arXiv:2103.06255",
        ),
        ("arXiv:1904.04971, section 3", "arXiv:1904.04971"),
        ("LeCun, A Report, 1989", "LeCun, A Report, 1989"),
    ],
)
def test_cited(source, cited):
    assert catalog_tables.cited(source) == cited


@pytest.mark.parametrize(
    "found, stale, others, reason",
    [
        (None, False, [], "there is no library yet"),
        (None, False, ["2.99"], "there is a library for TensorFlow 2.99 only"),
        ("libtfconv_ops.so", True, [], "its sources have changed"),
        ("libtfconv_ops.so", False, [], None),
    ],
)
def test_status_says_when_to_build(capsys, monkeypatch, found, stale, others, reason):
    info = {"tf_version": tf.__version__, "compiler_version": "g++ 1", "date": "today"}
    answer = None if found is None else (Path(found), info)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TFCONV_NATIVE", "0")
    monkeypatch.setattr(_build, "find_library", lambda version: answer)
    monkeypatch.setattr(_build, "built_versions", lambda: others)
    monkeypatch.setattr(_build, "is_stale", lambda info: stale)
    rebuild = status_command.collect_status()["rebuild"]
    assert (rebuild or "").startswith(reason or "")
    assert (rebuild is None) == (reason is None)
    assert cli.main(["status"]) == 0
    printed = capsys.readouterr().out
    (advice,) = (line for line in printed.splitlines() if line.startswith("to do"))
    assert ("python -m tfconv build" in advice) == (reason is not None)
    assert ("g++ 1" in printed) == (found is not None)


@pytest.mark.parametrize(
    "in_force, switch, reason",
    [("native", "1", None), ("portable", "1", "it cannot be used"), ("portable", "0", None)],
)
def test_status_of_a_library_that_cannot_be_used(monkeypatch, in_force, switch, reason):
    monkeypatch.setenv("TFCONV_NATIVE", switch)
    monkeypatch.setattr(_build, "is_stale", lambda info: False)
    found = SimpleNamespace(in_force=in_force)
    assert status_command._why_rebuild(found, (Path("lib.so"), {})) == reason
