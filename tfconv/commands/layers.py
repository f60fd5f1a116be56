"""The command `tfconv layers`."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from tfconv.commands.arguments import check_layers
from tfconv.commands.messages import fail, only_ours, progress_bar
from tfconv.commands.process import start


def add_layers(commands: Any) -> None:
    """Adds `tfconv layers` to a parser's commands."""
    parser = commands.add_parser(
        "layers",
        help="list the layers, their sources, and the checks that each goes through",
        description="Lists the layers: for how many spatial axes there are, where each comes "
        "from, which layers of Keras it can stand in for, and which checks it goes through.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="LAYER", help="only these layers or families (default: all)"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        dest="run_checks",
        help="run the checks and print what passed: ten minutes for all layers",
    )
    parser.add_argument(
        "--one-each", action="store_true", help="check one configuration of each family, not all"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit status."""
    try:
        check_layers(arguments.names)
    except ValueError as error:
        return fail("there is no such layer.", error)
    start()
    from rich.console import Console

    from tfconv import catalog
    from tfconv import catalog_tables as tables

    families = catalog.families(arguments.names, arguments.one_each)
    if arguments.run_checks:
        with only_ours() as terminal, progress_bar(terminal, transient=True) as bar:
            task = bar.add_task("", total=None)
            catalog.run_checks(
                families,
                lambda done, total, what: bar.update(
                    task, completed=done, total=total, description=what
                ),
                arguments.one_each,
            )
    failures = [text for family in families for found in family.failures.values() for text in found]
    if arguments.json:
        print(json.dumps([dataclasses.asdict(family) for family in families], indent=2))
        return int(bool(failures))
    console = Console()
    if not arguments.run_checks:
        console.print(tables.layers_table(families))
        console.print()
    console.print(tables.checks_table(families))
    console.print()
    console.print(tables.legend(), tables.explanation(arguments.run_checks), sep="\n")
    for text in failures:
        console.print()
        console.print(text, style="red", markup=False, highlight=False)
    return int(bool(failures))
