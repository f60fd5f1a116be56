"""Metadata of TensorFlow Lite files: MediaPipe and its reader find what `to_tflite` wrote."""

import io
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv._compat import keras
from tfconv.export import metadata as written
from tfconv.export import to_tflite
from tfconv.export.inspection import inspect
from tfconv.export.verification import Runner

LABELS = ["cat", "dog", "größe 3"]
MEAN, STD = [127.5, 100.0, 90.0], [127.5, 50.0, 60.0]
# A Python with pip's mediapipe, which wants other packages than TensorFlow does.
MEDIAPIPE = os.environ.get("TFCONV_MEDIAPIPE", sys.executable)


def classifier(size=8, channels=3):
    inputs = keras.Input((size, size, channels), name="image")
    x = tfconv.Involution2D(3, groups=1)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name="class")(x))


@pytest.fixture(scope="module")
def model():
    return classifier()


def names_and_images():
    return {"labels": LABELS, "mean": MEAN, "std": STD, "name": "Pets", "author": "me"}


@pytest.mark.dear
def test_file(model, tmp_path):
    """It runs as before, and holds the labels where an archive ends."""
    plain = to_tflite(model)
    report = to_tflite(model, tmp_path / "pets.tflite", metadata=names_and_images())
    assert report.operators == plain.operators and report.error < 1e-5
    with zipfile.ZipFile(tmp_path / "pets.tflite") as archive:
        assert archive.namelist() == ["labels.txt"]
        assert archive.read("labels.txt").decode().splitlines() == LABELS
    assert to_tflite(model, metadata=names_and_images()).content == report.content
    images = np.random.default_rng(0).uniform(size=(1, 8, 8, 3)).astype(np.float32)
    answers = [Runner(r.content, 1, False)({"image": images}) for r in (plain, report)]
    np.testing.assert_array_equal(*(next(iter(a.values())) for a in answers))
    # Nothing but names: no archive.
    named = to_tflite(model, metadata={"name": "Pets"}, verify=False).content
    assert not zipfile.is_zipfile(io.BytesIO(named)) and b"Pets" in named


def test_several_inputs_and_outputs(tmp_path):
    """Tables are in the order that the file has its tensors in."""
    image, gray = keras.Input((4, 4, 3), name="zebra"), keras.Input((4, 4, 1), name="gray")
    features = keras.Input((2,), name="features")
    flat = [keras.layers.Flatten()(x) for x in (image, gray, features)]
    joined = keras.layers.Concatenate()(flat)
    outputs = [keras.layers.Dense(n, name=f"out_{n}")(joined) for n in (3, 2)]
    labels = {"out_2": ["a", "b"], "out_3": LABELS}
    model = keras.Model([image, gray, features], outputs)
    content = to_tflite(model, metadata={"labels": labels, "mean": 0, "std": 255}).content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert set(archive.namelist()) == {"labels_out_2.txt", "labels_out_3.txt"}
    table = read(content)
    inputs = {text(t, 0): t for t in vector(vector(table, 3)[0], 2)}
    order = tf.lite.Interpreter(model_content=content).get_input_details()
    assert [name in d["name"] for name, d in zip(inputs, order)] == [True] * 3
    colors = {"zebra": 1, "gray": 2}
    for name, tensor in inputs.items():
        content_table = field(tensor, 3)
        kind = content_table.Bytes[content_table.Pos + content_table.Offset(4)]
        assert kind == (2 if name in colors else 1)
        assert bool(tensor.Offset(4 + 2 * 4)) == (name in colors)  # normalization
    outputs = {text(t, 0): text(vector(t, 6)[0], 0) for t in vector(vector(table, 3)[0], 3)}
    assert outputs == {"out_2": "labels_out_2.txt", "out_3": "labels_out_3.txt"}
    assert text(table, 7) == "1.0.0"  # the least parser that reads it
    assert written.read(content) == {"labels": labels, "mean": [0.0], "std": [255.0]}
    shown = dict(written.rows(written.read(content)))
    assert shown["  labels out_3"] == "3: cat, dog, größe 3" and shown["  std"] == "255"


def test_what_was_written_is_read(model, tmp_path):
    """By the names it was given by, and `inspect` has it."""
    path = tmp_path / "pets.tflite"
    assert inspect(to_tflite(model, path, verify=False).path).metadata == {}
    to_tflite(model, path, metadata=names_and_images(), verify=False)
    contents = inspect(path)
    assert contents.metadata == names_and_images()
    assert contents.as_json()["metadata"]["labels"] == LABELS
    lines = [line.split() for line in str(contents).splitlines()]
    assert ["mean", "127.5,", "100,", "90"] in lines and ["author", "me"] in lines
    many = {"labels": [f"class {i}" for i in range(7)]}
    assert written.rows(many)[1] == (
        "  labels",
        "7: class 0, class 1, class 2, class 3, class 4, ...",
    )
    assert written.rows({}) == []
    # Without the archive behind it the labels are missing.
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"PK\x01\x02")])
    with pytest.raises(ValueError, match="`path`, the metadata is damaged: .* Received: path="):
        inspect(path)


def read(content):
    """The table of metadata in a file."""
    from flatbuffers import encode, packer, table

    from tfconv.export.rewriting import load

    model = load(content)
    (entry,) = (e for e in model.metadata if e.name == b"TFLITE_METADATA")
    data = bytearray(bytes(model.buffers[entry.buffer].data))
    assert data[4:8] == b"M001"
    return table.Table(data, encode.Get(packer.uoffset, data, 0))


def field(table, number):
    """The table that a field of a table refers to."""
    return type(table)(table.Bytes, table.Indirect(table.Pos + table.Offset(4 + 2 * number)))


def vector(table, number):
    """The tables of a vector."""
    offset = table.Offset(4 + 2 * number)
    start, count = table.Vector(offset), table.VectorLen(offset)
    return [type(table)(table.Bytes, table.Indirect(start + 4 * i)) for i in range(count)]


def text(table, number):
    return table.String(table.Pos + table.Offset(4 + 2 * number)).decode()


_CLASSIFY = """
import sys
import numpy as np
import mediapipe as mp
from mediapipe.tasks.python import BaseOptions, vision

image = mp.Image(mp.ImageFormat.SRGB, np.load(sys.argv[2]))
options = vision.ImageClassifierOptions(BaseOptions(model_asset_path=sys.argv[1]), max_results=3)
with vision.ImageClassifier.create_from_options(options) as classifier:
    (head,) = classifier.classify(image).classifications
for category in head.categories:
    print(category.category_name, category.score, sep="=")
"""


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_mediapipe(quantize, model, tmp_path):
    """Its ImageClassifier takes the file: images of bytes, labels in order of their scores."""
    if subprocess.run([MEDIAPIPE, "-c", "import mediapipe"], capture_output=True).returncode:
        pytest.skip("needs mediapipe: TFCONV_MEDIAPIPE names a Python that has it")
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    given = ((image - 127.5) / 100)[None].astype(np.float32)
    expected = dict(zip(LABELS, model.predict(given, verbose=0)[0]))
    metadata = {**names_and_images(), "mean": 127.5, "std": 100}  # it has no numbers by channel
    arguments = {"metadata": metadata, "quantize": quantize}
    if quantize:
        more = np.random.default_rng(1).integers(0, 256, (64, 8, 8, 3))
        arguments["representative_data"] = ((more - 127.5) / 100).astype(np.float32)
    path, array = tmp_path / "pets.tflite", tmp_path / "image.npy"
    to_tflite(model, path, **arguments)
    np.save(array, image)
    done = subprocess.run(
        [MEDIAPIPE, "-c", _CLASSIFY, str(path), str(array)], capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    scores = dict(line.rsplit("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert scores.keys() == set(LABELS)
    for label, score in scores.items():
        assert float(score) == pytest.approx(expected[label], abs=2e-2 if quantize else 1e-4)


@pytest.mark.parametrize(
    "metadata, message",
    [
        ("labels", "must be a dict with some of name, .* Received: metadata='labels'"),
        ({"label": ["a"]}, "must be a dict with some of name, .* Received"),
        ({"name": 3}, "a string as 'name'. Received: 3"),
        ({"mean": 0.5}, r"both of 'mean' and 'std', or none. Received: \['mean'\]"),
        ({"mean": "a", "std": 1}, "a number as 'mean', or one for each channel.* Received: 'a'"),
        ({"mean": 0, "std": 0}, "'std'.* above 0. Received: 0"),
        ({"mean": 0, "std": [1.0, 2.0]}, r"as 'std', or 3 .* 'image'. Received: \[1.0, 2.0\]"),
        ({"labels": "abc"}, "a list of strings of one line each.* Received: 'abc'"),
        ({"labels": ["a", "b\nc", "d"]}, "strings of one line each"),
        ({"labels": ["a", "b"]}, "as many 'labels' as .* Received: 2 labels for 'class"),
        ({"labels": {"other": LABELS}}, "as many 'labels' .* Received: 3 labels for 'other'"),
    ],
)
def test_refuses(metadata, message, model):
    with pytest.raises(ValueError, match=message):
        to_tflite(model, metadata=metadata, verify=False)


def test_refuses_means_without_an_image():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="needs an image as input"):
        to_tflite(model, metadata={"mean": 0, "std": 1}, verify=False)


def test_labels_of_several_outputs_need_names():
    inputs = keras.Input((4,))
    outputs = [keras.layers.Dense(2, name=name)(inputs) for name in ("a", "b")]
    with pytest.raises(ValueError, match="a dict by the names of the outputs"):
        to_tflite(keras.Model(inputs, outputs), metadata={"labels": ["x", "y"]}, verify=False)


def test_numbers():
    assert written._numbers(2) == [2.0]
    assert written._numbers(np.array([1, 2])) == [1.0, 2.0]
    assert written._numbers([[1.0]]) is written._numbers(float("nan")) is None
