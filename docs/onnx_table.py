"""Writes docs/onnx_table.md: what comes of every layer in ONNX.

    python docs/onnx_table.py

Each configuration that the layers are tested in is converted by `tfconv.export.to_onnx`, for
inputs of one size and of any size, and compared with Keras in ONNX Runtime.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from rich.progress import track  # noqa: E402

from tfconv._compat import keras, tensorflow_version  # noqa: E402
from tfconv.export import ExportError  # noqa: E402
from tfconv.export.onnx import BOUND, to_onnx  # noqa: E402
from tfconv.testing import LayerCase, layer_cases, randomize  # noqa: E402

PAGE = Path(__file__).resolve().parent / "onnx_table.md"

HEAD = f"""# Layers in ONNX

Made by `docs/onnx_table.py` with TensorFlow {tensorflow_version()}: each configuration is
converted by `tfconv.export.to_onnx` with random weights and run in ONNX Runtime, with two inputs
and two sizes of the batch. "equal": it gives what Keras gives; the number is the root mean square
of the difference, as a share of that of the output (at most {BOUND:.0e}). Otherwise there stands
what ONNX Runtime or the converter says. "any size": the same for a model whose height, width and
so on are not known when it is converted, run on two sizes ("-": the layer needs them, or has
further inputs).

| layer | one size | any size |
|---|---|---|
"""


@dataclasses.dataclass(frozen=True)
class Status:
    """What came of a configuration: "equal" and the error, or the reason and None."""

    text: str
    error: float | None = None

    def __str__(self) -> str:
        if self.error is None:
            return self.text
        return f"{self.text}, {self.error:.0e}" if self.error else self.text


def label(case: LayerCase) -> str:
    """A configuration, the same in every process."""
    return f"{case.layer_class.__name__}({_arguments(case.kwargs)}): {case.input_shape}".replace(
        "|", "\\|"
    )


def _arguments(kwargs: Any) -> str:
    return ", ".join(f"{name}={_value(value)}" for name, value in kwargs.items())


def _value(value: Any) -> str:
    if isinstance(value, keras.layers.Layer):
        return type(value).__name__
    if isinstance(value, list) and value and isinstance(value[0], keras.layers.Layer):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value)


def has_any_size(case: LayerCase) -> bool:
    """Whether the second column has something to say about a configuration."""
    return case.any_size and not case.extra and len(case.input_shape) > 1


def status(case: LayerCase, any_size: bool = False) -> Status:
    """Converts and compares one configuration."""
    keras.backend.clear_session()  # numbers in names begin anew
    model = case.model(unknown_sizes=any_size)
    randomize(model)
    cases = [case]
    if any_size:
        larger = (*(n + 1 for n in case.input_shape[:-1]), case.input_shape[-1])
        cases.append(dataclasses.replace(case, input_shape=larger))
    data = [case.arrays(1, seed) for seed, case in enumerate(cases * 2)]
    try:
        report = to_onnx(model, representative_data=iter(data))
    except ExportError as error:
        reason, *_ = re.split(r" Name:|\n", str(error))  # what follows depends on the machine
        return Status(reason.replace("|", "\\|"))
    return Status("equal", report.error)


def page() -> str:
    """The whole page."""
    rows = []
    for case in track(layer_cases(), description="layers"):
        any_size = status(case, any_size=True) if has_any_size(case) else "-"
        rows.append(f"| `{label(case)}` | {status(case)} | {any_size} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
