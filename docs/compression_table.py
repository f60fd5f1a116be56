"""Writes docs/compression.md: what TensorFlow's Model Optimization Toolkit does to every layer.

    .venv-addons/bin/python -m docs.compression_table [LAYER ...]

It needs Keras 2 and the toolkit. Where layers are named, the rows of the others stay as they are.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import tensorflow_model_optimization as toolkit  # noqa: E402

from tfconv import compression  # noqa: E402
from tfconv.export import tflite_file  # noqa: E402
from tfconv.export.quiet import quiet  # noqa: E402
from tfconv.testing import layer_cases  # noqa: E402

PAGE = Path(__file__).resolve().parent / "compression.md"
HEAD = """# Pruned, clustered, quantized while they train

TensorFlow's Model Optimization Toolkit (Keras 2, that is TensorFlow 2.15;
`pip install "tensorflow-model-optimization<0.8"`) takes models with tfconv's layers:

```python
pruned = tfmot.sparsity.keras.prune_low_magnitude(model)     # the toolkit's own function
clustered = tfconv.compression.cluster_weights(model, 16)
quantized = tfconv.compression.quantize_model(model)         # then fit, then TFLiteConverter
```

The toolkit's `strip_pruning` and `strip_clustering` give back tfconv's layers. Kernels of one
channel, those along an axis and those that make coordinates keep all their weights; clusters are of
kernels that a layer holds itself. For quantization every kernel and every output learns a range.
What is between the operators of a layer has none then: layers of several operators stay in floating
point in part; `to_tflite(quantize="int8")` measures those ranges instead.

Made by `python -m docs.compression_table`: kernels of which half was pruned, and that took four
values, for which the toolkit needs four weights; of the operators of a converted model those in
integers, with its borders.

| layer | pruned | clustered | operators in integers |
|---|---|---|---|
"""


def main(names: list[str]) -> None:
    rows = dict(re.findall(r"^(\| \w+ \|)(.*\n)", PAGE.read_text(encoding="utf-8"), re.M))
    cases: dict[str, Any] = {}
    for case in layer_cases():
        if not case.extra or case.as_list:
            cases.setdefault(case.layer_class.__name__, case)
    for name in names or cases:
        cells = (answer(step, cases[name]) for step in (pruned, clustered, quantized))
        rows[f"| {name} |"] = f" {' | '.join(cells)} |\n"
        print(f"| {name} |", rows[f"| {name} |"], sep="", end="", flush=True)
        table = [f"| {name} |" for name in cases]
        table = [row + rows[row] for row in table if row in rows]
        PAGE.write_text(HEAD + "".join(table), encoding="utf-8")


def answer(step: Any, case: Any) -> str:
    try:
        with quiet("The toolkit", RuntimeError):
            return step(case)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"


def trained(model: Any, case: Any, callbacks: Any = ()) -> None:
    arrays = list(case.arrays(4).values())
    x = arrays if len(arrays) > 1 else arrays[0]
    y = np.zeros((4, *model.output_shape[1:]), np.float32)
    model.compile("sgd", "mse")
    model.fit(x, y, batch_size=2, verbose=0, callbacks=list(callbacks))


def kernels(model: Any, case: Any) -> dict[str, Any]:
    (layer,) = (part for part in model.layers if type(part) is case.layer_class)
    return {path: kernel.numpy() for path, kernel in layer.kernels_by_path().items()}


def pruned(case: Any) -> str:
    pruning = toolkit.sparsity.keras
    schedule = pruning.ConstantSparsity(0.5, 0, frequency=1)
    model = pruning.prune_low_magnitude(case.randomized_model(), pruning_schedule=schedule)
    trained(model, case, [pruning.UpdatePruningStep()])
    found = kernels(pruning.strip_pruning(model), case)
    return named(path for path, kernel in found.items() if np.mean(kernel == 0) >= 0.4)


def clustered(case: Any) -> str:
    model = case.randomized_model()
    for path, kernel in model.layers[-1].get_clusterable_weights():
        if tf.size(kernel) < 4:  # the toolkit fails
            return f"no: `{path}` has fewer than four weights"
    model = compression.cluster_weights(model, 4)
    trained(model, case)
    found = kernels(toolkit.clustering.keras.strip_clustering(model), case)
    return named(
        path for path, kernel in found.items() if len(np.unique(kernel)) <= 4 < kernel.size
    )


def quantized(case: Any) -> str:
    model = compression.quantize_model(case.randomized_model())
    trained(model, case)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    types = tflite_file.read(converter.convert()).operator_types
    return f"{types.get('INT8', 0)} of {sum(types.values())}"


def named(paths: Any) -> str:
    return ", ".join(f"`{path}`" for path in paths) or "-"


if __name__ == "__main__":
    main(sys.argv[1:])
