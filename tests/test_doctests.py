"""The examples in the public docstrings run and give what they say."""

import doctest
import importlib.util

import numpy as np
import pytest
import tensorflow as tf

import tfconv

MODULES = [tfconv, tfconv.export, tfconv.ops]
PUBLIC = {f"{m.__name__}.{name}": getattr(m, name) for m in MODULES for name in m.__all__}
# What needs no example: modules, data, errors, and a scope that says nothing by itself.
WITHOUT = {
    *(f"tfconv.export.{name}" for name in tfconv.export.__all__ if name[0].isupper()),
    "tfconv.NativeStatus",
    "tfconv.__version__",
    "tfconv.callbacks",
    "tfconv.export",
    "tfconv.keep_native",
    "tfconv.layers",
    "tfconv.native_status",
    "tfconv.ops",
}
if importlib.util.find_spec("tf2onnx") is None:  # for the TensorFlow of today only
    WITHOUT.add("tfconv.export.to_onnx")


@pytest.mark.parametrize("name", sorted(set(PUBLIC) - WITHOUT))
def test_examples(name):
    parts = name.split(".")
    test = doctest.DocTestParser().get_doctest(
        PUBLIC[name].__doc__ or "", {"tf": tf, "tfconv": tfconv, "np": np}, name, None, None
    )
    assert test.examples, f"{name} has no example: {parts[-1]} needs a `>>>` in its docstring"
    said = []
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    runner = doctest.DocTestRunner(optionflags=options)
    runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)


@pytest.mark.parametrize("name", sorted(WITHOUT - {"tfconv.__version__"}))
def test_everything_public_is_documented(name):
    assert PUBLIC[name].__doc__
