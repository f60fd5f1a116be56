"""The networks and their peers, with the same random weights, give the same logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.parity import peers
from tests.parity.cases import CASES, network
from tests.parity.recorded import record
from tests.parity.weights import random_image, random_weights
from tfconv.analysis import profile
from tfconv.surgery import load_torch_weights


@pytest.mark.parametrize("name", list(CASES))
def test_logits(name, tmp_path):
    """Through a file, as the public checkpoints come; and the record is the peer's still."""
    peer, model = peers.peer(name), network(name)
    recorded = record(name)
    assert recorded.shapes == peers.shapes(peer)
    state = random_weights(recorded.shapes, recorded.gain)
    image = random_image(model.input_shape[1])
    logits = peers.logits(peer, state, image)
    np.testing.assert_allclose(logits[0], recorded.logits, atol=1e-4 * np.abs(logits).max())
    file = tmp_path / f"{name}.pth"
    torch.save({"state_dict": peer.state_dict()}, file)
    report = load_torch_weights(model, file)
    assert not report.missing and not report.unused
    difference = np.abs(model(image, training=False) - logits)
    assert difference.max() <= 1e-4 * np.abs(logits).max()


# Bilinear sampling is no product there, and DCNv4's rows are rounded up.
@pytest.mark.parametrize("name", [n for n in CASES if not n.startswith(("deformable", "flash"))])
def test_multiply_adds(name):
    """As PyTorch counts those of its convolutions and matrix products: two operations each."""
    model = network(name)
    size = model.input_shape[1]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        peers.peer(name).eval()(torch.zeros(1, 3, size, size))
    found = profile(model)
    # An involution's own products are a sum over windows there, which PyTorch does not count.
    sums = [r for r in found.rows if r.kind in ("Involution2D", "DeformableAggregation2D")]
    own = sum(row.multiply_adds - row.weight_products for row in sums)
    assert found.multiply_adds - own == counter.get_total_flops() // 2
