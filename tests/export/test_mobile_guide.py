"""docs/mobile.md: its Python runs, and what it says of the file holds."""

import re
import zipfile
from pathlib import Path

import pytest

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "mobile.md"


@pytest.mark.dear
def test_guide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = GUIDE.read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names = {}
    exec(compile(block, "mobile.md", "exec"), names)
    report = names["report"]
    assert report.inputs == ["image"] and not report.custom_operators
    with zipfile.ZipFile("pets.tflite") as archive:
        labels = archive.read("labels.txt").decode().split()
    assert labels == ["cat", "dog", "parrot"]
    # What Kotlin and Swift take for granted.
    size = names["model"].input_shape[1]
    assert f"const val SIZE = {size}\n" in text and f"let size = {size}\n" in text
    assert "mean: 127.5, std: 127.5" in text and '"mean": 127.5' in text
