"""docs/serving.md: what it tells its readers to run works, also with native ops."""

import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests.conftest import require_native
from tfconv.export import to_saved_model
from tfconv.ops import xla

pytest.importorskip("tensorflow_serving")

from tests.serving.client import Client, host  # noqa: E402

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "serving.md"
NAME = "my_model"


def blocks(language="python"):
    """The guide's blocks, with their lines where the guide has them: errors then name these."""
    text = GUIDE.read_text(encoding="utf-8")
    for block in re.finditer(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield "\n" * text[: block.start(1)].count("\n") + block.group(1)


@pytest.mark.late
def test_guide(tmp_path, monkeypatch):
    require_native()
    monkeypatch.chdir(tmp_path)
    exports = [b for b in blocks() if "localhost" not in b and "jit_compile" not in b]
    (ask,) = (block for block in blocks() if "localhost" in block)
    names = {}
    for block in exports:
        exec(compile(block, "serving.md", "exec"), names)
    model, folder = names["model"], Path("serving", NAME)
    (tree,) = re.findall(r"^├.*?^```", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert {path.name for path in folder.iterdir()} == {*re.findall(r"─ ([\w.-]+)", tree), "2", "3"}
    assert names["report"].version == 2
    text = "(image_bytes: string [?]) -> (probabilities: float32 [?, 10])"
    assert str(names["report"].signatures["png"]) == text

    image = np.random.default_rng(0).integers(0, 256, [32, 32, 3]).astype(np.uint8)
    loaded = tf.saved_model.load(str(folder / "3"))
    answer = loaded.signatures["png"](image_bytes=[tf.io.encode_png(image).numpy()])
    expected = model.predict(image[None] / np.float32(255), verbose=0)
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)

    # The same question to the stock ops and to the native ones, of a host with their library.
    library = tfconv.native_status().library
    expected = model.predict(np.zeros([4, 32, 32, 3]), verbose=0)
    with host(folder, "--library", library, name=NAME) as port, Client(port) as client:
        for version in (3, 4):
            if version == 4:
                warmup = np.zeros([1, 32, 32, 3])
                assert to_saved_model(model, folder, warmup=warmup, keep_native=True).native_ops
            client.wait_for(version, NAME)
            exec(ask.replace("localhost:8500", f"localhost:{port}"), names)
            np.testing.assert_allclose(names["probabilities"], expected, atol=1e-5)
        asks_by_rest(port.rest, expected[:1])
        runs_on_kubernetes(port.rest, folder)
    if xla.missing() is None:
        (compiled,) = (block for block in blocks() if "jit_compile" in block)
        exec(compile(compiled, "serving.md", "exec"), names)
        assert f"# {names['report'].compiled}\n" in compiled
        assert "--xla_cpu_compilation_enabled=true" in (folder / "docker-compose.yml").read_text()


def asks_by_rest(port, expected):
    (ask,) = (block for block in blocks("sh") if "curl" in block)
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    command = ask.replace("localhost:8501", f"localhost:{port}")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    answer = json.loads(done.stdout)
    np.testing.assert_allclose(answer["predictions"], expected, atol=1e-5)


def runs_on_kubernetes(port, folder):
    """The manifest's flags are those of the compose file, and its probe is answered."""
    yaml = pytest.importorskip("yaml")
    (manifest,) = blocks("yaml")
    deployment, service = yaml.safe_load_all(manifest)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels == deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    compose = yaml.safe_load((folder / "docker-compose.yml").read_text(encoding="utf-8"))
    assert container["args"] == compose["services"]["serving"]["command"]
    assert container["volumeMounts"][0]["mountPath"] == f"/models/{NAME}"
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    assert ports == {p["name"]: p["port"] for p in service["spec"]["ports"]}
    probe = container["readinessProbe"]["httpGet"]
    with urllib.request.urlopen(f"http://localhost:{port}{probe['path']}", timeout=60) as answer:
        assert answer.status == 200 and probe["port"] == "rest"
