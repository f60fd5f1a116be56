"""No layer is left out."""

import importlib
import pkgutil

import pytest

import tests.layers
import tfconv


def checked_layers():
    """The classes in the ``LAYER_CASES`` of the tests of layers: those given to `check_layer`."""
    modules = (
        importlib.import_module(f"tests.layers.{module.name}")
        for module in pkgutil.iter_modules(tests.layers.__path__)
        if module.name.startswith("test_")
    )
    return {row[0] for module in modules for row in getattr(module, "LAYER_CASES", [])}


@pytest.mark.parametrize("name", tfconv.layers.__all__)
def test_is_checked(name):
    assert getattr(tfconv.layers, name) in checked_layers()


@pytest.mark.parametrize("name", tfconv.layers.__all__)
def test_stands_at_top_level(name):
    assert getattr(tfconv, name) is getattr(tfconv.layers, name)
    assert name in tfconv.__all__
