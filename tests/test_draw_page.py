"""The page "Draw a digit": its model, and the page in a headless browser."""

import functools
import http.server
import json
import queue
import re
import shutil
import subprocess
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from docs import litert
from tfconv.export.verification import Runner

DOCS = Path(__file__).resolve().parents[1] / "docs"
MODEL = DOCS / "draw" / "digits.tflite"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
_SECONDS = 60

# Strokes from 0 to 1 in both directions, as somebody draws them.
CIRCLE = [[0.5 + 0.22 * np.sin(a), 0.5 - 0.35 * np.cos(a)] for a in np.linspace(0, 6.3, 24)]
DRAWINGS = {
    0: [CIRCLE],
    1: [[[0.4, 0.3], [0.55, 0.15], [0.55, 0.85]]],
    4: [[[0.4, 0.12], [0.28, 0.6], [0.75, 0.6]], [[0.6, 0.35], [0.55, 0.9]]],
    7: [[[0.25, 0.15], [0.75, 0.15], [0.45, 0.88]]],
}

DRIVER = """
<script type="module">
import { classify, start } from "./draw/draw.js";
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const answer = document.getElementById("answer");
const board = document.getElementById("board");
const seen = document.getElementById("seen").getContext("2d");
let result;
try {
  const { images, drawings } = await (await fetch("given.json")).json();
  const found = [];
  for (const image of images) found.push([...(await classify(Float32Array.from(image)))]);
  const said = [];
  const box = board.getBoundingClientRect();
  for (const strokes of drawings) {
    document.getElementById("clear").click();
    for (const line of strokes) {
      line.forEach(([x, y], n) => {
        const at = { clientX: box.left + x * box.width, clientY: box.top + y * box.height };
        board.dispatchEvent(new PointerEvent(n ? "pointermove" : "pointerdown", at));
      });
      window.dispatchEvent(new PointerEvent("pointerup"));
      do await wait(20); while (answer.textContent === "…");
    }
    const drawn = seen.getImageData(0, 0, 8, 8).data.filter((_, n) => n % 4 === 3 && n);
    said.push([answer.textContent, drawn.some((a) => a > 200)]);
  }
  document.getElementById("clear").click();
  result = { found, said, last: answer.textContent };
} catch (error) {
  result = { error: String(error) };
}
await fetch("result", { method: "POST", body: JSON.stringify(result) });
</script>
"""


@pytest.fixture(scope="module")
def digits():
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    return (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32), labels


def test_model(digits):
    """It knows its data, and says what its classes are called."""
    images, labels = digits
    assert MODEL.stat().st_size < 200_000
    run = Runner(MODEL.read_bytes())
    (answers,) = run({"digit": images[:400]}).values()
    assert np.mean(answers.argmax(-1) == labels[:400]) > 0.97
    with zipfile.ZipFile(MODEL) as archive:
        assert archive.read("labels.txt").decode().split() == [str(n) for n in range(10)]


class _Server(http.server.SimpleHTTPRequestHandler):
    """Gives the page's files, and takes what its driver has found."""

    def __init__(self, *args, results, **kwargs):
        self.results = results
        super().__init__(*args, **kwargs)

    def do_POST(self):
        self.results.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.late
@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
@pytest.mark.skipif(not litert.PACKAGES.exists(), reason="needs `python -m docs.litert`")
def test_page(digits, tmp_path):
    """LiteRT.js gives what LiteRT gives, and digits that are drawn are known."""
    block = (DOCS / "draw" / "board.html").read_text(encoding="utf-8")
    (tmp_path / "draw.html").write_text(f"<!doctype html><body>{block}{DRIVER}", "utf-8")
    shutil.copytree(DOCS / "draw", tmp_path / "draw", ignore=shutil.ignore_patterns("litert"))
    litert.copy(tmp_path / "draw" / "litert")
    images = digits[0][:20]
    given = {"images": images.reshape(20, 64).tolist(), "drawings": list(DRAWINGS.values())}
    (tmp_path / "given.json").write_text(json.dumps(given))

    results = queue.Queue()
    handler = functools.partial(_Server, directory=str(tmp_path), results=results)
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://localhost:{server.server_port}/draw.html"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules="]
        flags[-1] += "MAP * ~NOTFOUND, EXCLUDE localhost"  # nothing comes from elsewhere
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        browser = subprocess.Popen(
            [BROWSER, *flags, profile, address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            result = results.get(timeout=_SECONDS)
        finally:
            browser.kill()
            browser.wait()
            server.shutdown()
    assert "error" not in result, result["error"]
    (expected,) = Runner(MODEL.read_bytes())({"digit": images}).values()
    np.testing.assert_allclose(result["found"], expected, atol=1e-4)
    for number, (said, drawn) in zip(DRAWINGS, result["said"]):
        assert re.fullmatch(rf"{number} \(\d+%\)", said), f"{number} is taken for {said}"
        assert drawn
    assert result["last"] == "Draw a digit."
