"""benchmarks/: rivals compute the same numbers, and verdicts are what the figures say. No times."""

import contextlib
import dataclasses
import json
import math

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from benchmarks import __main__ as program
from benchmarks import cases, floors, measuring, networks, picture, report, rows
from benchmarks.cases import Case, Product, Rival, Transfer
from benchmarks.rows import Row
from benchmarks.tensorflow_rivals import PEERS, Engine
from benchmarks.worker import Worker, WorkerError, Workers
from tfconv._compat import keras

TINY = {
    "involution": Case("involution", 2, 32, 6, kernel=5),
    "attention": Case("attention", 2, 32, 6, kernel=5),
    "aggregation": Case("aggregation", 2, 32, 6, kernel=3),
    "deformable": Case("deformable", 2, 4, 6, kernel=3),
    "deformable_3d": Case("deformable_3d", 1, 4, 4, kernel=3, depth=3),
    "per_example": Case("per_example", 3, 4, 6, kernel=3),
    "condconv": Case("condconv", 3, 4, 6, kernel=3),
}
# Rivals that share their inputs with tfconv's function.
SAME_INPUTS = [
    (family, peer)
    for family, peers in rows.PEERS.items()
    for peer in peers
    if peer != rows.STOCK[family] and (rows.have_torch() or rows.engine_of(peer) != "torch")
]


@pytest.fixture(scope="module")
def workers():
    """The processes that do the work."""
    with Workers() as started:
        yield started


# Rivals do the same work.


@pytest.mark.late
@pytest.mark.parametrize("family, peer", SAME_INPUTS)
def test_rivals_compute_the_same(workers, family, peer):
    """The output and the gradients of all inputs, through the processes that are timed."""
    case = dataclasses.replace(TINY[family], backward=True)

    def results(rival):
        return workers.of(rival).ask("results", rival)

    expected = results(Rival("tfconv", case))
    actual = results(Rival(peer, case, rows.engine_of(peer)))
    assert list(actual) == list(expected) == ["y", *cases.INPUTS[family]]
    for name, values in expected.items():
        scale = np.abs(values).max()
        np.testing.assert_allclose(actual[name], values, atol=1e-5 * scale, err_msg=name)


def computed(name, case, *inputs):
    return PEERS[name, case.family].function(case, *map(tf.constant, inputs))


def test_stock_convolutions_are_special_cases():
    """Same products, kernels that do not vary: what a stock convolution is held against."""
    case = TINY["involution"]
    x, kernel = case.array("x"), case.array("depthwise_kernel")
    groups = case.channels // case.group_channels
    kernel = np.repeat(kernel[:, :, :groups], case.group_channels, axis=2)
    shape = case.shape("position_kernels")
    by_group = kernel[:, :, :: case.group_channels, 0].reshape(-1, groups).T
    ours = computed("tfconv", case, x, np.broadcast_to(by_group, shape))
    np.testing.assert_allclose(
        ours, computed("tf.nn.depthwise_conv2d", case, x, kernel), rtol=1e-4, atol=1e-4
    )

    case = TINY["deformable"]
    x, kernel = case.array("x"), case.array("kernel")
    still, whole = np.zeros_like(case.array("offset")), np.ones_like(case.array("mask"))
    ours = computed("tfconv", case, x, still, kernel, whole)
    np.testing.assert_allclose(
        ours, computed("tf.nn.conv2d", case, x, kernel), rtol=1e-4, atol=1e-4
    )

    case = TINY["per_example"]
    x, kernel = case.array("x"), case.array("kernel")
    ours = computed("tfconv", case, x, np.broadcast_to(kernel, case.shape("kernels")))
    np.testing.assert_allclose(
        ours, computed("tf.nn.conv2d", case, x, kernel), rtol=1e-4, atol=1e-4
    )


def test_experts_are_mixed():
    case = TINY["condconv"]
    x, experts, routing = (case.array(name) for name in cases.INPUTS["condconv"])
    kernels = np.einsum("ne,eijcf->nijcf", routing, experts)
    np.testing.assert_allclose(
        computed("tfconv", case, x, experts, routing),
        computed("tfconv", TINY["per_example"], x, kernels),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("family", TINY)
def test_costs(family, backward, dtype):
    """Bytes are those of real tensors; multiply-adds those of a loop over the output."""
    case = dataclasses.replace(TINY[family], stride=2, backward=backward, dtype=dtype)
    y, *gradients = Engine.prepare(Rival("tfconv", case))()
    assert y.dtype == dtype and all(g.dtype == dtype for g in gradients)
    inputs = sum(math.prod(case.shape(name)) for name in cases.INPUTS[family])
    written = sum(tf.size(g).numpy() for g in gradients)
    assert written == (inputs if backward else 0)
    size = tf.size(y).numpy()
    read_again = inputs + size if backward else 0
    assert case.bytes == y.dtype.size * (inputs + size + read_again + written)
    for_one = {
        "involution": case.kernel**2,
        "attention": 2 * case.kernel**2,
        "aggregation": 4 * case.kernel**2,
        "deformable": case.kernel**2 * (case.channels + 4),
        "deformable_3d": case.kernel**3 * (case.channels + 8),
        "per_example": case.kernel**2 * case.channels,
        "condconv": case.kernel**2 * case.channels * (1 + cases.EXPERTS / case.outputs**2),
    }[family]
    assert case.multiply_adds == pytest.approx(for_one * size * (3 if backward else 1))


def test_every_row_has_its_rivals():
    found = [row for group in rows.groups() for row in group]
    assert len({row.name for row in found}) == len(found)  # what --only is matched with
    for row in found:
        for rival in (row.rival, row.base):
            if rival is not None and rival.engine == "tensorflow":
                assert (rival.name, rival.case.family) in PEERS
    assert {row.section for row in found} == set(rows.SECTIONS)


@pytest.mark.late
def test_extra_memory(workers):
    """What lives during a call only: of extract_patches, the columns."""
    case = dataclasses.replace(TINY["involution"], size=32)

    def extra(name):
        rival = Rival(name, case, "memory")
        workers.of(rival).ask("prepare", rival)
        return workers.of(rival).ask("extra_bytes", rival)

    assert case.columns_bytes <= extra("tf.image.extract_patches") < 1.1 * case.columns_bytes
    assert extra("tf.nn.depthwise_conv2d") < 0.1 * case.columns_bytes


def test_worker_says_what_went_wrong():
    lost = Worker("numpy", 2)
    with pytest.raises(WorkerError, match="KeyError.*nobody"):
        lost.ask("prepare", Rival("nobody", Transfer(2**10), "numpy"))
    lost.close()


# Measuring.


class Machine:
    """Workers that take the times they are told to, and write down whose turn it was."""

    def __init__(self, seconds):
        self.seconds, self.turns = seconds, []

    def of(self, rival):
        self.asked = rival
        return self

    def ask(self, question, rival):
        if question == "prepare":
            return self.seconds[rival]
        self.turns.append(rival)
        return self.seconds[rival]

    def forget(self):
        pass


def rivals(*names):
    return [Rival(name, TINY["involution"]) for name in names]


def test_turns_alternate_and_who_is_slow_sits_out():
    quick, other, slow = rivals("quick", "other", "slow")
    machine = Machine({quick: 0.01, other: 0.02, slow: 3.0})
    times = measuring.take_turns(machine, [quick, other, slow, quick], rounds=7)
    assert machine.turns[:6] == [quick, other, slow] * 2
    assert machine.turns[-2:] == [quick, other]
    assert [len(seconds) for seconds in times.values()] == [7, 7, measuring.FEWEST_TURNS]


def results(*made_up):
    """Results of rows in "peers": (ratio, target, at_least) each."""
    found = []
    for number, (ratio, target, at_least) in enumerate(made_up):
        mine, theirs = rivals(f"mine {number}", f"theirs {number}")
        row = Row("peers", f"work {number}", mine, theirs, "peer", target, at_least)
        found += measuring.compare([row], {mine: [ratio] * 4, theirs: [1.0] * 4})
    return found


def test_verdicts():
    found = results((1.1, 1.2, False), (1.3, 1.2, False), (1.9, 1.8, True), (1.7, 1.8, True))
    assert [result.met for result in found] == [True, False, True, False]
    assert [result.met for result in results((0.5, None, False))] == [None]
    assert report.summary(found) == "2 of 4 targets met"


def test_ratio_is_the_median_of_the_rounds():
    mine, theirs = rivals("mine", "theirs")
    times = {mine: [1.0, 2.0, 90.0, 4.0, 6.0], theirs: [1.0, 1.0, 30.0, 1.0, 1.0, 1.0]}
    (result,) = measuring.compare([Row("peers", "work", mine, theirs, "peer", 3.0)], times)
    assert (result.ratio, result.quartiles) == (3.0, (2.0, 4.0))
    assert (result.value, result.base) == (4.0, 1.0)
    assert result.met


def test_best_of_a_group_is_by_multiply_add():
    one, four = (Rival("tfconv", dataclasses.replace(TINY["involution"], batch=n)) for n in (1, 4))
    group = [
        Row("shapes", "work", rival, None, "best", 2.0, per_multiply_add=True)
        for rival in (one, four)
    ]
    found = measuring.compare(group, {one: [1.0, 1.0], four: [1.6, 1.6]})
    assert [result.ratio for result in found] == [pytest.approx(2.5), 1.0]
    assert [result.met for result in found] == [False, True]


def test_floor_is_the_longer_of_the_two():
    case = TINY["involution"]
    quick, slow = 1e3 * case.multiply_adds, case.multiply_adds
    block, product = case.bytes // 2, Product(8, 8, 8)
    rates = floors.Rates({product: slow}, {block: case.bytes}, {block: 4 * case.bytes})
    assert rates.floor(case) == (1.0, "products")
    rates = floors.Rates({product: quick}, {block: case.bytes / 8}, {block: case.bytes / 2})
    assert rates.floor(case) == (2.0, "bytes")
    # The smaller block's rate holds for what lies between two.
    rates = floors.Rates({product: quick}, {block: 1.0, 4 * block: 9.0}, {block: 1.0, 4 * block: 9})
    assert rates.floor(case) == (case.bytes, "bytes")


# What is printed and written.

RATES = floors.Rates({Product(8, 8, 8): 1e9}, {2**22: 1e9}, {2**22: 1e9})


def test_markdown():
    found = results((1.1, 1.2, False), (1.3, 1.2, False), (1 / 30, 1 / 25, False), (1, None, False))
    text = report.markdown(found, RATES, {"Processor": "of no name"}, 15)
    assert "Processor: of no name" in text and "3 targets met" in text
    missed = text.partition("## Missed")[2].partition("##")[0]
    assert "work 1" in missed and "work 0" not in missed
    table = text.partition("## Against peers")[2].partition("##")[0]
    for work, verdict in zip(range(4), ("met", "MISSED", "met", "")):
        (line,) = (line for line in table.splitlines() if line.startswith(f"| work {work} "))
        assert line.split("|")[-2].strip() == verdict
    assert "1/30" in table and "≤ 1/25" in table


def test_picture_has_a_dot_for_each_target():
    found = results((1.1, 1.2, False), (0.9, 1.8, True), (1.0, None, False))
    axes = picture.draw(found).axes[0]
    dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(dots, [1.1 / 1.2, 2.0])


@pytest.fixture
def tiny_program(workers, monkeypatch, tmp_path):
    """Runs the program on two rows, with its files in a folder of the test's own."""
    case = TINY["involution"]
    ours, peer = Rival("tfconv", case), Rival("tf.nn.depthwise_conv2d", case)
    groups = [
        [Row("peers", "involution", ours, peer, "depthwise", 1e9)],
        [Row("memory", "involution", Rival("tfconv", case, "memory"), None, "columns")],
    ]
    monkeypatch.setattr(program.rows, "groups", lambda: iter(groups))
    monkeypatch.setattr(program, "measured_rates", lambda *_: RATES)
    monkeypatch.setattr(program, "Workers", lambda: contextlib.nullcontext(workers))

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["benchmarks", "--output", str(tmp_path), *arguments])
        return program.main(), sorted(path.name for path in tmp_path.iterdir())

    return run


@pytest.mark.late
def test_whole_run(tiny_program, tmp_path, capsys):
    code, files = tiny_program("--json", str(tmp_path / "all.json"))
    assert (code, files) == (0, ["RESULTS.md", "all.json", "results.png"])
    assert "1 of 1 targets met" in capsys.readouterr().out
    assert "| met |" in (tmp_path / "RESULTS.md").read_text()
    figures = json.loads((tmp_path / "all.json").read_text())
    assert [row["met"] for row in figures["rows"]] == [True, None]
    first, second = figures["turns"]
    assert [len(rival["seconds"]) for rival in first] == [program.ROUNDS] * 2
    assert second == []
    assert figures["rows"][0]["base"] > 0


@pytest.mark.parametrize(
    "arguments", [["--quick"], ["--only", "memory"], ["--only", "memory: inv"]]
)
def test_part_of_a_run_leaves_the_results_alone(tiny_program, capsys, arguments):
    assert tiny_program(*arguments) == (0, [])
    assert "involution" in capsys.readouterr().out


def test_nothing_matches(tiny_program):
    assert tiny_program("--only", "no such row") == (2, [])


def test_interrupted(tiny_program, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "measure", interrupt)
    assert tiny_program() == (130, [])
    assert "nothing is written" in capsys.readouterr().err


def test_files_are_written_whole_or_not_at_all(tmp_path):
    report.write(tmp_path / "kept", "old")
    with pytest.raises(UnicodeEncodeError):
        report.write(tmp_path / "kept", "no character: \ud800")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


# Whole networks.


def small_network():
    inputs = keras.Input((networks.SIZE, networks.SIZE, 3))
    x = keras.layers.Conv2D(8, 3)(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = tfconv.DeformableConv2D(8, 3)(tfconv.Involution2D(3, groups=2)(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(8, activation="softmax")(x))


@pytest.fixture(scope="module")
def small_networks():
    """All networks are small ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "SIZE", 9)
        patch.setattr(networks, "NETWORKS", dict.fromkeys(networks.NETWORKS, small_network))
        for cached in (networks.model, networks.folded, networks.multiply_adds):
            cached.cache_clear()
        yield
    for cached in (networks.model, networks.folded, networks.multiply_adds):
        cached.cache_clear()


def test_networks_do_the_work(small_networks):
    model = networks.model("RedNet50")
    images = networks._images(2)
    expected = model(images, training=False)
    for work in ("inference", "inference, fixed"):
        for same in (model, networks.folded("RedNet50")):
            (actual,) = tf.nest.flatten(networks.WORK[work](same, 2)())
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
    step = networks.training_step(model, 2)
    before = model.get_weights()
    losses = [step().numpy() for _ in range(20)]
    assert losses[-1] < losses[0]
    assert any((old != new).any() for old, new in zip(before, model.get_weights()))


@pytest.mark.late
def test_networks_program(small_networks, monkeypatch, tmp_path, capsys):
    rows_of_each = {row.work: row for row in networks.rows()}
    monkeypatch.setattr(networks, "rows", lambda: list(rows_of_each.values()))

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["networks", "--output", str(tmp_path), *arguments])
        return networks.main(), [path.name for path in tmp_path.iterdir()]

    assert run("--only", "no such row") == (2, [])
    assert run("--quick", "--repeats", "2") == (0, [])
    assert "TFLite" in capsys.readouterr().out
    with monkeypatch.context() as interrupted:
        interrupted.setattr(networks, "turn", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run() == (130, [])
    assert run("--repeats", "2") == (0, ["NETWORKS.md"])
    text = (tmp_path / "NETWORKS.md").read_text()
    for work in networks.WORK:
        assert f"| {work} |" in text


def test_networks_verdict():
    row = networks.Row("inference", "RedNet50", "ResNet50", 1, 0.75)
    result = networks.Result(row, [1.0, 2.0, 9.0], [2.0, 3.0, 3.0], 0.7)
    assert (result.ratio, result.verdict) == (pytest.approx(2 / 3), "met")
    slow = dataclasses.replace(result, base_times=[1.0, 2.0, 9.0])
    assert slow.verdict == "MISSED"
    assert networks.summary([result, slow]) == "1 of 2 targets met"
