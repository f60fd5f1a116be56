"""The README's Python runs as it stands there, and what it names exists."""

import importlib.util
import re
import sys
import types
from pathlib import Path

import tensorflow as tf

import tfconv
from tfconv import cli

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def test_python_blocks(tmp_path, monkeypatch):
    """All in one process, in their order, as a reader would."""
    if importlib.util.find_spec("ai_edge_litert") is None:
        # TensorFlow's own interpreter has the same interface.
        module = types.ModuleType("ai_edge_litert.interpreter")
        module.Interpreter = tf.lite.Interpreter
        monkeypatch.setitem(sys.modules, "ai_edge_litert", types.ModuleType("ai_edge_litert"))
        monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", module)
    monkeypatch.chdir(tmp_path)
    names = {}
    blocks = list(re.finditer(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL))
    assert len(blocks) >= 8
    for block in blocks:
        lines = README[: block.start(1)].count("\n")  # so that errors name the README's lines
        exec(compile("\n" * lines + block.group(1), "README.md", "exec"), names)
    x = tf.random.normal([2, 32, 32, 3])
    tf.debugging.assert_near(names["loaded"](x), names["model"](x))
    assert names["functional"](x).shape == (2, 28, 28, 16)
    assert names["y"].shape == (1, 10)
    zeros = tf.zeros([5, 32, 32, 3])
    tf.debugging.assert_near(names["probabilities"], names["model"](zeros), atol=1e-5)
    assert (tmp_path / "serving/my_model/1/saved_model.pb").is_file()


def test_names_exist():
    for name in tfconv.layers.__all__:
        ranked = rf"{name[:-2]}[123]D`[^|]*`{name[-2:]}"  # "`Involution1D`, `2D`, `3D`"
        assert re.search(rf"^\| ([^|]*`{name}`|`{ranked}`)", README, re.MULTILINE), name
    for name in tfconv.ops.__all__:
        assert f"`{name}`" in README
    commands = [line.split() for line in re.findall(r"python -m tfconv ([^`\n]+)", README)]
    names = {"build", "compare", "convert", "inspect", "layers", "profile", "status"}
    assert {command[0] for command in commands} == names
    for command in commands:
        assert callable(cli._parser().parse_args(command).run)
    targets = (Path(cli.__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)$", README, re.MULTILINE):
        assert re.search(rf"^{target}:", targets, re.MULTILINE)
