"""A hub on this machine: files of repositories, as the Hugging Face hub serves them."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves `files` by "repository/file".

    Attributes:
        files: What is served.
        ranges: What was asked for of each file that was sent: None, or where it begins.
        cut: How many bytes to send of the next answers; the connection is closed after them.
        broken: Whether every file is refused.
        damaged: Whether a byte is changed on the way.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.ranges: list[int | None] = []
        self.cut: list[int] = []
        self.broken = False
        self.damaged = False

    @property
    def address(self) -> str:
        """What HF_ENDPOINT has to be."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def _content(self) -> bytes | None:
        match = re.fullmatch(r"/(\S+)/resolve/\w+/(\S+)", self.path)
        return self.server.files.get("/".join(match.groups())) if match else None

    def _start(self, status: int, content: bytes, length: int) -> None:
        self.send_response(status)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def do_HEAD(self) -> None:
        content = self._content()
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._start(200, content, len(content))

    def do_GET(self) -> None:
        content = self._content()
        if content is None or self.server.broken:
            self.send_error(404 if content is None else 503)
            return
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        begin = int(asked.group(1)) if asked else 0
        self.server.ranges.append(begin if asked else None)
        sent = bytearray(content[begin:])
        if self.server.damaged:
            sent[-1] ^= 1
        self._start(206 if asked else 200, content, len(sent))
        if self.server.cut:
            del sent[self.server.cut.pop(0) :]
        self.wfile.write(sent)

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """Scope in which a hub serves."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
