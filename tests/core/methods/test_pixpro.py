"""PixPro: which places meet follows from boxes and mirror images, both losses are the paper's, the teacher is a moving average."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from suite3d.image.data.source import ViewGroup
from suite3d.methods.pixpro import PixPro, PixProConfig
from suite3d.methods.places import cell_centres, map_side, shared_places
from tests.core.methods.joint import VIEW, batch, gradient_norm, resnet, trained, vit

FAR = [ViewGroup(count=2, view=replace(VIEW, area=(0.1, 0.3)))]


def method(encoder=vit, **config):
    torch.manual_seed(0)
    return PixPro(encoder(), PixProConfig(**{"hidden": 16, "dim": 8} | config))


def centre(view, sample, row, column, side):
    """Of one cell, written out."""
    top, left, height, width = view.boxes[sample].tolist()
    column = side - 1 - column if view.flips[sample] else column
    return top + (row + 0.5) * height / side, left + (column + 0.5) * width / side


def near(data, sample, i, j, side, threshold=0.7):
    one, two = data.views
    a, b = centre(one, sample, i // side, i % side, side), centre(two, sample, j // side, j % side, side)
    diagonal = max(math.hypot(*view.boxes[sample, 2:].tolist()) / side for view in (one, two))
    return math.dist(a, b) <= threshold * diagonal


def test_places_meet_where_they_lie_in_the_picture():
    data, side = batch(6, FAR), 4
    found = shared_places(data, 0, 1, side, threshold=0.7)
    assert data.views[0].flips.any() and not data.views[0].flips.all()
    expected = [[[near(data, b, i, j, side) for j in range(16)] for i in range(16)] for b in range(6)]
    assert torch.equal(found, torch.tensor(expected)) and found.any() and not found.all()
    assert cell_centres(data.views[0], side)[2, 7].tolist() == pytest.approx(centre(data.views[0], 2, 1, 3, side))
    same = replace(data, views=[data.views[0], data.views[0]])
    assert shared_places(same, 0, 1, side, threshold=0.1).equal(torch.eye(16, dtype=torch.bool).expand(6, -1, -1))


@pytest.mark.parametrize("loss", ["propagation", "contrast"])
def test_loss_is_its_definition(loss):
    model, data = method(loss=loss), batch(4, FAR)
    for step in range(2):  # a teacher of its own
        trained(model, data, steps=2)
        model.after_step(step, 4)
    output = model(data)
    pixels = [data.pixels(view) for view in (0, 1)]
    x = [model.projector(model.encoder(view).flatten(0, 1)).unflatten(0, (4, 16)).detach().double() for view in pixels]
    keys = [model.teacher["projector"](model.teacher["encoder"](view).flatten(0, 1)).unflatten(0, (4, 16)).detach().double() for view in pixels]
    total, counted = 0.0, 0
    for b in range(4):
        pairs = [(i, j) for i in range(16) for j in range(16) if near(data, b, i, j, 4)]
        counted += bool(pairs)
        for own, other in ((0, 1), (1, 0)):
            met = [pair[::-1] if own else pair for pair in pairs]
            if not met:
                continue
            z = [row / row.norm() for row in x[own][b]]
            key = [row / row.norm() for row in keys[other][b]]
            if loss == "propagation":
                g = [model.transform(row.float()).detach().double() for row in x[own][b]]
                y = [sum(max(float(z[i] @ z[k]), 0) ** 2 * g[k] for k in range(16)) for i in range(16)]
                total -= sum(float(F.cosine_similarity(y[i], key[j], dim=0)) for i, j in met) / len(met)
            else:
                places = {i for i, _ in met}
                scores = [[math.exp(float(a @ c) / 0.3) for c in key] for a in z]
                own_sums = {i: sum(scores[i][j] for k, j in met if k == i) for i in places}
                total -= sum(math.log(own_sums[i] / sum(scores[i])) for i in places) / len(places) / 2
    assert output.loss.item() == pytest.approx(total / counted, abs=1e-5)
    assert float(output.metrics["crops_that_meet"]) == counted / 4
    assert output.features.shape == (8, 16) and not output.features.requires_grad


@pytest.mark.parametrize("encoder", [vit, resnet])
@pytest.mark.parametrize("loss", ["propagation", "contrast"])
def test_learns_and_repeats(encoder, loss):
    data = batch(6)
    assert gradient_norm(method(encoder, loss=loss), data) > 0
    losses = trained(method(encoder, loss=loss), data)
    assert losses[-1] < losses[0] - 0.1
    assert losses[:3] == trained(method(encoder, loss=loss), data)[:3]


def test_teacher_is_the_average_and_is_kept():
    model, data = method(momentum=(0.9, 1.0)), batch(4)
    before = {name: value.clone() for name, value in model.teacher.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(data).loss.backward()
    optimizer.step()
    assert all(parameter.grad is None for parameter in model.teacher.parameters())
    model.after_step(0, 10)
    student = {f"encoder.{name}": value for name, value in model.encoder.named_parameters()}
    student |= {f"projector.{name}": value for name, value in model.projector.named_parameters()}
    for name, value in model.teacher.named_parameters():
        torch.testing.assert_close(value, 0.9 * before[name] + 0.1 * student[name])
    frozen = {name: value.clone() for name, value in model.teacher.named_parameters()}
    model.after_step(9, 10)
    assert all(torch.equal(value, frozen[name]) for name, value in model.teacher.named_parameters()), "momentum 1 at the last step"
    assert any(name.startswith("teacher.encoder") for name in model.state_dict())


def test_crops_that_do_not_meet_give_no_loss_and_bad_settings_are_refused():
    model, data = method(), batch(2)
    apart = [replace(view, boxes=torch.tensor([[0, 16 * place, 8, 8]] * 2)) for place, view in enumerate(data.views)]
    output = model(replace(data, views=apart))
    assert output.loss.item() == 0 and float(output.metrics["crops_that_meet"]) == 0
    output.loss.backward()
    for bad in ({"temperature": 0}, {"threshold": 0}, {"transforms": -1}, {"momentum": (1.0, 0.9)}):
        with pytest.raises(ValueError, match="expected|must"):
            PixProConfig(**bad)
    with pytest.raises(ValueError, match="square feature map"):
        map_side(15)
    pair = replace(data, views=[data.views[0], replace(data.views[1], picture=1)])
    with pytest.raises(ValueError, match="no common frame"):
        shared_places(pair, 0, 1, 4, threshold=0.7)
