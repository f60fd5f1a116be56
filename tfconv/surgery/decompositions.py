"""Kernels in the forms of the factorized layers, as near as each rank allows.

A `Form` takes a kernel ``[*kernel_size, C, filters]`` apart and says, rank by rank, which factors
come nearest to it, how much of it they keep, and what they cost.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfconv.surgery.polyadic import polyadic

Rank = tuple[int, ...]
Factors = dict[str, np.ndarray]

_POINTS = 12  # of a curve whose points take a while to compute
_ROUGHLY = 50  # iterations for each


@dataclasses.dataclass(frozen=True)
class Positions:
    """At how many pixels a layer's factors are multiplied for one example.

    Attributes:
        inputs, outputs: Pixels of the input and of the output.
        along: Pixels once the axes up to each are filtered.
    """

    inputs: int
    outputs: int
    along: tuple[int, ...]

    @staticmethod
    def of(calls: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Positions:
        """Those of calls, each with the spatial sizes of its input and of its output."""
        before = sum(math.prod(inputs) for inputs, _ in calls)
        after = sum(math.prod(outputs) for _, outputs in calls)
        along = [
            sum(math.prod([*outputs[: axis + 1], *inputs[axis + 1 :]]) for inputs, outputs in calls)
            for axis in range(len(calls[0][0]))
        ]
        return Positions(before, after, tuple(along))


class Form(ABC):
    """A kernel ``[*kernel_size, C, filters]`` as a product of factors, by their rank.

    Ranks are tuples, of one number in most forms.

    Args:
        kernel: The kernel; it must be finite, and not zero everywhere.
        positions: At how many pixels it is multiplied.

    Attributes:
        method: Its name.
        family: The layers that hold the factors, without "1D" and so on.
        full: The rank at which nothing is lost.
    """

    method: str
    family: str
    full: Rank

    def __init__(self, kernel: Any, positions: Positions):
        self.kernel = np.asarray(kernel, np.float64)
        self.positions = positions
        *self.size, self.channels, self.filters = self.kernel.shape
        self.taps = math.prod(self.size)
        self.products_of_kernel = positions.outputs * self.kernel.size
        self._made: dict[Rank, Factors] = {}

    @property
    def along(self) -> int:
        """Products of 1-D filters along all axes, for one channel."""
        return sum(count * taps for count, taps in zip(self.positions.along, self.size))

    @functools.cached_property
    def ranks(self) -> list[Rank]:
        """The ranks that cost less than the kernel, from the cheapest on."""
        ranks = [(rank,) for rank in range(1, self.full[0] + 1)]
        return [rank for rank in ranks if self.products(rank) < self.products_of_kernel]

    @property
    def curve(self) -> list[Rank]:
        """Those of ``ranks`` among which to choose when layers are weighed against each other."""
        return self.ranks

    @abstractmethod
    def products(self, rank: Rank) -> int:
        """Multiply-adds for one example."""

    @abstractmethod
    def arguments(self, rank: Rank) -> dict[str, Any]:
        """The layer's arguments that say its rank."""

    @abstractmethod
    def decomposed(self, rank: Rank) -> Factors:
        """The factors nearest to the kernel."""

    @abstractmethod
    def product(self, factors: Factors) -> np.ndarray:
        """The kernel that factors stand for."""

    def factors(self, rank: Rank) -> Factors:
        """The factors nearest to the kernel, by the names and in the shapes of the weights."""
        if rank not in self._made:
            self._made[rank] = self.decomposed(rank)
        return self._made[rank]

    def error(self, factors: Factors) -> float:
        """``|kernel - product| / |kernel|``, the root of the sum of squares."""
        difference = self.kernel - self.product(factors)
        return float(np.linalg.norm(difference) / np.linalg.norm(self.kernel))

    def kept(self, rank: Rank) -> float:
        """The share of the kernel's squared norm that a rank keeps, at least."""
        return 1 - self.error(self.factors(rank)) ** 2

    def pointwise(self, factor: np.ndarray) -> np.ndarray:
        """A factor [inputs, outputs] in the shape of the weights of a 1x1 convolution."""
        return factor.reshape([1] * len(self.size) + list(factor.shape))

    def axis_kernels(self, factors: Sequence[np.ndarray]) -> Factors:
        return {f"axis_kernel_{axis}": factor for axis, factor in enumerate(factors)}


class Separable(Form):
    """``sum_m depthwise[t, c, m] * pointwise[c * M + m, f]``: per channel, the SVD's first M terms.

    No other M terms are nearer (Eckart and Young).

    Source: Guo et al., Network Decoupling: From Regular to Depthwise Separable Convolutions,
    arXiv:1808.05517, section 3.2.
    """

    method = "separable"
    family = "SeparableConv"

    @property
    def full(self) -> Rank:
        return (min(self.taps, self.filters),)

    def products(self, rank):
        width = self.channels * rank[0]
        return self.positions.outputs * width * (self.taps + self.filters)

    def arguments(self, rank):
        return {"depth_multiplier": rank[0]}

    @functools.cached_property
    def _terms(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each channel's [taps, filters]: left and right vectors, the values in both."""
        by_channel = np.moveaxis(self.kernel.reshape(self.taps, self.channels, self.filters), 1, 0)
        left, values, right = np.linalg.svd(by_channel, full_matrices=False)
        roots = np.sqrt(values)
        return left * roots[:, None], right * roots[:, :, None]

    def decomposed(self, rank):
        left, right = self._terms
        left, right = left[:, :, : rank[0]], right[:, : rank[0]]
        return {
            "depthwise_kernel": np.moveaxis(left, 0, 1).reshape(*self.size, *left[:, 0].shape),
            "pointwise_kernel": self.pointwise(right.reshape(-1, self.filters)),
        }

    def product(self, factors):
        depthwise = factors["depthwise_kernel"]
        pointwise = factors["pointwise_kernel"].reshape(*depthwise.shape[-2:], self.filters)
        return np.einsum("...cm,cmf->...cf", depthwise, pointwise)


class Flattened(Form):
    """``channel[c, f] * prod_a axis_a[t_a, f]``: of every filter, the nearest product of vectors.

    Source: Jin et al., Flattened Convolutional Neural Networks for Feedforward Acceleration,
    arXiv:1412.5474, section 3.1.
    """

    method = "flattened"
    family = "FlattenedConv"
    full = (1,)

    def products(self, rank):
        return self.filters * (self.positions.inputs * self.channels + self.along)

    def arguments(self, rank):
        return {}

    def decomposed(self, rank):
        vectors = polyadic(np.moveaxis(self.kernel, -1, 0), 1)
        *axes, channel = (vector[:, :, 0].T for vector in vectors)
        return {"channel_kernel": self.pointwise(channel), **self.axis_kernels(axes)}

    def product(self, factors):
        vectors = [factors[f"axis_kernel_{axis}"] for axis in range(len(self.size))]
        vectors.append(factors["channel_kernel"].reshape(self.channels, self.filters))
        return np.reshape(functools.reduce(_outer, vectors), self.kernel.shape)


class LowRank(Form):
    """``sum_r input[c, r] * prod_a axis_a[t_a, r] * output[r, f]``: the canonical polyadic form.

    It is found by alternating least squares; a kernel of one tap has two factors of many numbers
    only, which are those of the SVD.

    Source: Lebedev et al., Speeding-up Convolutional Neural Networks Using Fine-tuned
    CP-Decomposition, arXiv:1412.6553, section 3.1.
    """

    method = "low_rank"
    family = "LowRankConv"

    @property
    def full(self) -> Rank:
        return (self.kernel.size // max(self.kernel.shape),)

    @property
    def curve(self) -> list[Rank]:
        if not self.ranks:
            return []
        (last,) = self.ranks[-1]
        return [(rank,) for rank in sorted({round(x) for x in np.geomspace(1, last, _POINTS)})]

    def products(self, rank):
        inputs = self.positions.inputs * self.channels
        return rank[0] * (inputs + self.along + self.positions.outputs * self.filters)

    def arguments(self, rank):
        return {"kernel_rank": rank[0]}

    def kept(self, rank):
        return 1 - self.error(self._iterated(rank, iterations=_ROUGHLY)) ** 2

    def decomposed(self, rank):
        return self._iterated(rank)

    def _iterated(self, rank: Rank, **iterations: int) -> Factors:
        factors = (factor[0] for factor in polyadic(self.kernel[None], rank[0], **iterations))
        *axes, inputs, outputs = factors
        return {
            "input_kernel": self.pointwise(inputs),
            **self.axis_kernels(axes),
            "output_kernel": self.pointwise(outputs.T),
        }

    def product(self, factors):
        vectors = [factors[f"axis_kernel_{axis}"] for axis in range(len(self.size))]
        output = factors["output_kernel"].reshape(-1, self.filters)
        vectors.append(factors["input_kernel"].reshape(self.channels, len(output)))
        return np.reshape(functools.reduce(_outer, vectors) @ output, self.kernel.shape)


class Tucker(Form):
    """``sum_{i, o} input[c, i] * core[t, i, o] * output[o, f]``: Tucker's form of the channels.

    The ranks are (inputs, outputs). What a pair of them keeps is told by the singular vectors of
    the two unfoldings (HOSVD); tensorly's `partial_tucker` then improves the pair that is taken.

    Source: Kim et al., Compression of Deep Convolutional Neural Networks for Fast and Low Power
    Mobile Applications, arXiv:1511.06530, section 3.1.
    """

    method = "tucker"
    family = "TuckerConv"

    @property
    def full(self) -> Rank:
        return (
            min(self.channels, self.taps * self.filters),
            min(self.filters, self.taps * self.channels),
        )

    def products(self, rank):
        inputs, outputs = rank
        return self.positions.inputs * self.channels * inputs + self.positions.outputs * outputs * (
            self.taps * inputs + self.filters
        )

    def arguments(self, rank):
        return {"ranks": rank}

    @functools.cached_property
    def _kept(self) -> np.ndarray:
        """[inputs, outputs]: what each pair of ranks keeps of the squared norm, at least."""
        core = self.kernel.reshape(self.taps, self.channels, self.filters)
        for axis, rank in zip((1, 2), self.full):
            unfolded = np.moveaxis(core, axis, 0).reshape(core.shape[axis], -1)
            vectors = np.linalg.svd(unfolded, full_matrices=False)[0][:, :rank]
            core = np.moveaxis(np.tensordot(vectors, core, (0, axis)), 0, axis)
        return np.sum(core**2, 0).cumsum(0).cumsum(1) / np.sum(self.kernel**2)

    @functools.cached_property
    def ranks(self) -> list[Rank]:
        """Of the pairs that cost less than the kernel, those that keep more than all cheaper."""
        pairs = np.indices(self.full) + 1
        products = self.products(pairs)
        order = np.argsort(products, axis=None, kind="stable")
        kept = self._kept.ravel()[order]
        best = np.concatenate([[True], kept[1:] > np.maximum.accumulate(kept)[:-1]])
        chosen = order[best & (products.ravel()[order] < self.products_of_kernel)]
        return [tuple(pair) for pair in pairs.reshape(2, -1).T[chosen].tolist()]

    def kept(self, rank):
        return float(self._kept[rank[0] - 1, rank[1] - 1])

    def decomposed(self, rank):
        partial_tucker = _tensorly().decomposition.partial_tucker
        channels = self.kernel.ndim - 2
        (core, (inputs, outputs)), _ = partial_tucker(
            self.kernel, rank=rank, modes=[channels, channels + 1], init="svd"
        )
        return {
            "input_kernel": self.pointwise(inputs),
            "core_kernel": core,
            "output_kernel": self.pointwise(outputs.T),
        }

    def product(self, factors):
        inputs, outputs = (factors[f"{name}_kernel"] for name in ("input", "output"))
        inputs = inputs.reshape(self.channels, -1)
        outputs = outputs.reshape(-1, self.filters)
        return inputs @ factors["core_kernel"] @ outputs


FORMS = {form.method: form for form in (Separable, Flattened, LowRank, Tucker)}


def _outer(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[m, r] and [n, r] as [m * n, r], the products of the columns."""
    return np.reshape(first[:, None] * second[None], [-1, first.shape[1]])


def _tensorly() -> Any:
    try:
        import tensorly
        import tensorly.decomposition
    except ImportError as error:
        raise ImportError(
            f"The Tucker form needs tensorly, which cannot be imported ({error}): "
            "pip install tensorly"
        ) from error
    return tensorly
