"""docs/serving.md: what it tells its readers to run works, also with native ops."""

import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests.conftest import require_native
from tfconv.export import to_saved_model

pytest.importorskip("tensorflow_serving")

from tests.serving.client import Client, host  # noqa: E402

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "serving.md"
NAME = "my_model"


def blocks():
    """The guide's Python, with its lines where the guide has them: errors then name these."""
    text = GUIDE.read_text(encoding="utf-8")
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield "\n" * text[: block.start(1)].count("\n") + block.group(1)


@pytest.mark.late
def test_guide(tmp_path, monkeypatch):
    require_native()
    monkeypatch.chdir(tmp_path)
    exports = [block for block in blocks() if "localhost" not in block]
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
