"""RotNet: the loss is the cross-entropy of the four turns of every picture, and the turns are quarter turns."""

from __future__ import annotations

import math

import pytest
import torch

from suite3d.image.data.source import ViewGroup
from suite3d.methods.rotnet import RotNet, all_turns
from tests.core.methods.joint import VIEW, batch, gradient_norm, resnet, trained, vit

ENCODERS = {"vit": vit, "resnet": resnet}
ONE = [ViewGroup(view=VIEW)]


def method(kind="vit"):
    torch.manual_seed(0)
    return RotNet(ENCODERS[kind]())


def test_turns_are_counter_clockwise():
    pixels = torch.arange(4.0).view(1, 1, 2, 2)  # [[0, 1], [2, 3]]
    turned, turns = all_turns(pixels)
    assert turned[:, 0].tolist() == [[[0, 1], [2, 3]], [[1, 3], [0, 2]], [[3, 2], [1, 0]], [[2, 0], [3, 1]]]
    assert turns.tolist() == [0, 1, 2, 3]
    assert all_turns(torch.zeros(2, 3, 4, 4))[1].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_loss_is_its_definition():
    model, data = method(), batch(5, ONE)
    output = model(data)
    total, right = 0.0, 0
    for picture in data.pixels():
        for turn in range(4):
            logits = model.head(model.encoder.encode(picture.rot90(turn, (1, 2))[None])[0][:, 0])[0].detach().tolist()
            total += (math.log(sum(map(math.exp, logits))) - logits[turn]) / 20
            right += logits[turn] == max(logits)
    assert output.loss.item() == pytest.approx(total, abs=1e-5)
    assert output.metrics["accuracy"].item() == pytest.approx(right / 20)
    assert output.features.shape == (20, 16) and not output.features.requires_grad
    assert output.visuals()["turns"].ndim == 3


@pytest.mark.parametrize("kind", ENCODERS)
def test_learns_and_repeats(kind):
    data = batch(6, ONE)
    assert gradient_norm(method(kind), data) > 0
    losses = trained(method(kind), data, steps=30)
    assert losses[-1] < 0.8 * losses[0]
    assert trained(method(kind), data, steps=4) == losses[:4]


def test_bad_input_is_refused():
    assert torch.isfinite(method()(batch(1, ONE)).loss), "one picture is enough: nothing is compared"
    with pytest.raises(ValueError, match="square"):
        all_turns(torch.zeros(1, 3, 4, 5))
