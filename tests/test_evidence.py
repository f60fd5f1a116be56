"""`tfconv evidence`: tasks, the plan, runs that go on where they stopped, and verdicts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from tfconv import cli
from tfconv._compat import keras
from tfconv.analysis import profile
from tfconv.evidence import advice, findings, plan, runs, tasks
from tfconv.evidence.plan import EXPERIMENTS, Expectation, Experiment

DOCS = Path(__file__).resolve().parents[1] / "docs"
NETWORKS = [(each, name) for each in EXPERIMENTS for name in each.networks]


@pytest.fixture
def digits(monkeypatch):
    """A few digits: bright squares, whose labels say how large they are."""
    labels = np.tile(np.arange(10), 20)
    images = np.zeros([200, 28, 28], np.float32)
    for image, label in zip(images, labels):
        image[4 : 8 + label, 4 : 8 + label] = 1
    parts = (images[:130], labels[:130], images[130:], labels[130:])
    monkeypatch.setattr(tasks, "digits", lambda: parts)
    return parts


def small():
    """An experiment of two networks on nothing much."""

    def body(x):
        return keras.layers.Conv2D(4, 3, activation="relu")(x)

    return Experiment(
        "small",
        "One is as good as the other.",
        "nobody",
        dataclasses.replace(tasks.PLAIN),
        {"One": body, "Two": body},
        (Expectation("Two", "One"), Expectation("Two", "One", within=50)),
        epochs=2,
    )


# Tasks.


TASKS = [tasks.BENT, tasks.CLUTTERED, tasks.PLAIN, tasks.ENLARGED]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_tasks(task, digits):
    task = dataclasses.replace(task)  # what it has drawn is its own
    first, again, other = (list(task.batches(seed, 0)) for seed in (0, 0, 1))
    assert len(first) == task.steps == 2
    for images, labels in first:
        assert images.shape == (64, *task.shape) and images.dtype == np.float32
        assert labels.shape == (64,) and 0 <= images.min() and 0.5 < images.max() <= 1
    np.testing.assert_array_equal(first[0][0], again[0][0])
    assert not np.array_equal(first[0][0], other[0][0])
    assert task.test_images.shape == (70, *task.shape)
    np.testing.assert_array_equal(task.test_images, dataclasses.replace(task).test_images)


def test_samples():
    """Whole places are pixels, others lie between them, and nothing is outside."""
    images = np.random.default_rng(0).random([2, 5, 6])
    rows, columns = np.meshgrid(np.arange(5.0), np.arange(6.0), indexing="ij")
    both = (np.stack([rows] * 2), np.stack([columns] * 2))
    np.testing.assert_allclose(tasks.sampled(images, *both), images, atol=1e-12)
    between = tasks.sampled(images, both[0][:, :-1] + 0.25, both[1][:, :-1])
    np.testing.assert_allclose(between, 0.75 * images[:, :-1] + 0.25 * images[:, 1:], atol=1e-12)
    assert not tasks.sampled(images, both[0] - 20, both[1]).any()
    assert np.abs(tasks.sampled(images, both[0] + 20, both[1])).max() < 0.01


# The plan.


@pytest.mark.parametrize("experiment, name", NETWORKS, ids=lambda each: getattr(each, "name", each))
def test_networks(experiment, name):
    model = plan.build((experiment, name), experiment.task, 0)
    assert tuple(model.output.shape) == (None, 10)
    assert not profile(model).unknown


def test_budgets():
    """What is compared for the same products has them, and experts cost next to none."""

    def products(name, network):
        (experiment,) = plan.experiments([name])
        return profile(plan.build((experiment, network), experiment.task, 0)).multiply_adds

    wide, moved = (
        products("deformable", "Conv 3x3, wider"),
        products("deformable", "DeformableConv 3x3"),
    )
    assert wide == pytest.approx(moved, rel=0.05)
    assert products("experts", "CondConv, 8 experts") < 1.05 * products("experts", "Conv")
    assert products("separable", "Conv") > 6 * products("separable", "SeparableConv")


def test_expectations_are_about_networks_that_there_are():
    for each in EXPERIMENTS:
        assert each.expectations and each.name.isidentifier()
        for expectation in each.expectations:
            assert {expectation.better, expectation.than} <= set(each.networks)
    with pytest.raises(ValueError, match="`names` must be among deformable.*Received: 'x'"):
        plan.experiments(["x"])


# Runs.


def test_runs(digits, tmp_path):
    """A run has a point for each epoch; another plan's does not count."""
    experiment = small()
    assert list(runs.missing(tmp_path, experiment, 2)) == [
        (0, "One"),
        (0, "Two"),
        (1, "One"),
        (1, "Two"),
    ]
    run = runs.train(experiment, "One", 0)
    path = runs.keep(tmp_path, experiment, run)
    assert path == tmp_path / "small" / "one-0.json"
    assert len(run.curve) == 2 and run.images == len(run.correct) == 70
    assert run.curve[-1] == pytest.approx(100 * run.correct.mean(), abs=1e-3)
    assert len(list(runs.missing(tmp_path, experiment, 2))) == 3
    assert runs.finished(tmp_path, experiment, 2) == {}  # the other one of the seed is not there
    runs.keep(tmp_path, experiment, dataclasses.replace(run, network="Two"))
    assert runs.finished(tmp_path, experiment, 2)["One"] == [run]
    longer = dataclasses.replace(experiment, epochs=3)
    assert len(list(runs.missing(tmp_path, longer, 2))) == 4
    assert runs.finished(tmp_path, longer, 2) == {}


def test_command(digits, tmp_path, monkeypatch, capsys):
    """It runs what is not there, once, and writes the page."""
    experiment = small()
    monkeypatch.setattr(plan, "EXPERIMENTS", (experiment,))
    trained = []
    train = runs.train

    def counted(experiment, network, seed, said):
        trained.append((seed, network))
        return train(experiment, network, seed, said)

    monkeypatch.setattr(runs, "train", counted)
    given = ["evidence", "--folder", str(tmp_path / "runs"), "--seeds", "1"]
    assert cli.main([*given, "--list"]) == 0
    assert "small: 0 of 2 runs are there" in capsys.readouterr().out
    page = tmp_path / "page.md"
    assert cli.main([*given, "--only-report", "--markdown", str(page)]) == 0
    assert "Not run yet" in page.read_text() and not trained
    assert cli.main([*given, "--markdown", str(page)]) == 0
    assert trained == [(0, "One"), (0, "Two")]
    assert "Two is more accurate than One: cannot be told" in capsys.readouterr().out
    assert "![" in page.read_text() and (tmp_path / "page" / "small.svg").is_file()
    assert cli.main(given) == 0 and len(trained) == 2
    assert cli.main(["evidence", "nothing"]) == 1
    assert "`EXPERIMENT` must be among small" in capsys.readouterr().err


# Verdicts.


def made(network, right, parameters=10, products=100, seed=0):
    """A run of which so many of 1,000 images are right."""
    bits = np.arange(1000) < right
    packed = np.packbits(bits).tobytes().hex()
    return runs.Run(
        "", network, seed, parameters, products, [right / 10], packed, 1000, 1 + seed, "here"
    )


@pytest.mark.parametrize(
    "mine, within, said",
    [
        (900, None, "shows"),
        (802, None, "cannot be told"),
        (700, None, "does not hold"),
        (795, 3, "shows"),
        (700, 3, "does not hold"),
    ],
)
def test_verdicts(mine, within, said):
    found = {"A": [made("A", 800), made("A", 801)], "B": [made("B", mine), made("B", mine + 1)]}
    assert said in findings.verdict(Expectation("B", "A", within), found)


@pytest.mark.parametrize(
    "mine, within, parameters, products, list_of",
    [
        (900, None, 20, 300, advice.MORE),
        (802, None, 20, 300, advice.UNTOLD),
        (700, None, 5, 50, advice.LESS),
        (900, 1, 20, 300, advice.MORE),
        (795, 3, 5, 50, advice.SAVES),
        (795, 3, 5, 101, advice.UNTOLD),  # more multiply-adds: nothing is saved
        (795, 3, 10, 50, advice.UNTOLD),
        (780, 2, 5, 50, advice.UNTOLD),
        (700, 3, 5, 50, advice.LESS),
    ],
)
def test_advice(mine, within, parameters, products, list_of, tmp_path, monkeypatch):
    """A comparison comes into the list of its interval and costs, with both."""
    expectation = Expectation("Two", "One", within)
    experiment = dataclasses.replace(small(), expectations=(expectation,))
    for seed in range(2):
        for run in (
            made("One", 800 + seed, seed=seed),
            made("Two", mine + seed, parameters, products, seed),
        ):
            run = dataclasses.replace(run, fingerprint=experiment.fingerprint)
            runs.keep(tmp_path, experiment, run)
    assert advice.belongs(expectation, runs.finished(tmp_path, experiment, 2)) == list_of
    said = advice.chapter([experiment], tmp_path, 2)
    (head,) = (line for line in said.splitlines() if line.startswith("**"))
    words = {
        advice.MORE: "More accurate",
        advice.SAVES: "As accurate, within",
        advice.UNTOLD: "These runs cannot tell",
        advice.LESS: "Less accurate",
    }
    assert words[list_of] in head
    points = f"{(mine - 800) / 10:+.1f} ± "
    ratios = (
        f"{parameters / 10:.2f} times the weights, {products / 100:.2f} times the multiply-adds"
    )
    assert "**Two** or One, on plain digits" in said and points in said and ratios in said
    assert "1.00 times the training time ([small](#small))" in said
    assert advice.chapter([experiment], tmp_path / "nothing", 2) == ""
    assert advice.chapter([experiment], tmp_path, 3) == ""  # a seed is missing
    monkeypatch.setattr(advice, "_ENOUGH", 2)
    assert "rougher intervals: small (2 of 5)." in advice.chapter([experiment], tmp_path, 5)


def test_advice_tells_of_budgets_and_of_what_is_left_out(tmp_path):
    """One network in two experiments with different epochs; a third one has not been run."""
    long, unrun = small(), dataclasses.replace(small(), name="unrun", epochs=3)
    short = dataclasses.replace(long, name="short", epochs=1)
    for experiment, right in ((long, 900), (short, 700)):
        for name in experiment.networks:
            run = made(name, right)
            run = dataclasses.replace(run, fingerprint=experiment.fingerprint)
            runs.keep(tmp_path, experiment, run)
    said = advice.chapter([long, short, unrun], tmp_path, 1)
    assert "until more seeds have been run: unrun (0 of 1)." in said
    for name in long.networks:
        after = f"after 2 epochs {name} has 90.0% of plain digits right ([small](#small)), after 1"
        assert f"{after} epochs 70.0% ([short](#short))" in said


def test_page():
    """docs/evidence.md is what the committed runs say."""
    folder, page = DOCS / "evidence", DOCS / "evidence.md"
    found = [each for each in EXPERIMENTS if runs.finished(folder, each, plan.SEEDS)]
    pictures = {each.name: f"evidence/{each.name}.svg" for each in found}
    assert found and all((DOCS / path).is_file() for path in pictures.values())
    expected = findings.page(list(EXPERIMENTS), folder, plan.SEEDS, pictures)
    assert page.read_text(encoding="utf-8") == expected
    for path in folder.rglob("*.json"):
        assert json.loads(path.read_text())["fingerprint"] in {e.fingerprint for e in EXPERIMENTS}
