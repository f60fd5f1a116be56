"""What runtimes are given: files, inputs, and what Keras or LiteRT's plain kernels make of them."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.runtimes.runners import Arrays

# How far the outputs may be from those expected: of files that compute in floating point from
# Keras's, of those in integers, whose own error is known, from those of the plain kernels.
BOUNDS = {
    "float32": 1e-4,
    "float16": 5e-3,
    "dynamic": 5e-2,
    "int8": 3e-2,
    "ONNX": 1e-4,
    "SavedModel": 1e-4,
}
TFLITE = ("float32", "float16", "dynamic", "int8")
_EXAMPLES = 32


@dataclasses.dataclass(frozen=True)
class Job:
    """A file that a runtime shall run.

    Attributes:
        layer: The layer's name.
        format: A key of `BOUNDS`.
        path: The file, or the folder of a SavedModel.
        arrays: A file of arrays: inputs as "x.<name>", what is expected as "y.<name>".
        inputs, outputs: Their names, in the file's order.
    """

    layer: str
    format: str
    path: str
    arrays: str
    inputs: list[str]
    outputs: list[str]

    def given(self) -> Arrays:
        with np.load(self.arrays) as arrays:
            return {name: arrays[f"x.{name}"] for name in self.inputs}

    def error(self, made: Arrays) -> float:
        """The root mean square of the difference, as a share of that of the output."""
        errors = []
        with np.load(self.arrays) as arrays:
            for name in self.outputs:
                y, expected = np.asarray(made[name], np.float64), arrays[f"y.{name}"]
                if y.shape != expected.shape:
                    raise ValueError(f"shape {y.shape} for {expected.shape}")
                scale = np.sqrt(np.mean(np.square(expected, dtype=np.float64)))
                errors.append(float(np.sqrt(np.mean(np.square(y - expected))) / scale))
        return max(errors)


def save(jobs: Sequence[Job], path: Path) -> None:
    path.write_text(json.dumps([dataclasses.asdict(job) for job in jobs]))


def load(path: Path) -> list[Job]:
    return [Job(**fields) for fields in json.loads(path.read_text())]


def layers() -> list[tuple[Any, Any]]:
    """Every layer and the shape of its input, as docs/export_report.py has them."""
    path = Path(__file__).parents[2] / "docs" / "export_report.py"
    spec = importlib.util.spec_from_file_location("_export_report", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.layers()


def made(layer: Any, shape: Any, folder: Path, formats: Sequence[str]) -> Iterator[Job]:
    """Writes the files of a layer, and gives their jobs; what is refused has none."""
    import tfconv
    from tfconv._compat import keras
    from tfconv.export import ExportError, tflite_file
    from tfconv.export.verification import Runner

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    shapes = shape if isinstance(shape, list) else [shape]
    inputs = [keras.Input(shape, name=f"x{i}") for i, shape in enumerate(shapes)]
    y = layer(inputs if len(inputs) > 1 else inputs[0])
    model = keras.Model(inputs, keras.layers.Activation("linear", name="y", dtype="float32")(y))
    names = [f"x{i}" for i in range(len(shapes))]
    data = {
        n: rng.standard_normal((_EXAMPLES, *s)).astype(np.float32) for n, s in zip(names, shapes)
    }
    one = {name: x[:1] for name, x in data.items()}
    expected = np.asarray(model(list(one.values()), training=False))
    name = type(layer).__name__
    folder = folder / name
    folder.mkdir(parents=True, exist_ok=True)

    def job(format, path, y, inputs=names, output="y"):
        arrays = folder / f"{format}.npz"
        np.savez(arrays, **{f"x.{n}": x for n, x in one.items()}, **{f"y.{output}": y})
        return Job(name, format, str(path), str(arrays), list(inputs), [output])

    for format in formats:
        if format == "ONNX":
            report = tfconv.export.to_onnx(model, folder / "model.onnx", verify=False)
            yield job(format, folder / "model.onnx", expected, output=next(iter(report.outputs)))
        elif format == "SavedModel":
            model.export(str(folder / "saved"), verbose=False)
            yield job(format, folder / "saved", expected)
        else:
            path = folder / f"{format}.tflite"
            quantize = None if format == "float32" else format
            try:
                report = tfconv.export.to_tflite(
                    model, path, quantize, data, verify=format == "int8", tolerance=1.0
                )
            except ExportError:
                continue
            file = tflite_file.read(report.content)
            order = [_signature_name(file, tensor) for tensor in file.inputs]
            y = expected
            if format == "int8":
                (y,) = Runner(report.content, observed=True)(one).values()
            yield job(format, path, y, order, report.outputs[0])


def _signature_name(file: Any, tensor: Any) -> str:
    signature = file.signatures["serving_default"]
    return next(name for name, given in signature.inputs.items() if given.name == tensor.name)
