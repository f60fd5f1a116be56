"""The rules for Keras's layers and tfconv's, a family of layers a file."""

from tfconv.analysis.rules import (
    attention,
    conv,
    deformable_aggregation,
    factorized,
    involution,
    maps,
    per_example,
    pooling,
    units,
)

__all__ = [
    "attention",
    "conv",
    "deformable_aggregation",
    "factorized",
    "involution",
    "maps",
    "per_example",
    "pooling",
    "units",
]
