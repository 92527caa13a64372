"""Mugs: the three losses are the paper's, local groups hold the nearest neighbours, queues, memory and teacher move."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from suite3d.methods.mugs import LocalGroup, Mugs, MugsConfig
from tests.core.methods.joint import MULTI, batch, trained, vit
from tests.core.methods.test_dino import definition


def method(encoder=None, **config):
    torch.manual_seed(0)
    sizes = {"prototypes": 24, "hidden": 16, "bottleneck": 8, "momentum": (0.9, 1.0), "dim": 8, "predictor_hidden": 16, "queue": 20, "memory": 20}
    return Mugs(encoder or vit(any_size=True), MugsConfig(**(sizes | {"neighbours": 3} | config)))


def local_group(module, mean, memory):
    """Mean and neighbours, found one by one."""
    order = sorted(range(len(memory)), key=lambda row: -float(F.cosine_similarity(mean, memory[row], dim=0)))
    group = torch.stack([mean, *(memory[row] for row in order[: module.neighbours])])[None]
    for block in module.blocks:
        group = block(group)
    return module.norm(group[0, 0])


@torch.no_grad()
def test_losses_are_their_definitions():
    model, data = method(weights=(0.5, 0.3, 0.2)), batch(4, MULTI)
    with torch.enable_grad():
        trained(model, data, steps=3)
    model.eval()
    memory, centre = model.memory.rows.clone(), model.centre.value.double().clone()
    output = model(data)
    student, teacher, totals = [], [], {}
    vectors = {"instance": ([], []), "local": ([], [])}
    for branch, encoder in enumerate((model.student, model.encoder)):
        for view in range((4, 2)[branch]):
            prefix, patches = encoder.encode(data.pixels(view))
            (student, teacher)[branch].append((model.head, model.teacher_head)[branch](prefix[:, 0]).double())
            merge = (model.local_group, model.teacher_local_group)[branch]
            rows = {"instance": prefix[:, 0], "local": torch.stack([local_group(merge, part.mean(0), memory) for part in patches])}
            for grain, row in rows.items():
                z = F.normalize((model.projectors, model.teacher_projectors)[branch][grain](row), dim=1)
                z = z if branch else F.normalize(model.predictors[grain](z), dim=1)
                vectors[grain][branch].append(z.double())
    for grain, (queries, keys) in vectors.items():
        losses, negatives = [], F.normalize(model.queues[grain].rows.double(), dim=1)
        for g in range(2):
            for v in range(4):
                for q, k in zip(queries[v], keys[g]):
                    if g != v:
                        others = sum(math.exp(float(q @ n) / 0.2) for n in negatives)
                        losses.append(-math.log(math.exp(float(q @ k) / 0.2) / (math.exp(float(q @ k) / 0.2) + others)))
        totals[grain] = sum(losses) / len(losses)
    totals["group"] = definition(student, teacher, centre, (0.1, 0.04))
    for name, value in totals.items():
        assert float(output.metrics[f"{name}_loss"]) == pytest.approx(value, abs=2e-5), name
    assert output.loss.item() == pytest.approx(0.5 * totals["instance"] + 0.3 * totals["local"] + 0.2 * totals["group"], abs=2e-5)
    assert torch.equal(model.memory.rows, memory), "nothing moves in evaluation"


def test_queues_and_memory_take_the_teachers_rows():
    model, data = method(), batch(4, MULTI)
    with torch.no_grad():
        prefix, patches = model.encoder.encode(torch.cat([data.pixels(0), data.pixels(1)]))
        keys = F.normalize(model.teacher_projectors["instance"](prefix[:, 0]), dim=1)
    model(data)
    torch.testing.assert_close(model.queues["instance"].rows[:8], keys)
    torch.testing.assert_close(model.memory.rows[:8], patches.mean(1))
    assert int(model.memory.position) == int(model.queues["local"].position) == 8
    assert {"memory.rows", "queues.local.rows", "centre.value", "step_share"} <= model.state_dict().keys()


def test_local_group_reads_its_neighbours_alone():
    torch.manual_seed(0)
    module = LocalGroup(8, 2, 1, neighbours=2)
    mean, memory = torch.randn(1, 8), torch.randn(6, 8)
    order = F.cosine_similarity(mean, memory).argsort(descending=True)
    out = module(mean, memory)
    for rank, changes in ((0, True), (1, True), (5, False)):
        other = memory.clone()
        other[order[rank]] *= 2  # keeps the order
        assert torch.equal(module(mean, other), out) != changes


def test_learns_and_repeats():
    data = batch(6, MULTI)

    def losses():
        model = method(momentum=(1.0, 1.0), centre_momentum=0.5)  # a moving teacher moves the loss
        with torch.no_grad():
            for _ in range(10):  # the centre starts at 0
                model(data)
        return trained(model, data)

    first = losses()
    assert first[-1] < first[0] - 0.1
    assert first[:3] == losses()[:3]


def test_gradient_and_teacher():
    model = method()
    start = {name: value.clone() for name, value in model.teacher_local_group.named_parameters()}
    trained(model, batch(4, MULTI), steps=1)
    assert all(p.grad is not None for p in model.student.parameters())
    for teacher, student in model.pairs():
        assert all(p.grad is None for p in teacher.parameters()) and len(list(teacher.parameters())) == len(list(student.parameters()))
    for name, value in model.teacher_local_group.named_parameters():
        torch.testing.assert_close(value, 0.9 * start[name] + 0.1 * model.local_group.get_parameter(name))


def test_bad_input():
    with pytest.raises(ValueError, match="class_token"):
        method(vit(class_token=False))
    for bad in ({"neighbours": 0}, {"neighbours": 21, "memory": 20}, {"weights": (1, 1, -1)}, {"temperature": 0}, {"depth": 0}):
        with pytest.raises(ValueError):
            MugsConfig(**bad)
    data = batch(3, MULTI)
    with pytest.raises(ValueError, match="at least 2 views"):
        method()(replace(data, views=data.views[:1]))
