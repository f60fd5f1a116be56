"""The examples run, at a small size, and their notebooks are made of them as they are."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import tfconv.models
from tests import notebooks
from tfconv import cli
from tfconv._compat import keras
from tfconv.commands import example
from tfconv.models import rednet
from tfconv.models.network import network

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib").use("agg")

NAMES = [path.stem for path in notebooks.scripts()]
PROCESSES = "many_devices"  # it starts two
EXPORTS = ("phone", "serving")  # functions are traced for them
ROOT = notebooks.EXAMPLES.parent
MARKS = {PROCESSES: pytest.mark.late}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs an example quickly in this process, and returns its variables.

    Nothing is traced where that takes longer than it saves, and of RedNet26 there is one block.
    """
    policy = keras.mixed_precision.global_policy()
    monkeypatch.setenv("TFCONV_EXAMPLE_QUICK", "1")
    monkeypatch.setenv("TFCONV_EXAMPLE_OUTPUT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    small = network()(lambda x: rednet._features(x, (1,)))
    monkeypatch.setattr(tfconv.models, "RedNet26", small)

    def run(name):
        tf.config.run_functions_eagerly(name not in EXPORTS)
        return runpy.run_path(str(notebooks.EXAMPLES / f"{name}.py"), run_name="__main__")

    yield run
    tf.config.run_functions_eagerly(False)
    keras.mixed_precision.set_global_policy(policy)
    keras.utils.set_random_seed(0)
    import matplotlib.pyplot

    matplotlib.pyplot.close("all")


@pytest.mark.late
@pytest.mark.parametrize("name", [pytest.param(n, marks=MARKS.get(n, ())) for n in NAMES])
def test_example(name, run, tmp_path, capfd):
    made = run(name)
    picture = tmp_path / f"{name}.png"
    assert picture.stat().st_size > 5000
    assert capfd.readouterr().out.strip()
    checks = {"volumes": _volumes, "phone": _phone, "segmentation": _scenes}
    checks.get(name, lambda made: None)(made)


def _volumes(made):
    """What is said of the data holds, and the layers cost what the geometry says."""
    x, tubes = made["volumes"](6, (6, 10, 12), seed=0, noise=0.0)
    assert x.shape == tubes.shape == (6, 6, 10, 12, 1)
    assert set(np.unique(x)) == set(np.unique(tubes)) == {0.0, 1.0}
    assert np.all(x[tubes > 0] == 1) and x.sum() > tubes.sum()
    assert tubes[..., 0].any((1, 2)).all(), "a tube goes from one end of the last axis to the other"
    noisy, same = made["volumes"](6, (6, 10, 12), seed=0)
    np.testing.assert_array_equal(same, tubes)
    assert 0.4 < np.std(noisy - x) < 0.6
    # Offsets of three axes and masks, for 27 taps, from 27 taps of 8 channels.
    plain, deformable = (made["network"](name) for name in ("Conv3D", "DeformableConv3D"))
    assert deformable.count_params() - plain.count_params() == 2 * (27 * 8 + 1) * 27 * 4
    assert made["overlap"](tubes > 0, tubes) == 1 and made["overlap"](tubes < 0, tubes) == 0


def _phone(made):
    assert made["sizes"].keys() == made["accuracies"].keys() >= {None}


def _scenes(made):
    pictures, classes = made["train_x"], made["train_y"]
    assert pictures.shape[:3] == classes.shape and set(np.unique(classes)) <= set(range(11))
    assert np.all(pictures[..., 0][classes < 10] > 0.3)


def test_notebooks_are_current():
    """If not: python -m tests.notebooks"""
    there = {path.stem: path for path in notebooks.FOLDER.glob("*.ipynb")}
    assert sorted(there) == NAMES
    for script in notebooks.scripts():
        text = script.read_text(encoding="utf-8")
        assert there[script.stem].read_text(encoding="utf-8") == notebooks.notebook(text)


def test_cells():
    script = "# %% [markdown]\n# # A title\n#\n# Text.\n\n# %%\nx = 1\n\n\ny = 2\n"
    title, code = notebooks.cells(script)
    assert title["cell_type"] == "markdown" and "".join(title["source"]) == "# A title\n\nText."
    assert code["cell_type"] == "code" and "".join(code["source"]) == "x = 1\n\n\ny = 2"
    with pytest.raises(ValueError, match="begin with a cell. Received: 'import"):
        notebooks.cells("import os\n# %%\n")
    whole = json.loads(notebooks.notebook(script))
    assert whole["nbformat"] == 4 and len({cell["id"] for cell in whole["cells"]}) == 2


def test_every_example_has_a_title_settings_and_a_row_in_the_page():
    page = ROOT.joinpath("docs/examples.md").read_text(encoding="utf-8")
    for script in notebooks.scripts():
        text = script.read_text(encoding="utf-8")
        assert text.startswith("# %% [markdown]\n# # ") and f'"{script.stem}.png"' in text
        assert "TFCONV_EXAMPLE_QUICK" in text and "TFCONV_EXAMPLE_OUTPUT" in text
        assert f"`tfconv example {script.stem}`" in page
    pictures = {path.stem for path in ROOT.joinpath("docs/examples").glob("*.png")}
    assert pictures <= {script.stem for script in notebooks.scripts()}
    assert all(f"](examples/{name}.png)" in page for name in pictures)


# The command.


def test_list(capsys):
    assert cli.main(["example"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert "Image classification with RedNet26" in lines[NAMES.index("image_classification")]


def test_show(capsys):
    assert cli.main(["example", "volumes", "--show"]) == 0
    script = notebooks.EXAMPLES / "volumes.py"
    assert capsys.readouterr().out == script.read_text(encoding="utf-8")


@pytest.mark.parametrize("status", [0, 3])
def test_command(status, tmp_path, monkeypatch, capsys):
    """It runs the script with its settings, and its status is that of the script."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    text = f"import os, sys\nprint(os.environ['TFCONV_EXAMPLE_OUTPUT'])\nsys.exit({status})\n"
    (scripts / "one.py").write_text(text)
    monkeypatch.setattr(example, "_FOLDERS", (tmp_path / "none", scripts))
    monkeypatch.setattr(example, "_START", "")  # TensorFlow, which it does not need
    started = []
    process = subprocess.run

    def start(command, env):
        started.append(env)
        return process(command, env=env, capture_output=True, text=True)

    monkeypatch.setattr(example.subprocess, "run", start)
    given = ["example", "one", "--quick", "--output", str(tmp_path / "made")]
    assert cli.main(given) == min(status, 1)
    (env,) = started
    assert env["TFCONV_EXAMPLE_QUICK"] == "1"
    assert env["TFCONV_EXAMPLE_OUTPUT"] == str(tmp_path / "made")
    printed = capsys.readouterr()
    assert "pictures and models are in" in printed.out if status == 0 else "3" in printed.err


@pytest.mark.parametrize(
    "arguments, message",
    [(["two"], "NAME must be one of .*volumes"), (["volumes", "--output", __file__], "is a file")],
)
def test_refused(arguments, message, capsys):
    import re

    assert cli.main(["example", *arguments]) == 1
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.late
def test_command_in_a_process(tmp_path):
    given = ["-m", "tfconv", "example", "sequence_model", "--quick", "--output", str(tmp_path)]
    done = subprocess.run([sys.executable, *given], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sequence_model.png").is_file() and "held out" in done.stdout
    assert not done.stderr, "TensorFlow's lines as it starts are hidden"
