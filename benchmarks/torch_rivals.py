"""Rivals made with PyTorch, for stride 1.

They get channels-first tensors: nothing is converted on the clock.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torchvision
from torch.nn import functional

from benchmarks.cases import INPUTS, Case, Rival


def _unfold(case: Case, x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """The portable form of the involution paper's repository."""
    n, groups, taps, height, width = kernel.shape
    pixels = functional.unfold(x, case.kernel, padding=case.kernel // 2)
    pixels = pixels.view(n, groups, case.group_channels, taps, height, width)
    y = (kernel.unsqueeze(2) * pixels).sum(dim=3)
    return y.view(n, case.channels, height, width)


def _attention(case: Case, query: torch.Tensor, key: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Windows of keys and values side by side, as those write it who have no kernel for it."""
    n, channels, height, width = query.shape
    heads, taps = channels // case.group_channels, case.kernel**2

    def windows(image: torch.Tensor) -> torch.Tensor:
        pixels = functional.unfold(image, case.kernel, padding=case.kernel // 2)
        return pixels.view(len(image), -1, case.group_channels, taps, height, width)

    query = query.view(n, heads, case.group_channels, 1, height, width)
    logits = (query * windows(key)).sum(dim=2) / case.group_channels**0.5
    outside = windows(torch.ones(1, case.group_channels, height, width))[:, :, 0] == 0
    weights = torch.softmax(logits.masked_fill(outside, -torch.inf), dim=2)
    return (weights.unsqueeze(2) * windows(x)).sum(dim=3).reshape(n, channels, height, width)


def _grid_sample(
    case: Case, x: torch.Tensor, offset: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """All samples side by side, as the papers' repositories have it where there is no CUDA."""
    n, channels, height, width = x.shape
    parts, taps = n * channels // case.group_channels, case.kernel**2
    moved = offset.view(parts, taps, 2, height, width)
    tap = torch.arange(taps).view(taps, 1, 1)
    rows = torch.arange(height).view(height, 1) + tap // case.kernel - case.kernel // 2
    columns = torch.arange(width) + tap % case.kernel - case.kernel // 2
    # PyTorch wants the image from -1 to 1, with pixels' middles inside.
    places = [
        (2 * (moved[:, :, 1] + columns) + 1) / width - 1,
        (2 * (moved[:, :, 0] + rows) + 1) / height - 1,
    ]
    pixels = functional.grid_sample(
        x.view(parts, case.group_channels, height, width),
        torch.stack(places, dim=-1).view(parts, taps * height, width, 2),
        align_corners=False,
    )
    pixels = pixels.view(parts, case.group_channels, taps, height, width)
    return (pixels * weights.view(parts, 1, taps, height, width)).sum(dim=2).view(x.shape)


def _deform_conv2d(
    case: Case, x: torch.Tensor, offset: torch.Tensor, kernel: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    return torchvision.ops.deform_conv2d(x, offset, kernel, padding=case.kernel // 2, mask=mask)


def _groups(case: Case, x: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """The batch's examples as groups of one convolution."""
    n, channels, height, width = x.shape
    y = functional.conv2d(
        x.reshape(1, n * channels, height, width),
        kernels.reshape(-1, *kernels.shape[2:]),
        padding=case.kernel // 2,
        groups=n,
    )
    return y.view(n, channels, height, width)


def _condconv_groups(
    case: Case, x: torch.Tensor, experts: torch.Tensor, routing: torch.Tensor
) -> torch.Tensor:
    kernels = torch.matmul(routing, experts.view(len(experts), -1))
    return _groups(case, x, kernels.view(-1, *experts.shape[1:]))


PEERS = {
    ("torch unfold", "involution"): _unfold,
    ("torch, windows unfolded", "attention"): _attention,
    ("torch grid_sample", "aggregation"): _grid_sample,
    ("torchvision deform_conv2d", "deformable"): _deform_conv2d,
    ("torch, batch in groups", "per_example"): _groups,
    ("torch, batch in groups", "condconv"): _condconv_groups,
}

# Axes in PyTorch's order, by input.
ORDERS = {
    "x": (0, 3, 1, 2),
    "query": (0, 3, 1, 2),
    "key": (0, 3, 1, 2),
    "position_kernels": (0, 3, 4, 1, 2),
    "group_offset": (0, 3, 1, 2),
    "group_weights": (0, 3, 1, 2),
    "offset": (0, 3, 1, 2),
    "mask": (0, 3, 1, 2),
    "kernel": (3, 2, 0, 1),
    "kernels": (0, 4, 3, 1, 2),
    "experts": (0, 4, 3, 1, 2),
    "routing": (0, 1),
    "y": (0, 3, 1, 2),
}


class Engine:
    """Prepares rivals; one to a process, because the number of threads is."""

    def __init__(self, threads: int):
        torch.set_num_threads(threads)
        torch.set_num_interop_threads(threads)
        self.description = f"PyTorch {torch.__version__}, torchvision {torchvision.__version__}"

    def prepare(self, rival: Rival) -> Callable[[], list[torch.Tensor]]:
        """What computes the output and, for a backward pass, then the inputs' gradients."""
        case, function = rival.case, PEERS[rival.name, rival.case.family]
        inputs = [
            torch.from_numpy(np.ascontiguousarray(case.array(name).transpose(ORDERS[name])))
            for name in INPUTS[case.family]
        ]

        def forward():
            with torch.no_grad():
                return [function(case, *inputs)]

        def step():
            y = function(case, *inputs)
            return [y.detach(), *torch.autograd.grad(y, inputs, y.detach())]

        for tensor in inputs:
            tensor.requires_grad_(case.backward)
        return step if case.backward else forward

    def results(self, rival: Rival) -> dict[str, np.ndarray]:
        """The output as "y" and the gradients by input, with their axes as the case has them."""
        names = ("y", *INPUTS[rival.case.family])
        return {
            name: tensor.numpy().transpose(np.argsort(ORDERS[name]))
            for name, tensor in zip(names, self.prepare(rival)())
        }
