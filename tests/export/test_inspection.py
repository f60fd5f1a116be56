"""What `inspect` says of exported models."""

import dataclasses
import doctest
import importlib.util
import json
import shutil

import pytest
import tensorflow as tf

import tfconv
from tfconv._compat import KERAS_3, keras
from tfconv.export import inspection, to_onnx
from tfconv.export.inspection import inspect

has_onnx = all(map(importlib.util.find_spec, ("onnx", "tf2onnx")))
needs_onnx = pytest.mark.skipif(not has_onnx, reason="tf2onnx, onnx: not installed")


@pytest.fixture(scope="module")
def model():
    x = keras.Input((6, 5, 4), name="image")
    y = tfconv.Involution2D(3, group_channels=2, name="involution")(x)
    y = keras.layers.Flatten(name="flat")(keras.layers.ReLU(name="relu")(y))
    return keras.Model(x, keras.layers.Dense(3, name="head")(y))


@pytest.fixture(scope="module")
def exports(model, tmp_path_factory):
    """A folder with everything that is looked at; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("exports")
    model.export(folder / "versions" / "9")
    with tfconv.keep_native():
        model.export(folder / "versions" / "10")
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.allow_custom_ops = True
        (folder / "native.tflite").write_bytes(converter.convert())
    if has_onnx:
        to_onnx(model, folder / "model.onnx", verify=False)
    (folder / "versions" / "11").mkdir()  # not complete yet
    (folder / "versions" / "models.config").write_text("")
    return folder


def saved_size(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_tflite(exports):
    path = exports / "native.tflite"
    contents = inspect(path)
    assert contents.path == path
    assert contents.size == path.stat().st_size
    assert list(contents.inputs.values()) == ["float32 [?, 6, 5, 4]"]
    assert list(contents.outputs.values()) == ["float32 [?, 3]"]
    assert contents.signatures["serving_default"].inputs == {"image": "float32 [?, 6, 5, 4]"}
    assert list(contents.signatures["serving_default"].outputs.values()) == ["float32 [?, 3]"]
    assert contents.operators["CONV_2D"] == 2
    assert contents.operator_types["FLOAT32"] >= 4
    assert contents.custom_operators == {"Tfconv>Involution": 1}
    assert contents.layers["head"].size >= 4 * 6 * 5 * 4 * 3
    assert {"involution", "involution/span", "flat", "head"} <= set(contents.layers)


def test_tflite_printed(exports):
    printed = str(inspect(exports / "native.tflite"))
    lines = [line.split() for line in printed.splitlines()]
    assert ["custom", "1", "Tfconv>Involution"] in lines
    assert ["Tfconv>Involution", "(custom)", "1"] in lines
    assert ["CONV_2D", "2"] in lines
    assert ["signature", "serving_default"] in lines
    assert ["input", "image:", "float32", "[?,", "6,", "5,", "4]"] in lines
    (head,) = (line for line in lines if line[:1] == ["head"])
    assert head[1] == "1" and head[3].endswith("%") and float(head[3][:-1]) > 50


def test_tflite_without_signatures(exports):
    """Inputs and outputs are shown by the names of the tensors."""
    contents = dataclasses.replace(inspect(exports / "native.tflite"), signatures={})
    (name,) = contents.inputs
    lines = [line.split() for line in str(contents).splitlines()]
    assert ["input", f"{name}:", "float32", "[?,", "6,", "5,", "4]"] in lines


@pytest.mark.parametrize("version", [9, 10])
def test_saved_model(exports, model, version):
    folder = exports / "versions" / str(version)
    contents = inspect(folder)
    assert contents.path == folder
    assert contents.versions == []
    assert contents.size == saved_size(folder)
    assert contents.tensorflow == tf.__version__
    signature = contents.signatures["serving_default"]
    assert list(signature.inputs.values()) == ["float32 [?, 6, 5, 4]"]
    assert list(signature.outputs.values()) == ["float32 [?, 3]"]
    assert not any(name.startswith("__") for name in contents.signatures)
    assert contents.operations["Conv2D"] == 2
    assert contents.native_operations == ({} if version == 9 else {"Tfconv>Involution": 1})
    # Keras 3 writes the weights twice: as the model's, and as the export's.
    copies = 2 if KERAS_3 else 1
    assert contents.variables == copies * len(model.weights)
    assert contents.size_by_type == {"float32": 4 * copies * model.count_params()}
    assert {name: share.size for name, share in contents.layers.items() if share.size} == {
        "involution/reduce": 4 * 4 * 1,
        "involution/normalization": 4 * 4,
        "involution/span": 4 * (1 * 18 + 18),
        "head": 4 * (120 * 3 + 3),
    }
    # Slices and products, or the native op.
    assert (contents.layers["involution"].operators > 10) == (version == 9)
    assert "relu" in contents.layers and "flat" in contents.layers
    assert ["head", str(contents.layers["head"].operators), "1,452", "89.2%"] in [
        line.split() for line in str(contents).splitlines()
    ]


def test_versions(exports):
    """A server takes the highest version that is complete."""
    contents = inspect(exports / "versions")
    assert contents.versions == [9, 10]
    assert contents.path == exports / "versions" / "10"
    lines = [line.split() for line in str(contents).splitlines()]
    assert ["versions", "9,", "10"] in lines
    assert ["native", "1", "Tfconv>Involution"] in lines
    assert ["Conv2D", "2"] in lines
    assert ["signature", "serving_default"] in lines
    lines = [line.split() for line in str(inspect(exports / "versions" / "9")).splitlines()]
    assert ["native", "none:", "any", "TensorFlow", "runs", "it"] in lines


@needs_onnx
def test_onnx(exports, tmp_path):
    import onnx

    contents = inspect(exports / "model.onnx")
    assert contents.size == (exports / "model.onnx").stat().st_size
    assert contents.inputs == {"image": "float32 [?, 6, 5, 4]"}
    assert contents.outputs == {"head": "float32 [?, 3]"}
    assert contents.operators["Conv"] == 2 and contents.custom_operators == {}
    weights = 4 * (4 + 18 + 120 * 3)  # without biases, which are zero
    assert weights <= contents.size_by_type["float32"] < weights + 200
    lines = [line.split() for line in str(contents).splitlines()]
    assert ["Conv", "2"] in lines and ["custom", "none"] in lines
    assert ["input", "image:", "float32", "[?,", "6,", "5,", "4]"] in lines
    assert ["written", "by", "tf2onnx"] in [line[:3] for line in lines]
    facts = json.loads(json.dumps(contents.as_json()))
    assert (facts["kind"], facts["operators"]["Conv"]) == ("ONNX", 2)
    content = (exports / "model.onnx").read_bytes()
    other = tmp_path / "model"  # it need not be called .onnx
    proto = onnx.load_from_string(content)
    proto.graph.node[0].domain = "of.mine"
    other.write_bytes(proto.SerializeToString())
    assert inspect(other).custom_operators == {proto.graph.node[0].op_type: 1}
    for damaged in (content[:-200], content[:4], b"", b"text"):
        path = tmp_path / "damaged.onnx"
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="no ONNX model, or a damaged one.*Received: path="):
            inspect(path)


@pytest.mark.parametrize("name", ["native.tflite", "versions"])
def test_json(exports, name):
    contents = inspect(exports / name)
    facts = json.loads(json.dumps(contents.as_json()))
    assert facts["kind"] == contents.kind
    assert facts["path"] == str(contents.path)
    assert facts["size"] == contents.size
    signature = facts["signatures"]["serving_default"]
    assert list(signature["inputs"].values()) == ["float32 [?, 6, 5, 4]"]


def test_unknown_shapes(tmp_path):
    module = tf.Module()
    module.f = tf.function(lambda x: 2 * x, [tf.TensorSpec(None, tf.float64, name="x")])
    tf.saved_model.save(module, str(tmp_path), signatures=module.f)
    contents = inspect(tmp_path)
    assert contents.signatures["serving_default"].inputs == {"x": "float64 of any shape"}
    assert contents.variables == 0 and contents.size_by_type == {}


def damage_nothing(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def damage_graph(folder):
    path = folder / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:-100])


def empty_graph(folder):
    (folder / "saved_model.pb").write_bytes(b"")


def no_variables(folder):
    shutil.rmtree(folder / "variables")


def damage_index(folder):
    path = folder / "variables" / "variables.index"
    path.write_bytes(path.read_bytes()[:-20])


def damage_variables(folder):
    (path,) = (folder / "variables").glob("variables.data*")
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    "damage, message",
    [
        (damage_nothing, "must be a TensorFlow Lite file, or a folder"),
        (damage_graph, "damaged SavedModel"),
        (empty_graph, "it has no graph"),
        (no_variables, "it has no variables"),
        (damage_index, "damaged SavedModel"),
        (damage_variables, "files of its variables are too short"),
    ],
)
def test_damaged_saved_model(exports, tmp_path, damage, message):
    folder = tmp_path / "model"
    shutil.copytree(exports / "versions" / "9", folder)
    damage(folder)
    with pytest.raises(ValueError, match=f"{message}(.|\n)* Received: path='{folder}'"):
        inspect(folder)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "must be a TensorFlow Lite or ONNX file"),
        (b"PK\3\4, as .keras files begin", "must be a TensorFlow Lite or ONNX file"),
        (None, "damaged TensorFlow Lite model"),
    ],
)
def test_other_files(exports, tmp_path, content, message):
    path = tmp_path / "model.tflite"
    whole = (exports / "native.tflite").read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match=f"{message}.* Received: .*model.tflite"):
        inspect(path)


def test_missing(tmp_path):
    with pytest.raises(ValueError, match="`path` does not exist. Received: path='.*nowhere'"):
        inspect(tmp_path / "nowhere")


def test_unreadable(tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"")

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "read_bytes", refuse)
    with pytest.raises(ValueError, match=r"cannot be read \(Permission denied\). Received: "):
        inspect(path)


def test_example():
    assert doctest.testmod(inspection, extraglobs={"tf": tf}) == (0, 6)
