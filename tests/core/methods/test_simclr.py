"""SimCLR: the loss is the paper's on the pooled features of the two views, DCL leaves the positive out of the sum."""

from __future__ import annotations

import math

import pytest
import torch

from suite3d.image.data.source import ViewGroup
from suite3d.methods.simclr import SimCLR, SimCLRConfig
from tests.core.methods.joint import VIEW, batch, gradient_norm, resnet, trained, vit

ENCODERS = {"vit": vit, "resnet": resnet}


def method(encoder=vit, **config):
    torch.manual_seed(0)
    return SimCLR(encoder(), SimCLRConfig(**{"hidden": 16, "dim": 8, "temperature": 0.2} | config))


def definition(z, temperature, decoupled):
    """Equation 1 of SimCLR, or equation 6 of DCL, anchor by anchor, for rows z: first views, then second."""
    rows = [row / row.norm() for row in z.detach().double()]
    count, total = len(rows), 0.0
    for i, anchor in enumerate(rows):
        partner = (i + count // 2) % count
        others = [k for k in range(count) if k != i and not (decoupled and k == partner)]
        scores = sum(math.exp(float(anchor @ rows[k]) / temperature) for k in others)
        total += math.log(scores) - float(anchor @ rows[partner]) / temperature
    return total / count


@pytest.mark.parametrize("loss", ["nt_xent", "decoupled"])
def test_loss_is_its_definition(loss):
    model, data = method(loss=loss), batch(5)
    output = model(data)
    pixels = torch.cat((data.pixels(0), data.pixels(1)))
    z = model.projector(model.encoder.encode(pixels)[0][:, 0])
    assert output.loss.item() == pytest.approx(definition(z, 0.2, loss == "decoupled"), abs=1e-5)
    assert output.features.shape == (10, 16) and not output.features.requires_grad


@pytest.mark.parametrize("kind", ENCODERS)
def test_learns_and_repeats(kind):
    data = batch()
    assert gradient_norm(method(ENCODERS[kind]), data) > 0
    losses = trained(method(ENCODERS[kind]), data)
    assert losses[-1] < 0.7 * losses[0]
    assert losses == trained(method(ENCODERS[kind]), data), "the same seed, the same losses"


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least two samples"):
        method()(batch(1))
    with pytest.raises(ValueError, match="2 views"):
        method()(batch(4, [ViewGroup(view=VIEW)]))
    with pytest.raises(ValueError, match="temperature"):
        SimCLRConfig(temperature=0)
