"""How `tfconv layers` prints the catalog of layers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from tfconv import testing
from tfconv.catalog import Family, family_name


def layers_table(families: Sequence[Family]) -> Table:
    """A row for each family: its axes, what it can stand in for, its sources."""
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    for title in ("axes", "can stand in for", "source"):
        table.add_column(title, overflow="fold")
    for family in families:
        axes = ", ".join(map(str, family.ranks)) or "any"
        source = "\n".join(map(cited, (family.source or "").rstrip(".").split("; ")))
        table.add_row(family.family, axes, listed(family.replaces), source)
    return table


def listed(names: Sequence[str]) -> str:
    """Names of layers, with the axes only for the others of a family: "Conv1D, 2D, 3D"."""
    together: dict[str, list[str]] = {}
    for name in names:
        others = together.setdefault(family_name(name), [])
        axes = re.search("[123]D", name)
        others.append(axes.group() if axes and others else name)
    return ", ".join(name for others in together.values() for name in others)


def cited(source: str) -> str:
    """A paper by its authors and its number at arXiv, where it has one."""
    number = re.search(r"arXiv:[0-9.]*[0-9]", source)
    if number is None:
        return source
    authors, comma, _ = source[: number.start()].partition(", ")
    return f"{authors}{comma}{number.group()}"


def checks_table(families: Sequence[Family]) -> Table:
    """A row for each family and a column for each check; `explanation` says what stands there."""
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    for number in range(len(testing.CHECKS)):
        table.add_column(str(number + 1), justify="right", no_wrap=True)
    for family in families:
        cells = []
        for check in testing.CHECKS:
            count = family.checks[check.name]
            failed = len(family.failures.get(check.name, []))
            style = "red" if failed else "green" if check.name in family.failures else ""
            text = f"{count - failed}/{count}" if failed else str(count)
            cells.append(Text(text if count else "-", style=style))
        table.add_row(family.family, *cells)
    return table


def legend() -> Table:
    """What the numbers of the checks stand for."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(justify="right")
    table.add_column(no_wrap=True)
    table.add_column()
    for number, check in enumerate(testing.CHECKS, 1):
        table.add_row(str(number), check.name, check.description)
    return table


def explanation(were_run: bool) -> str:
    """What the numbers in the table of checks are, by whether the checks were run."""
    if were_run:
        return (
            "\nThe numbers are configurations of the layer that passed the check, of how many "
            'where some failed ("-": it has not what is checked).'
        )
    return (
        "\nThe numbers are configurations of the layer that go through the check "
        '("-": it has not what is checked).\n'
        "To run the checks: python -m tfconv layers --check"
    )
