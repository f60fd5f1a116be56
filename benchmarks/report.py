"""The results as tables, as RESULTS.md and as JSON."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from benchmarks.cases import Case, Rival
from benchmarks.floors import Rates
from benchmarks.measuring import Result
from benchmarks.rows import SECTIONS

Lines = list[list[str]]


def number(value: float) -> str:
    """Three digits; what is below a half as a fraction, which is how such targets are set."""
    return f"1/{1 / value:.3g}" if 0 < value < 0.5 else f"{value:.2f}"


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 0.1 else f"{1e3 * seconds:.0f}"


def megabytes(count: float) -> str:
    return f"{count / 1e6:.2f}"


def shape(case: Case) -> str:
    return f"{case.batch}, {case.channels}, {case.size}"


def verdict(result: Result) -> str:
    return {True: "met", False: "MISSED", None: ""}[result.met]


def target(result: Result) -> str:
    if result.row.target is None:
        return ""
    return f"{'≥' if result.row.at_least else '≤'} {number(result.row.target)}"


def _figure(result: Result, value: float) -> str:
    return f"{megabytes(value)} MB" if result.row.memory else f"{milliseconds(value)} ms"


def _spread(result: Result) -> str:
    return "" if result.quartiles is None else " - ".join(map(number, result.quartiles))


COLUMNS = ("work", "pass", "shape", "time", "against", "its", "ratio", "quartiles", "target", "")


def lines(results: Iterable[Result]) -> Lines:
    """A line for each result, under `COLUMNS`."""
    return [
        [
            result.row.work,
            result.row.rival.case.direction,
            shape(result.row.rival.case),
            _figure(result, result.value),
            result.row.against,
            _figure(result, result.base),
            number(result.ratio),
            _spread(result),
            target(result),
            verdict(result),
        ]
        for result in results
    ]


FLOOR_COLUMNS = ("work", "pass", "shape", "time", "floor", "of", "time / floor")


def floor_lines(results: Iterable[Result], rates: Rates) -> Lines:
    """tfconv's time for each piece of work beside its floor, under `FLOOR_COLUMNS`."""
    found = {}
    for result in results:
        if result.row.section == "peers" and result.row.rival not in found:
            case = result.row.rival.case
            least, spent_on = rates.floor(case)
            found[result.row.rival] = [
                result.row.work,
                case.direction,
                shape(case),
                f"{milliseconds(result.value)} ms",
                f"{milliseconds(least)} ms",
                spent_on,
                f"{result.value / least:.2f}",
            ]
    return list(found.values())


def rate_lines(rates: Rates) -> Lines:
    """What the floors were computed from."""
    return [
        *(
            [f"product {p.rows} x {p.depth} x {p.columns}", f"{rate / 1e9:.1f} G multiply-adds/s"]
            for p, rate in rates.products.items()
        ),
        *(
            [
                f"blocks of {size // 2**20} MiB",
                f"{rates.copies[size] / 1e9:.1f} GB/s copied (read and written), "
                f"{rates.readings[size] / 1e9:.1f} GB/s read",
            ]
            for size in rates.copies
        ),
    ]


def summary(results: Sequence[Result]) -> str:
    verdicts = [result.met for result in results if result.met is not None]
    return f"{sum(verdicts)} of {len(verdicts)} targets met"


def bymarkdown_section(results: Iterable[Result]) -> dict[str, list[Result]]:
    found = {}
    for result in results:
        found.setdefault(result.row.section, []).append(result)
    return found


def table(title: str, columns: Sequence[str], rows: Lines) -> Table:
    """For the terminal."""
    made = Table(title=title, box=box.SIMPLE_HEAD, title_style="bold", title_justify="left")
    for column in columns:
        made.add_column(column, no_wrap=True)
    for row in rows:
        made.add_row(*row, style="red" if row[-1] == "MISSED" else None)
    return made


def tables(results: Sequence[Result], rates: Rates) -> list[Table]:
    made = [
        table(SECTIONS[section], COLUMNS, lines(found))
        for section, found in bymarkdown_section(results).items()
    ]
    if floors := floor_lines(results, rates):
        made.append(table("Floors", FLOOR_COLUMNS, floors))
    made.append(table("Rates of the machine", ("what", "rate"), rate_lines(rates)))
    return made


_HEAD = """# Results of `make bench`

{facts}

{summary}. A time is the median of {rounds} turns at most, taken in rounds with those of its
rivals; a ratio is the median of the rounds' ratios, and beside it stands their middle half. Shapes
are batch, channels, height = width; float32 and channels last unless said. Forward+backward
computes the output and then the gradients of all inputs. docs/benchmarks.md says more.

![Ratios over their targets](results.png)
"""


def markdown(results: Sequence[Result], rates: Rates, facts: Mapping[str, str], rounds: int) -> str:
    """RESULTS.md."""
    parts = [
        _HEAD.format(
            facts="\n".join(f"- {name}: {fact}" for name, fact in facts.items()),
            summary=summary(results),
            rounds=rounds,
        )
    ]
    missed = [result for result in results if result.met is False]
    if missed:
        parts.append(markdown_section("Missed", COLUMNS, lines(missed)))
    for section, found in bymarkdown_section(results).items():
        parts.append(markdown_section(SECTIONS[section], COLUMNS, lines(found)))
    parts.append(markdown_section("Floors", FLOOR_COLUMNS, floor_lines(results, rates)))
    parts.append(markdown_section("Rates of the machine", ("what", "rate"), rate_lines(rates)))
    return "\n".join(parts)


def markdown_section(title: str, columns: Sequence[str], rows: Lines) -> str:
    body = [columns, ["---"] * len(columns), *rows]
    return "\n".join([f"## {title}\n", *(f"| {' | '.join(cells)} |" for cells in body), ""])


def as_json(
    results: Sequence[Result],
    times: Sequence[Mapping[Rival, Sequence[float]]],
    rates: Rates,
    facts: Mapping[str, str],
) -> dict[str, Any]:
    """Every figure; `times` has the turns of each group."""
    return {
        "machine": dict(facts),
        "rows": [
            {
                "section": result.row.section,
                "work": result.row.work,
                "against": result.row.against,
                "case": dataclasses.asdict(result.row.rival.case),
                "value": result.value,
                "base": result.base,
                "ratio": result.ratio,
                "quartiles": result.quartiles,
                "target": result.row.target,
                "met": result.met,
            }
            for result in results
        ],
        "turns": [
            [
                {**dataclasses.asdict(rival), "seconds": list(seconds)}
                for rival, seconds in group.items()
            ]
            for group in times
        ],
        "floors": dict(
            products=[{**dataclasses.asdict(p), "rate": r} for p, r in rates.products.items()],
            copies=rates.copies,
            readings=rates.readings,
        ),
    }


def write(path: Path, content: str) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(content, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
