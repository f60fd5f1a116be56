"""Converts every layer to every format of TensorFlow Lite, into docs/export_tables.md.

Times are those of `python -m benchmarks.lite`, which needs an idle machine.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import tfconv
from tfconv._compat import keras
from tfconv.export import ExportError, to_tflite

FORMATS = (None, "float16", "dynamic", "int8", "int16x8", "mixed")
_EXAMPLES = 48
_HEAD = """# Layers in TensorFlow Lite

Error of the outputs and size of the file, by [format](export.md). `*` marks layers that compute in
float32 in part. "refused": integers cost more than the format allows; "none": TensorFlow Lite lacks
an operator in it. The last columns are the operators in float32, and the share of them that XNNPACK
takes. Made by `make export-report`.
"""

_SHAPES = {1: (64, 32), 2: (14, 14, 32), 3: (6, 8, 8, 16)}


def layers():
    """Every layer in a usual size, and the shape of its input; of a list of inputs, of each."""
    same = {"padding": "same"}
    offsets = keras.initializers.RandomNormal(stddev=0.05)  # about a pixel; zeros move nothing
    families = [
        ("Conv{}D", {"kernel_size": 3, **same}),
        ("Conv{}DTranspose", {"kernel_size": 3, "strides": 2, **same}),
        ("PointwiseConv{}D", {}),
        ("DepthwiseConv{}D", {"filters": None, "kernel_size": 3, **same}),
        ("SeparableConv{}D", {"kernel_size": 3, **same}),
        ("FlattenedConv{}D", {"kernel_size": 3, **same}),
        ("LowRankConv{}D", {"kernel_size": 3, "kernel_rank": 8, **same}),
        ("TuckerConv{}D", {"kernel_size": 3, "ranks": 8, **same}),
        ("GroupConv{}D", {"kernel_size": 3, "groups": 4, **same}),
        ("GatedConv{}D", {"kernel_size": 3, **same}),
        ("LocallyConnected{}D", {"filters": 8, "kernel_size": 3}),
        ("DeformableConv{}D", {"kernel_size": 3, "offset_initializer": offsets, **same}),
        (
            "DeformableAggregation{}D",
            {"filters": None, "kernel_size": 3, "groups": 2, "offset_initializer": offsets},
        ),
        ("Involution{}D", {"filters": None, "kernel_size": 7, "groups": 2}),
        ("CondConv{}D", {"kernel_size": 3, "num_experts": 4, **same}),
        ("DepthwiseCondConv{}D", {"filters": None, "kernel_size": 3, "num_experts": 4, **same}),
        ("DynamicConv{}D", {"kernel_size": 3, "num_experts": 4, **same}),
        ("SelfAttention{}D", {"filters": None, "num_heads": 4, "key_dim": 8}),
        ("LocalSelfAttention{}D", {"kernel_size": 3, "num_heads": 4}),
    ]
    found = []
    for family, arguments in families:
        for rank, shape in _SHAPES.items():
            layer_class = getattr(tfconv, family.format(rank), None)
            if layer_class is not None:
                given = {"filters": shape[-1], **arguments}
                if given["filters"] is None:
                    del given["filters"]
                found.append((layer_class(**given), shape))
    image = _SHAPES[2]
    return [
        *found,
        (tfconv.ChannelShuffle(4), image),
        (tfconv.SqueezeExcite(), image),
        (tfconv.SplitTransformMerge(tfconv.Conv2D(8, 3, **same), groups=4), image),
        (tfconv.WeightedSum("softmax"), [image, image]),
        (tfconv.CondDense(64, num_experts=4), (64,)),
    ]


def row(layer, shape) -> str:
    """The layer's line of the table."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    shapes = shape if isinstance(shape, list) else [shape]
    inputs = [keras.Input(shape) for shape in shapes]
    model = keras.Model(inputs, layer(inputs if len(inputs) > 1 else inputs[0]))
    data = [rng.standard_normal((_EXAMPLES, *shape)).astype(np.float32) for shape in shapes]
    data = data if len(data) > 1 else data[0]
    cells = []
    for quantize in FORMATS:
        try:
            report = to_tflite(model, quantize=quantize, representative_data=data)
        except ExportError as error:
            if "other results" not in str(error) and quantize != "int16x8":
                raise
            cells.append("refused" if "other results" in str(error) else "none")
            continue
        error = f"{report.error:.0e}" if quantize is None else f"{report.error:.2%}"
        part = " *" if report.float_layers else ""
        cells.append(f"{error}{part}<br>{report.size / 1e3:,.0f} kB")
        if quantize is None:
            operators, share = sum(report.operators.values()), report.delegated_share
    return f"| {type(layer).__name__} | {' | '.join(cells)} | {operators} | {share:.0%} |"


def main(path: Path) -> None:
    lines = [
        *_HEAD.splitlines(),
        "",
        "| layer | float32 | float16 | dynamic | int8 | int16x8 | mixed | operators | XNNPACK |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for layer, shape in layers():
        lines.append(row(layer, shape))
        print(lines[-1], flush=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
