"""Every layer in every format of TensorFlow Lite, within the bounds."""

import pytest

from tfconv.export import quantization, tflite_file, tracing
from tfconv.export.errors import ExportError
from tfconv.export.quiet import quiet
from tfconv.export.samples import given_samples
from tfconv.export.verification import Runner, compared
from tfconv.testing import layer_cases

# What integers may ruin; all others have to get through.
REFUSED = {
    "CondConv1D",
    "CondDense",
    "DeformableConv2D",
    "DepthwiseCondConv2D",
    "Involution1D",
    "Involution2D",
    "Involution3D",
    "LocalSelfAttention2D",
    "SelfAttention1D",
    "SelfAttention2D",
    "SelfAttention3D",
    "SqueezeExcite",
}


def step(text):
    """Nobody listens."""


@pytest.mark.parametrize("case", layer_cases(), ids=lambda case: case.layer_class.__name__)
def test_formats(case):
    """Traced once: what is in the formats differs, not what is converted."""
    model = case.randomized_model()
    inputs = tracing.model_inputs(model, None)
    with quiet("The conversion", AssertionError):
        traced = tracing.trace(model, inputs)
        samples = given_samples(case.arrays(128, seed=7), traced.inputs)
        plain = quantization.converted(traced)
        contents = {None: plain, "float16": quantization.converted(traced, "float16")}
        contents["dynamic"] = quantization.dynamic(traced, samples, plain, step).content
        calibrated = quantization.Calibrated(traced, samples, plain)
        contents["mixed"] = quantization.mixed(calibrated, step).content
        try:
            contents["int8"] = quantization.full_integer(calibrated, step).content
        except ExportError as error:
            assert case.layer_class.__name__ in REFUSED
            assert "`checked`" in str(error) and '"mixed"' in str(error)
        for quantize, content in contents.items():
            errors = compared(Runner(content), traced, samples)
            bound = quantization.BOUNDS[quantize] * (1.2 if quantize == "int8" else 1)
            assert all(error <= bound for error in errors.values()), (quantize, errors)
            assert not tflite_file.read(content).custom_counts
