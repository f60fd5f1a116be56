"""The demo: its parts, and one short run from end to end."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv import cli
from tfconv._compat import keras
from tfconv.demo import c_api_runner, report, routes
from tfconv.demo.digits import load_digits
from tfconv.demo.errors import DemoError
from tfconv.demo.pictures import require_matplotlib
from tfconv.demo.routes import Route
from tfconv.export.files import replacing, size_on_disk

LABELS = np.arange(20) % 10
PNG = b"\x89PNG\r\n"


def run_c_api(model, inputs, outputs, *options):
    command = [sys.executable, "-I", c_api_runner.__file__, model, inputs, outputs]
    command += ["--libraries", tf.sysconfig.get_lib(), *options]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)


@pytest.mark.late
def test_demo(tmp_path, capsys):
    """One epoch: too few to be accurate, which must be said, but every route has to agree."""
    output = tmp_path / "new" / "out"
    (output / "digits-serving" / "1" / "assets").mkdir(parents=True)
    (output / "digits-serving" / "1" / "left-over").touch()
    assert cli.main(["demo", "--output", str(output), "--epochs", "1"]) == 1
    printed = capsys.readouterr()
    assert "of the held-out digits right" in printed.err
    assert "Traceback" not in printed.err
    numbers = json.loads((output / "report.json").read_text())
    names = [route["route"] for route in numbers["routes"]]
    for name in names:
        assert name in printed.out
    found = {route["path"] for route in numbers["routes"]}
    assert found == {None, "digits.keras", "digits.tflite", "digits-serving/1"}
    for route in numbers["routes"]:
        assert route["other_class"] == 0
        assert route["largest_difference"] < report.TOLERANCE
        assert route["accuracy"] == numbers["routes"][0]["accuracy"]
        assert all(t > 0 for t in route["milliseconds_per_image"].values())
        if route["path"]:
            assert route["bytes"] == size_on_disk(output / route["path"]) > 10_000
            assert route["ops"] == "stock" or route["path"].endswith(".keras")
    pictures = list(output.glob("*.png"))
    assert len(pictures) == 3
    assert all(p.read_bytes().startswith(PNG) for p in pictures)
    assert not (output / "digits-serving" / "1" / "left-over").exists()
    assert not [p.name for p in output.rglob(".*")], "temporary files are left"

    # The SavedModel once more, against TensorFlow itself, on inputs that are no digits.
    folder = output / "digits-serving" / "1"
    x = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    done = run_c_api(folder, tmp_path / "x.npy", tmp_path / "y.npy", "--batches", "2")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["foreign_modules"] == []
    assert said["tensorflow"] == tf.__version__
    assert len(said["milliseconds"]) == 1
    (expected,) = (
        tf.saved_model.load(str(folder)).signatures["serving_default"](tf.constant(x)).values()
    )
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-6)

    done = run_c_api(tmp_path, tmp_path / "x.npy", tmp_path / "y.npy")
    assert done.returncode == 1
    assert "loading the SavedModel failed" in done.stderr


def test_digits():
    digits = load_digits()
    assert len(digits.train_labels) + len(digits.test_labels) == 1797
    assert len(digits.test_labels) == 599
    for images in (digits.train_images, digits.test_images):
        assert images.dtype == np.float32
        assert images.shape[1:] == (8, 8, 1)
        assert (images.min(), images.max()) == (0, 1)
    share = np.bincount(digits.test_labels) / np.bincount(digits.train_labels)
    np.testing.assert_allclose(share, 0.5, atol=0.02)
    np.testing.assert_array_equal(load_digits().test_labels, digits.test_labels)


@pytest.mark.parametrize(
    "module, load, package",
    [("sklearn", load_digits, "scikit-learn"), ("matplotlib", require_matplotlib, "matplotlib")],
)
def test_missing_package(monkeypatch, module, load, package):
    for name in [n for n in sys.modules if n.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DemoError, match=rf"needs {package}.*pip install scikit-learn"):
        load()


def route(name="a route", probabilities=None, path=None):
    exact = np.eye(10)[LABELS]
    return Route(name, "stock", exact if probabilities is None else probabilities, (1, 2), path)


def test_check_accepts_agreement():
    report.check([route(), route(probabilities=np.eye(10)[LABELS] + 0.9e-4)], LABELS, 1)


@pytest.mark.parametrize("value", [2e-4, np.nan])
def test_check_finds_other_probabilities(value):
    probabilities = np.eye(10)[LABELS]
    probabilities[3, 5] = value
    with pytest.raises(DemoError, match="the odd one: .* differ by up to"):
        report.check([route(), route("the odd one", probabilities)], LABELS, 0)


def test_check_finds_other_classes():
    """Also where the probabilities are as good as equal."""
    close = np.full([20, 10], 0.1)
    first, other = close.copy(), close.copy()
    first[0, 3] += 1e-6
    other[0, 4] += 1e-6
    with pytest.raises(DemoError, match="the odd one: 1 of 20 digits in another class"):
        report.check([route(probabilities=first), route("the odd one", other)], LABELS, 0)


def test_check_finds_low_accuracy():
    with pytest.raises(DemoError, match="gets 100.00% .* 101%"):
        report.check([route()], LABELS, 1.01)


def test_table_fits_a_terminal(tmp_path):
    from rich.console import Console

    path = tmp_path / "model"
    path.write_bytes(bytes(123456))
    names = ["Keras, in memory", "Keras, portable()", "TFLite (LiteRT)", "SavedModel (C API)"]
    console = Console(width=80, file=io.StringIO())
    console.print(report.table([route(name, path=path) for name in names], LABELS))
    text = console.file.getvalue()
    assert all(name in text for name in names)
    assert "123 kB" in text


def test_replacing(tmp_path):
    file, folder = tmp_path / "a.txt", tmp_path / "b"
    for content in ("old", "new"):
        with replacing(file) as made:
            assert made.suffix == ".txt"
            made.write_text(content)
        with replacing(folder) as made:
            made.mkdir()
            (made / content).touch()
    assert file.read_text() == "new"
    assert [p.name for p in folder.iterdir()] == ["new"]
    with pytest.raises(KeyError), replacing(file) as made:
        made.write_text("half")
        raise KeyError
    assert file.read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "b"]


def meta_graph(**sides):
    """A serialized MetaGraphDef with one signature; sides: (tensor name, data type) lists."""
    graph = tf.compat.v1.MetaGraphDef()
    graph.meta_info_def.tags.append("serve")
    signature = graph.signature_def["serving_default"]
    for side, tensors in sides.items():
        for i, (name, dtype) in enumerate(tensors):
            info = getattr(signature, side)[f"tensor {i}"]
            info.name, info.dtype = name, dtype.as_datatype_enum
    return graph.SerializeToString()


def test_read_signature():
    names = ("serving_default_x:0", "StatefulPartitionedCall:1")
    inputs, outputs = ([(name, tf.float32)] for name in names)
    message = meta_graph(inputs=inputs, outputs=outputs)
    assert c_api_runner.read_signature(message, "serving_default") == names
    with pytest.raises(ValueError, match=r"no signature 'other'.*\['serving_default'\]"):
        c_api_runner.read_signature(message, "other")


@pytest.mark.parametrize(
    "inputs", [[], [("x:0", tf.int32)], [("x:0", tf.float32), ("y:0", tf.float32)]]
)
def test_read_signature_refuses(inputs):
    message = meta_graph(inputs=inputs, outputs=[("z:0", tf.float32)])
    with pytest.raises(ValueError, match="one float32 input"):
        c_api_runner.read_signature(message, "serving_default")


def test_no_libraries(tmp_path):
    assert c_api_runner.libraries(tmp_path) is None
    with pytest.raises(RuntimeError, match="No TensorFlow libraries"):
        c_api_runner.Model(tmp_path, tmp_path, "serving_default")


def test_fields_of_every_kind():
    """Protocol buffers as in a message with a fixed64, a fixed32, bytes and an int."""
    message = b"\x09" + bytes(8) + b"\x15" + b"\x01\x00\x00\x00" + b"\x1a\x02hi" + b"\x20\xac\x02"
    assert list(c_api_runner.fields(message)) == [
        (1, bytes(8)),
        (2, b"\x01\x00\x00\x00"),
        (3, b"hi"),
        (4, 300),
    ]
    with pytest.raises(ValueError, match="Unknown wire type .* Received: 3"):
        list(c_api_runner.fields(b"\x0b"))


def test_saved_model_that_does_not_load(tmp_path):
    (tmp_path / "saved_model.pb").touch()
    said = r"C API \(exit status 1\):\n(.*\n)*loading the SavedModel failed: Could not find"
    with pytest.raises(DemoError, match=said):
        routes.c_api(np.zeros([1, 8, 8, 1], np.float32), tmp_path)


def test_c_api_that_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(routes, "_RUNNER_SECONDS", 0.001)
    with pytest.raises(DemoError, match="did not answer"):
        routes.c_api(np.zeros([1, 8, 8, 1], np.float32), tmp_path)


def test_tensorflow_without_its_c_libraries(tmp_path, monkeypatch):
    monkeypatch.setattr(tf.sysconfig, "get_lib", lambda: str(tmp_path))
    assert routes.c_api(np.zeros([1, 8, 8, 1], np.float32), tmp_path) is None


def test_native_operations_in_an_export_are_found(tmp_path):
    inputs = keras.Input((4, 4, 2))
    model = keras.Model(inputs, tfconv.Involution2D(3, group_channels=1)(inputs))
    with tfconv.keep_native(), pytest.raises(DemoError, match="tfconv's native ops: .*served"):
        routes.saved_model(model, tmp_path / "served")


def test_what_was_said_goes_into_the_error(capfd):
    """What other programs' parts write to the file descriptor is seen only if something fails."""
    with routes._quiet("Nothing"):
        os.write(2, b"chatter")
    with pytest.raises(DemoError, match="^The thing failed: no luck\n.*deep reason$"):
        with routes._quiet("The thing"):
            os.write(2, b"deep reason\n")
            raise RuntimeError("no luck")
    assert capfd.readouterr().err == ""


def test_output_cannot_be_written(tmp_path, capsys):
    file = Path(tmp_path, "a file")
    file.touch()
    assert cli.main(["demo", "--output", str(file)]) == 1
    assert "`--output` must be a folder: there is a file" in capsys.readouterr().err
