"""`tfconv profile`: what it prints and writes, and how it fails."""

from __future__ import annotations

import argparse
import csv
import json

import pytest

import tfconv
from tfconv._compat import KERAS_3, keras
from tfconv.analysis import profile
from tfconv.commands import analysis as command


def run(*arguments):
    parser = argparse.ArgumentParser()
    command.add_profile(parser.add_subparsers())
    chosen = parser.parse_args(["profile", *map(str, arguments)])
    return chosen.run(chosen)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model for inputs of any size, and its file."""
    model = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            tfconv.Involution2D(3, group_channels=3),
            tfconv.Conv2D(4, 3, name="last"),
        ]
    )
    path = tmp_path_factory.mktemp("model") / "model.keras"
    model.save(path)
    return model, path


@pytest.mark.dear
def test_table_and_files(saved, tmp_path, capsys):
    model, path = saved
    files = {kind: tmp_path / f"out.{kind}" for kind in ("csv", "json", "png")}
    options = [text for kind, file in files.items() for text in (f"--{kind}", file)]
    assert run(path, "--input-shape", "20x24x3", *options) == 0
    printed = capsys.readouterr().out
    expected = profile(model, (20, 24, 3))
    assert "last" in printed and "Involution2D" in printed
    assert f"{expected.multiply_adds:,} multiply-adds" in printed
    assert json.loads(files["json"].read_text())["total"]["flops"] == expected.flops
    rows = list(csv.DictReader(files["csv"].open()))
    assert [row["name"] for row in rows] == [row.name for row in expected.rows]
    assert files["png"].read_bytes()[:4] == b"\x89PNG"
    assert sorted(tmp_path.iterdir()) == sorted(files.values())


@pytest.mark.dear
def test_size_not_known(saved, capsys):
    assert run(saved[1]) == 1
    printed = capsys.readouterr().err
    assert "`--input-shape` must have all sizes" in printed and "(None, None, 3)" in printed


def test_no_model(tmp_path, capsys):
    assert run(tmp_path / "none.keras") == 1
    assert "there is no such model" in capsys.readouterr().err
    (tmp_path / "text.keras").write_text("text")
    assert run(tmp_path / "text.keras") == 1
    assert "cannot be loaded as a Keras model" in capsys.readouterr().err


def test_input_that_does_not_fit(saved, capsys):
    assert run(saved[1], "--input-shape", "20,24,5") == 1
    printed = capsys.readouterr().err
    assert "cannot be profiled" in printed and "\x1b" not in printed


def test_layers_that_nobody_knows(tmp_path, capsys):
    class Own(keras.layers.Layer):
        def call(self, inputs):
            return inputs

    keras.Sequential([keras.Input((8,)), Own()]).save(tmp_path / "model.keras")
    assert run(tmp_path / "model.keras") == 1
    printed = capsys.readouterr().err
    assert "Own" in printed and len(printed) < 500
    assert "`Own`, which is neither Keras's nor tfconv's" in printed or not KERAS_3


def test_folder_that_is_not_there(saved, tmp_path, capsys):
    path = tmp_path / "none" / "out.csv"
    assert run(saved[1], "--input-shape", "8,8,3", "--csv", path) == 1
    assert f"{path} cannot be written" in capsys.readouterr().err


def test_the_model_stays(saved, capsys):
    before = saved[1].read_bytes()
    assert run(saved[1], "--input-shape", "8,8,3", "--csv", saved[1]) == 1
    assert "which is read" in capsys.readouterr().err and saved[1].read_bytes() == before


@pytest.mark.parametrize("shape", ["0,8,3", "a", ""])
def test_shapes_that_are_none(saved, shape):
    with pytest.raises(SystemExit):
        run(saved[1], "--input-shape", shape)
