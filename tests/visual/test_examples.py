"""The examples of the page and of the docstrings run and give what they say."""

from __future__ import annotations

import contextlib
import doctest
import io
import re
from pathlib import Path

import numpy as np
import pytest

import tfconv
from tfconv import cli

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "show.md").read_text(encoding="utf-8")


def test_example_of_the_page():
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(example, "docs/show.md", "exec"), {})
    said = re.findall(r"^# (.*)$", example, re.MULTILINE)
    assert said and printed.getvalue().splitlines() == said


def test_commands_and_pictures_of_the_page():
    commands = re.findall(r"^python -m tfconv (.*)$", PAGE, re.MULTILINE)
    assert commands
    for command in commands:
        assert callable(cli._parser().parse_args(command.split()).run)
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGE)
    assert sorted(pictures) == sorted(f"show/{path.name}" for path in DOCS.glob("show/*"))
    for path in re.findall(r"`python (\S+\.py)", PAGE):
        assert (DOCS.parent / path).is_file()


@pytest.mark.parametrize(
    "name",
    [
        "effective_receptive_field",
        "involution_kernels",
        "routing_weights",
        "sampling_points",
    ],
)
def test_docstrings(name):
    text = getattr(tfconv.visual, name).__doc__
    test = doctest.DocTestParser().get_doctest(text, {"np": np, "tfconv": tfconv}, name, None, None)
    assert test.examples
    said = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=said.append)
    assert not said, "".join(said)
