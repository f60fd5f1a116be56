"""The authors' own InternImage and FlashInternImage, from checkouts of their repositories.

`TFCONV_INTERNIMAGE` names one of OpenGVLab/InternImage, `TFCONV_DCNV4` one of OpenGVLab/DCNv4.
Their modules run as they are. What they import is stood in for where it needs a GPU: DCNv3 has a
form of its own in PyTorch, and the one function that is called of DCNv4's extension is its
definition here.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from pathlib import Path
from unittest import mock

import torch

from tests.parity.intern_image_peer import aggregation

# By their configs/*_1k_224.yaml.
T = {"channels": 64, "depths": [4, 4, 18, 4], "groups": [4, 8, 16, 32]}
SCALED = {"depths": [4, 4, 21, 4], "layer_scale": 1e-5, "post_norm": True}
S = {"channels": 80, "groups": [5, 10, 20, 40], **SCALED}
B = {"channels": 112, "groups": [7, 14, 28, 56], **SCALED}
PLANS = {
    "internimage_t": {**T, "offset_scale": 1.0},
    "internimage_s": {**S, "offset_scale": 1.0},
    "internimage_b": {**B, "offset_scale": 1.0},
    "flash_internimage_t": {**T, "offset_scale": 1.0},
    "flash_internimage_s": {**S, "offset_scale": 1.0, "dw_kernel_size": 3},
    "flash_internimage_b": {**B, "offset_scale": 0.5, "dw_kernel_size": 3},
}


def checkout(variable: str) -> Path | None:
    """The folder that an environment variable names."""
    return Path(os.environ[variable]) if os.environ.get(variable) else None


def _stub(name: str, **members: object) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__.update(members)
    return module


FORGOTTEN = ("models", "ops_dcnv3", "DCNv3", "DCNv4", "pkg_resources")


def _imported(name: str, folders: list[Path], stubs: list[types.ModuleType]) -> types.ModuleType:
    """A module of these folders, imported beside stubs; all of them are forgotten behind it."""
    known = dict(sys.modules)
    with mock.patch.object(sys, "path", [*map(str, folders), *sys.path]):
        sys.modules.update({stub.__name__: stub for stub in stubs})
        try:
            return importlib.import_module(name)
        finally:
            for found in list(sys.modules):
                if found.partition(".")[0] in FORGOTTEN:
                    del sys.modules[found]
            sys.modules.update({key: known[key] for key in known if key not in sys.modules})


def _of_v3() -> list[types.ModuleType]:
    version = types.SimpleNamespace(version=1.1)
    return [_stub("DCNv3"), _stub("pkg_resources", get_distribution=lambda _: version)]


def modules_v3() -> types.ModuleType:
    """Their module of `InternImage`, with `opsm.DCNv3_pytorch`."""
    return _imported(
        "models.intern_image", [checkout("TFCONV_INTERNIMAGE") / "classification"], _of_v3()
    )


def modules_v4() -> types.ModuleType:
    """Their module of `FlashInternImage`, with `DCNv4.DCNv4`."""
    root = checkout("TFCONV_DCNV4")
    extension = _stub("DCNv4.ext", dcnv4_forward=_definition)
    folders = [root / "classification", root / "DCNv4_op"]
    device = types.SimpleNamespace(major=8, minor=0)  # one whose shared memory they know
    with mock.patch.object(torch.cuda, "get_device_properties", lambda _: device):
        return _imported("models.flash_intern_image", folders, [extension, *_of_v3()])


def network(name: str) -> torch.nn.Module:
    """Their network of a case of ours."""
    if name.startswith("flash"):
        return modules_v4().FlashInternImage(**PLANS[name])
    return modules_v3().InternImage(core_op="DCNv3_pytorch", **PLANS[name])


def _definition(value, made, *arguments):
    """DCNv4's forward: of each group the offsets and then the weights of its taps, x first."""
    assert arguments[:8] == (3, 3, 1, 1, 1, 1, 1, 1), arguments  # taps, strides, pads, dilations
    groups, _, scale, _, without_centre, *_ = arguments[8:]
    taps = 9 - without_centre
    made = made[..., : groups * taps * 3].unflatten(-1, (groups, taps * 3))
    offset, weights = made[..., : taps * 2].unflatten(-1, (taps, 2)), made[..., taps * 2 :]
    if without_centre:
        zeros = [torch.zeros_like(t[:, :, :, :, :1]) for t in (offset, weights)]
        offset, weights = (
            torch.cat([t[:, :, :, :, :4], zero, t[:, :, :, :, 4:]], dim=4)
            for t, zero in zip((offset, weights), zeros)
        )
    return aggregation(value, offset, weights, scale)
