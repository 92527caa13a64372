"""SALT: the teacher stays what it was, and the rest is V-JEPA's objective."""

from __future__ import annotations

import copy

import pytest
import torch

from suite3d.nn.predictor import LatentPredictor
from suite3d.video.methods.salt import SALT
from suite3d.video.methods.vjepa import VJEPA
from tests.core.nn.test_predictor import shaken
from tests.video.methods.clips import batch, encoder
from tests.video.methods.test_vjepa import GRID, student


def predictor(width):
    return LatentPredictor(24, width, GRID, dim=24, depth=1, heads=2)


def test_loss_is_v_jepas_with_that_teacher():
    torch.manual_seed(0)
    jepa = shaken(VJEPA(student(), predictor(24)))
    salt = SALT(jepa.student, jepa.predictor, jepa.encoder)
    clips = batch(3)
    assert torch.equal(salt(clips).loss, jepa(clips).loss)


def test_teacher_may_be_another_transformer_and_never_moves():
    torch.manual_seed(0)
    model, clips = SALT(student(), predictor(48), encoder()), batch(2)
    before = copy.deepcopy(model.teacher.state_dict())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for _ in range(25):
        loss = model(clips).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in model.teacher.state_dict().items())
    assert not model.train().teacher.training and model.encoder.training
    assert not hasattr(model, "after_step")
    assert any(name.startswith("teacher.") for name in model.state_dict()), "a resume needs no other file"


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="same clip"):
        SALT(student(), predictor(48), encoder(clip=(8, 32, 32)))
    with pytest.raises(ValueError, match="channels of the teacher"):
        SALT(student(), predictor(24), encoder())
