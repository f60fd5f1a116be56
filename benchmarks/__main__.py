"""Measures tfconv's native ops beside their peers.

    python -m benchmarks                    # everything, into RESULTS.md and results.png
    python -m benchmarks --quick            # a first look
    python -m benchmarks --only 'involution.*depthwise'

PyTorch's rivals take part where it is installed.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from benchmarks import machine, report, rows
from benchmarks.floors import measured_rates
from benchmarks.measuring import measure
from benchmarks.worker import Workers

ROUNDS = 15
ROUNDS_QUICK = 3


def main() -> int:
    arguments = _arguments()
    rounds = arguments.repeats or (ROUNDS_QUICK if arguments.quick else ROUNDS)
    groups = [
        [row for row in group if re.search(arguments.only, row.name)] for group in rows.groups()
    ]
    groups = [group for group in groups if group]
    if arguments.quick:
        groups = _one_shape_each(groups)
    if not groups:
        print(f"no row matches {arguments.only!r}", file=sys.stderr)
        return 2
    console = Console(stderr=True)
    results, times = [], []
    try:
        with Workers() as workers, Progress(console=console, transient=True) as progress:
            task = progress.add_task("rates of the machine", total=len(groups) + 1)
            rates = measured_rates(workers, rounds)
            for group in groups:
                progress.update(task, advance=1, description=group[0].name)
                found, turns = measure(workers, group, rounds)
                results += found
                times.append(turns)
            facts = machine.description(
                shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]), workers.descriptions()
            )
    except KeyboardInterrupt:
        print("interrupted: nothing is written", file=sys.stderr)
        return 130
    _print(results, rates)
    if arguments.json:
        content = json.dumps(report.as_json(results, times, rates, facts), indent=1)
        report.write(arguments.json, content + "\n")
    if not (arguments.quick or arguments.only):
        from benchmarks import picture  # matplotlib is needed for whole runs only

        content = report.markdown(results, rates, facts, rounds)
        picture.write(arguments.output / "results.png", results)
        report.write(arguments.output / "RESULTS.md", content)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--repeats", type=positive, help=f"rounds ({ROUNDS}; {ROUNDS_QUICK} with --quick)"
    )
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="rows whose name has this regular expression"
    )
    parser.add_argument("--quick", action="store_true", help="one shape of each kind, few rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parent,
        metavar="DIRECTORY",
        help="where whole runs write RESULTS.md and results.png (benchmarks/)",
    )
    return parser.parse_args()


def positive(text: str) -> int:
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError("at least 2 rounds are needed for a spread")
    return value


def _one_shape_each(groups: list[rows.Group]) -> list[rows.Group]:
    """The first of the groups that differ in their shapes only."""
    first = {}
    for group in groups:
        row = group[0]
        first.setdefault((row.section, row.work, row.rival.case.direction), group)
    return list(first.values())


def _print(results: list, rates) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=170)
    for table in report.tables(results, rates):
        console.print(table)
    console.print(report.summary(results))


if __name__ == "__main__":
    sys.exit(main())
