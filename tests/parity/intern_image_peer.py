"""InternImage and FlashInternImage in PyTorch, with the names of the authors' modules."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.functional import gelu, grid_sample


def aggregation(value, offset, weights, scale):
    """The definition, by `grid_sample`: 3x3 taps, along x first; value is [N, H, W, C].

    Args:
        offset: [N, H, W, groups, 9, 2], (x, y).
        weights: [N, H, W, groups, 9].
    """
    n, h, w, channels = value.shape
    groups = weights.shape[3]
    steps = torch.arange(-1, 2, dtype=value.dtype)
    taps = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1).reshape(9, 2)  # (x, y)
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    places = torch.stack([x, y], -1)[None, :, :, None, None] + scale * (taps + offset)
    places = 2 * places / torch.tensor([w - 1, h - 1]) - 1
    places = places.permute(0, 3, 1, 2, 4, 5).reshape(n * groups, h * w, 9, 2)
    images = value.permute(0, 3, 1, 2).reshape(n * groups, channels // groups, h, w)
    samples = grid_sample(images, places, padding_mode="zeros", align_corners=True)
    weights = weights.permute(0, 3, 1, 2, 4).reshape(n * groups, 1, h * w, 9)
    y = (samples * weights).sum(-1).reshape(n, channels, h, w)
    return y.permute(0, 2, 3, 1)


def norm(channels, place=0):
    """A layer normalization behind ``place`` modules without weights."""
    return nn.Sequential(*[nn.Identity()] * place, nn.LayerNorm(channels, eps=1e-6))


def channels_last(conv, x):
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def around(channels):
    """A 3x3 depthwise convolution."""
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels)


class DCNv3(nn.Module):
    def __init__(self, channels, groups, scale, **_):
        super().__init__()
        self.groups, self.scale = groups, scale
        self.dw_conv = nn.Sequential(around(channels), norm(channels, 1))
        self.offset = nn.Linear(channels, groups * 18)
        self.mask = nn.Linear(channels, groups * 9)
        self.input_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)

    def forward(self, x):
        features = gelu(self.dw_conv[1](channels_last(self.dw_conv[0], x)))
        offset = self.offset(features).unflatten(-1, (self.groups, 9, 2))
        weights = self.mask(features).unflatten(-1, (self.groups, 9)).softmax(-1)
        return self.output_proj(aggregation(self.input_proj(x), offset, weights, self.scale))


class DCNv4(nn.Module):
    def __init__(self, channels, groups, scale, depthwise):
        super().__init__()
        self.groups, self.scale = groups, scale
        if depthwise:
            self.offset_mask_dw = around(channels)
        self.offset_mask = nn.Linear(channels, math.ceil(groups * 27 / 8) * 8)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels, bias=False)

    def forward(self, x):
        made = channels_last(self.offset_mask_dw, x) if hasattr(self, "offset_mask_dw") else x
        made = self.offset_mask(made)[..., : self.groups * 27].unflatten(-1, (self.groups, 27))
        offset, weights = made[..., :18].unflatten(-1, (9, 2)), made[..., 18:]
        return self.output_proj(aggregation(self.value_proj(x), offset, weights, self.scale))


class Mlp(nn.Module):
    def __init__(self, channels, bias):
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels, bias=bias)

    def forward(self, x):
        return self.fc2(gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, channels, groups, plan):
        super().__init__()
        self.post_norm = plan["scaled"]
        core = DCNv4 if plan["flash"] else DCNv3
        self.norm1, self.norm2 = norm(channels), norm(channels)
        self.dcn = core(channels, groups, scale=plan["scale"], depthwise=plan["scaled"])
        self.mlp = Mlp(channels, not plan["flash"])
        if plan["scaled"]:
            self.gamma1 = nn.Parameter(torch.ones(channels))
            self.gamma2 = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        if self.post_norm:
            x = x + self.gamma1 * self.norm1(self.dcn(x))
            return x + self.gamma2 * self.norm2(self.mlp(x))
        x = x + self.dcn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Strided(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, 2, 1, bias=False)
        self.norm = norm(2 * channels, 1)

    def forward(self, x):
        return self.norm(channels_last(self.conv, x))


class Level(nn.Module):
    def __init__(self, channels, depth, plan, last):
        super().__init__()
        blocks = (Block(channels, channels // 16, plan) for _ in range(depth))
        self.blocks = nn.Sequential(*blocks)
        if not plan["scaled"]:
            self.norm = norm(channels)
        if not last:
            self.downsample = Strided(channels)

    def forward(self, x):
        x = self.blocks(x)
        x = self.norm(x) if hasattr(self, "norm") else x
        return self.downsample(x) if hasattr(self, "downsample") else x


class Stem(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels // 2, 3, 2, 1)
        self.norm1 = norm(channels // 2, 1)
        self.conv2 = nn.Conv2d(channels // 2, channels, 3, 2, 1)
        self.norm2 = norm(channels, 1)

    def forward(self, x):
        x = gelu(self.norm1(channels_last(self.conv1, x)))
        return self.norm2(channels_last(self.conv2, x))


class InternImage(nn.Module):
    """The authors' plan of T (with ``scaled=False``), S and B."""

    def __init__(self, channels, depths, *, flash=False, scaled=False, scale=1.0):
        super().__init__()
        plan = {"flash": flash, "scaled": scaled, "scale": scale}
        self.patch_embed = Stem(channels)
        self.levels = nn.Sequential(
            *(Level(channels * 2**i, depth, plan, i == 3) for i, depth in enumerate(depths))
        )
        width = channels * 12
        self.conv_head = nn.Sequential(
            nn.Conv2d(channels * 8, width, 1, bias=False), nn.Sequential(nn.BatchNorm2d(width))
        )
        self.head = nn.Linear(width, 1000)

    def forward(self, x):
        x = self.levels(self.patch_embed(x.permute(0, 2, 3, 1)))
        x = gelu(self.conv_head(x.permute(0, 3, 1, 2)))
        return self.head(x.mean((2, 3)))


T, S, B = (64, (4, 4, 18, 4)), (80, (4, 4, 21, 4)), (112, (4, 4, 21, 4))
PEERS = {
    "internimage_t": lambda: InternImage(*T),
    "internimage_s": lambda: InternImage(*S, scaled=True),
    "internimage_b": lambda: InternImage(*B, scaled=True),
    "flash_internimage_t": lambda: InternImage(*T, flash=True),
    "flash_internimage_s": lambda: InternImage(*S, flash=True, scaled=True),
    "flash_internimage_b": lambda: InternImage(*B, flash=True, scaled=True, scale=0.5),
}
