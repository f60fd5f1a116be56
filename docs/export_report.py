"""Converts every kind of layer to every format of TensorFlow Lite, into docs/export_tables.md.

Errors and sizes are those of this version; times are of the machine that it runs on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import tfconv
from tfconv._compat import keras
from tfconv.export import ExportError, to_tflite

FORMATS = (None, "float16", "dynamic", "int8", "mixed")
_EXAMPLES = 48
_HEAD = """# Layers in TensorFlow Lite

Error, time of one example on one thread (of a shared machine: take it as a rank), and size of the
file, by [format](export.md). `*` marks layers that compute in float32 in part. The last
column is the share of the operators that XNNPACK takes in float32. Made by `make export-report`.
"""

_IMAGE, _SIGNAL, _VOLUME = (14, 14, 32), (64, 32), (6, 8, 8, 16)


def layers():
    """A layer of each family in a usual size, and the shape of its input."""
    same = {"padding": "same"}
    offsets = keras.initializers.RandomNormal(stddev=0.05)  # about a pixel; zeros move nothing
    return [
        (tfconv.Conv1D(32, 3, **same), _SIGNAL),
        (tfconv.Conv2D(32, 3, **same), _IMAGE),
        (tfconv.Conv3D(16, 3, **same), _VOLUME),
        (tfconv.Conv2DTranspose(16, 3, strides=2, **same), _IMAGE),
        (tfconv.PointwiseConv2D(32), _IMAGE),
        (tfconv.DepthwiseConv2D(3, **same), _IMAGE),
        (tfconv.SeparableConv2D(32, 3, **same), _IMAGE),
        (tfconv.FlattenedConv2D(32, 3, **same), _IMAGE),
        (tfconv.LowRankConv2D(32, 3, kernel_rank=8, **same), _IMAGE),
        (tfconv.TuckerConv2D(32, 3, ranks=8, **same), _IMAGE),
        (tfconv.GroupConv2D(32, 3, groups=4, **same), _IMAGE),
        (tfconv.ChannelShuffle(4), _IMAGE),
        (tfconv.GatedConv2D(32, 3, **same), _IMAGE),
        (tfconv.LocallyConnected2D(8, 3), (10, 10, 8)),
        (tfconv.SqueezeExcite(), _IMAGE),
        (tfconv.DeformableConv2D(32, 3, offset_initializer=offsets, **same), _IMAGE),
        (tfconv.Involution2D(7, groups=2), _IMAGE),
        (tfconv.CondConv2D(32, 3, num_experts=4, **same), _IMAGE),
        (tfconv.DepthwiseCondConv2D(3, num_experts=4, **same), _IMAGE),
        (tfconv.CondDense(64, num_experts=4), (64,)),
        (tfconv.DynamicConv2D(32, 3, num_kernels=4, **same), _IMAGE),
        (tfconv.SelfAttention2D(num_heads=4, key_dim=8), _IMAGE),
        (tfconv.LocalSelfAttention2D(32, 3, num_heads=4), _IMAGE),
    ]


def row(layer, shape) -> str:
    """The layer's line of the table."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layer(inputs))
    data = np.random.default_rng(0).standard_normal((_EXAMPLES, *shape)).astype(np.float32)
    cells = []
    for quantize in FORMATS:
        try:
            report = to_tflite(model, quantize=quantize, representative_data=data)
        except ExportError as error:
            if "ruins" not in str(error):
                raise
            cells.append("refused")
            continue
        error = f"{report.error:.0e}" if quantize is None else f"{report.error:.2%}"
        part = " *" if report.float_layers else ""
        cells.append(
            f"{error}{part}<br>{report.milliseconds:.2f} ms<br>{report.size / 1e3:,.0f} kB"
        )
    share = to_tflite(model).delegated_share
    return f"| {type(layer).__name__} | {' | '.join(cells)} | {share:.0%} |"


def main(path: Path) -> None:
    lines = [
        *_HEAD.splitlines(),
        "",
        "| layer | float32 | float16 | dynamic | int8 | mixed | XNNPACK |",
        "|---|---|---|---|---|---|---|",
    ]
    for layer, shape in layers():
        lines.append(row(layer, shape))
        print(lines[-1], flush=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
