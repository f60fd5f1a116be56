"""The Python of the README and of the first pages runs as it stands, and what they name exists."""

import importlib.util
import re
import sys
import types
from pathlib import Path

import pytest
import tensorflow as tf

import tfconv
from tfconv import cli
from tfconv.catalog import family_name

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
USING = (ROOT / "docs/using.md").read_text(encoding="utf-8")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a page's blocks in one process, in their order, as a reader would; gives the names."""
    if importlib.util.find_spec("ai_edge_litert") is None:
        # TensorFlow's own interpreter has the same interface.
        module = types.ModuleType("ai_edge_litert.interpreter")
        module.Interpreter = tf.lite.Interpreter
        monkeypatch.setitem(sys.modules, "ai_edge_litert", types.ModuleType("ai_edge_litert"))
        monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", module)
    monkeypatch.chdir(tmp_path)

    def run(page, **names):
        text = (ROOT / page).read_text(encoding="utf-8")
        for block in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            lines = text[: block.start(1)].count("\n")  # so that errors name the page's lines
            exec(compile("\n" * lines + block.group(1), page, "exec"), names)
        return names

    return run


@pytest.mark.late
def test_readme(run, tmp_path):
    names = run("README.md")
    model, x = names["model"], names["images"][:50] / 16
    assert model.history.history["accuracy"][-1] > 0.9
    tf.debugging.assert_near(names["loaded"](x), model(x), atol=1e-5)
    tf.debugging.assert_near(names["probabilities"], model(x[:1]), atol=1e-5)
    assert names["report"].layer_errors
    assert (tmp_path / "serving/my_model/1/saved_model.pb").is_file()
    assert names["cost"].parameters == names["network"].count_params()


def test_using(run):
    names = run("docs/using.md")
    x = tf.random.normal([2, 32, 32, 3])
    tf.debugging.assert_near(names["loaded"](x), names["model"](x))
    assert names["functional"](x).shape == (2, 28, 28, 16)
    assert any(isinstance(layer, tfconv.CondDense) for layer in names["other"].layers)
    assert names["y"].shape == (1, 8, 8, 4)


@pytest.mark.late
def test_index(run, tmp_path):
    run("docs/index.md")
    assert (tmp_path / "digits.tflite").is_file()


def test_names_exist():
    for name in tfconv.layers.__all__:
        assert f"[`{family_name(name)}`](docs/layers.md#" in README
        ranked = rf"{name[:-2]}[123]D`[^|]*`{name[-2:]}"  # "`Involution1D`, `2D`, `3D`"
        assert re.search(rf"^\| ([^|]*`{name}`|`{ranked}`)", USING, re.MULTILINE), name
    for name in tfconv.ops.__all__:
        assert f"`{name}`" in USING
    commands = [line.split() for line in re.findall(r"python -m tfconv ([^`\n]+)", README)]
    names = {"compare", "convert", "example", "inspect", "layers", "predict", "profile", "status"}
    assert {command[0] for command in commands} == names
    for command in commands:
        assert callable(cli._parser().parse_args(command).run)
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", targets, re.MULTILINE), target


def ratios(page, work, rival, pass_):
    """Times faster than a rival, over the shapes of a table."""
    text = (ROOT / page).read_text(encoding="utf-8")
    row = rf"^\| {work} \| {pass_} \| [^|]+ \| [^|]+ \| {rival} \| [^|]+ \| 1/([\d.]+) \|"
    return sorted({round(float(found)) for found in re.findall(row, text, re.M)})


@pytest.mark.parametrize(
    "figure, page, work, rival, pass_",
    [
        (
            r"\*\*(\d+) to (\d+) times\*\* less time for an involution",
            "benchmarks/RESULTS.md",
            "involution 7x7",
            "tf.image.extract_patches",
            "forward",
        ),
        (
            r"\*\*(\d+) to (\d+) times\*\* less time for a deformable",
            "docs/benchmarks.md",
            "deformable v2 3x3",
            "torchvision deform_conv2d",
            "forward",
        ),
        (
            r"in training (\d+) to\s+(\d+) times",
            "docs/benchmarks.md",
            "deformable v2 3x3",
            "torchvision deform_conv2d",
            r"forward\+backward",
        ),
    ],
)
def test_figures(figure, page, work, rival, pass_):
    """What the README promises is measured there; another run may differ by a fifth."""
    said = [int(value) for value in re.search(figure, README).groups()]
    measured = ratios(page, work, rival, pass_)
    assert said == pytest.approx([measured[0], measured[-1]], rel=0.2)


def test_runtimes():
    """Each that the README counts runs every layer in one format at least."""
    said = re.search(r"- \*\*(\d+) runtimes\*\*.*?layer: (.*?) \(\[table\]", README, re.DOTALL)
    names = re.sub(r"\s+", " ", said.group(2)).split(", ")
    assert int(said.group(1)) == len(names) + 1  # and TensorFlow, which all checks have
    table = (ROOT / "docs/runtime_table.md").read_text(encoding="utf-8")
    head, _, *rows = re.findall(r"^\|(.+)\|$", table.partition("\n1. ")[0], re.MULTILINE)
    head = [cell.strip() for cell in head.split("|")]
    assert len(rows) == len(tfconv.layers.__all__)
    for row in rows:
        cells = dict(zip(head, (cell.strip() for cell in row.split("|"))))
        for name in names:
            assert any(not part.startswith("no ") for part in cells[name].split("<br>")), row
