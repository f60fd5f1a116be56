"""The examples in the public docstrings run and give what they say."""

import dataclasses
import doctest
import importlib.util
import inspect
import os

import numpy as np
import pytest
import tensorflow as tf

import tfconv


def _is_data(value):
    if isinstance(value, type):
        return issubclass(value, Exception) or dataclasses.is_dataclass(value)
    return isinstance(value, str)


MODULES = [
    tfconv,
    tfconv.blocks,
    tfconv.export,
    tfconv.lite,
    tfconv.models,
    tfconv.ops,
    tfconv.surgery,
]
PUBLIC = {f"{m.__name__}.{name}": getattr(m, name) for m in MODULES for name in m.__all__}
# What needs no example: modules, data, what functions return or raise, scopes that say nothing by
# themselves.
WITHOUT = {
    *(name for name, value in PUBLIC.items() if inspect.ismodule(value) or _is_data(value)),
    "tfconv.keep_native",
    "tfconv.lite.load_delegate",
    "tfconv.native_status",
    *(f"tfconv.models.RedNet{depth}" for depth in (38, 101, 152)),  # as RedNet26 and RedNet50
    *(f"tfconv.models.{flash}InternImage{size}" for flash in ("", "Flash") for size in "SB"),
}
if importlib.util.find_spec("tf2onnx") is None:  # for the TensorFlow of today only
    WITHOUT.add("tfconv.export.to_onnx")


@pytest.mark.parametrize("name", sorted(set(PUBLIC) - WITHOUT))
def test_examples(name):
    names = {"np": np, "os": os, "tf": tf, "tfconv": tfconv}
    parser = doctest.DocTestParser()
    test = parser.get_doctest(PUBLIC[name].__doc__ or "", names, name, None, None)
    assert test.examples, f"{name} has no example: it needs a `>>>` in its docstring"
    said = []
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    runner = doctest.DocTestRunner(optionflags=options)
    runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)


@pytest.mark.parametrize("name", sorted(WITHOUT - {"tfconv.__version__"}))
def test_everything_public_is_documented(name):
    assert PUBLIC[name].__doc__
