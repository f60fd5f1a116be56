"""Clients of TF Serving are served by a process that cannot import tfconv."""

import json
import os
import re
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv._compat import keras
from tfconv.export import to_saved_model
from tfconv.ops import xla

pytest.importorskip("tensorflow_serving")

import grpc  # noqa: E402
from tensorflow_serving.apis import get_model_metadata_pb2  # noqa: E402

from tests.serving.client import Client, host, in_threads, predict_request  # noqa: E402

CLIENTS = 32
SECONDS = float(os.environ.get("TFCONV_SERVING_SECONDS", "4"))
IMAGES = np.random.default_rng(0).normal(size=(64, 8, 8, 4)).astype(np.float32)
# To be taken by the host, and not.
MESSAGE_LIMIT = 2 << 20
Code = grpc.StatusCode


def network():
    inputs = keras.Input((8, 8, 4))
    x = tfconv.Involution2D(3, group_channels=2)(inputs)
    x = tfconv.DeformableConv2D(4, 3, offset_initializer="glorot_uniform")(x)
    x = tfconv.CondConv2D(4, 3, num_experts=2)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(3)(x))


@pytest.fixture(scope="module")
def models():
    """Two versions of a model: other weights."""
    return network(), network()


@pytest.fixture(scope="module")
def expected(models):
    """What each version answers for `IMAGES`."""
    answers = [model.predict(IMAGES, verbose=0) for model in models]
    assert np.abs(answers[0] - answers[1]).max() > 0.1
    return answers


@pytest.fixture(scope="module")
def served(models, tmp_path_factory):
    """The folder of the model and the port of a host that serves its first version."""
    folder = tmp_path_factory.mktemp("models") / "net"
    raw = tf.TensorSpec([None, 8, 8, 4], tf.uint8)
    to_saved_model(
        models[0],
        folder,
        signatures={
            "raw": (lambda image: models[0](tf.cast(image, tf.float32) / 255), {"image": raw})
        },
        warmup=[IMAGES[:1], IMAGES],
    )
    with host(folder, "--max-message-bytes", str(MESSAGE_LIMIT)) as port:
        yield folder, port


@pytest.fixture(scope="module")
def client(served):
    with Client(served[1]) as client:
        yield client


def outputs(response):
    return tf.make_ndarray(response.outputs["outputs"])


def test_metadata(client):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "net"
    response = client.prediction.GetModelMetadata(request)
    assert (response.model_spec.name, response.model_spec.version.value) == ("net", 1)
    found = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(found)
    signatures = {n: s for n, s in found.signature_def.items() if not n.startswith("__")}
    assert signatures.keys() == {"serving_default", "raw"}
    for signature in signatures.values():
        assert signature.method_name == "tensorflow/serving/predict"
    (given,) = signatures["raw"].inputs.items()
    assert (given[0], given[1].dtype) == ("image", tf.uint8.as_datatype_enum)
    assert tf.TensorShape(given[1].tensor_shape).as_list() == [None, 8, 8, 4]


def test_signatures(client, models, expected):
    response = client.predict(predict_request({"inputs": IMAGES[:5]}))
    assert response.model_spec.signature_name == "serving_default"
    np.testing.assert_allclose(outputs(response), expected[0][:5], atol=1e-5)
    raw = np.arange(3 * 8 * 8 * 4).reshape(3, 8, 8, 4).astype(np.uint8)
    response = client.predict(predict_request({"image": raw}, "raw"))
    np.testing.assert_allclose(
        outputs(response), models[0].predict(raw.astype(np.float32) / 255, verbose=0), atol=1e-5
    )


def malformed(change):
    request = predict_request({"inputs": IMAGES[:2]})
    change(request)
    return request


def cut_off(request):
    request.inputs["inputs"].tensor_content = b"123"


def without_model(request):
    request.ClearField("model_spec")


def another_version(request):
    request.model_spec.version.value = 7


def a_label(request):
    request.model_spec.version_label = "stable"


def another_output(request):
    request.output_filter.append("other")


def one_output_twice(request):
    request.output_filter.extend(["output_0", "output_0"])


def unknown_size(request):
    request.inputs["inputs"].tensor_shape.dim[0].size = -1


def unknown_rank(request):
    request.inputs["inputs"].tensor_shape.Clear()
    request.inputs["inputs"].tensor_shape.unknown_rank = True


def no_type(request):
    request.inputs["inputs"].dtype = 0


@pytest.mark.parametrize(
    "make, code, message",
    [
        (lambda: predict_request({"inputs": IMAGES[..., :3]}), Code.INVALID_ARGUMENT, "shape"),
        (lambda: predict_request({"inputs": IMAGES[0]}), Code.INVALID_ARGUMENT, "shape"),
        (
            lambda: predict_request({"inputs": IMAGES.astype(np.float64)}),
            Code.INVALID_ARGUMENT,
            "Expects inputs to be float32 but float64 is provided",
        ),
        (
            lambda: predict_request({"images": IMAGES}),
            Code.INVALID_ARGUMENT,
            r"extra: \['images'\]. Missing but required: \['inputs'\]",
        ),
        (lambda: predict_request({}), Code.INVALID_ARGUMENT, "does not match signature: 0!=1"),
        (lambda: malformed(cut_off), Code.INVALID_ARGUMENT, "inputs is no tensor"),
        (lambda: malformed(another_output), Code.INVALID_ARGUMENT, "alias not found"),
        (lambda: malformed(one_output_twice), Code.INVALID_ARGUMENT, "alias not found"),
        (lambda: malformed(unknown_size), Code.INVALID_ARGUMENT, "inputs is no tensor"),
        (lambda: malformed(unknown_rank), Code.INVALID_ARGUMENT, "inputs is no tensor"),
        (lambda: malformed(no_type), Code.INVALID_ARGUMENT, "inputs is no tensor"),
        (lambda: malformed(a_label), Code.FAILED_PRECONDITION, "version label: stable"),
        (lambda: malformed(without_model), Code.INVALID_ARGUMENT, "Missing ModelSpec"),
        (
            lambda: predict_request({"inputs": IMAGES}, name="other"),
            Code.NOT_FOUND,
            r"not found for request: Latest\(other\)",
        ),
        (lambda: malformed(another_version), Code.NOT_FOUND, r"request: Specific\(net, 7\)"),
        (
            lambda: predict_request({"inputs": IMAGES}, "other"),
            Code.FAILED_PRECONDITION,
            'Serving signature key "other" not found',
        ),
        (
            lambda: predict_request({"inputs": np.concatenate([IMAGES] * 40)}),
            Code.RESOURCE_EXHAUSTED,
            "larger than max",
        ),
    ],
)
def test_malformed_requests(client, expected, make, code, message):
    with pytest.raises(grpc.RpcError, match=message) as error:
        client.predict(make())
    assert error.value.code() == code
    response = client.predict(predict_request({"inputs": IMAGES[:1]}))  # the host lives
    np.testing.assert_allclose(outputs(response), expected[0][:1], atol=1e-5)


@pytest.mark.parametrize(
    "fields, code, message",
    [
        ([], Code.INVALID_ARGUMENT, "at least one metadata_field"),
        (["weights"], Code.INVALID_ARGUMENT, "field weights is not supported"),
    ],
)
def test_malformed_questions(client, fields, code, message):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = "net"
    with pytest.raises(grpc.RpcError, match=message) as error:
        client.prediction.GetModelMetadata(request)
    assert error.value.code() == code


def rest(port, path, data=None):
    """The status and the JSON that a request by REST gets."""
    body = None if data is None else data if isinstance(data, bytes) else json.dumps(data).encode()
    request = urllib.request.Request(f"http://localhost:{port.rest}/v1/models/{path}", body)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_rest(served, expected):
    """As in docs/serving.md: rows and columns, versions, and what Kubernetes asks."""
    _, port = served
    rows = {"instances": IMAGES[:2].tolist()}
    for path in ("net:predict", "net/versions/1:predict"):
        status, answer = rest(port, path, rows)
        assert status == 200 and answer.keys() == {"predictions"}
        np.testing.assert_allclose(answer["predictions"], expected[0][:2], atol=1e-5)
    status, answer = rest(port, "net:predict", {"inputs": {"inputs": IMAGES[:2].tolist()}})
    np.testing.assert_allclose(answer["outputs"], expected[0][:2], atol=1e-5)
    raw = [{"image": np.full((8, 8, 4), 255).tolist()}]
    status, answer = rest(port, "net:predict", {"signature_name": "raw", "instances": raw})
    assert status == 200 and np.shape(answer["predictions"]) == (1, 3)
    status, answer = rest(port, "net/metadata")
    assert status == 200 and answer["model_spec"]["version"] == "1"
    status, answer = rest(port, "net")
    assert answer["model_version_status"][0]["state"] == "AVAILABLE"


@pytest.mark.parametrize(
    "path, data, code, message",
    [
        ("net:predict", b"{", 400, "JSON"),
        ("net:predict", {"instances": [[1.0]]}, 400, "shape"),
        ("net:predict", {"instances": [["a"]]}, 400, "Failed to process"),
        ("net:predict", {"signature_name": "other", "instances": [1]}, 400, "'?other'?"),
        ("other:predict", {"instances": [1.0]}, 404, "not found"),
        ("other/metadata", None, 404, "not found"),
        ("net:classify", {"instances": [1.0]}, 404, "Malformed"),
    ],
)
def test_malformed_rest(served, path, data, code, message):
    status, answer = rest(served[1], path, data)
    assert status == code and re.search(message, answer["error"]), answer


@pytest.mark.late
def test_a_new_version_under_load(served, models, expected):
    """32 clients, batches of 1 to 64: each answer is right for the version that it names."""

    def export():
        return to_saved_model(models[1], served[0], warmup=[IMAGES[:1], IMAGES])

    under_load(served[1], expected, range(1, 65), export)


@pytest.mark.late
@pytest.mark.skipif(xla.missing() is not None, reason="TensorFlow has no XLA here")
def test_a_new_version_that_is_compiled_under_load(models, expected, tmp_path):
    """The same with XLA, which has compiled a version for all sizes before it answers."""

    def export(model=models[1]):
        report = to_saved_model(
            model, tmp_path, jit_compile=True, batching={"allowed_batch_sizes": sizes}
        )
        assert report.compiled == {"involution": 1} and report.warmup_requests == len(sizes)
        return report

    sizes = [1, 8, 64]
    export(models[0])
    with host(tmp_path) as port:
        under_load(port, expected, sizes, export)


def under_load(port, expected, sizes, export):
    """Clients ask with batches of all sizes while a second version is exported and loaded."""
    stop = threading.Event()
    errors, counts = [], [dict.fromkeys((1, 2), 0) for _ in range(CLIENTS)]
    batches = set()

    def ask(number):
        rng = np.random.default_rng(number)
        try:
            with Client(port) as client:
                last = 1
                while not stop.is_set():
                    size = sizes[(2 * number + sum(counts[number].values())) % len(sizes)]
                    start = rng.integers(0, 65 - size)
                    images = slice(start, start + size)
                    response = client.predict(predict_request({"inputs": IMAGES[images]}))
                    version = response.model_spec.version.value
                    assert version >= last, "an old version answers after a new one"
                    last = version
                    np.testing.assert_allclose(
                        outputs(response), expected[version - 1][images], atol=1e-5
                    )
                    counts[number][version] += 1
                    batches.add(size)
        except Exception as error:
            errors.append(error)

    threads = in_threads(CLIENTS, ask)
    try:
        with Client(port) as watcher:
            time.sleep(SECONDS / 2)
            assert export().version == 2
            watcher.wait_for(2)
            time.sleep(SECONDS / 2)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []
    for count in counts:
        assert min(count.values()) > 0, "a client saw one version only"
    assert batches == set(sizes)
    print(f"{CLIENTS} clients got {sum(sum(c.values()) for c in counts)} answers")


def test_a_version_that_cannot_be_loaded(served, expected):
    """The host goes on with the one before. Comes after the test that brings version 2."""
    folder, port = served
    with Client(port) as client:
        before = client.version()
        (folder / "9").mkdir()
        (folder / "9" / "saved_model.pb").write_bytes(b"broken")
        limit = time.monotonic() + 60
        while 9 not in client.states():
            assert time.monotonic() < limit, "the host does not see version 9"
            time.sleep(0.05)
        assert client.version() == before
        response = client.predict(predict_request({"inputs": IMAGES[:2]}))
        np.testing.assert_allclose(outputs(response), expected[before - 1][:2], atol=1e-5)
