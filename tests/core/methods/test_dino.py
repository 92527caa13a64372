"""DINO: the loss is the paper's over large and small views, the teacher follows, the centre and the schedules move as they say."""

from __future__ import annotations

import math

import pytest
import torch

from suite3d.methods.dino import DINO, DINOConfig
from suite3d.nn.block import DropPath
from tests.core.methods.joint import MULTI, TWO, batch, resnet, trained, vit


def method(encoder=None, **config):
    torch.manual_seed(0)
    sizes = {"prototypes": 24, "hidden": 16, "bottleneck": 8, "momentum": (0.9, 1.0)}
    return DINO(encoder or vit(any_size=True), DINOConfig(**(sizes | config)))


def class_tokens(encoder, data, views):
    return [encoder.encode(data.pixels(view))[0][:, 0] for view in views]


def definition(student, teacher, centre, temperatures):
    """Algorithm 1 of DINO, row by row: lists over views of (B, K) logits."""
    total, pairs = 0.0, 0
    for g, whole in enumerate(teacher):
        for v, part in enumerate(student):
            if g == v:
                continue
            pairs += 1
            for answer, guess in zip(whole, part):
                p = ((answer - centre) / temperatures[1]).exp()
                q = (guess / temperatures[0]).exp()
                total -= float((p / p.sum() * (q / q.sum()).log()).sum()) / len(whole)
    return total / pairs


def test_loss_is_its_definition():
    model, data = method(), batch(5, MULTI)
    trained(model, data, steps=3)
    centre = model.centre.value.double().clone()
    assert centre.abs().max() > 0
    output = model(data)
    with torch.no_grad():
        student = [model.head(tokens).double() for tokens in class_tokens(model.student, data, range(4))]
        teacher = [model.teacher_head(tokens).double() for tokens in class_tokens(model.encoder, data, range(2))]
    assert output.loss.item() == pytest.approx(definition(student, teacher, centre, (0.1, model.teacher_temperature)), abs=1e-5)
    torch.testing.assert_close(model.centre.value.double(), 0.9 * centre + 0.1 * torch.cat(teacher).mean(0), atol=1e-6, rtol=1e-5)
    assert output.features.shape == (10, 16) and not output.features.requires_grad
    assert 0 < float(output.metrics["teacher_entropy"]) <= math.log(24) + 1e-5


@pytest.mark.parametrize("targets", ["centre", "sinkhorn"])
def test_learns_and_repeats(targets):
    data = batch(6, MULTI)

    def losses():
        model = method(targets=targets, teacher_temperature=(0.04, 0.04), momentum=(1.0, 1.0))  # a moving teacher moves the loss
        with torch.no_grad():
            for _ in range(40):  # the centre starts at 0
                model(data)
        return trained(model, data)

    first = losses()
    assert first[-1] < first[0] - 0.3
    assert first == losses(), "the same seed, the same losses"


def test_gradient_reaches_the_student_alone_and_batch_norms_work():
    for encoder in (vit(any_size=True), resnet()):
        model = method(encoder)
        model(batch(4, MULTI)).loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for n, p in model.student.named_parameters() if p.requires_grad)
        assert all(p.grad is None for part in (model.encoder, model.teacher_head) for p in part.parameters())


def test_teacher_follows_and_prototypes_wait():
    model, data = method(frozen=0.5), batch(4, MULTI)
    start = model.head.prototypes.weight.detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(4):
        optimizer.zero_grad()
        model(data).loss.backward()
        optimizer.step()
        before = {name: value.clone() for name, value in model.encoder.named_parameters()}
        assert torch.equal(model.head.prototypes.weight, start) == (step < 2), "half of the run frozen"
        model.after_step(step, 4)
        momentum = 1 - (1 - 0.9) * (1 + math.cos(math.pi * step / 3)) / 2
        for name, value in model.student.named_parameters():
            torch.testing.assert_close(model.encoder.get_parameter(name), momentum * before[name] + (1 - momentum) * value, atol=1e-6, rtol=1e-4)


def test_temperature_rises_and_survives_a_resume():
    model = method(teacher_temperature=(0.04, 0.08), teacher_warmup=0.5)
    assert model.teacher_temperature == pytest.approx(0.04)
    model.after_step(24, 100)
    assert model.teacher_temperature == pytest.approx(0.06)
    model.centre.value.fill_(3)
    other = method(teacher_temperature=(0.04, 0.08), teacher_warmup=0.5)
    other.load_state_dict(model.state_dict())
    assert other.teacher_temperature == model.teacher_temperature and torch.equal(other.centre.value, model.centre.value)
    model.after_step(99, 100)
    assert model.teacher_temperature == pytest.approx(0.08)


def test_teacher_skips_no_branch():
    model = method(vit(any_size=True, depth=2, drop_path=0.5))
    rates = lambda part: [module.probability for module in part.modules() if isinstance(module, DropPath)]  # noqa: E731
    assert rates(model.student) == [0.5] and rates(model.encoder) == [0.0]


def test_bad_input():
    one = batch(3, [type(TWO[0])(count=1, view=TWO[0].view)])
    with pytest.raises(ValueError, match="at least 2 views"):
        method()(one)
    for bad in ({"prototypes": 1}, {"student_temperature": 0}, {"momentum": (1, 0)}, {"frozen": 1.0}, {"teacher_warmup": 2}):
        with pytest.raises(ValueError):
            DINOConfig(**bad)
