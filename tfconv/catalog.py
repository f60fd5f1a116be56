"""The layers of tfconv as a table: ranks, sources, what they replace, which checks they go through.

All of it comes from the code: names and docstrings of the layers, `tfconv.replacements`, and the
configurations and checks of `tfconv.testing`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import tfconv
from tfconv import testing
from tfconv._compat import keras
from tfconv.replacements import REPLACEABLE

# What layers offer beyond Keras's own methods.
METHODS = (
    "attention",
    "effective_kernel",
    "gates",
    "kernels",
    "normalized_weights",
    "offsets_and_mask",
    "offsets_and_weights",
    "parameter_count",
    "routing_weights",
    "set_temperature",
    "temperature",
)


@dataclasses.dataclass
class Family:
    """Layers that differ in their number of spatial axes only.

    Attributes:
        family: Their name, without that number.
        layers: The names of the classes.
        ranks: Numbers of spatial axes; empty for layers that take any.
        source: Where they come from, as their docstrings say.
        replaces: Layers of Keras that they can stand in for.
        checks: For each check, how many configurations of the layers go through it.
        failures: For each check that has been run, what it found.
    """

    family: str
    layers: list[str] = dataclasses.field(default_factory=list)
    ranks: list[int] = dataclasses.field(default_factory=list)
    source: str | None = None
    replaces: list[str] = dataclasses.field(default_factory=list)
    checks: dict[str, int] = dataclasses.field(default_factory=dict)
    failures: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def configurations(self, one_each: bool = False) -> list[testing.LayerCase]:
        """Those of the layers that go through the checks: all, or one, of images if there is."""
        cases = [case for case in testing.layer_cases() if case.layer_class.__name__ in self.layers]
        if one_each:
            return [max(cases, key=lambda case: "2D" in case.layer_class.__name__)]
        return cases


def family_name(layer: str) -> str:
    """The name of a layer's family: "Conv" of "Conv2D"."""
    return re.sub(r"[123]D", "", layer, count=1)


def families(names: Collection[str] = (), one_each: bool = False) -> list[Family]:
    """The families of layers, in alphabetical order.

    Args:
        names: Only these: names of families or of layers, in any case; none for all.
        one_each: Whether one configuration of each family is counted, and not all of them.

    Raises:
        ValueError: If there is no layer and no family of such a name.
    """
    found: dict[str, Family] = {}
    replaced = _replaced()
    for name in sorted(tfconv.layers.__all__):
        family = found.setdefault(family_name(name), Family(family_name(name)))
        family.layers.append(name)
        family.ranks += [int(rank) for rank in re.findall(r"([123])D", name)]
        family.source = family.source or _source(getattr(tfconv.layers, name))
        family.replaces += replaced.get(name, [])
    wanted = _wanted(names, found)
    chosen = [family for family in found.values() if family.family in wanted]
    for family in chosen:
        cases = family.configurations(one_each)
        family.checks = {c.name: sum(map(c.applies, cases)) for c in testing.CHECKS}
    return chosen


def run_checks(
    chosen: Sequence[Family],
    progress: Callable[[int, int, str], None] = lambda *_: None,
    one_each: bool = False,
) -> None:
    """Takes configurations of the families through all checks; fills in ``failures``.

    Args:
        chosen: The families.
        progress: Is told how many checks are done, of how many, and what comes next.
        one_each: Whether one configuration of each family is enough.
    """
    work = [
        (family, case, check)
        for family in chosen
        for case in family.configurations(one_each)
        for check in testing.CHECKS
        if check.applies(case)
    ]
    for done, (family, case, check) in enumerate(work):
        progress(done, len(work), f"{case.layer_class.__name__}: {check.name}")
        failures = family.failures.setdefault(check.name, [])
        try:
            check(case)
        except AssertionError as error:
            failures.append(str(error))
    progress(len(work), len(work), "")


def _wanted(names: Collection[str], found: dict[str, Family]) -> set[str]:
    known = {name.lower(): family.family for family in found.values() for name in family.layers}
    known.update({family.lower(): family for family in found})
    for name in names:
        if name.lower() not in known:
            raise ValueError(
                f"`names` must be layers or families of layers: {', '.join(found)}. "
                f"Received: {name!r}"
            )
    return {known[name.lower()] for name in names} if names else set(found)


def _replaced() -> dict[str, list[str]]:
    """For each layer, the layers of Keras that it can stand in for."""
    replaced: dict[str, list[str]] = {}
    for theirs in REPLACEABLE:
        for replacement in tfconv.replacements(getattr(keras.layers, theirs)):
            replaced.setdefault(replacement.layer_class.__name__, []).append(theirs)
    return replaced


def _source(layer_class: Any) -> str | None:
    """The "Source" in the docstring of a layer or of what it is made from."""
    for base in layer_class.__mro__:
        found = re.search(r"^ *Source: (.*?)(?:\n *\n|\Z)", base.__doc__ or "", re.M | re.S)
        if found:
            return " ".join(found.group(1).split())
    return None
