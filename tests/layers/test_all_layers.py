"""No layer is left out, and each goes through every check."""

import pytest

import tfconv
from tfconv.catalog import family_name
from tfconv.testing import CHECKS, layer_cases

RUNS = [
    pytest.param(
        case,
        check,
        id=f"{number}-{case.layer_class.__name__}-{check.run.__name__}",
        marks=pytest.mark.kind(family_name(case.layer_class.__name__), check.name),
    )
    for number, case in enumerate(layer_cases())
    for check in CHECKS
]


@pytest.mark.dear
@pytest.mark.parametrize("case, check", RUNS)
def test_checks(case, check):
    if check.applies(case):
        check(case)


@pytest.mark.parametrize("name", tfconv.layers.__all__)
def test_is_checked(name):
    assert getattr(tfconv.layers, name) in {case.layer_class for case in layer_cases()}


@pytest.mark.parametrize("name", tfconv.layers.__all__)
def test_stands_at_top_level(name):
    assert getattr(tfconv, name) is getattr(tfconv.layers, name)
    assert name in tfconv.__all__
