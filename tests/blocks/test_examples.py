"""The examples of the blocks, networks and surgery run and give what they say."""

import doctest

import numpy as np
import pytest
import tensorflow as tf

import tfconv
import tfconv.blocks
import tfconv.models
import tfconv.surgery
from tfconv import _compat

# Networks like RedNet26 and RedNet50, but slow to build.
WITHOUT = {f"tfconv.models.RedNet{depth}" for depth in (38, 101, 152)}
MODULES = [tfconv.blocks, tfconv.surgery]
if _compat.KERAS_3:  # under Keras 2, tests/models builds one network of each kind
    MODULES.append(tfconv.models)
PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in MODULES
    for name in module.__all__
}


@pytest.mark.parametrize("name", sorted(set(PUBLIC) - WITHOUT))
def test_examples(name):
    test = doctest.DocTestParser().get_doctest(
        PUBLIC[name].__doc__ or "", {"tf": tf, "tfconv": tfconv, "np": np}, name, None, None
    )
    assert test.examples, f"{name} needs a `>>>` in its docstring"
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)
