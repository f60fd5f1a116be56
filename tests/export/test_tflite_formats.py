"""Every layer in every format of TensorFlow Lite, within the bounds."""

import re
from pathlib import Path

import numpy as np
import pytest

import tfconv
from tests.conftest import cases_by_family
from tfconv._compat import keras
from tfconv.export import quantization, tflite_file, to_tflite, tracing
from tfconv.export.borders import with_integer_borders
from tfconv.export.quiet import quiet
from tfconv.export.samples import given_samples
from tfconv.export.verification import Runner, compared

# What integers may cost more than their bound; all others have to stay within it.
COSTLY = {
    "CondConv1D",
    "CondDense",
    "DeformableAggregation1D",
    "DeformableAggregation2D",
    "DeformableAggregation3D",
    "DeformableConv1D",
    "DeformableConv2D",
    "DeformableConv3D",
    "DepthwiseCondConv2D",
    "Involution1D",
    "Involution2D",
    "Involution3D",
    "LocalSelfAttention1D",
    "LocalSelfAttention2D",
    "LocalSelfAttention3D",
    "SelfAttention1D",
    "SelfAttention2D",
    "SelfAttention3D",
    "SqueezeExcite",
}


def step(text):
    """Nobody listens."""


@pytest.mark.dear
@pytest.mark.parametrize("case", cases_by_family())
def test_formats(case):
    """Traced once: what is in the formats differs, not what is converted."""
    model = case.randomized_model()
    inputs = tracing.with_sizes(tracing.model_inputs(model, None), 1, None)
    with quiet("The conversion", AssertionError):
        traced = tracing.trace(model, inputs, to_tflite=True)
        samples = given_samples(case.arrays(128, seed=7), traced.inputs)
        plain = quantization.converted(traced)
        contents = {None: plain, "float16": quantization.converted(traced, "float16")}
        contents["dynamic"] = quantization.dynamic(traced, samples, plain, step).content
        calibrated = quantization.Calibrated(traced, samples, plain)
        contents["mixed"] = quantization.mixed(calibrated, step).content
        contents["int8"] = quantization.full_integer(calibrated, step).content
        for quantize, content in contents.items():
            # A few coordinates decide: over all examples, as `to_tflite` compares.
            moved = quantize == "int8" and case.layer_class.__name__.startswith("Deformable")
            errors = compared(Runner(content), traced, samples, all_examples=moved).errors
            bound = quantization.BOUNDS[quantize] * (1.2 if quantize == "int8" else 1)
            if quantize == "int8" and case.layer_class.__name__ in COSTLY:
                bound = 0.12  # as below, on other samples: 1.2 times what a model may cost
            assert all(error <= bound for error in errors.values()), (quantize, errors)
            file = tflite_file.read(content)
            assert not file.custom_counts
            assert not {"SHAPE", "PACK"} & set(file.operator_counts), quantize
            assert not [t.name for t in file.tensors if None in t.shape]
        integers = tflite_file.read(with_integer_borders(contents["int8"], "int8"))
        assert "FLOAT32" not in integers.operator_types


def test_every_layer_is_in_the_table():
    """Of docs/, made by docs/export_report.py; every error within its format's bound."""
    path = Path(__file__).parents[2] / "docs" / "export_tables.md"
    rows = [line.strip("| ").split(" | ") for line in path.read_text().splitlines()]
    rows = {cells[0]: cells[1:] for cells in rows if len(cells) == 9 and cells[0] != "layer"}
    assert sorted(rows) == sorted(tfconv.layers.__all__)
    for name, cells in rows.items():
        for quantize, cell in zip(quantization.BOUNDS, cells):
            if cell in ("refused", "none"):
                assert quantize == "int16x8" or (quantize == "int8" and name in COSTLY)
                continue
            number, percent = re.match(r"([\d.e+-]+)(%?)", cell).groups()
            error = float(number) / (100 if percent else 1)
            costly = quantize == "int8" and name in COSTLY
            assert error <= (0.1 if costly else quantization.BOUNDS[quantize]), (name, quantize)


def test_volumes_in_integers():
    """Those of Keras, too; and where the outputs of a block see several numbers of pixels."""
    layers = [
        keras.layers.Conv3D(4, 3, padding="same", strides=(1, 2, 1)),
        tfconv.Conv3DTranspose(4, 3, strides=2, padding="same"),
    ]
    model = keras.Sequential([keras.Input((3, 6, 4, 4)), *layers])
    data = np.random.default_rng(0).standard_normal((24, 3, 6, 4, 4)).astype(np.float32)
    report = to_tflite(model, None, "int8", data, io_dtype="int8")
    assert "FLOAT32" not in report.operator_types
    assert "CONV_3D" not in report.operators


def test_involution_of_volumes_in_integers():
    """Its sums are rounded a few times, not at each of its taps; 2% are the output's own."""
    keras.utils.set_random_seed(0)
    layer = tfconv.Involution3D((3, 4, 4), groups=2, reduction_ratio=1)
    model = keras.Sequential([keras.Input((4, 5, 5, 8), name="x"), layer])
    data = np.random.default_rng(0).standard_normal((48, 4, 5, 5, 8)).astype(np.float32)
    report = to_tflite(model, None, "int8", data, io_dtype="int8")
    assert report.error < 0.04 and sum(report.operators.values()) < 40
    assert "FLOAT32" not in report.operator_types
