"""What came of a conversion to TensorFlow Lite: numbers, a table and a picture."""

from __future__ import annotations

import dataclasses
import io
import os
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table

from tfconv.export.files import checked_file, write

_MOST_LAYERS = 12  # in the picture


@dataclasses.dataclass(frozen=True)
class TFLiteReport:
    """A converted model, and what is known of it. `print` shows a table.

    Attributes:
        content: The model: what a `.tflite` file holds.
        path: The file that it was written to, or None.
        quantize: The kind of its numbers, as `to_tflite` takes it.
        inputs: The names of its inputs.
        outputs: The names of its outputs, in the model's order. By index, the interpreter has
            both in an order of its own: `interpreter.get_signature_runner()` has them by name.
        operators: How many operators there are of each name.
        custom_operators: The same for operators that are none of TensorFlow Lite's own.
        operator_types: How many operators compute in each type, such as "FLOAT32".
        delegated: How many operators XNNPACK runs; None if that was not looked at. TensorFlow
            2.15 leaves XNNPACK out where sizes are computed, such as those of slices of a batch
            of any size: then it is 0.
        error: The largest root mean square of an output's difference from the Keras model, as a
            share of that of the output; None if it was not measured.
        bound: The largest error that is allowed.
        class_agreement: Of each output that has a number for each of several classes, the share
            of the held-out examples for which the same one is the largest as in the Keras model.
        layer_errors: The same for layers by their paths, each measured with all others in
            float32; for "dynamic", "int8" and "mixed".
        float_layers: Layers that compute in floating point, as a whole or in part: because
            "dynamic" and "mixed" leave them so, or for want of kernels for integers.
        warnings: What may be wrong nevertheless, such as layers that 8-bit integers cost much.
        milliseconds: The median time of an inference of ``batch_size`` examples, of one where
            that is None; None if it was not measured.
        threads: How many threads that took.
        runtime: What ran it, such as "LiteRT".
        random_inputs: Whether all that was measured on random inputs.
    """

    content: bytes = dataclasses.field(repr=False)
    path: Path | None
    quantize: str | None
    inputs: list[str]
    outputs: list[str]
    operators: dict[str, int]
    custom_operators: dict[str, int]
    operator_types: dict[str, int]
    delegated: int | None
    error: float | None
    bound: float
    class_agreement: dict[str, float]
    layer_errors: dict[str, float]
    float_layers: list[str]
    warnings: list[str]
    milliseconds: float | None
    threads: int
    runtime: str
    random_inputs: bool

    @property
    def size(self) -> int:
        """Bytes of the model."""
        return len(self.content)

    @property
    def delegated_share(self) -> float | None:
        """The share of operators that XNNPACK runs, 0 to 1."""
        if self.delegated is None:
            return None
        return self.delegated / max(sum(self.operators.values()), 1)

    def as_json(self) -> dict[str, Any]:
        """Everything but the content, ready for JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["content"]
        path = None if self.path is None else os.fspath(self.path)
        return {**fields, "path": path, "size": self.size}

    def __rich__(self) -> Group:
        facts = Table(show_header=False, box=None, pad_edge=False)
        facts.add_column(style="bold", no_wrap=True)
        facts.add_column(overflow="fold")
        for name, value in self._facts().items():
            facts.add_row(name, value)
        operators = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        operators.add_column("operator")
        operators.add_column("count", justify="right")
        for name, count in self.operators.items():
            custom = " (custom)" if name in self.custom_operators else ""
            operators.add_row(name + custom, str(count))
        if not self.layer_errors:
            return Group(facts, operators)
        layers = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        layers.add_column("layer")
        layers.add_column("error", justify="right")
        layers.add_column("numbers")
        for path, error in self.layer_errors.items():
            kind = "mixed" if path in self.float_layers else "integers"
            layers.add_row(path, f"{error:.2%}", kind)
        return Group(facts, operators, layers)

    def _facts(self) -> dict[str, str]:
        types = ", ".join(f"{count} in {name}" for name, count in self.operator_types.items())
        facts = {
            "file": "none: in memory" if self.path is None else os.fspath(self.path),
            "numbers": self.quantize or "float32",
            "size": f"{self.size / 1e3:,.1f} kB",
            "inputs": f"{', '.join(self.inputs)} (by name: `get_signature_runner()`)",
            "outputs": ", ".join(self.outputs),
            "operators": f"{sum(self.operators.values())}: {types}",
        }
        if self.delegated is not None:
            facts["delegates" if self.custom_operators else "XNNPACK"] = (
                f"{self.delegated_share:.0%} of the operators"
            )
        if self.error is not None:
            inputs = "random inputs" if self.random_inputs else "held-out inputs"
            facts["error"] = f"{self.error:.2g} on {inputs} (at most {self.bound:.2g} is right)"
        if self.class_agreement:
            facts["same class"] = ", ".join(
                f"{share:.1%} of them" + (f" ({name})" if len(self.class_agreement) > 1 else "")
                for name, share in self.class_agreement.items()
            )
        if self.milliseconds is not None:
            threads = f"{self.threads} thread" + "s" * (self.threads > 1)
            facts["latency"] = f"{self.milliseconds:.3g} ms ({self.runtime}, {threads})"
        if self.warnings:
            facts["warning"] = "\n".join(self.warnings)
        return facts

    def __str__(self) -> str:
        stream = io.StringIO()
        Console(file=stream, width=100).print(self)
        return stream.getvalue().rstrip()

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Draws the counts of the operators and, where they were measured, the layers' errors.

        Args:
            path: The picture's file; its suffix says which kind (.png, .svg, .pdf).

        Returns:
            The path.

        Raises:
            ImportError: If matplotlib is missing.
            ValueError: If the path is a folder, or lies in one that does not exist.
        """
        path = checked_file(path)
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("The picture needs Matplotlib: pip install matplotlib") from error
        worst = sorted(self.layer_errors.items(), key=lambda item: item[1])[-_MOST_LAYERS:]
        rows = max(len(self.operators), len(worst))
        figure = Figure(figsize=(10 if worst else 6, 1.5 + 0.25 * rows), layout="constrained")
        left, *right = figure.subplots(1, 2 if worst else 1, squeeze=False)[0]
        names = list(reversed(self.operators))
        left.barh(names, [self.operators[name] for name in names], color="#546e7a")
        left.set_title(f"operators: {self.quantize or 'float32'}, {self.size / 1e3:,.1f} kB")
        for axes in right:
            colors = ["#ff7043" if name in self.float_layers else "#546e7a" for name, _ in worst]
            axes.barh([name for name, _ in worst], [100 * e for _, e in worst], color=colors)
            axes.set_title("error of layers, % (orange: float in part)")
        write(path, figure.savefig)
        return path
