"""Records what the peers make of random weights and one image, into tests/data/parity.

    python -m tests.parity.record [case ...]

Needs PyTorch, torchvision and timm. A record holds the keys and shapes of the peer's weights, the
gain of its random weights, and the logits: tests/parity/weights.py makes the same weights again.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch

from tests.parity import peers, recorded
from tests.parity.cases import CASES, network
from tests.parity.weights import random_image, random_weights

GAINS = (0.7, 1.0, 1.2, 1.3, 1.4, 1.7)


def influence(peer: torch.nn.Module, gain: float) -> float:
    """How much other logits would be if the weight that matters least were another one.

    That is to say, to the first order, with its values exchanged at random.
    """
    state = random_weights(peers.shapes(peer), gain)
    logits = peers.logits(peer, state, random_image(96))
    with torch.enable_grad():
        x = torch.from_numpy(random_image(96)).permute(0, 3, 1, 2)
        direction = torch.from_numpy(np.random.RandomState(0).standard_normal(logits.shape))
        total = (peer(x) * direction.float()).sum()
        weights = list(peer.parameters())
        slopes = torch.autograd.grad(total, weights)
    changes = [(s * w).detach().norm().item() for s, w in zip(slopes, weights)]
    least = min(changes) / float(np.linalg.norm(logits))
    return least if np.isfinite(least) else 0.0


def record(name: str) -> None:
    """Writes the record of a case."""
    peer = peers.peer(name)
    influences = {gain: influence(peer, gain) for gain in GAINS}
    gain = max(influences, key=influences.get)
    shapes = peers.shapes(peer)
    image = random_image(network(name).input_shape[1])
    logits = peers.logits(peer, random_weights(shapes, gain), image)
    print(f"{name}: gain {gain}, least influence of a weight {influences[gain]:.1e}", flush=True)
    recorded.FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(
        recorded.FOLDER / f"{name}.npz",
        shapes=json.dumps(shapes),
        gain=gain,
        logits=logits[0],
    )


if __name__ == "__main__":
    for case in sys.argv[1:] or CASES:
        record(case)
