"""SlotCon: the shared region is the same spot in both crops, both losses are the paper's, the teacher and its centre move."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from suite3d.methods.places import cell_centres
from suite3d.methods.slotcon import SlotCon, SlotConConfig, shared_boxes, shared_region
from tests.core.methods.joint import batch, gradient_norm, resnet, trained, vit


def method(encoder=vit, **config):
    torch.manual_seed(0)
    return SlotCon(encoder(), SlotConConfig(**{"groups": 6, "hidden": 16, "dim": 8, "momentum": (0.9, 1.0)} | config))


def test_shared_regions_are_the_same_spot():
    """A map that holds where each place lies in the picture reads the same in both crops, mirrored or not."""
    data, side = batch(8), 16
    (first, second), meet = shared_boxes(data)
    assert data.views[0].flips.any() and data.views[1].flips.any() and meet.all()
    one, two = (shared_region(cell_centres(view, side), box, view.flips).unflatten(1, (side, side)) for view, box in zip(data.views, (first, second)))
    torch.testing.assert_close(one[:, 2:-2, 2:-2], two[:, 2:-2, 2:-2], atol=0.35, rtol=0)  # bilinear is exact but at the border
    for b in range(8):
        boxes = [view.boxes[b].tolist() for view in data.views]
        top, left = max(box[0] for box in boxes), max(box[1] for box in boxes)
        bottom, right = min(box[0] + box[2] for box in boxes), min(box[1] + box[3] for box in boxes)
        assert one[b, 8, 8].tolist() == pytest.approx([top + 8.5 / side * (bottom - top), left + 8.5 / side * (right - left)], abs=0.2)


def reference(model, data):
    """Equations 2 to 7, picture by picture; scores are cut with the function tested above."""
    group, slot = 0.0, 0.0
    parts = []
    for branch in (model, model.teacher):
        get = (lambda name, branch=branch: branch[name]) if branch is model.teacher else (lambda name: getattr(model, name))
        for view in (0, 1):
            z = get("projector")(get("encoder")(data.pixels(view)).flatten(0, 1)).unflatten(0, (len(data), -1)).double()
            directions = get("prototypes").weight.double()
            scores = torch.stack([torch.stack([torch.stack([torch.cosine_similarity(p, s, dim=0) for s in directions]) for p in rows]) for rows in z])
            parts.append((z, scores))
    boxes, _ = shared_boxes(data)
    cut = [shared_region(parts[n][1].float(), boxes[n % 2], data.views[n % 2].flips).double() for n in range(4)]
    centre = model.centre.value.double()
    for own, other in ((0, 3), (1, 2)):
        p = ((cut[other] - centre) / 0.07).softmax(2)
        group -= float((p * (cut[own] / 0.1).log_softmax(2)).sum(2).mean()) / 2
        found = []
        for n in (own, other):
            z, scores = parts[n]
            a = (scores / 0.07).softmax(2)
            pooled = [[sum(a[b, i, k] * z[b, i] for i in range(16)) for k in range(6)] for b in range(len(data))]
            pooled = torch.stack([torch.stack([row / row.norm() for row in rows]) for rows in pooled])
            found.append((pooled, [[bool((scores[b].argmax(1) == k).any()) for k in range(6)] for b in range(len(data))]))
        (queries, occurs), (keys, key_occurs) = found
        guessed = model.predictor(queries.float().flatten(0, 1)).double().unflatten(0, queries.shape[:2])
        present = [(b, k) for b in range(len(data)) for k in range(6) if key_occurs[b][k]]
        losses = []
        for b, k in present:
            if occurs[b][k]:
                q = guessed[b, k] / guessed[b, k].norm()
                scored = {place: math.exp(float(q @ keys[place]) / 0.2) for place in present}
                losses.append(-math.log(scored[b, k] / sum(scored.values())))
        slot += sum(losses) / len(losses) / 2
    return group, slot


@torch.no_grad()
def test_loss_is_its_definition():
    model, data = method(group_weight=0.3), batch(3)
    with torch.enable_grad():
        trained(model, data, steps=2)
    group, slot = reference(model, data)
    output = model(data)
    assert float(output.metrics["group_loss"]) == pytest.approx(group, abs=1e-5)
    assert float(output.metrics["slot_loss"]) == pytest.approx(slot, abs=1e-5)
    assert output.loss.item() == pytest.approx(0.3 * group + 0.7 * slot, abs=1e-5)
    assert output.features.shape == (6, 16)


@pytest.mark.parametrize("encoder", [vit, resnet])
def test_learns_and_repeats(encoder):
    data = batch(6)
    assert gradient_norm(method(encoder), data) > 0
    losses = trained(method(encoder), data)
    assert losses[-1] < 0.9 * losses[0]
    assert losses[:3] == trained(method(encoder), data)[:3]


def test_teacher_and_centre_move_and_are_kept():
    model, data = method(), batch(4)
    start = {name: value.clone() for name, value in model.teacher.named_parameters()}
    trained(model, data, steps=1)  # momentum of the only step: that of the first
    followed = dict(torch.nn.ModuleDict(model._followed()).named_parameters())
    for name, value in model.teacher.named_parameters():
        torch.testing.assert_close(value, 0.9 * start[name] + 0.1 * followed[name])
        assert value.grad is None
    assert model.centre.value.abs().max() > 0
    assert {"centre.value", "teacher.prototypes.weight", "teacher.encoder.norm.weight"} <= model.state_dict().keys()


def test_crops_that_do_not_meet_and_bad_settings():
    model, data = method(), batch(3)
    apart = [replace(view, boxes=torch.tensor([[0, 12 * place, 8, 8]] * 3)) for place, view in enumerate(data.views)]
    output = model(replace(data, views=apart))
    output.loss.backward()
    assert float(output.metrics["group_loss"]) == 0 and output.loss.isfinite() and float(output.metrics["crops_that_meet"]) == 0
    for bad in ({"groups": 1}, {"group_weight": 2.0}, {"slot_temperature": 0}, {"momentum": (1.0, 0.5)}):
        with pytest.raises(ValueError):
            SlotConConfig(**bad)


def test_groups_are_drawn():
    output = method()(batch(5))
    (picture,) = output.visuals().values()
    assert picture.ndim == 3 and picture.shape[2] == 3 and picture.std() > 0
