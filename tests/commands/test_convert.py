"""`convert` and `inspect`."""

import json
from pathlib import Path

import numpy as np
import pytest

import tfconv
from tfconv import cli, export
from tfconv._compat import keras


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A folder with a saved model, and examples for it."""
    folder = tmp_path_factory.mktemp("network")
    inputs = keras.Input((6, 5, 4), name="image")
    keras.Model(inputs, tfconv.Involution2D(3, groups=2)(inputs)).save(folder / "net.keras")
    images = np.ones([8, 6, 5, 4], np.float32)
    np.save(folder / "images.npy", images)
    np.savez(folder / "image.npz", image=images)
    np.savez(folder / "two.npz", image=images, scale=images)
    return folder


@pytest.fixture
def conversions(monkeypatch):
    """Puts other functions in place of the exports; returns their arguments as they are called."""
    calls = []

    def recorded(name):
        def convert(model, path, *positional, **named):
            assert model.layers[-1].groups == 2
            calls.append((name, path, positional, named))
            return f"report of {name}"

        return convert

    for name in ("to_tflite", "to_onnx", "to_saved_model"):
        monkeypatch.setattr(export, name, recorded(name), raising=False)
    return calls


def test_convert_gets_its_arguments(capsys, network, conversions):
    model, output = network / "net.keras", network / "other"
    options = ["--quantize", "mixed", "--keep-native", "--data", network / "two.npz"]
    for arguments in (
        ["tflite"],
        ["tflite", "--output", output, *options],
        ["tflite", *"--batch any --input-shape 6,5,4 --io-dtype int8 --tolerance 0.2".split()],
        ["tflite", "--batch", "3"],
        ["onnx", "--opset", "13", "--data", network / "images.npy"],
        ["saved_model"],
        ["saved_model", "--output", output, "--keep-native"],
    ):
        assert cli.main(["convert", str(model), "--to", *map(str, arguments)]) == 0
        assert f"report of to_{arguments[0]}" in capsys.readouterr().out
    plain, mixed, sized, three, onnx, saved, native = conversions
    default = {"quantize": None, "representative_data": None, "keep_native": False}
    assert plain == ("to_tflite", network / "net.tflite", (), default)
    data = mixed[3].pop("representative_data")
    assert mixed == ("to_tflite", output, (), {"quantize": "mixed", "keep_native": True})
    assert sorted(data) == ["image", "scale"]
    given = {"batch_size": None, "input_shape": (6, 5, 4), "io_dtype": "int8", "tolerance": 0.2}
    assert sized[3] == {**default, **given}
    assert three[3] == {**default, "batch_size": 3}
    assert onnx[:3] == ("to_onnx", network / "net.onnx", (13,))
    assert onnx[3]["representative_data"].shape == (8, 6, 5, 4)
    plain = {"keep_native": False, "jit_compile": False}
    assert saved == ("to_saved_model", network / "net", (), plain)
    assert native == ("to_saved_model", output, (), {**plain, "keep_native": True})


def test_convert_gets_metadata(capsys, network, conversions, tmp_path):
    """Labels from files, for an only output or by the names of several."""
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("cat\nblue dog\n\n", encoding="utf-8")
    two.write_text("größe", encoding="utf-8")
    command = ["convert", str(network / "net.keras"), "--to", "tflite"]
    for options in (
        ["--labels", one],
        ["--labels", f"b={two}", "--labels", f"a={one}", "--mean", "1,2,3.5", "--std=2"],
    ):
        assert cli.main([*command, *map(str, options)]) == 0
    pets, both = (named["metadata"] for *_, named in conversions)
    assert pets == {"labels": ["cat", "blue dog"]}
    labels = {"a": ["cat", "blue dog"], "b": ["größe"]}
    assert both == {"labels": labels, "mean": [1.0, 2.0, 3.5], "std": [2.0]}
    for option, other in (("--mean", "--std"), ("--std", "--mean")):
        with pytest.raises(SystemExit):
            cli.main([*command, option, "1"])
        assert f"argument {option}: needs {other}" in capsys.readouterr().err


def test_convert_takes_an_only_array_by_any_name(network, conversions):
    data = str(network / "image.npz")
    command = ["convert", str(network / "net.keras"), "--to", "tflite", "--data", data]
    assert cli.main(command) == 0
    ((*_, named),) = conversions
    assert named["representative_data"].shape == (8, 6, 5, 4)


def test_convert_and_inspect(capsys, network, tmp_path):
    """What one writes the other reads; a file that is there stays unless told otherwise."""
    path = tmp_path / "net.tflite"
    command = ["convert", str(network / "net.keras"), "--to", "tflite", "--output", str(path)]
    path.write_text("mine")
    assert cli.main(command) == 1
    assert "--force overwrites it" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert cli.main([*command, "--force"]) == 0
    printed = capsys.readouterr()
    assert "CONV_2D" in printed.out
    assert list(tmp_path.iterdir()) == [path]
    assert cli.main(["inspect", str(path)]) == 0
    assert "involution2d" in capsys.readouterr().out
    assert cli.main(["inspect", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["operators"]["CONV_2D"] == 1 + 9  # the squeeze, and the kernels of each tap
    assert facts["size"] == path.stat().st_size


def test_convert_to_integers(capsys, network, tmp_path):
    """With integers at the borders; `inspect` says that nothing is left in float32."""
    data, path = tmp_path / "data.npy", tmp_path / "net.tflite"
    np.save(data, np.random.default_rng(0).standard_normal([16, 6, 5, 4]).astype(np.float32))
    command = ["convert", str(network / "net.keras"), "--to", "tflite", "--output", str(path)]
    options = ["--quantize", "int8", "--io-dtype", "uint8", "--data", str(data)]
    assert cli.main([*command, *options, "--tolerance", "0.5"]) == 0
    assert "UserWarning" not in capsys.readouterr().err
    assert cli.main(["inspect", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert "FLOAT32" not in facts["operator_types"]
    assert [text[:5] for text in facts["inputs"].values()] == ["uint8"]


@pytest.mark.parametrize(
    "option", ["--batch=0", "--batch=all", "--input-shape=6,x", "--io-dtype=x", "--mean=1;2"]
)
def test_options_that_cannot_be(capsys, option):
    with pytest.raises(SystemExit):
        cli.main(["convert", "net.keras", "--to", "tflite", option])
    assert option.partition("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    "model, options, message",
    [
        ("net.keras", ["--io-dtype", "int8"], "`--io-dtype` must be"),
        ("net.keras", ["--input-shape", "3,3,3"], "`--input-shape` must be"),
        ("nothing.keras", [], "nothing.keras"),
        ("images.npy", [], "images.npy"),
        ("text.keras", [], "is there, but is no Keras file"),
        ("none.keras", [], "is there, but is empty"),
        ("folder.keras", [], "is there, but is a folder"),
        ("cut.keras", [], "is there, but is damaged or cut off"),
        ("image.npz", [], "is there, but is no Keras file: it has no config.json"),
        ("net.h5", [], "its name must end with .keras"),
        ("hdf5.keras", [], "its name must end with .h5"),
        ("net.keras", ["--quantize", "int8"], "`--data` is needed for --quantize int8"),
        ("net.keras", ["--data", "two.npz"], "`--data` needs"),
        ("net.keras", ["--labels", "nothing.txt"], "No such file: `--labels`"),
        ("net.keras", ["--labels", "images.npy"], "`--labels` must be text"),
        ("net.keras", ["--labels", "two.txt"], "`--labels/--mean/--std` must have as many"),
        ("net.keras", ["--data", "net.keras"], "config.json"),
        ("net.keras", ["--data", "empty.npz"], "`--data` must be"),
        ("net.keras", ["--data", "damaged.npz"], "`--data` must be"),
        ("net.keras", ["--data", "nothing.npz"], "nothing.npz"),
        ("net.keras", ["--output", "nowhere/net.tflite"], "`--output` must lie in a folder that"),
        ("net.keras", ["--output", "folder.keras"], "`--output` must be a file"),
        ("net.keras", ["--output", "text.keras"], "--force overwrites it"),
        ("net.keras", ["--output", "./net.keras", "--force"], "`--output` must not be net.keras"),
        (
            "net.keras",
            ["--data", "image.npz", "--output", "image.npz", "--force"],
            "`--output` must not be image.npz, which is read",
        ),
    ],
)
def test_conversions_that_fail(capsys, monkeypatch, network, model, options, message):
    monkeypatch.chdir(network)
    Path("empty.npz").write_bytes(b"")
    np.savez_compressed("damaged.npz", image=np.random.default_rng(0).normal(size=1000))
    damaged = bytearray(Path("damaged.npz").read_bytes())
    damaged[64:4000] = bytes(len(damaged[64:4000]))
    Path("damaged.npz").write_bytes(damaged)
    Path("text.keras").write_text("text")
    Path("two.txt").write_text("cat\ndog\n")
    Path("none.keras").touch()
    Path("folder.keras").mkdir(exist_ok=True)
    saved = Path("net.keras").read_bytes()
    Path("net.h5").write_bytes(saved)
    Path("cut.keras").write_bytes(saved[: len(saved) // 2])
    Path("hdf5.keras").write_bytes(b"\x89HDF\r\n\x1a\n" + saved)
    before = sorted(network.iterdir())
    assert cli.main(["convert", model, "--to", "tflite", *options]) == 1
    printed = capsys.readouterr()
    assert "nothing was converted" in printed.err and message in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert sorted(network.iterdir()) == before


def test_nothing_to_inspect(capsys, tmp_path):
    assert cli.main(["inspect", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "there is nothing to inspect" in printed.err and f"'{tmp_path}'" in printed.err
    path = tmp_path / "net.keras"
    path.write_text("a model of Keras")
    assert cli.main(["inspect", str(path)]) == 1
    assert "`tfconv convert` converts" in capsys.readouterr().err
