"""docs/versions.md: all families of layers under all versions of TensorFlow that wheels serve."""

import ast
import re
from pathlib import Path

from tfconv import catalog, testing

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "versions.md"


def table():
    """The headings, and the cells by the family."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    heads, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"
    )
    return heads[1:], {row[0].strip("`"): row[1:] for row in rows}


def versions():
    source = ast.parse((ROOT / "release" / "tensorflows.py").read_text(encoding="utf-8"))
    (found,) = (
        node.value
        for node in source.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "VERSIONS"
    )
    return ast.literal_eval(found)


def test_layers_and_versions():
    heads, rows = table()
    assert tuple(head.rpartition(".")[0] for head in (h.split("<br>")[0] for h in heads)) == (
        versions()
    )
    assert list(rows) == [family.family for family in catalog.families()]
    assert {len(cells) for cells in rows.values()} == {len(heads)}


def test_counts():
    """Each layer goes through those checks that apply to it, under every version."""
    for name, cells in table()[1].items():
        counts = [int(re.fullmatch(r"(?:\*\*\d+ of )?(\d+)(?:\*\*)?", cell)[1]) for cell in cells]
        of_2_16 = counts.pop(1)  # where one is left out
        assert set(counts) == {of_2_16 + 1} and 10 <= counts[0] <= len(testing.CHECKS), name
