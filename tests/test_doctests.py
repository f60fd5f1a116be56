"""The examples in the public docstrings run and give what they say."""

import doctest

import numpy as np
import pytest
import tensorflow as tf

import tfconv

PUBLIC = {
    **{f"tfconv.ops.{name}": getattr(tfconv.ops, name) for name in tfconv.ops.__all__},
    **{f"tfconv.{name}": getattr(tfconv, name) for name in tfconv.__all__},
    **{f"tfconv.export.{name}": getattr(tfconv.export, name) for name in tfconv.export.__all__},
}
# What needs no example: modules, data, and a scope that says nothing by itself.
WITHOUT = {
    "tfconv.NativeStatus",
    "tfconv.__version__",
    "tfconv.callbacks",
    "tfconv.export",
    "tfconv.export.ExportError",
    "tfconv.export.OnnxReport",
    "tfconv.export.TFLiteReport",
    "tfconv.keep_native",
    "tfconv.layers",
    "tfconv.native_status",
    "tfconv.ops",
}


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
