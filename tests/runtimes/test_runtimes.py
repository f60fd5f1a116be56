"""Layers in LiteRT's interfaces and in ONNX Runtime; the table that `make test-runtimes` makes."""

import numpy as np
import pytest

from tests.runtimes import __main__ as table
from tests.runtimes import browser, jobs, running
from tests.runtimes.running import Result

LAYERS = ("Conv3DTranspose", "Involution2D", "DeformableConv2D")
RUNTIMES = ("LiteRT", "LiteRT without XNNPACK", "LiteRT CompiledModel", "ONNX Runtime")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Files of some layers, and what is expected of them."""
    pytest.importorskip("ai_edge_litert")
    folder = tmp_path_factory.mktemp("runtimes")
    chosen = [pair for pair in jobs.layers() if type(pair[0]).__name__ in LAYERS]
    formats = ("float32", "int8", "ONNX")
    return [job for layer, shape in chosen for job in jobs.made(layer, shape, folder, formats)]


@pytest.mark.late
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_runtimes(runtime, made):
    if not running.is_installed(runtime):
        pytest.skip(f"needs {running.PACKAGES[runtime]}")
    found = running.of_runtime(runtime, made)
    assert len(found) == len(LAYERS) * (1 if "ONNX" in runtime else 2)
    assert [f"{r.job.layer} {r.job.format}: {r}" for r in found if not r.is_equal] == []


def test_what_is_not_equal_is_told(made, tmp_path):
    """Other results, files that cannot be read, and the table of both."""
    job = next(job for job in made if job.format == "float32")
    with np.load(job.arrays) as arrays:
        other = {name: x * (1.01 if name.startswith("y.") else 1) for name, x in arrays.items()}
    np.savez(tmp_path / "other.npz", **other)
    (tmp_path / "broken.tflite").write_bytes(b"no model")
    wrong = jobs.Job(**{**vars(job), "arrays": str(tmp_path / "other.npz")})
    broken = jobs.Job(**{**vars(job), "path": str(tmp_path / "broken.tflite")})
    found = running.of_runtime("LiteRT", [wrong, broken])
    assert str(found[0]) == "other results: 9.9e-03"
    assert found[1].error is None and "Error: " in str(found[1])
    page = table.table({"LiteRT": [*found, Result(job, 0.0)]}, {"X": "needs Y"}, tmp_path)
    assert f"| {job.layer} | float32<br>no float32 (1)<br>no float32 (2) |" in page
    assert "1. other results: 9.9e-03" in page and "| LiteRT |" in page
    assert "1 of 3" in page and "| X | not run: needs Y | |" in page


def test_jobs_for_browsers(made, tmp_path):
    """What a page is given, and what it says, as the page would."""
    some = [job for job in made if job.format == "float32"][:2]
    server = browser._Server(some, tmp_path)
    try:
        given = server.next()
        assert given["file"] == "/file/0"
        with np.load(some[0].arrays) as arrays:
            outputs = {name: arrays[f"y.{name}"].ravel().tolist() for name in some[0].outputs}
        server.take({"job": 0, "outputs": outputs})
        server.take({"job": server.next()["number"], "reason": "RuntimeError: unreachable"})
        assert server.next() is None and server.done.is_set()
        assert server.found[0].is_equal
        assert str(server.found[1]) == "RuntimeError: unreachable"
    finally:
        server.server_close()
