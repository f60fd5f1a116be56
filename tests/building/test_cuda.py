"""CUDA: which GPUs are built for, and by which compiler."""

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.building.small_tree import call, exported, write_program

NVCC = """case $* in
  *--version*) echo "nvcc: the compiler"; echo "Build 1" ;;
  *--list-gpu-code*) printf "sm_75\\nsm_80\\nsm_86\\nsm_90\\nsm_91\\n" ;;
  *-E*) exit ;;
esac"""


@pytest.fixture
def nvcc(tree, monkeypatch):
    """A stand-in, on the PATH."""
    path = Path(write_program(tree.root / "cuda" / "bin" / "nvcc", NVCC))
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    return path


@pytest.mark.parametrize(
    ("of_tensorflow", "environment", "archs"),
    [
        ((), {}, None),  # there is an nvcc, but no CUDA in TensorFlow
        ((), {"TFCONV_CUDA": "1"}, ("75", "80", "90")),  # not 86, which runs the code for 80
        (("60", "80", "86", "89"), {}, ("80", "86")),  # what both know
        (("80",), {"TFCONV_CUDA": "0"}, None),
        (("80",), {"TFCONV_CUDA_ARCHS": "90,100a"}, ("90", "100a")),
    ],
)
def test_cuda_is_tensorflows(tree, nvcc, monkeypatch, of_tensorflow, environment, archs):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = tree.module.find_cuda(of_tensorflow)
    assert (found and found.archs) == archs
    assert found is None or (found.nvcc, found.version) == (str(nvcc), "Build 1")


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("-E*) exit", "-E*) echo too new; exit 3", "exit status 3\\):\n  too new"),
        ("sm_75\\nsm_80\\n", "", "none of the architectures 75, 80\\."),
    ],
)
def test_nvcc_that_does_not_work(tree, nvcc, monkeypatch, capsys, old, new, match):
    assert old in nvcc.read_text()
    nvcc.write_text(nvcc.read_text().replace(old, new))
    assert tree.module.find_cuda(("75", "80")) is None
    assert re.search(match, capsys.readouterr().err)
    monkeypatch.setenv("TFCONV_CUDA", "1")
    with pytest.raises(tree.module.BuildError, match=match):
        tree.module.find_cuda(("75", "80"))


def test_cuda_settings(tree, nvcc, monkeypatch):
    other = Path(write_program(tree.root / "other" / "bin" / "nvcc", NVCC))
    monkeypatch.setenv("CUDA_HOME", str(other.parent.parent))
    assert tree.module.find_cuda(("80",)).nvcc == str(other)
    monkeypatch.delenv("CUDA_HOME")
    monkeypatch.setenv("PATH", str(tree.root))
    assert tree.module.find_cuda(("80",)) is None
    for variable, value, match in [
        ("TFCONV_CUDA", "1", "no nvcc in CUDA_HOME or on the PATH"),
        ("TFCONV_CUDA", "yes", "TFCONV_CUDA.*Received: 'yes'"),
        ("TFCONV_CUDA_ARCHS", "sm_90", "TFCONV_CUDA_ARCHS.*Received: 'sm_90'"),
    ]:
        monkeypatch.setenv(variable, value)
        with pytest.raises(tree.module.BuildError, match=match):
            tree.module.find_cuda(("80",))
        monkeypatch.delenv(variable)


@pytest.mark.late
def test_cuda_is_built(tree, monkeypatch):
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc")
    monkeypatch.setenv("TFCONV_CUDA", "1")
    monkeypatch.setenv("TFCONV_CUDA_ARCHS", "80")
    monkeypatch.setenv("TFCONV_WERROR", "1")
    first = tree.build()
    assert {"cc/b/b.cu.cc", "cc/b/b_gpu.cc"} < set(first.compiled)
    assert first.info["cuda_archs"] == ["80"]
    assert call(tree.library, "tfconv_gpu") == 3  # without a GPU, and without CUDA's libraries
    monkeypatch.setenv("TFCONV_CUDA", "0")
    assert tree.build().info["cuda_archs"] == []
    assert "tfconv_gpu" not in exported(tree.library)
