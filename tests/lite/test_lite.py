"""Models with native ops in TFLite's interpreter: LiteRT's, and that of TensorFlow 2.15."""

from __future__ import annotations

import ctypes
import re
import subprocess

import numpy as np
import pytest
import tensorflow as tf

import tfconv
import tfconv.lite
from tests.conftest import require_native
from tfconv import _build
from tfconv._compat import keras

# A layer, the sizes of its input, and the custom op that it becomes.
LAYERS = {
    "involution": (lambda: tfconv.Involution2D(7, group_channels=16), (9, 10, 32), "Involution"),
    "involution, strides": (
        lambda: tfconv.Involution2D((3, 5), strides=(2, 3), groups=3), (11, 9, 21), "Involution",
    ),
    "involution 1d": (lambda: tfconv.Involution1D(3, dilation_rate=2, groups=1), (12, 5), "Involution"),
    "involution 3d": (lambda: tfconv.Involution3D(3, groups=2), (4, 5, 3, 6), "Involution"),
    "deformable": (lambda: tfconv.DeformableConv2D(19, 3, padding="same"), (8, 9, 17), "DeformableConv"),
    "deformable, groups": (
        lambda: tfconv.DeformableConv2D(
            8, (3, 2), strides=(2, 1), padding="full", dilation_rate=(1, 2), groups=2,
            offset_groups=3, modulated=False, activation="relu",
        ),
        (10, 7, 12), "DeformableConv",
    ),
    "condconv": (lambda: tfconv.CondConv2D(20, 3, num_experts=3), (8, 7, 13), "PerExampleConv"),
    "condconv, groups": (
        lambda: tfconv.CondConv2D(6, 3, num_experts=2, groups=3, padding="same", strides=2),
        (8, 7, 9), "PerExampleConv",
    ),
    "dynamic 1d": (lambda: tfconv.DynamicConv1D(4, 5, padding="causal"), (12, 3), "PerExampleConv"),
}
