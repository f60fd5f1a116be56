"""`tfconv show`: what it writes, and how it fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tfconv
from tfconv import cli
from tfconv._compat import keras
from tfconv.visual import sampling_points


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model with samples and routing, but no involution, and its file."""
    model = keras.Sequential(
        [
            keras.Input((8, 10, 1)),
            tfconv.DeformableConv2D(2, 3, name="deformable"),
            tfconv.CondConv2D(2, 3, num_experts=2, name="cond"),
        ]
    )
    path = tmp_path_factory.mktemp("model") / "small.keras"
    model.save(path)
    return model, path


@pytest.fixture
def picture(tmp_path):
    """A colour picture of another size."""
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, [16, 20, 3])
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def run(*arguments):
    return cli.main(["show", *map(str, arguments)])


def test_all_that_the_model_has(saved, tmp_path, monkeypatch, capsys):
    images = np.random.default_rng(0).random((4, 8, 10, 1), np.float32)
    np.savez(tmp_path / "digits.npz", x=images, labels=np.arange(4) % 2)
    monkeypatch.chdir(tmp_path)
    assert run(saved[1], "--image", "digits.npz") == 0
    names = ["receptive-field.png", "routing.png", "sampling.png"]
    assert sorted(path.name for path in (tmp_path / "small-pictures").iterdir()) == names
    assert sorted(capsys.readouterr().out.split()) == [f"small-pictures/{name}" for name in names]


def test_a_picture_is_resized_and_scaled(saved, picture, tmp_path, monkeypatch):
    seen = {}

    def shown(model, image, *arguments, **options):
        seen.update(image=image, arguments=arguments, options=options)
        return sampling_points(model, image, *arguments, **options)

    monkeypatch.setattr("tfconv.visual.sampling_points", shown)
    options = ["--what", "sampling", "--layer", "deformable", "--scale=-1,1", "--levels", "2"]
    options += ["--position", "2,3", "--position", "7,9", "--output", tmp_path / "out.png"]
    assert run(saved[1], "--image", picture, *options) == 0
    assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"
    grey = Image.open(picture).convert("L").resize((10, 8))
    np.testing.assert_allclose(seen["image"][..., 0], np.asarray(grey) / 127.5 - 1, atol=1e-6)
    assert seen["arguments"] == ("deformable", [(2, 3), (7, 9)])
    assert seen["options"] == {"levels": 2}


@pytest.mark.parametrize(
    "options, message",
    [
        (["--image", "none.png"], "No such file"),
        (["--image", "text.png"], "cannot identify image file"),
        (["--image", "text.npy"], "`--image` must be a .npz or .npy file of arrays[.]"),
        (["--image", "two.npz"], "must have one array of inputs, beside `labels`.* a, b"),
        (["--image", "labels.npz"], "one of `labels` for each of 2 inputs.* shape .3,"),
        (["--image", "wrong.npy"], "`--image` must be .*8, 10, 1.* shape .2, 8, 10, 3"),
        (["--layer", "none"], "`--layer` must be one of .* Received: --layer='none'"),
        (["--what", "kernels"], "an involution of images.*1 DeformableConv2D"),
        (["--position", "8,0"], "`--position` must be"),
        (["--what", "routing", "--output", "none/out.png"], "must lie in a folder that exists"),
        (["--what=routing", "--image", "wrong.npy", "--output=wrong.npy"], "which is read"),
        (["--output", "text.png"], "`--output` must be a folder: there is a file"),
    ],
)
def test_failures(saved, picture, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    for name in ("text.png", "text.npy"):
        (tmp_path / name).write_text("text")
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    np.savez(tmp_path / "labels.npz", x=np.zeros([2, 8, 10, 1]), labels=np.zeros(3))
    np.save(tmp_path / "wrong.npy", np.zeros([2, 8, 10, 3]))
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(keras.models, "load_model", lambda *args, **kwargs: saved[0])
    options = options if "--image" in options else ["--image", picture, *options]
    assert run(saved[1], *options) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(message, error), error
    assert sorted(tmp_path.rglob("*")) == before


def test_model_that_takes_no_pictures(saved, picture, tmp_path, monkeypatch, capsys):
    model = keras.Sequential([keras.Input((8, 10, 2)), tfconv.Conv2D(1, 3)])
    monkeypatch.setattr(keras.models, "load_model", lambda *args, **kwargs: model)
    assert run(saved[1], "--image", picture) == 1
    assert "must take images of 1, 3 or 4 channels" in capsys.readouterr().err


@pytest.fixture
def show(saved, tmp_path, monkeypatch):
    """Shows a picture or an array to a model, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def shown(model, image, *options):
        if not isinstance(image, Path):
            np.save("inputs.npy", image)
            image = "inputs.npy"
        monkeypatch.setattr(keras.models, "load_model", lambda *args, **kwargs: model)
        return run(saved[1], "--image", image, *options)

    return shown


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv = tfconv.DeformableConv2D(2, 3)

    def call(self, inputs):
        return self.conv(inputs)


def test_a_subclassed_model_takes_the_picture_in_its_size(show, picture, monkeypatch):
    found = []
    monkeypatch.setattr(
        "tfconv.visual.sampling_points",
        lambda *args, **options: found.append(sampling_points(*args, **options)) or found[0],
    )
    assert show(Subclassed(), picture, "--what", "sampling") == 0
    assert found[0].image.shape == (16, 20, 3)


def test_what_the_model_is_not_fit_for_is_left_out(show, capsys):
    model = keras.Sequential([keras.Input((6,)), tfconv.CondDense(3, num_experts=2)])
    assert show(model, np.ones([2, 6])) == 0
    assert capsys.readouterr().out.split() == ["small-pictures/routing.png"]
    for option, wrong in (("--position", "1,2"), ("--layer", "none")):
        assert show(model, np.ones([2, 6]), option, wrong) == 1


def test_models_that_take_integers(show, picture, monkeypatch, capsys):
    layers = [keras.layers.Rescaling(1 / 255), tfconv.DeformableConv2D(2, 3)]
    model = keras.Sequential([keras.Input((16, 20, 3), dtype="uint8"), *layers])
    found = []
    monkeypatch.setattr(
        "tfconv.visual.sampling_points",
        lambda *args, **options: found.append(sampling_points(*args, **options)) or found[0],
    )
    assert show(model, picture, "--what", "sampling") == 0
    np.testing.assert_array_equal(found[0].image, np.asarray(Image.open(picture)))
    for scale in ("0,1", "0,510"):
        assert show(model, picture, "--what", "sampling", "--scale", scale) == 1
        error = " ".join(capsys.readouterr().err.split())
        assert "must be whole numbers from 0 to 255" in error


def test_without_matplotlib_there_is_no_folder(show, saved, picture, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert show(saved[0], picture, "--output", "new") == 1
    assert "pip install matplotlib" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_no_model(picture, tmp_path, capsys):
    assert run(tmp_path / "none.keras", "--image", picture) == 1
    assert "there is no such model" in capsys.readouterr().err
    assert run(picture, "--image", picture) == 1
    assert "cannot be loaded as a Keras model" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option, value", [*(("--position", text) for text in ("1", "1,2,3", "a,b")), ("--levels", "0")]
)
def test_values_that_are_none(saved, option, value):
    with pytest.raises(SystemExit):
        run(saved[1], "--image", "photo.png", option, value)


@pytest.mark.late
def test_gradients_that_end_the_process(tmp_path):
    """That of Keras's strided 1x1 convolution does, in TensorFlow 2.21 with oneDNN."""
    layers = [keras.Input((60, 60, 8)), keras.layers.Conv2D(16, 1, strides=2)]
    keras.Sequential([*layers, keras.layers.Conv2D(8, 3)]).save(tmp_path / "strided.keras")
    np.save(tmp_path / "images.npy", np.ones([1, 60, 60, 8], np.float32))
    command = [sys.executable, "-m", "tfconv", "show", "strided.keras", "--image", "images.npy"]
    folder = str(Path(tfconv.__file__).parents[1])
    path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [*command, "--what", "receptive-field"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "strided-receptive-field.png\n"), done.stderr
