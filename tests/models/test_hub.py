"""Weights by name: what is fetched from a hub on this machine, what is refused and why."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

import tfconv
import tfconv.models
from tests.models.hub_server import serving
from tests.models.test_arguments import NETWORKS
from tests.parity.recorded import record
from tests.parity.weights import random_image, random_weights
from tfconv._compat import keras
from tfconv.checkpoints import CHECKPOINTS, STATISTICS
from tfconv.models.hub import fetch
from tfconv.models.network import _arguments

safetensors = pytest.importorskip("safetensors.numpy")
pytest.importorskip("huggingface_hub")

SMALL = "mobilenetv3_small_075.lamb_in1k"  # the smallest whose peer is recorded
PAGE = Path(__file__).resolve().parents[2] / "docs/weights.md"


@pytest.fixture(scope="module")
def file():
    """A file in the checkpoint's layout, of random weights."""
    recorded = record("mobilenetv3_small_075")
    weights = random_weights(recorded.shapes, recorded.gain)
    return safetensors.save({key: np.asarray(value, np.float32) for key, value in weights.items()})


@pytest.fixture
def hub(tmp_path, monkeypatch, file):
    """A hub that has it, and empty folders."""
    with serving() as server:
        server.files[f"timm/{SMALL}/model.safetensors"] = file
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("TFCONV_WEIGHTS", str(tmp_path / "own"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's attempts
        yield server


def checkpoint(name=SMALL):
    (found,) = (each for each in CHECKPOINTS if each.name == name)
    return found


@pytest.mark.dear
def test_network_by_name(hub):
    """The name's width is taken, the peer's logits come, and the second time nothing is sent."""
    given = {"weights": SMALL, "classifier_activation": None}
    model = tfconv.models.MobileNetV3Small(**given)
    logits = record("mobilenetv3_small_075").logits
    difference = np.abs(model(random_image(224), training=False)[0] - logits)
    assert difference.max() <= 1e-4 * np.abs(logits).max()
    assert hub.ranges == [None]
    found = tfconv.models.MobileNetV3Small(include_top=False, weights="imagenet", width=0.75)
    np.testing.assert_array_equal(
        found.get_layer("conv_stem").kernel, model.get_layer("conv_stem").kernel
    )
    assert hub.ranges == [None]


def test_interrupted_download(hub, file):
    """It goes on where it broke."""
    hub.cut = [1 << 20]
    assert fetch(checkpoint()).read_bytes() == file
    assert hub.ranges == [None, 1 << 20]


def test_failed_download_leaves_nothing_half(hub, file, monkeypatch):
    from huggingface_hub import file_download

    get = file_download.http_get

    def cut_off(*arguments, **options):
        """The connection breaks, and then the server is gone."""
        hub.cut = [1 << 20]
        monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)
        monkeypatch.setattr("time.sleep", lambda seconds: setattr(hub, "broken", True))
        return get(*arguments, **options)

    monkeypatch.setattr(file_download, "http_get", cut_off)
    with pytest.raises(ConnectionError, match=f"{SMALL}' cannot be fetched: .*503.* Download "):
        fetch(checkpoint())
    monkeypatch.setattr(file_download, "http_get", get)
    hub.broken, hub.cut = False, []
    assert fetch(checkpoint()).read_bytes() == file


def test_wrong_hash(hub, file):
    """What was changed on the way is removed, and fetched anew."""
    hub.damaged = True
    with pytest.raises(OSError, match="SHA-256 of model.safetensors is .* and must be .* anew"):
        fetch(checkpoint())
    hub.damaged = False
    assert fetch(checkpoint()).read_bytes() == file


def test_missing_file(hub):
    with pytest.raises(ConnectionError, match="cannot be fetched: .*404"):
        fetch(dataclasses.replace(checkpoint(), file="other.safetensors"))


def test_offline(hub, file, monkeypatch, tmp_path):
    """The file, where it is and where to put it are named; there it is found. So is the cache."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    own = tmp_path / "own" / f"{SMALL}.safetensors"
    words = ["HF_HUB_OFFLINE is set", "model.safetensors", f"huggingface.co/timm/{SMALL}", str(own)]
    with pytest.raises(ConnectionError) as error:
        fetch(checkpoint())
    assert all(word in str(error.value) for word in words), error.value
    own.parent.mkdir()
    own.write_bytes(file)
    assert fetch(checkpoint()) == own
    own.unlink()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    cached = fetch(checkpoint())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(checkpoint()) == cached


def test_without_a_server(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="cannot be fetched: .* Download model.safetensors"):
        fetch(checkpoint())


def test_by_hand_only(hub, tmp_path, monkeypatch):
    """Weights that are on no hub are found where the error says that they belong."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(FileNotFoundError, match="Download rednet50.pth from .*d-li14/involution"):
        tfconv.models.RedNet50(weights="imagenet")
    own = tmp_path / "own" / "rednet50.pth"
    own.parent.mkdir()
    own.touch()
    assert fetch(checkpoint("rednet50")) == own


def test_missing_packages(hub, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="need the package safetensors: `pip install"):
        fetch(checkpoint())
    with pytest.raises(ImportError, match="need the package torch: `pip install"):
        fetch(checkpoint("internimage_t_1k_224"))


@pytest.mark.parametrize(
    "network, arguments, message",
    [
        ("MobileNetV3Small", {"weights": "imagenet", "classes": 10}, "`classes` must be 1000"),
        ("MobileNetV3Small", {"weights": SMALL, "width": 1.0}, "with the same arguments"),
        ("MobileNetV3Small", {"weights": "imagenet", "width": 0.6}, "with the same arguments"),
        ("MobileNetV3Small", {"weights": "imagenet_v2"}, f"by name there are imagenet, .*{SMALL}"),
        ("MobileNetV3Small", {"weights": "mobilenetv2_100.ra_in1k"}, "by name there are"),
        ("DeformableResNet50", {"weights": "imagenet"}, "has none by name"),
    ],
)
def test_refused(network, arguments, message, hub):
    with pytest.raises(ValueError, match=f"{message}.* Received: "):
        getattr(tfconv.models, network)(**arguments)
    assert not hub.ranges


def test_imagenet_takes_the_first_that_fits(monkeypatch):
    """With the network's own arguments, and without those that matter in training only."""
    taken = []

    def stop(found):
        taken.append(found.name)
        raise InterruptedError

    monkeypatch.setattr("tfconv.models.network.fetch", stop)
    for network, arguments in [
        ("CondConvEfficientNetB0", {}),
        ("CondConvEfficientNetB0", {"num_experts": 4}),
        ("InternImageT", {"drop_path_rate": 0.3}),
        ("MobileNetV3Large", {"convention": tfconv.blocks.Convention("same", epsilon=1e-3)}),
    ]:
        with pytest.raises(InterruptedError):
            getattr(tfconv.models, network)(weights="imagenet", **arguments)
    assert taken == [
        "tf_efficientnet_cc_b0_8e.in1k",
        "tf_efficientnet_cc_b0_4e.in1k",
        "internimage_t_1k_224",
        "tf_mobilenetv3_large_100.in1k",
    ]


def test_table():
    """Names are there once; arguments are the network's, and modes have their statistics."""
    names = [each.name for each in CHECKPOINTS]
    assert len(names) == len(set(names))
    for each in CHECKPOINTS:
        function = getattr(tfconv.models, each.network)
        assert set(_arguments(each)) <= set(function.__wrapped__.__kwdefaults__ or {}), each.name
        assert each.mode in STATISTICS and 0 < each.top1 < 100 and 0.8 < each.crop <= 1
        assert each.address.startswith("https://") and each.local_name.count("/") == 0
        if each == tfconv.models.checkpoints(each.network)[0]:
            assert function.preprocess_input.keywords["mode"] == each.mode, each.name
    without = set(NETWORKS) - {each.network for each in CHECKPOINTS}
    assert without == {"DeformableResNet50", "ShuffleNetV1"}
    x = np.random.default_rng(0).uniform(0, 255, [1, 2, 2, 3]).astype(np.float32)
    for mode, (mean, std) in STATISTICS.items():
        made = tfconv.models.preprocess_input(x, mode=mode)
        np.testing.assert_allclose(made, (x / 255 - mean) / std, atol=1e-5)


def test_page():
    """docs/weights.md has the table as it is."""
    lines = [
        f"| `{each.network}` | `{each.name}` | {each.top1:.2f} | {each.licence or 'not stated'} "
        f"| {'hub' if each.repository else 'by hand'} | <{each.address}> |"
        for each in CHECKPOINTS
    ]
    page = PAGE.read_text(encoding="utf-8")
    assert "\n".join(lines) in page, "\n".join(lines)


def test_predictions(monkeypatch, tmp_path):
    """The names come from Keras's file; without it, the error says where it belongs."""
    utils = keras.applications.imagenet_utils
    names = {str(n): [f"n{n:08}", f"class_{n}"] for n in range(1000)}
    module = __import__(utils.decode_predictions.__module__, fromlist=["CLASS_INDEX"])
    monkeypatch.setattr(module, "CLASS_INDEX", names)
    scores = np.eye(1000, dtype=np.float32)[[7, 3]]
    decoded = tfconv.models.RedNet26.decode_predictions(scores, top=2)
    assert decoded[0][0] == ("n00000007", "class_7", 1.0) and len(decoded[1]) == 2
    with pytest.raises(ValueError, match=r"`preds` must have .* Received: shape \(1000,\)"):
        tfconv.models.decode_predictions(scores[0])
    with pytest.raises(ValueError, match="`top` must be .*Received: "):
        tfconv.models.decode_predictions(scores, top=0)

    def fail(*_):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(utils, "decode_predictions", fail)
    with pytest.raises(ConnectionError, match=re.escape("imagenet_class_index.json from https")):
        tfconv.models.decode_predictions(scores)
