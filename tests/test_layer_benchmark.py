"""`benchmarks.layers`: every layer is timed, doing all of its work. No times."""

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from benchmarks import layers
from benchmarks.cases import Transfer


@pytest.fixture(scope="module")
def small_layers():
    """All inputs are small ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "SPATIAL", {1: (9,), 2: (5, 4), 3: (3, 4, 3)})
        patch.setattr(layers, "BATCH", 2)
        patch.setattr(layers, "TRANSFERS", [Transfer(2**18)])
        yield


def test_every_layer_is_timed():
    found = layers.rows()
    assert {row.layer for row in found} == set(tfconv.layers.__all__)
    assert len({row.name for row in found}) == len(found)  # what --only is matched with


@pytest.mark.dear
@pytest.mark.parametrize("row", layers.rows(), ids=lambda row: row.name)
def test_layers_do_the_work(small_layers, row):
    layer = row.make()
    assert all(np.any(weight) for weight in layer.trainable_weights)
    y = layers.forward(layer, row.inputs())()
    again, (to_inputs, to_weights) = layers.training(layer, row.inputs())()
    assert again.shape == y.shape
    assert [g.shape for g in to_weights] == [w.shape for w in layer.trainable_weights]
    assert len(tf.nest.flatten(to_inputs)) == len(tf.nest.flatten(row.inputs()))
    needed = layers.work(row, layer, "forward")
    values = sum(tf.size(t).numpy() for t in [*tf.nest.flatten(row.inputs()), y])
    assert needed.bytes == 4 * (values + sum(np.size(w) for w in layer.weights))
    assert layers.work(row, layer, "training").multiply_adds == 3 * needed.multiply_adds


def test_layers_floor():
    """A fourth of the plain convolution's products, and half a second for bytes."""
    needed, plain = layers.Work(250, 10), layers.Work(1000, 30)
    row = layers.Row("Conv2D", 2, {})
    result = layers.Result(row, "forward", [2.0, 3.0, 9.0], [2.0, 1.0, 4.0], needed, plain, 20.0)
    assert (result.floor, result.ratio, result.of_plain) == (1.0, 3.0, 2.25)


@pytest.mark.late
def test_layers_program(small_layers, monkeypatch, tmp_path, capsys):
    chosen = [row for row in layers.rows() if row.layer in ("Conv1D", "GroupConv2D", "WeightedSum")]
    monkeypatch.setattr(layers, "rows", lambda: chosen)

    def run(*arguments):
        options = ["--output", str(tmp_path), "--repeats", "2", *arguments]
        monkeypatch.setattr("sys.argv", ["layers", *options])
        return layers.main(), [path.name for path in tmp_path.iterdir()]

    assert run("--only", "no such row") == (2, [])
    assert run("--only", "Weighted") == (0, [])
    assert "WeightedSum" in capsys.readouterr().out
    with monkeypatch.context() as interrupted:
        interrupted.setattr(layers, "measure", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run() == (130, [])
    assert run() == (0, ["layer_speed.md"])
    text = (tmp_path / "layer_speed.md").read_text()
    for row in chosen:
        assert f"| `{row.name}` |" in text
