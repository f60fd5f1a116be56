"""`to_saved_model(jit_compile=True)`: what XLA compiles, and what the server is told for it."""

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv._compat import keras
from tfconv.export import to_saved_model
from tfconv.ops import xla

pytestmark = pytest.mark.skipif(xla.missing() is not None, reason="TensorFlow has no XLA here")

IMAGES = np.random.default_rng(0).normal(size=(5, 6, 4)).astype(np.float32)
FLAG = "--xla_cpu_compilation_enabled=true"


@pytest.fixture(scope="module")
def apis():
    return pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")


def network(batch=None):
    inputs = keras.Input(batch_shape=(batch, 6, 4))
    x = tfconv.Involution1D(3, group_channels=2)(inputs)
    x = tfconv.DeformableConv1D(4, 3, offset_initializer="glorot_uniform")(x)
    x = tfconv.LocalSelfAttention1D(4, kernel_size=3, num_heads=2)(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(3)(x))


@pytest.fixture(scope="module")
def model():
    return network()


def warmups(report, apis):
    """Signatures and batches of the requests that the server warms up with."""
    file = report.path / "assets.extra" / "tf_serving_warmup_requests"
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        request = apis.PredictionLog.FromString(record).predict_log.request
        (tensor,) = request.inputs.values()
        yield request.model_spec.signature_name, tf.make_ndarray(tensor)


@pytest.mark.late
def test_what_is_compiled(model, apis, tmp_path):
    expected = model.predict(IMAGES, verbose=0)
    report = to_saved_model(
        model,
        tmp_path,
        jit_compile=True,
        warmup=IMAGES[:3],
        batching={"max_batch_size": 6},
        signatures={"twice": (lambda x: model(2 * x), {"x": tf.TensorSpec([None, 6, 4])})},
    )
    assert report.compiled == {"involution": 2, "local_attention": 2}
    assert "compiled by XLA: involution (2), local_attention (2)" in str(report)
    assert report.error < 1e-5 and not report.native_ops
    given = list(warmups(report, apis))
    sizes = [(name, len(x)) for name, x in given]
    default = [("serving_default", n) for n in (3, 1, 2, 4, 6)]
    assert sizes == default + [("twice", n) for n in (1, 2, 4, 6)]
    np.testing.assert_array_equal(given[4][1], IMAGES[[0, 1, 2, 0, 1, 2]])
    assert not given[-1][1].any()
    assert report.warmup_requests == len(sizes)
    assert FLAG in (tmp_path / "docker-compose.yml").read_text()
    config = (tmp_path / "batching.config").read_text()
    assert [line for line in config.splitlines() if line.startswith("allowed")] == [
        f"allowed_batch_sizes: {n}" for n in (1, 2, 4, 6)
    ]
    loaded = tf.saved_model.load(str(report.path))
    for count in (5, 1):
        y = loaded.signatures["serving_default"](inputs=tf.constant(IMAGES[:count]))
        np.testing.assert_allclose(y["outputs"], expected[:count], atol=1e-5)


@pytest.mark.dear
def test_a_batch_of_one_size(apis, tmp_path):
    report = to_saved_model(network(batch=2), tmp_path, jit_compile=True)
    assert report.compiled == {"involution": 1, "local_attention": 1}
    assert [len(x) for _, x in warmups(report, apis)] == [2]
    assert not (tmp_path / "batching.config").exists()


def test_files_that_do_not_allow_it_are_written_anew(apis, tmp_path):
    inputs = keras.Input((5, 2))
    model = keras.Model(inputs, tfconv.Involution1D(3, groups=1)(inputs))
    compose = tmp_path / "docker-compose.yml"
    to_saved_model(model, tmp_path, verify=False)
    assert FLAG not in compose.read_text()
    batching = {"allowed_batch_sizes": [1], "max_batch_size": np.int64(1)}
    to_saved_model(model, tmp_path, jit_compile=True, batching=batching, verify=False)
    assert FLAG in compose.read_text()
    compose.write_text(f"mine, with {FLAG}")
    to_saved_model(model, tmp_path, jit_compile=True, verify=False, warmup=np.zeros([64, 5, 2]))
    assert compose.read_text() == f"mine, with {FLAG}"
    # Without it, exports are what they were.
    assert not to_saved_model(model, tmp_path, verify=False).compiled


def of_any_size():
    inputs = keras.Input((None, None, 4))
    return keras.Model(inputs, tfconv.Involution2D(3, group_channels=2)(inputs))


def of_strings(model):
    def decode(png):
        return model(tf.zeros([tf.shape(png)[0], 6, 4]))

    return {"signatures": {"png": (decode, {"png": tf.TensorSpec([None], tf.string)})}}


def stock():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])


@pytest.mark.parametrize(
    "make, arguments, message",
    [
        (network, lambda model: {"keep_native": True}, "a model keeps its native ops or has XLA"),
        (of_any_size, lambda model: {}, "one size, that of the batch aside.*: involution of"),
        (network, of_strings, "request for the signature 'png' .*'png' .*cannot be made up"),
        (stock, lambda model: {}, "needs a layer that XLA makes faster: .* which has none"),
    ],
)
def test_refuses(make, arguments, message, apis, tmp_path):
    model = make()
    with pytest.raises(ValueError, match=message):
        to_saved_model(model, tmp_path, jit_compile=True, **arguments(model))
    assert not list(tmp_path.iterdir())


def test_refuses_without_xla(model, tmp_path, monkeypatch):
    monkeypatch.setattr(xla, "missing", lambda: "there is none")
    with pytest.raises(ValueError, match="`jit_compile` does not work: there is none"):
        to_saved_model(model, tmp_path, jit_compile=True)
