"""docs/reference is what the docstrings say today."""

import pytest

from docs import reference

HOW = "write it again: `make pages`, or `python -m docs.reference`"


@pytest.fixture(scope="module")
def pages():
    return reference.pages()


def test_current(pages):
    written = {path.name: path.read_text("utf-8") for path in reference.FOLDER.glob("*.md")}
    assert set(written) == set(pages), HOW
    for name, text in pages.items():
        was, now = written[name].splitlines(), text.splitlines()
        changed = [pair for pair in zip(was, now) if pair[0] != pair[1]]
        assert not changed and len(was) == len(now), f"{name}: {changed[:1]}; {HOW}"


def test_everything_public_has_an_entry(pages):
    for name in reference.tfconv.layers.__all__:
        assert f'<a id="{name}"></a>' in pages["layers.md"]
    for name in reference.tfconv.ops.__all__:
        assert f'<a id="tfconv.ops.{name}"></a>' in pages["functions.md"]
    for name in reference.tfconv.models.__all__:
        assert f'<a id="tfconv.models.{name}"></a>' in pages["networks.md"]
    whole = "".join(pages.values())
    for name in reference.tfconv._LATER:
        assert f'<a id="tfconv.{name}.' in whole, name
