"""The command `tfconv evidence`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tfconv.commands.arguments import check_folder, check_output, positive
from tfconv.commands.messages import fail, only_ours, progress_bar, wide_console
from tfconv.commands.process import start


def add_evidence(commands: Any) -> None:
    """Adds `tfconv evidence` to a parser's commands."""
    parser = commands.add_parser(
        "evidence",
        help="run the experiments that hold the papers' claims to account",
        description="Runs experiments that were written down before: each network with several "
        "seeds, each run a file once it is finished. What is there is not run again, so a command "
        "that was stopped goes on where it was. Prints tables with intervals, and verdicts.",
    )
    parser.add_argument("names", nargs="*", metavar="EXPERIMENT", help="only these (default: all)")
    parser.add_argument("--list", action="store_true", help="list the experiments and their runs")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("evidence"),
        metavar="DIR",
        help="folder of the runs' files (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds", type=positive, default=5, metavar="N", help="how many (default: %(default)s)"
    )
    parser.add_argument(
        "--only-report", action="store_true", help="run nothing: report what is there"
    )
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="PATH",
        help="write a page, with the curves as SVG beside it in the folder of its name",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit status."""
    try:
        if arguments.markdown is not None:
            check_output(arguments.markdown, "--markdown")
        check_folder(arguments.folder, "--folder")
    except ValueError as error:
        return fail("the experiments did not run.", error)
    start()
    from tfconv.evidence import plan

    try:
        chosen = plan.experiments(arguments.names)
        if arguments.list:
            _list(chosen, arguments)
            return 0
        if not arguments.only_report:
            _train(chosen, arguments)
        _report(chosen, arguments)
    except (ImportError, OSError, ValueError) as error:
        return fail("the experiments did not run.", error, {"names": "EXPERIMENT"})
    return 0


def _list(chosen: list[Any], arguments: argparse.Namespace) -> None:
    from tfconv.evidence import runs

    for experiment in chosen:
        count = len(experiment.networks) * arguments.seeds
        left = len(list(runs.missing(arguments.folder, experiment, arguments.seeds)))
        print(f"{experiment.name}: {count - left} of {count} runs are there\n  {experiment.claim}")
        for expectation in experiment.expectations:
            print(f"  - {expectation}?")


def _train(chosen: list[Any], arguments: argparse.Namespace) -> None:
    from tfconv.evidence import runs

    folder = arguments.folder
    left = [
        (experiment, seed, network)
        for experiment in chosen
        for seed, network in runs.missing(folder, experiment, arguments.seeds)
    ]
    total = sum(experiment.epochs for experiment, *_ in left)
    with only_ours() as terminal, progress_bar(terminal, transient=True) as bar:
        task = bar.add_task("", total=total)
        for experiment, seed, network in left:

            def said(epoch: int, what: str = f"{experiment.name}, seed {seed}: {network}") -> None:
                bar.update(task, description=what)
                bar.advance(task, int(epoch > 0))

            run = runs.train(experiment, network, seed, said)
            bar.advance(task)
            runs.keep(folder, experiment, run)


def _report(chosen: list[Any], arguments: argparse.Namespace) -> None:
    from rich.table import Table

    from tfconv.evidence import findings, plan, runs

    folder, seeds, console = arguments.folder, arguments.seeds, wide_console()
    for experiment in chosen:
        found = runs.finished(folder, experiment, seeds)
        console.print(f"{experiment.name}: {experiment.claim}", markup=False, highlight=False)
        if not found:
            console.print("  not run yet")
            continue
        table = Table(*(title.format(experiment.baseline) for title in findings.TITLES))
        for row in findings.rows(experiment, found):
            table.add_row(*row)
        console.print(table)
        for expectation in experiment.expectations:
            said = findings.verdict(expectation, found).replace("**", "")
            console.print(f"- {said}", markup=False, highlight=False)
    path = arguments.markdown
    if path is None:
        return
    pictures = {}
    for experiment in plan.EXPERIMENTS:
        found = runs.finished(folder, experiment, seeds)
        if found:
            beside = path.with_suffix("") / f"{experiment.name}.svg"
            beside.parent.mkdir(exist_ok=True)
            findings.draw(experiment, found, beside)
            pictures[experiment.name] = f"{beside.parent.name}/{beside.name}"
    text = findings.page(list(plan.EXPERIMENTS), folder, seeds, pictures)
    path.write_text(text, encoding="utf-8")
