"""docs/networks.md: its table has all networks and their costs, and its examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tfconv.blocks
from tests.models.test_arguments import NETWORKS
from tests.models.test_networks import COSTS, WITHOUT_PEER
from tests.parity.cases import CASES

PAGE = (Path(__file__).resolve().parents[2] / "docs/networks.md").read_text(encoding="utf-8")
UNITS = {"M": 1e6, "G": 1e9}


def rows():
    """What the table says of each network: parameters and multiply-adds."""
    pattern = r"^\| `(\w+\(.*?\))` \| ([\d,]+) \| ([\d.]+) ([MG]) \|"
    found = re.findall(pattern, PAGE, re.MULTILINE)
    return {name: (int(n.replace(",", "")), float(m) * UNITS[u]) for name, n, m, u in found}


def test_table():
    calls = {name: f"{function}()" for name, function in WITHOUT_PEER.items()}
    for name, (function, arguments) in CASES.items():
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        calls[name] = f"{function}({given})"
    told = rows()
    compared = {call: COSTS[name] for name, call in calls.items() if call in told}
    assert compared.keys() == told.keys()
    for call, (parameters, products) in compared.items():
        assert told[call] == (parameters, pytest.approx(products, rel=0.005)), call
    assert {call.partition("(")[0] for call in told} == set(NETWORKS)


@pytest.mark.dear
def test_examples(capsys):
    examples = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    exec("\n".join(examples), {})
    assert capsys.readouterr().out == "1 used, 1 unused, 0 missing ['fc.weight']\n"


def test_blocks_are_listed():
    listed = set(re.findall(r"`(\w+)`", PAGE))
    functions = {name for name in tfconv.blocks.__all__ if name.islower()}
    assert functions - listed <= {"hard_sigmoid", "hard_swish", "divisible", "convolution"}
