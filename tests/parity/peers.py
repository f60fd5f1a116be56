"""The networks' peers in PyTorch: torchvision's and timm's, and those that no package holds."""

from __future__ import annotations

import timm
import torch
import torchvision
from torch import nn
from torch.nn.functional import avg_pool2d, unfold

from tests.parity import intern_image_peer


def _conv(inputs, outputs, size, stride=1):
    """What mmcv calls ConvModule."""
    parts = nn.Sequential()
    parts.add_module("conv", nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False))
    parts.add_module("bn", nn.BatchNorm2d(outputs))
    parts.add_module("relu", nn.ReLU())
    return parts


class Involution(nn.Module):
    """The definition, with the names of the authors' modules."""

    def __init__(self, channels, stride, size):
        super().__init__()
        self.size, self.stride, self.groups = size, stride, channels // 16
        self.conv1 = _conv(channels, channels // 4, 1)
        self.conv2 = nn.Sequential()
        self.conv2.add_module("conv", nn.Conv2d(channels // 4, size**2 * self.groups, 1))

    def forward(self, x):
        pooled = avg_pool2d(x, self.stride, self.stride)
        kernel = self.conv2(self.conv1(pooled))
        n, _, h, w = kernel.shape
        windows = unfold(x, self.size, padding=self.size // 2, stride=self.stride)
        windows = windows.view(n, self.groups, 16, self.size**2, h, w)
        kernel = kernel.view(n, self.groups, 1, self.size**2, h, w)
        return (kernel * windows).sum(3).view(n, -1, h, w)


class Deformable(nn.Conv2d):
    """mmcv's ModulatedDeformConv2dPack, or DeformConv2dPack, on torchvision's op."""

    def __init__(self, channels, stride, modulated):
        super().__init__(channels, channels, 3, stride, 1, bias=False)
        self.modulated = modulated
        self.conv_offset = nn.Conv2d(channels, 27 if modulated else 18, 3, stride, 1)

    def forward(self, x):
        made = self.conv_offset(x)
        mask = torch.sigmoid(made[:, 18:]) if self.modulated else None
        return torchvision.ops.deform_conv2d(
            x, made[:, :18], self.weight, None, self.stride, self.padding, mask=mask
        )


class RedNet(torchvision.models.ResNet):
    """torchvision's plan with involutions and the authors' stem."""

    def __init__(self, depths):
        super().__init__(torchvision.models.resnet.Bottleneck, depths)
        _replace_middles(self, Involution, (7,), stages=(1, 2, 3, 4))
        self.stem = nn.Sequential(
            _conv(3, 32, 3, 2),
            Involution(32, 1, 3),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            _conv(32, 64, 3),
        )
        del self.conv1, self.bn1

    def forward(self, x):
        x = self.maxpool(self.stem(x))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def _replace_middles(model, make, arguments, stages):
    """Puts other layers in the place of the 3x3 convolutions of some stages."""
    for stage in stages:
        for block in getattr(model, f"layer{stage}"):
            block.conv2 = make(block.conv2.in_channels, block.conv2.stride[0], *arguments)
    return model


def deformable_resnet50(modulated):
    return _replace_middles(
        torchvision.models.resnet50(), Deformable, (modulated,), stages=(2, 3, 4)
    )


class ShuffleUnit(nn.Module):
    """The unit of ShuffleNet v1 with the names of the authors' modules."""

    def __init__(self, inputs, outputs, groups, first_groups, stride):
        super().__init__()
        self.groups, self.stride, middle = groups, stride, outputs // 4
        made = outputs - inputs if stride == 2 else outputs
        self.branch_main_1 = nn.Sequential(
            nn.Conv2d(inputs, middle, 1, groups=first_groups, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False),
            nn.BatchNorm2d(middle),
        )
        self.branch_main_2 = nn.Sequential(
            nn.Conv2d(middle, made, 1, groups=groups, bias=False), nn.BatchNorm2d(made)
        )

    def forward(self, x):
        made = nn.functional.channel_shuffle(self.branch_main_1(x), self.groups)
        made = self.branch_main_2(made)
        if self.stride == 1:
            return torch.relu(x + made)
        return torch.cat([avg_pool2d(x, 3, 2, 1), torch.relu(made)], 1)


class ShuffleNetV1(nn.Module):
    """The authors' plan, at width 1."""

    def __init__(self, groups, channels):
        super().__init__()
        self.first_conv = nn.Sequential(
            nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU()
        )
        units, inputs = [], 24
        for outputs, depth in zip(channels, (4, 8, 4)):
            for number in range(depth):
                first_groups = groups if units else 1
                stride = 1 if number else 2
                units.append(ShuffleUnit(inputs, outputs, groups, first_groups, stride))
                inputs = outputs
        self.features = nn.Sequential(*units)
        self.classifier = nn.Sequential(nn.Linear(inputs, 1000, bias=False))

    def forward(self, x):
        x = nn.functional.max_pool2d(self.first_conv(x), 3, 2, 1)
        return self.classifier(self.features(x).mean((2, 3)))


OWN = {
    **intern_image_peer.PEERS,
    "rednet26": lambda: RedNet((1, 2, 4, 1)),
    "rednet50": lambda: RedNet((3, 4, 6, 3)),
    "deformable_resnet50": lambda: deformable_resnet50(True),
    "deformable_resnet50_v1": lambda: deformable_resnet50(False),
    "shufflenet_v1_g3": lambda: ShuffleNetV1(3, (240, 480, 960)),
    "shufflenet_v1_g8": lambda: ShuffleNetV1(8, (384, 768, 1536)),
    "googlenet": lambda: torchvision.models.googlenet(aux_logits=False, init_weights=False),
}


def peer(name):
    """The peer of a case: one of the above, torchvision's of this name, or timm's."""
    if name in OWN:
        return OWN[name]()
    return getattr(torchvision.models, name, lambda: timm.create_model(name))()


def shapes(peer):
    """The shapes of a peer's weights by their keys."""
    return {key: tuple(value.shape) for key, value in peer.state_dict().items()}


def logits(peer, state, image):
    """What a peer with the weights of a state dict makes of [N, H, W, C]."""
    peer.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    with torch.no_grad():
        return peer.eval()(torch.from_numpy(image).permute(0, 3, 1, 2)).numpy()
