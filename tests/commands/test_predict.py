"""`tfconv predict`: pictures, weights and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import tfconv.models
from tests.models.test_hub import SMALL, file, hub  # noqa: F401
from tfconv import cli
from tfconv.commands import predict
from tfconv.models import network

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, [60, 90, 3], np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_five_classes(hub, picture, capsys, monkeypatch):  # noqa: F811
    seen = []

    def decode(scores, top):
        order = np.argsort(-scores[0])[:top]
        seen.append(scores)
        return [[(f"n{n:08}", f"class_{n}", float(scores[0, n])) for n in order]]

    monkeypatch.setattr(tfconv.models.MobileNetV3Small, "decode_predictions", decode)
    given = ["predict", str(picture), "--network", "MobileNetV3Small", "--weights", SMALL]
    assert cli.main(given) == 0
    first, *classes = capsys.readouterr().out.strip().splitlines()
    assert first == f"{picture} (90x60)" and len(classes) == 5
    likeliest = int(np.argmax(seen[0]))
    assert f"class {likeliest}  (n{likeliest:08})" in classes[0]
    assert seen[0].shape == (1, 1000)


def test_the_middle_of_a_picture(picture, tmp_path):
    """The shorter side becomes size / crop, and the middle is cut out."""
    halves = np.zeros([40, 100, 3], np.uint8)
    halves[:, 50:] = 255
    Image.fromarray(halves).save(picture)
    x, seen = predict._picture(picture, 32, None)
    assert x.shape == (32, 32, 3) and x.dtype == np.float32 and seen == "100x40"
    assert x[:, :12].max() == 0 and x[:, -12:].min() == 255


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--network", "RedNet50"], "IMAGE and --network are needed.*Received: --network"),
        (["PICTURE"], "IMAGE and --network are needed.*Received: IMAGE"),
        (["PICTURE", "--network", "RedNet51"], "`--network` must be one of .*RedNet50"),
        (["nothing.png", "--network", "RedNet50"], "No such file"),
        (["PICTURE", "--network", "RedNet50", "--weights", "x"], "one of: rednet50.* --weights x"),
        (["--list", "--network", "x"], "`--network` must be one of"),
        (["PICTURE", "--network", "RedNet50"], "Download rednet50.pth from https"),
    ],
)
def test_refused(arguments, message, picture, capsys, monkeypatch, tmp_path):
    import re

    monkeypatch.setenv("TFCONV_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # no package matters here
    arguments = [str(picture) if each == "PICTURE" else each for each in arguments]
    assert cli.main(["predict", *arguments]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_list(capsys):
    assert cli.main(["predict", "--list"]) == 0
    table = capsys.readouterr().out
    assert all(each.name in table for each in tfconv.models.checkpoints())
    assert cli.main(["predict", "--list", "--network", "RedNet50"]) == 0
    table = capsys.readouterr().out
    assert "rednet50" in table and "mobilenet" not in table


def test_names_are_read_without_tensorflow():
    from tfconv.commands.arguments import network_names

    assert network_names() == sorted(n for n in tfconv.models.__all__ if n[0].isupper())
    assert network.checkpoints is tfconv.models.checkpoints
