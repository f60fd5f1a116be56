"""No layer is left out, and each goes through every check."""

import pytest

import tfconv
from tfconv.testing import CHECKS, layer_cases


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.run.__name__)
@pytest.mark.parametrize("number", range(len(layer_cases())), ids=lambda n: _id(n))
def test_checks(number, check):
    case = layer_cases()[number]
    if check.applies(case):
        check(case)


def _id(number):
    return f"{number}-{layer_cases()[number].layer_class.__name__}"


@pytest.mark.parametrize("name", tfconv.layers.__all__)
def test_is_checked(name):
    assert getattr(tfconv.layers, name) in {case.layer_class for case in layer_cases()}


@pytest.mark.parametrize("name", tfconv.layers.__all__)
def test_stands_at_top_level(name):
    assert getattr(tfconv, name) is getattr(tfconv.layers, name)
    assert name in tfconv.__all__
