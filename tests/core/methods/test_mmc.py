"""MMC: its three losses are their definitions, the student sees corrupted views and the teacher whole ones, all of the teacher follows."""

from __future__ import annotations

import math

import pytest
import torch

from suite3d.image.data.source import ViewGroup
from suite3d.methods.corruption import corrupt
from suite3d.methods.mmc import MMC, MMCConfig
from tests.core.methods.joint import VIEW, batch, trained, vit
from tests.core.nn.naive_vit import patches


def method(encoder=None, **config):
    torch.manual_seed(0)
    sizes = {"prototypes": 24, "hidden": 16, "bottleneck": 8, "momentum": (0.9, 1.0), "frozen": 0.0}
    sizes |= {"pixel_hidden": 16, "contrast_hidden": 16, "contrast_dim": 8}
    return MMC(encoder or vit(), MMCConfig(**(sizes | config)))


def slow_nce(queries, keys, temperature):
    """Each query against all keys, one after the other."""
    queries, keys = ([row / row.norm() for row in rows.double()] for rows in (queries, keys))
    total = 0.0
    for i, query in enumerate(queries):
        total += math.log(sum(math.exp(float(query @ key) / temperature) for key in keys)) - float(query @ keys[i]) / temperature
    return total / len(queries)


@torch.no_grad()
def test_loss_is_its_definition():
    model, data = method(repair_weight=0.5, distil_weight=2.0, contrast_weight=3.0), batch(4)
    for part in (model.student, model.encoder):  # a teacher that differs from the student
        for parameter in part.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(parameter)))
    model.centre.value.normal_(generator=torch.Generator().manual_seed(3))
    centre, t = model.centre.value.double().clone(), model.teacher_temperature
    repair, distil, q, k = [], [], [], []
    for view in (0, 1):
        pixels = data.pixels(view)
        corrupted, hidden = corrupt(pixels, data.view_seeds(view), model.student, model.config.corruption)
        prefix, tokens = model.student.encode(corrupted)
        whole, seen = model.encoder.encode(pixels)
        true = patches(pixels[:, :, None], (1, 4, 4))
        for b in range(4):
            losses = []
            for i in hidden[b].nonzero()[:, 0]:
                repair.append(float((model.pixels(tokens[b, i]) - true[b, i]).abs().mean()))
                p = ((model.teacher_head(seen[b, i]).double() - centre) / t).softmax(0)
                losses.append(float(-(p * (model.head(tokens[b, i]).double() / 0.1).log_softmax(0)).sum()))
            distil.append(sum(losses) / len(losses))
        q.append(prefix[:, 0])
        k.append(whole[:, 0])
    queries, keys = model.projector(torch.cat(q)), model.teacher_projector(torch.cat(k))  # batch norm sees both views
    contrast = (slow_nce(queries[:4], keys[4:], 0.2) + slow_nce(queries[4:], keys[:4], 0.2)) / 2
    output = model(data)
    assert float(output.metrics["repair"]) == pytest.approx(sum(repair) / len(repair), abs=1e-5)
    assert float(output.metrics["distil"]) == pytest.approx(sum(distil) / 8, abs=1e-5)
    assert float(output.metrics["contrast"]) == pytest.approx(contrast, abs=1e-5)
    expected = 0.5 * sum(repair) / len(repair) + 2 * sum(distil) / 8 + 3 * contrast
    assert output.loss.item() == pytest.approx(expected, abs=5e-5)
    assert output.visuals()["reconstruction"].dtype.name == "uint8" and output.features.shape == (8, 16)


def test_gradient_reaches_the_student_alone_and_the_whole_teacher_follows():
    model = method()
    model(batch(4)).loss.backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    teachers = (model.encoder, model.teacher_head, model.teacher_projector)
    assert all(p.grad is None for part in teachers for p in part.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.5
    before = [[p.clone() for p in part.parameters()] for part in teachers]
    model.after_step(0, 10)
    for part, old, student in zip(teachers, before, (model.student, model.head, model.projector)):
        for new, was, now in zip(part.parameters(), old, student.parameters()):
            torch.testing.assert_close(new, 0.9 * was + 0.1 * now.detach())
    assert {"centre.value", "step_share", "teacher_projector.0.weight"} <= model.state_dict().keys()


def test_learns_and_repeats():
    data = batch(6)
    settings = {"momentum": (1.0, 1.0), "teacher_temperature": (0.07, 0.07), "targets": "sinkhorn"}  # a teacher that stands still
    losses = trained(method(**settings), data, steps=20, lr=0.005)
    assert losses[-1] < 0.8 * losses[0]
    assert losses[:4] == trained(method(**settings), data, steps=4, lr=0.005), "the same seed, the same losses"


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="class_token"):
        method(vit(class_token=False))
    with pytest.raises(ValueError, match="at least 2 views"):
        method()(batch(3, [ViewGroup(view=VIEW)]))
    with pytest.raises(ValueError, match="at least t"):
        method()(batch(1))
    with pytest.raises(ValueError, match="weights expected"):
        MMCConfig(contrast_weight=-1.0)
    with pytest.raises(ValueError, match="temperature"):
        MMCConfig(temperature=0.0)
