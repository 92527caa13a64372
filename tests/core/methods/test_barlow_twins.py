"""Barlow Twins: the loss is the paper's on the correlations of the channels, entry by entry."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from suite3d.image.data.source import ViewGroup
from suite3d.methods.barlow_twins import BarlowTwins, BarlowTwinsConfig
from tests.core.methods.joint import VIEW, batch, gradient_norm, resnet, trained, vit

ENCODERS = {"vit": vit, "resnet": resnet}


def method(encoder=vit, **config):
    torch.manual_seed(0)
    return BarlowTwins(encoder(), BarlowTwinsConfig(**({"hidden": 16, "dim": 8} | config)))


def test_loss_is_its_definition():
    model, data = method(redundancy=0.1), batch(7)
    output = model(data)
    pixels = torch.cat((data.pixels(0), data.pixels(1)))
    first, second = model.projector(model.encoder.encode(pixels)[0][:, 0]).detach().double().numpy().reshape(2, 7, 8)
    expected = 0.0
    for c in range(8):
        for d in range(8):
            a, b = first[:, c] - first[:, c].mean(), second[:, d] - second[:, d].mean()
            correlation = (a * b).mean() / np.sqrt(((a**2).mean() + 1e-5) * ((b**2).mean() + 1e-5))
            expected += (1 - correlation) ** 2 if c == d else 0.1 * correlation**2
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)
    own = [np.corrcoef(first[:, c], second[:, c])[0, 1] for c in range(8)]
    assert output.metrics["own_correlation"].item() == pytest.approx(np.mean(own), abs=1e-4)
    assert output.features.shape == (14, 16) and not output.features.requires_grad


def test_views_that_agree_leave_only_redundancy():
    model, data = method(redundancy=0.0), batch(7)
    data.views[1] = data.views[0]
    assert model(data).loss.item() < 1e-3 * method()(batch(7)).loss.item()


@pytest.mark.parametrize("kind", ENCODERS)
def test_learns_and_repeats(kind):
    data = batch(12)
    assert gradient_norm(method(ENCODERS[kind]), data) > 0
    losses = trained(method(ENCODERS[kind]), data)
    assert losses[-1] < 0.7 * losses[0]
    assert trained(method(ENCODERS[kind]), data, steps=4) == losses[:4]


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least two samples"):
        method()(batch(1))
    with pytest.raises(ValueError, match="2 views"):
        method()(batch(4, [ViewGroup(view=VIEW)]))
    with pytest.raises(ValueError, match="redundancy"):
        BarlowTwinsConfig(redundancy=-1.0)
