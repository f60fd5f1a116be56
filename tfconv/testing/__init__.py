"""Checks for layers: what Keras, TensorFlow Lite and TF Serving expect of one.

`check_layer` takes a layer, of tfconv or your own, through all `CHECKS`; `layer_cases` are the
configurations of tfconv's layers that go through them.
"""

from tfconv.testing.cases import layer_cases
from tfconv.testing.checks import (
    CHECKS,
    Check,
    LayerCase,
    apply,
    assert_same,
    check_keeps_native,
    check_layer,
    layer_case,
    randomize,
    saved_operations,
)

__all__ = [
    "CHECKS",
    "Check",
    "LayerCase",
    "apply",
    "assert_same",
    "check_keeps_native",
    "check_layer",
    "layer_case",
    "layer_cases",
    "randomize",
    "saved_operations",
]
