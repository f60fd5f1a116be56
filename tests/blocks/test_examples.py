"""The examples of the blocks, networks and surgery run and give what they say."""

import doctest

import numpy as np
import pytest
import tensorflow as tf

import tfconv
import tfconv.blocks
import tfconv.models
import tfconv.surgery

PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (tfconv.blocks, tfconv.models, tfconv.surgery)
    for name in module.__all__
}


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_examples(name):
    test = doctest.DocTestParser().get_doctest(
        PUBLIC[name].__doc__ or "", {"tf": tf, "tfconv": tfconv, "np": np}, name, None, None
    )
    assert test.examples, f"{name} needs a `>>>` in its docstring"
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)
