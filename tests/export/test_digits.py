"""The demo's network in 8-bit integers throughout, inputs and outputs too: every digit there is."""

import io

import numpy as np
import pytest
from rich.console import Console

from tfconv.demo.digits import load_digits
from tfconv.demo.network import build_network
from tfconv.demo.training import train
from tfconv.export import tflite_file, to_tflite
from tfconv.export.verification import Runner

pytest.importorskip("sklearn")
SAME = 1790  # of 1,797


@pytest.mark.late
def test_classes():
    """Those of the model in floating point; what integers cost its layers is warned of."""
    digits = load_digits()
    model = build_network()
    train(model, digits, epochs=6, console=Console(file=io.StringIO()))
    with pytest.warns(UserWarning, match="8-bit integers cost layers more than 5%.*`involution`"):
        report = to_tflite(model, None, "int8", digits.train_images[:256], io_dtype="int8")
    file = tflite_file.read(report.content)
    assert [t.type for t in (*file.inputs, *file.outputs)] == ["INT8"] * 2
    assert set(report.operator_types) == {"INT8", "INT32"}
    images = np.concatenate([digits.train_images, digits.test_images])
    (y,) = Runner(report.content)({"digit": images}).values()
    expected = model.predict(images, verbose=0)
    same = np.count_nonzero(y.argmax(1) == expected.argmax(1))
    assert len(images) == 1797 and same >= SAME, same
