"""seq-JEPA: actions say how the gaze moved, the loss is the paper's, the answer depends on the action, the teacher is a moving average."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from suite3d.image.data.source import ViewGroup
from suite3d.methods.seq_jepa import SeqJEPA, SeqJEPAConfig, action_between
from tests.core.methods.joint import TWO, VIEW, batch, gradient_norm, resnet, trained, vit

FOUR = [ViewGroup(count=4, view=VIEW)]


def method(encoder=vit, **config):
    torch.manual_seed(0)
    sizes = {"views": 3, "action_dim": 16, "depth": 2, "heads": 2, "hidden": 32, "momentum": (0.9, 0.9)}
    return SeqJEPA(encoder(), SeqJEPAConfig(**(sizes | config)))


def test_actions_say_how_the_gaze_moved():
    data = batch(6, FOUR)
    found = action_between(data, 1, colours=True)
    now, then = data.views[1], data.views[2]
    for b in range(6):
        (top, left, height, width), (t, l, h, w) = now.boxes[b].tolist(), then.boxes[b].tolist()
        across = (l - left) / width
        if now.flips[b]:
            across = 1 - across - w / width
        geometry = [(t - top) / height, across, math.log(h / height), math.log(w / width), float(now.flips[b] != then.flips[b])]
        assert found[b, :5].tolist() == pytest.approx(geometry, abs=1e-5)
        assert torch.equal(found[b, 5:].view(3, 4), then.colors[b] - now.colors[b])
    assert torch.equal(action_between(data, 1, colours=False), found[:, :5])
    still = replace(data, views=[data.views[0]] * 2)
    torch.testing.assert_close(action_between(still, 0, colours=True), torch.zeros(6, 17))
    plain = replace(data, views=[replace(view, colors=None) for view in data.views])
    assert action_between(plain, 0, colours=True)[:, 5:].abs().sum() == 0


@torch.no_grad()
def test_loss_is_its_definition():
    model, data = method(), batch(5, FOUR)
    with torch.enable_grad():
        trained(model, data, steps=2)
    output, total = model(data), 0.0
    moves = [model.action(action_between(data, view, colours=True)) for view in range(3)]
    rows = []
    for b in range(5):
        tokens = [model.aggregate]
        for view in range(3):
            feature = model.encoder.encode(data.pixels(view)[b : b + 1])[0][0, 0]
            tokens.append(torch.cat((feature, moves[view][b] if view < 2 else model.no_action)) + model.places[view])
        x = torch.stack(tokens)[None]
        for block in model.blocks:
            x = block(x)
        rows.append(torch.cat((model.norm(x[0, 0]), moves[2][b])))
    predicted = model.predictor(torch.stack(rows)).double()  # its batch norm sees the batch
    for b in range(5):
        target = model.teacher.encode(data.pixels(3)[b : b + 1])[0][0, 0].double()
        total += (1 - float(predicted[b] @ target / predicted[b].norm() / target.norm())) / 5
    assert output.loss.item() == pytest.approx(total, abs=1e-5)
    assert output.features.shape == (15, 16)


@pytest.mark.parametrize("encoder", [vit, resnet])
def test_learns_and_repeats(encoder):
    data = batch(6, FOUR)
    assert gradient_norm(method(encoder), data) > 0
    losses = trained(method(encoder), data)
    assert losses[-1] < 0.5 * losses[0]
    assert losses[:3] == trained(method(encoder), data)[:3]


def test_every_action_matters_and_the_future_is_not_seen():
    model, data = method().eval(), batch(3, FOUR)
    loss = model(data).loss
    for view in (1, 3):
        moved = replace(data.views[view], boxes=data.views[view].boxes + torch.tensor([1, 0, 0, 0]))
        actions_only = replace(data, views=[moved if place == view else draw for place, draw in enumerate(data.views)])
        assert not torch.equal(action_between(actions_only, view - 1, colours=True), action_between(data, view - 1, colours=True))
    seen = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(0))
    moves = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(1), requires_grad=True)
    model.summary(seen, moves)[:, 0].sum().backward()  # the sum of a LayerNorm is constant
    assert (moves.grad.flatten(2).abs().amax(2) > 0).all()
    turned = model.summary(seen.flip(0), moves)
    assert not torch.allclose(turned, model.summary(seen, moves)), "the order counts"
    extra = replace(data, views=[*data.views, data.views[0]])
    assert model(extra).loss == loss, "views behind the predicted one are not read"


def test_teacher_moves_and_bad_input():
    model, data = method(), batch(4, FOUR)
    start = {name: value.clone() for name, value in model.teacher.named_parameters()}
    trained(model, data, steps=1)
    for name, value in model.teacher.named_parameters():
        torch.testing.assert_close(value, 0.9 * start[name] + 0.1 * model.encoder.get_parameter(name))
        assert value.grad is None
    with pytest.raises(ValueError, match="at least 4 views"):
        method()(batch(3, TWO))
    with pytest.raises(ValueError, match="multiple of heads"):
        method(heads=3)
    for bad in ({"views": 0}, {"depth": 0}, {"momentum": (1.0, 0.0)}):
        with pytest.raises(ValueError, match="expected"):
            SeqJEPAConfig(**bad)
