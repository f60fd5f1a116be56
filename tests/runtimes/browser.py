"""Runtimes of web browsers: LiteRT.js and ONNX Runtime's, in Chromium without a window."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import tempfile
import threading
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.runtimes.jobs import Job
from tests.runtimes.running import FORMATS, Result, result

PAGE = Path(__file__).parent / "page.html"
PACKAGES = {"LiteRT.js": "@litertjs/core", "ONNX Runtime web": "onnxruntime-web"}
_SECONDS = 60  # without a word
_TYPES = {".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript"}
_TYPES[".wasm"] = "application/wasm"


def chromium() -> str | None:
    """The browser, if there is one."""
    return shutil.which("chromium") or shutil.which("google-chrome")


def of_runtime(runtime: str, jobs: Sequence[Job], modules: Path) -> list[Result]:
    """Runs the jobs whose formats the runtime has.

    Args:
        runtime: A key of `PACKAGES`.
        jobs: Jobs of any format.
        modules: The folder "node_modules" with the packages.
    """
    jobs = [job for job in jobs if job.format in FORMATS[runtime]]
    server = _Server(jobs, modules)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        address = f"http://127.0.0.1:{server.server_port}/?runtime={urllib.parse.quote(runtime)}"
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        browser = subprocess.Popen([chromium(), *options, address], **silent)
        try:
            heard = 0
            while not server.done.wait(_SECONDS):
                if server.words == heard:
                    server.problem = server.problem or "the browser says nothing"
                    break
                heard = server.words
        finally:
            browser.kill()
            browser.wait()
            server.shutdown()
    left = server.problem or "was not run"
    return [server.found.get(n) or result(job, None, left) for n, job in enumerate(jobs)]


class _Server(http.server.ThreadingHTTPServer):
    """Gives out jobs in turn, and takes what came of them."""

    def __init__(self, jobs: Sequence[Job], modules: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.jobs, self.modules = jobs, modules
        self.found: dict[int, Result] = {}
        self.given = self.words = 0
        self.problem = ""
        self.done = threading.Event()

    def next(self) -> dict[str, Any] | None:
        number, self.given = self.given, self.given + 1
        if number >= len(self.jobs):
            self.done.set()
            return None
        job = self.jobs[number]
        given = job.given()
        inputs = [
            {"name": n, "shape": list(x.shape), "data": x.ravel().tolist()}
            for n, x in given.items()
        ]
        return {
            "number": number,
            "file": f"/file/{number}",
            "inputs": inputs,
            "outputs": job.outputs,
        }

    def take(self, said: dict[str, Any]) -> None:
        number = said["job"]
        job = self.jobs[number]
        if "reason" in said:
            self.found[number] = result(job, None, said["reason"])
            return
        with np.load(job.arrays) as arrays:
            shapes = {name: arrays[f"y.{name}"].shape for name in job.outputs}
        made = {name: np.array(y, np.float64) for name, y in said["outputs"].items()}
        try:
            made = {name: y.reshape(shapes[name]) for name, y in made.items()}
            self.found[number] = result(job, job.error(made))
        except ValueError as error:
            self.found[number] = result(job, None, str(error))


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        if path == "/":
            self._answer(PAGE.read_bytes(), _TYPES[".html"])
        elif path == "/next":
            self._answer(json.dumps(self.server.next()).encode(), "application/json")
        elif path.startswith("/file/"):
            job = self.server.jobs[int(path.rpartition("/")[2])]
            self._answer(Path(job.path).read_bytes(), "application/octet-stream")
        elif path.startswith("/modules/") and ".." not in path:
            file = self.server.modules / path.removeprefix("/modules/")
            if file.is_file():
                self._answer(file.read_bytes(), _TYPES.get(file.suffix, "text/plain"))
            else:
                self.send_error(404)
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/result":
            self.server.take(said)
        else:
            self.server.problem = said["reason"]
            self.server.done.set()
        self.server.words += 1
        self._answer(b"", "text/plain")

    def _answer(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """Says nothing."""
