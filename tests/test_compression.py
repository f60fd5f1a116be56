"""TensorFlow's Model Optimization Toolkit prunes, clusters and quantizes models with our layers."""

import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv import compression
from tfconv._compat import KERAS_3, keras
from tfconv.export import tflite_file
from tfconv.export.verification import Runner, relative_error

SIZE = (8, 8, 4)


def network(*layers):
    return keras.Sequential([keras.Input(SIZE), *layers, keras.layers.Flatten(), Dense(3)])


def Dense(units):
    return keras.layers.Dense(units, name="head")


def trained(model, callbacks=()):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((32, *SIZE)).astype(np.float32), rng.integers(0, 3, 32)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=list(callbacks))
    return x


def test_table():
    """It has all layers."""
    page = Path(__file__).parents[1] / "docs" / "compression.md"
    rows = re.findall(r"^\| (\w+) \|.*\|$", page.read_text(encoding="utf-8"), re.M)
    assert sorted(rows[1:]) == tfconv.layers.__all__


@pytest.mark.skipif(not KERAS_3, reason="Keras 2 has the toolkit")
def test_keras_3():
    for function in (compression.quantize_model, compression.quantize_annotate_model):
        with pytest.raises(ImportError, match="needs Keras 2.*Received: Keras 3"):
            function(network(tfconv.Conv2D(4, 3)))
    with pytest.raises(ImportError, match="cluster_weights needs Keras 2"):
        compression.cluster_weights(network(tfconv.Conv2D(4, 3)), 4)


@pytest.fixture
def toolkit():
    if KERAS_3:
        pytest.skip("the toolkit needs Keras 2")
    return pytest.importorskip("tensorflow_model_optimization")


def layers():
    return [
        tfconv.Conv2D(4, 3, padding="same", name="conv"),
        tfconv.SeparableConv2D(4, 3, padding="same", name="separable"),
        tfconv.Involution2D(3, groups=2, name="involution"),
        tfconv.CondConv2D(4, 3, padding="same", num_experts=2, name="experts"),
        tfconv.DeformableConv2D(4, 3, padding="same", name="deformable"),
        tfconv.LowRankConv2D(4, 3, padding="same", kernel_rank=2, name="low_rank"),
        tfconv.GatedConv2D(4, 3, padding="same", name="gated"),
        tfconv.TuckerConv2D(4, 3, padding="same", ranks=2, name="tucker"),
    ]


PRUNED = {
    "conv": ["kernel"],
    "separable": ["pointwise_kernel"],
    "involution": ["reduce.kernel", "span.kernel"],
    "experts": ["expert_kernels"],
    "deformable": ["kernel"],
    "low_rank": ["input_kernel", "output_kernel"],
    "gated": ["gate_kernel", "kernel"],
    "tucker": ["core_kernel", "input_kernel", "output_kernel"],
}


def kernels(model):
    """Those that may lose weights, by layer and path."""
    for name, paths in PRUNED.items():
        found = model.get_layer(name).kernels_by_path()
        assert set(paths) <= set(found)
        yield from ((f"{name}.{path}", found[path].numpy()) for path in paths)


@pytest.mark.late
def test_prune(toolkit):
    pruning = toolkit.sparsity.keras
    schedule = pruning.ConstantSparsity(0.5, 0, frequency=1)
    model = pruning.prune_low_magnitude(network(*layers()), pruning_schedule=schedule)
    trained(model, [pruning.UpdatePruningStep()])
    stripped = pruning.strip_pruning(model)
    for path, kernel in kernels(stripped):
        assert 0.4 <= np.mean(kernel == 0) <= 0.6, path
    offsets = stripped.get_layer("deformable").kernels_by_path()["offset_kernel"].numpy()
    assert np.mean(offsets == 0) in (0, 1)  # it starts with zeros


def test_cluster(toolkit):
    model = network(*layers())
    model = compression.cluster_weights(model, 4)
    x = trained(model)
    stripped = toolkit.clustering.keras.strip_clustering(model)
    # Every kernel is back in its place.
    np.testing.assert_allclose(stripped(x, training=False), model(x, training=False), atol=1e-5)
    for path, kernel in kernels(stripped):
        if not path.startswith("involution"):  # those of layers inside
            assert len(np.unique(kernel)) <= 4, path


@pytest.mark.late
def test_quantize(toolkit):
    model = network(
        tfconv.Conv2D(8, 3, padding="same", groups=2),
        tfconv.DepthwiseConv2D(3, activation="relu"),
        tfconv.PointwiseConv2D(8),
    )
    quantized = compression.quantize_model(model)
    x = trained(quantized)
    converter = tf.lite.TFLiteConverter.from_keras_model(quantized)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    content = converter.convert()
    types = tflite_file.read(content).operator_types
    assert types["INT8"] >= 4 and types.get("FLOAT32", 0) <= 1, types
    (y,) = Runner(content)({quantized.input_names[0]: x}).values()
    assert relative_error(y, np.asarray(quantized(x, training=False))) < 0.1
    with pytest.raises(ValueError, match="`model` must be a Keras model. Received"):
        compression.quantize_model(7)
