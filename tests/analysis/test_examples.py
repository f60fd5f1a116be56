"""The examples of the page and of the docstrings run and give what they say."""

from __future__ import annotations

import contextlib
import doctest
import io
import re
from pathlib import Path

import pytest

import tfconv.analysis
from tfconv.analysis import cost

PAGE = (Path(__file__).resolve().parents[2] / "docs/analysis.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def own_rules(monkeypatch):
    monkeypatch.setattr(cost, "_RULES", dict(cost._RULES))


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_of_the_page(number):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(EXAMPLES[number], "docs/analysis.md", "exec"), {})
    said = re.findall(r"^# (.*)$", EXAMPLES[number], re.MULTILINE)
    assert said and printed.getvalue().splitlines() == said


@pytest.mark.parametrize("name", tfconv.analysis.__all__)
def test_docstrings(name):
    text = getattr(tfconv.analysis, name).__doc__
    test = doctest.DocTestParser().get_doctest(text, {"tfconv": tfconv}, name, None, None)
    assert test.examples or name == "Row"
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)


def test_all_numbers_are_explained():
    row = tfconv.analysis.profile(tfconv.ChannelShuffle(2), (4, 4)).rows[0]
    others = {"name", "kind", "input_shapes", "output_shapes", "unknown"}
    parts = {"trainable", "non_trainable", "field_size", "field_stride", "field_offset"}
    explained = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert explained == set(row.as_dict()) - others - parts | {"peak_memory", "field"}
