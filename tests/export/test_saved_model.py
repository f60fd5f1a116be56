"""What `to_saved_model` writes: versions, signatures, warm-up requests, configurations."""

import doctest
import io
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from rich.console import Console

import tfconv
import tfconv.export
from tests.conftest import require_native
from tfconv import _compat
from tfconv._compat import keras
from tfconv.export import saved_model, to_saved_model

IMAGES = np.random.default_rng(0).normal(size=(5, 8, 8, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    """Native ops of every family, batch norm, dropout: what has to be exported with care."""
    inputs = keras.Input((8, 8, 4))
    x = tfconv.Involution2D(3, group_channels=2)(inputs)
    x = tfconv.DeformableConv2D(4, 3, offset_initializer="glorot_uniform")(x)
    x = tfconv.CondConv2D(4, 3, num_experts=2)(x)
    x = keras.layers.Dropout(0.5)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="scores")(x))


@pytest.fixture(scope="module")
def small():
    """A model that is exported in no time."""
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])


@pytest.fixture(scope="module")
def apis():
    """TF Serving's messages."""
    return pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")


def served(report, signature="serving_default", **inputs):
    """What the version answers."""
    loaded = tf.saved_model.load(str(report.path))
    return loaded.signatures[signature](**{k: tf.constant(v) for k, v in inputs.items()})


def content(folder):
    """Every path below a folder, hidden ones too, with what files hold."""
    return {p: p.read_bytes() if p.is_file() else None for p in sorted(Path(folder).rglob("*"))}


def test_answers_of_the_model(model, tmp_path):
    expected = model.predict(IMAGES, verbose=0)
    report = to_saved_model(model, tmp_path / "net")
    assert report.error < 1e-5
    assert report.path == tmp_path / "net" / "1"
    assert report.native_ops == {}
    assert report.ops["Conv2D"] >= 2
    assert report.size == sum(len(c) for c in content(report.path).values() if c)
    (signature,) = report.signatures.values()
    assert str(signature) == "(inputs: float32 [?, 8, 8, 4]) -> (outputs: float32 [?, 3])"
    assert str(report).startswith(f"{report.path}: version 1, {report.size:,} bytes\n")
    for batch in (1, 5):
        outputs = served(report, inputs=IMAGES[:batch])["outputs"]
        np.testing.assert_allclose(outputs, expected[:batch], atol=1e-5)


@pytest.mark.dear
def test_signatures(model, small, tmp_path):
    """Models that share layers, functions traced before, preprocessing: none has a native op."""
    scores = model.predict(IMAGES, verbose=0)
    raw = np.random.default_rng(0).integers(0, 256, IMAGES.shape).astype(np.uint8)

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 4], name="images")])
    def classes(x):
        return {"class": tf.argmax(model(x), -1), "best": tf.reduce_max(model(x), -1)}

    classes(IMAGES)
    inside = keras.Model(model.inputs, [model.layers[-2].output, model.output])
    report = to_saved_model(
        model,
        tmp_path,
        signatures={
            "serving_default": (
                lambda image: model(tf.cast(image, tf.float32) / 255),
                {"image": tf.TensorSpec([None, 8, 8, 4], tf.uint8)},
            ),
            "plain": model,
            "inside": inside,
            "classes": classes,
        },
    )
    assert report.native_ops == {}
    stream = io.StringIO()
    Console(file=stream, width=100).print(report)
    words = ("SavedModel", "signature", "native ops", "MatMul")
    places = [stream.getvalue().find(word) for word in words]
    assert places == sorted(places) and min(places) >= 0, stream.getvalue()
    np.testing.assert_allclose(
        served(report, image=raw)["outputs"],
        model.predict(raw.astype(np.float32) / 255, verbose=0),
        atol=1e-5,
    )
    np.testing.assert_allclose(served(report, "plain", inputs=IMAGES)["outputs"], scores, atol=1e-5)
    answer = served(report, "classes", images=IMAGES)
    np.testing.assert_array_equal(answer["class"], scores.argmax(-1))
    np.testing.assert_allclose(answer["best"], scores.max(-1), atol=1e-5)
    answer = served(report, "inside", inputs=IMAGES)
    assert answer.keys() == report.signatures["inside"].outputs.keys() == {*inside.output_names}
    np.testing.assert_allclose(answer["scores"], scores, atol=1e-5)


def test_several_inputs_and_tables(tmp_path):
    words, numbers = keras.Input((), dtype="string", name="words"), keras.Input((2,), name="more")
    found = keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(words)
    both = keras.layers.Concatenate(name="both")([found, numbers])
    given = {"words": np.array(["b", "other"]), "more": np.ones([2, 2], np.float32)}
    listed = to_saved_model(keras.Model([words, numbers], [both, numbers]), tmp_path / "list")
    assert listed.signatures["serving_default"].inputs.keys() == given.keys()
    np.testing.assert_array_equal(
        served(listed, **given)["both"], [[0, 0, 1, 1, 1], [1, 0, 0, 1, 1]]
    )
    named = keras.Model({"words": words, "more": numbers}, {"sum": both})
    answer = served(to_saved_model(named, tmp_path / "dict"), **given)
    np.testing.assert_array_equal(answer["sum"], [[0, 0, 1, 1, 1], [1, 0, 0, 1, 1]])

    class Lookup(tf.Module):
        def __init__(self):
            super().__init__()
            self.table = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(["a", "b"], [1, 2]), default_value=0
            )

        def __call__(self, word):
            return self.table.lookup(word)

    words = {"word": tf.TensorSpec([None], tf.string)}
    report = to_saved_model(named, tmp_path / "table", signatures={"look up": (Lookup(), words)})
    answer = served(report, "look up", word=["b", "c", "a"])["outputs"]
    np.testing.assert_array_equal(answer, [2, 0, 1])


def test_native_ops_stay_if_wanted(model, tmp_path):
    require_native()
    names = {"Tfconv>DeformableConv", "Tfconv>Involution", "Tfconv>PerExampleConv"}
    report = to_saved_model(model, tmp_path, keep_native=True)
    assert report.native_ops.keys() == names
    assert "native ops: Tfconv>DeformableConv, " in str(report)
    assert "${TENSORFLOW_SERVING_IMAGE:?" in (tmp_path / "docker-compose.yml").read_text()
    np.testing.assert_allclose(
        served(report, inputs=IMAGES)["outputs"], model.predict(IMAGES, verbose=0), atol=1e-5
    )
    with tfconv.keep_native():
        assert to_saved_model(model, tmp_path).native_ops.keys() == names


def test_versions(small, tmp_path, monkeypatch):
    (tmp_path / "net" / "0041").mkdir(parents=True)
    (tmp_path / "net" / "old").mkdir()
    monkeypatch.chdir(tmp_path)
    assert to_saved_model(small, "net").version == 42
    assert to_saved_model(small, Path("net"), np.int64(7)).path == tmp_path / "net" / "7"
    assert to_saved_model(small, "net").version == 43
    before = content(tmp_path)
    for number in (41, 7):
        with pytest.raises(ValueError, match=rf"`version` .*\[7, 41, 42, 43\]. Received: {number}"):
            to_saved_model(small, "net", number)
    assert content(tmp_path) == before


def test_another_process_is_faster(small, tmp_path, monkeypatch):
    """It has taken the number after this one has looked."""
    first = to_saved_model(small, tmp_path)
    looked, versions = [], saved_model._versions

    def late(folder):
        looked.append(folder)
        return versions(folder) if len(looked) > 1 else set()

    monkeypatch.setattr(saved_model, "_versions", late)
    assert to_saved_model(small, tmp_path).version == 2
    looked.clear()
    with pytest.raises(ValueError, match=r"`version` must be new: .*\[1, 2\]. Received: 1"):
        to_saved_model(small, tmp_path, 1)
    assert (first.path / "saved_model.pb").is_file()


def test_a_polling_server_sees_whole_versions_only(small, tmp_path):
    seen, stop = {}, threading.Event()

    def poll():
        last = False
        while not last:
            last = stop.is_set()
            for folder in tmp_path.iterdir():
                if folder.name.isdecimal() and folder not in seen:
                    seen[folder] = content(folder)

    watcher = threading.Thread(target=poll)
    watcher.start()
    try:
        reports = [to_saved_model(small, tmp_path) for _ in range(2)]
    finally:
        stop.set()
        watcher.join()
    assert seen == {report.path: content(report.path) for report in reports}


@pytest.mark.dear
def test_warmup(model, apis, tmp_path):
    def halves(image, factor):
        return model(image * factor)

    specs = {"image": tf.TensorSpec([None, 8, 8, 4]), "factor": tf.TensorSpec([None, 1, 1, 1])}
    pair = {"image": IMAGES, "factor": np.ones([5, 1, 1, 1])}
    report = to_saved_model(
        model,
        tmp_path / "net",
        signatures={"scaled": (halves, specs)},
        warmup=[IMAGES, {"inputs": IMAGES[:1].tolist()}, ("scaled", pair)],
    )
    assert report.warmup_requests == 3
    path = report.path / "assets.extra" / "tf_serving_warmup_requests"
    logs = [
        apis.PredictionLog.FromString(record.numpy())
        for record in tf.data.TFRecordDataset(str(path))
    ]
    requests = [log.predict_log.request for log in logs]
    assert {request.model_spec.name for request in requests} == {"net"}
    names = [request.model_spec.signature_name for request in requests]
    assert names == ["serving_default", "serving_default", "scaled"]
    given = [
        {k: tf.make_ndarray(v) for k, v in sorted(request.inputs.items())} for request in requests
    ]
    np.testing.assert_array_equal(given[0]["inputs"], IMAGES)
    np.testing.assert_array_equal(given[1]["inputs"], IMAGES[:1])
    assert given[2].keys() == {"image", "factor"}
    assert given[2]["factor"].dtype == np.float32


def test_warmup_that_the_model_cannot_answer(small, apis, tmp_path):
    """A server would refuse the model: nothing is written."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image")])
    def decode(image):
        return tf.map_fn(tf.io.decode_png, image, fn_output_signature=tf.uint8)

    with pytest.raises(tf.errors.InvalidArgumentError):
        to_saved_model(
            small, tmp_path, signatures={"decode": decode}, warmup=("decode", ["no image"])
        )
    assert content(tmp_path) == {}


def test_warmup_without_its_package(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving", None)
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    minor = ".".join(tf.__version__.split(".")[:2])
    with pytest.raises(ImportError, match=f"install --no-deps tensorflow-serving-api=={minor}"):
        to_saved_model(small, tmp_path, warmup=np.ones([1, 2]))
    assert content(tmp_path) == {}


def batching_message():
    """BatchingParameters: it is in no package, so its fields stand here (TF Serving's proto)."""
    file = descriptor_pb2.FileDescriptorProto(
        name="batching.proto", package="test", syntax="proto3"
    )
    file.dependency.append("google/protobuf/wrappers.proto")
    message = file.message_type.add(name="BatchingParameters")
    field = descriptor_pb2.FieldDescriptorProto
    wrapped = dict(type=field.TYPE_MESSAGE, type_name=".google.protobuf.Int64Value", label=1)
    for number, name in enumerate(
        ["max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads"], 1
    ):
        message.field.add(name=name, number=number, **wrapped)
    message.field.add(name="allowed_batch_sizes", number=6, type=field.TYPE_INT64, label=3)
    message.field.add(name="pad_variable_length_inputs", number=7, type=field.TYPE_BOOL, label=1)
    pool = descriptor_pool.DescriptorPool()
    wrappers = descriptor_pb2.FileDescriptorProto(
        name="google/protobuf/wrappers.proto", package="google.protobuf", syntax="proto3"
    )
    value = wrappers.message_type.add(name="Int64Value")
    value.field.add(name="value", number=1, type=field.TYPE_INT64, label=1)
    pool.Add(wrappers)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("test.BatchingParameters"))


def test_configuration(small, apis, tmp_path):
    from tensorflow_serving.config import model_server_config_pb2

    name = 'a "name" for $1 é'
    to_saved_model(
        small,
        tmp_path / name,
        batching={
            "max_batch_size": 8,
            "num_batch_threads": 2,
            "allowed_batch_sizes": [2, 8],
            "pad_variable_length_inputs": True,
        },
    )
    text = (tmp_path / name / "models.config").read_text(encoding="utf-8")
    models = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (config,) = models.model_config_list.config
    assert (config.name, config.base_path) == (name, f"/models/{name}")
    assert config.model_platform == "tensorflow"

    text = (tmp_path / name / "batching.config").read_text()
    batching = text_format.Parse(text, batching_message()())
    assert batching.max_batch_size.value == 8
    assert batching.batch_timeout_micros.value == 1000
    assert batching.max_enqueued_batches.value == 100
    assert batching.num_batch_threads.value == 2
    assert list(batching.allowed_batch_sizes) == [2, 8]
    assert batching.pad_variable_length_inputs


def test_compose_file(small, tmp_path):
    """Compose takes "$" for the start of a variable's name, and "$$" for itself."""
    yaml = pytest.importorskip("yaml")
    name = "nét$ $HOME ${x}"
    in_compose = name.replace("$", "$$")
    for batching in (True, False):
        to_saved_model(small, tmp_path / name, batching=batching)
        text = (tmp_path / name / "docker-compose.yml").read_text(encoding="utf-8")
        compose = yaml.safe_load(text)
        (service,) = compose["services"].values()
        assert service["image"] == "${TENSORFLOW_SERVING_IMAGE:-tensorflow/serving}"
        assert service["ports"] == ["8500:8500", "8501:8501"]
        (volume,) = service["volumes"]
        assert (volume["source"], volume["target"]) == (".", f"/models/{in_compose}")
        flags = [f"--model_config_file=/models/{in_compose}/models.config"]
        if batching:
            flags += [
                "--enable_batching=true",
                f"--batching_parameters_file=/models/{in_compose}/batching.config",
            ]
        assert service["command"] == flags


def test_configuration_that_is_there_stays(small, tmp_path):
    """Users edit it. Only who asks for other batching gets new files."""
    to_saved_model(small, tmp_path)
    mine = {"models.config", "batching.config", "docker-compose.yml"}
    for name in mine:
        (tmp_path / name).write_text("mine")
    to_saved_model(small, tmp_path)
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} == mine
    assert {(tmp_path / name).read_text() for name in mine} == {"mine"}
    to_saved_model(small, tmp_path, batching={"max_batch_size": 2})
    assert "max_batch_size { value: 2 }\n" in (tmp_path / "batching.config").read_text()
    assert "mine" not in {(tmp_path / name).read_text() for name in mine}


def test_no_batching_of_what_cannot_be_batched(small, tmp_path):
    one = {"one": (lambda x: small(x[None])[0], {"x": tf.TensorSpec([2])})}
    to_saved_model(small, tmp_path, signatures=one)
    assert not (tmp_path / "batching.config").exists()
    assert "enable_batching" not in (tmp_path / "docker-compose.yml").read_text()
    with pytest.raises(ValueError, match="`batching` needs .* every signature, which 'one' has"):
        to_saved_model(small, tmp_path, signatures=one, batching=True)


SPECS = {"x": tf.TensorSpec([None, 2])}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"model": "a model"}, "`model` must be a Keras model. Received: 'a model'"),
        *[
            ({"directory": value}, f"`directory` must be .* Received: directory={value!r}")
            for value in ("", " ", 3, "gs://bucket/net")
        ],
        *[
            ({"directory": f"of a {sign} b"}, rf"`directory` .* pattern .*/of a \{sign} b")
            for sign in "[\\"
        ],
        ({"directory": "/proc/new/net"}, "`directory` cannot be written to .* Received"),
        ({"directory": f"{__file__}/net"}, "`directory` cannot be written to .* Received"),
        *[
            ({"version": value}, rf"`version` must be .* Received: version={value!r}")
            for value in (0, -1, True, 1.0, "1", 2**63)
        ],
        ({"signatures": ["a"]}, r"`signatures` must be a dict by name. Received: \['a'\]"),
        ({"signatures": {"": None}}, "`signatures` must have strings as names. Received: ''"),
        *[
            (
                {"signatures": {"a": value}},
                r"`signatures\['a'\]` must be a Keras model, .* Received",
            )
            for value in (None, len, (len,), tf.function(len))
        ],
        *[
            ({"signatures": {"a": (tf.identity, value)}}, r"must have a tf.TensorSpec for each")
            for value in ({}, [tf.TensorSpec([2])], {"x": [2]}, {"x y": tf.TensorSpec([2])})
        ],
        (
            {"signatures": {"a": tf.function(len, input_signature=[tf.TensorSpec([2])])}},
            "must have an input_signature of tf.TensorSpecs with names",
        ),
        ({"signatures": {"a": (lambda x: "b", SPECS)}}, "must return tensors: .* Received: 'b'"),
        ({"signatures": {"a": (lambda x: [], SPECS)}}, r"must return tensors: .* Received: \[\]"),
        (
            {"signatures": {"a": (lambda x: {"y": [x, 1]}, SPECS)}},
            r"not nested.* Received: {'y': \['float32 \(None, 2\)', 1\]}",
        ),
        ({"warmup": []}, "`warmup` must hold 1 to 1000 requests. Received: 0"),
        ({"warmup": [[[1.0, 2.0]]] * 1001}, "`warmup` must hold 1 to 1000 .* Received: 1001"),
        ({"warmup": ("a", [])}, r"must name a signature, one of \['serving_default'\]. .*: 'a'"),
        ({"warmup": {"x": [[1.0, 2.0]]}}, r"the inputs \['inputs'\]. Received: \['x'\]"),
        ({"warmup": np.ones([1, 3])}, r"the shape \(None, 2\) .* Received: shape \(1, 3\)"),
        ({"warmup": np.ones([65, 2])}, "at most 64 examples. Received: shape"),
        ({"warmup": np.array([["a", "b"]])}, "'inputs' of .* float32 values. Received"),
        ({"batching": 8}, "`batching` must be a dict, True, False or None. Received: batching=8"),
        *[
            ({"batching": {name: value}}, f"`batching` takes .* Received: {name}=")
            for name, value in [
                ("max_batch_size", 0),
                ("num_batch_threads", 1.5),
                ("batch_timeout_micros", -1),
                ("allowed_batch_sizes", [8, 4, 64]),
                ("allowed_batch_sizes", [8, 32]),
                ("pad_variable_length_inputs", 1),
                ("max_batch", 8),
            ]
        ],
    ],
)
def test_refuses(small, tmp_path, arguments, message):
    arguments = {"model": small, "directory": tmp_path / "net", **arguments}
    with pytest.raises(ValueError, match=message):
        to_saved_model(**arguments)
    assert content(tmp_path) == {}


def test_refuses_requests_without_names(small, tmp_path):
    two = (lambda x, y: x + y, {name: tf.TensorSpec([None, 2]) for name in "xy"})
    with pytest.raises(
        ValueError, match=r"signature 'two' a dict with \['x', 'y'\]. Received: lis"
    ):
        to_saved_model(small, tmp_path, signatures={"two": two}, warmup=("two", [[1.0, 2.0]]))


def test_model_without_known_inputs(tmp_path):
    class Doubled(keras.Model):
        def call(self, x):
            return 2 * x

    doubled = Doubled()
    with pytest.raises(ValueError, match="inputs of the model are not known"):
        to_saved_model(doubled, tmp_path)
    report = to_saved_model(doubled, tmp_path, signatures={"serving_default": (doubled, SPECS)})
    np.testing.assert_array_equal(served(report, x=[[1.0, 2.0]])["outputs"], [[2, 4]])


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["save", "graph", "warmup", "text", "rename"])
def test_nothing_is_left(small, apis, tmp_path, monkeypatch, where, error, existing):
    folder = tmp_path / "some" / "net"
    if existing:
        to_saved_model(small, folder)
        (folder / "docker-compose.yml").unlink()
    before = content(tmp_path)

    def fails(*args, **kwargs):
        raise error

    targets = {
        "save": (tf.saved_model, "save"),
        "graph": (_compat, "saved_model_graph"),
        "warmup": (saved_model.serving_files, "write_warmup"),
        "text": (saved_model.os, "replace"),
        "rename": (saved_model.os, "rename"),
    }
    monkeypatch.setattr(*targets[where], fails)
    why = "Writing failed: disk full" if isinstance(error, OSError) else None
    with pytest.raises(type(error), match=why):
        to_saved_model(small, folder, warmup=np.ones([1, 2]), batching=True)
    monkeypatch.undo()
    assert content(tmp_path) == before


def test_example():
    runner = doctest.DocTestRunner()
    globs = {"tf": tf, "tfconv": tfconv}
    parser = doctest.DocTestParser()
    runner.run(parser.get_doctest(to_saved_model.__doc__, globs, "to_saved_model", None, None))
    assert (runner.failures, runner.tries) == (0, 6)
