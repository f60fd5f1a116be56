"""Records what NATTEN computes, into tests/data/natten.npz.

    python tests/record_natten.py

Needs PyTorch and NATTEN, but no GPU: 0.21.7 runs on Flex Attention, forwards in float32; 0.17.5,
whose CPU kernels pip builds, gives gradients in float64 where windows have odd sizes and no
strides. So it is run once with each, in any order. Queries, keys and values are made again from
the number of a case, so the file holds results only.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

FILE = Path(__file__).parent / "data/natten.npz"
HEADS, WIDTH = 2, 2
LEAST_WIDTH = 8  # of heads on Flex Attention


class Case(NamedTuple):
    """A size, and the arguments of `local_attention`, for each spatial axis."""

    sizes: tuple[int, ...]
    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    dilation_rate: tuple[int, ...]
    causal: tuple[bool, ...]

    @property
    def has_gradients(self) -> bool:
        return all(k % 2 for k in self.kernel_size) and set(self.strides) == {1}


CASES = [
    Case((9,), (3,), (1,), (1,), (False,)),
    Case((11,), (4,), (1,), (2,), (False,)),
    Case((16,), (5,), (1,), (3,), (False,)),
    Case((7,), (7,), (1,), (1,), (False,)),
    Case((11,), (5,), (2,), (1,), (False,)),
    Case((13,), (4,), (3,), (2,), (False,)),
    Case((12,), (5,), (5,), (2,), (False,)),
    Case((9,), (3,), (1,), (1,), (True,)),
    Case((13,), (5,), (1,), (2,), (True,)),
    Case((11,), (4,), (3,), (1,), (True,)),
    Case((13,), (4,), (4,), (2,), (True,)),
    Case((7, 6), (3, 5), (1, 1), (1, 1), (False, False)),
    Case((7, 8), (3, 3), (1, 1), (2, 1), (False, False)),
    Case((5, 6), (3, 3), (1, 1), (1, 1), (True, False)),
    Case((6, 7), (3, 3), (1, 1), (1, 2), (False, True)),
    Case((7, 8), (3, 4), (2, 3), (1, 2), (False, False)),
    Case((8, 7), (4, 3), (1, 2), (2, 2), (True, False)),
    Case((6, 5), (3, 3), (2, 2), (1, 1), (True, True)),
    Case((4, 3, 5), (3, 3, 5), (1, 1, 1), (1, 1, 1), (False, False, False)),
    Case((3, 6, 4), (3, 3, 3), (1, 1, 1), (1, 2, 1), (True, False, False)),
    Case((5, 3, 6), (2, 3, 3), (2, 1, 3), (2, 1, 2), (False, False, False)),
    Case((4, 4, 5), (2, 3, 4), (1, 2, 2), (1, 1, 1), (False, True, False)),
]


def inputs(number: int) -> list[np.ndarray]:
    """Query, key, value and upstream gradient of a case: [1, *sizes, heads, width]."""
    rng = np.random.RandomState(number)
    return [rng.standard_normal((1, *CASES[number].sizes, HEADS, WIDTH)) for _ in range(4)]


def _outputs(number: int) -> np.ndarray:
    """By a version since 0.20."""
    import natten
    import torch

    case = CASES[number]
    function = getattr(natten, f"na{len(case.sizes)}d")
    wide = [(0, 0)] * (len(case.sizes) + 2) + [(0, LEAST_WIDTH - WIDTH)]
    tensors = [torch.from_numpy(np.pad(t, wide)).float() for t in inputs(number)[:3]]
    y = function(
        *tensors,
        kernel_size=case.kernel_size,
        stride=case.strides,
        dilation=case.dilation_rate,
        is_causal=case.causal,
        scale=WIDTH**-0.5,
        backend="flex-fna",
    )
    return y[..., :WIDTH].numpy()


def _gradients(number: int) -> np.ndarray:
    """By a version before 0.20, for query, key and value."""
    import torch
    from natten import functional

    case = CASES[number]
    *tensors, upstream = (
        torch.from_numpy(t).movedim(-2, 1).contiguous().requires_grad_() for t in inputs(number)
    )
    query, key, value = tensors
    products, sums = (getattr(functional, f"na{len(case.sizes)}d_{end}") for end in ("qk", "av"))
    where = (case.kernel_size, case.dilation_rate)
    logits = products(query * WIDTH**-0.5, key, *where, is_causal=case.causal)
    y = sums(logits.softmax(-1), value, *where, is_causal=case.causal)
    y.backward(upstream.detach())
    return torch.stack([t.grad.movedim(1, -2) for t in tensors]).numpy()


def main() -> None:
    import natten

    found = {}
    if FILE.exists():
        with np.load(FILE) as data:
            found = dict(data)
    old = natten.__version__ < "0.20"
    for number, case in enumerate(CASES):
        if not old:
            found[f"{number:02}/out"] = _outputs(number)
        elif case.has_gradients:
            found[f"{number:02}/grads"] = _gradients(number).astype(np.float32)
    found["gradients' version" if old else "version"] = np.array(natten.__version__)
    np.savez_compressed(FILE, **dict(sorted(found.items())))
    print(FILE, FILE.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
