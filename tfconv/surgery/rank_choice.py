"""Which rank each layer of a model gets: as it is given, by energy, or within a budget."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tfconv.ops.geometry import is_int
from tfconv.surgery.decompositions import Form, Rank

_UNITS = 10_000  # in which a budget is counted


def of_given(form: Form, given: Any) -> Rank:
    """A form's rank from an integer, one for each of its ranks, or a share of the full rank.

    Larger ones than the full rank count as that.

    Raises:
        ValueError: If ``given`` is something else.
    """
    numbers = given if isinstance(given, (list, tuple)) else [given] * len(form.full)
    share = isinstance(given, float) and 0 < given <= 1
    positive = all(is_int(number) and number > 0 for number in numbers)
    if len(numbers) != len(form.full) or not (share or positive):
        several = f", {len(form.full)} integers" if len(form.full) > 1 else ""
        raise ValueError(
            f"`rank` must be a positive integer{several}, or a float up to 1 for a share of the "
            "full rank; or a dictionary of them by the names of layers. "
            f"Received: rank={given!r} for method={form.method!r}"
        )
    if share:
        return tuple(max(round(given * full), 1) for full in form.full)
    return tuple(min(number, full) for number, full in zip(numbers, form.full))


def of_energy(form: Form, energy: float) -> Rank | None:
    """The cheapest rank that keeps a share of the squared norm; None if none costs less than all.

    More costs keep more; for forms that are found by iteration, nearly so.
    """
    place = bisect.bisect_left(_Kept(form), energy)
    return form.ranks[place] if place < len(form.ranks) else None


class _Kept(Sequence):
    """What the ranks of a form keep, computed where one looks."""

    def __init__(self, form: Form):
        self._form = form

    def __len__(self) -> int:
        return len(self._form.ranks)

    def __getitem__(self, place: int) -> float:
        return self._form.kept(self._form.ranks[place])


class Choice(NamedTuple):
    """What a layer may become.

    Attributes:
        products: Its multiply-adds.
        loss: The share of the kernel's squared norm that is lost.
        rank: None for the layer as it is.
    """

    products: int
    loss: float
    rank: Rank | None


def choices(form: Form) -> list[Choice]:
    """What a layer may become, itself included."""
    forms = [
        Choice(form.products(rank), max(1 - form.kept(rank), 0.0), rank) for rank in form.curve
    ]
    return [Choice(form.products_of_kernel, 0.0, None), *forms]


def within(layers: Sequence[Sequence[Choice]], budget: int) -> list[Choice] | None:
    """A choice for each layer, all together within a budget, that lose least; None if none do.

    Dynamic programming over the budget in small units.

    Args:
        layers: The choices of each layer.
        budget: Multiply-adds that the chosen ones together may cost.
    """
    cheapest = [min(layer, key=lambda choice: choice.products) for layer in layers]
    if sum(choice.products for choice in cheapest) > budget:
        return None
    units = min(budget, _UNITS)
    lost = np.zeros(units + 1)  # the least that the layers so far lose, for so many units
    taken = []
    for layer in layers:
        costs = [-(-choice.products * units // budget) for choice in layer]
        losses = np.full([len(layer), units + 1], np.inf)
        for row, cost, choice in zip(losses, costs, layer):
            row[cost:] = lost[: max(units + 1 - cost, 0)] + choice.loss
        best = np.argmin(losses, axis=0)
        lost = np.min(losses, axis=0)
        taken.append((layer, costs, best))
    if np.isinf(lost[-1]):  # they fit, but not in whole units
        return cheapest
    chosen = []
    for layer, costs, best in reversed(taken):
        number = best[units]
        units -= costs[number]
        chosen.append(layer[number])
    return chosen[::-1]
