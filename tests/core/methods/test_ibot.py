"""iBOT: hidden patches enter as the mask token, both losses are the paper's, masks are drawn as it says."""

from __future__ import annotations

import pytest
import torch

from suite3d.losses.koleo import koleo
from suite3d.masking import hidden_count
from suite3d.methods.ibot import IBOT, IBOTConfig
from tests.core.methods.joint import MULTI, TWO, batch, trained, vit
from tests.core.methods.test_dino import definition


def method(encoder=None, **config):
    torch.manual_seed(0)
    sizes = {"prototypes": 24, "hidden": 16, "bottleneck": 8, "momentum": (0.9, 1.0), "smallest": 2}
    return IBOT(encoder or vit(any_size=True), IBOTConfig(**(sizes | config)))


@pytest.mark.parametrize("shared", [True, False])
def test_loss_is_its_definition(shared):
    model, data = method(shared_head=shared, koleo=0.1, patch_weight=0.5), batch(5, MULTI)
    trained(model, data, steps=3)
    centres = model.centre.value.double().clone(), model.patch_centre.value.double().clone()
    temperatures = 0.1, model.teacher_temperature
    output = model(data)
    student, teacher, features, patch_total = [], [], [], 0.0
    with torch.no_grad():
        for view in range(4):
            pixels = data.pixels(view)
            if view < 2:
                hidden = model.mask(data.view_seeds(view), data.device)
                tokens = model.student.patch_embed(pixels[:, :, None])
                tokens[hidden] = model.mask_token
                tokens = torch.cat((model.student.cls_token.expand(5, -1, -1), tokens + model.student.pos_embed()), dim=1)
                for block in model.student.blocks:
                    tokens = block(tokens)
                tokens = model.student.norm(tokens)
                whole, seen = model.encoder.encode(pixels)
                teacher.append(model.teacher_head(whole[:, 0]).double())
                for b in range(5):
                    losses = []
                    for i in hidden[b].nonzero()[:, 0]:
                        p = ((model.teacher_patch_head(seen[b, i]).double() - centres[1]) / temperatures[1]).softmax(0)
                        losses.append(-(p * (model.patch_head(tokens[b, 1 + i]).double() / temperatures[0]).log_softmax(0)).sum())
                    patch_total += float(sum(losses)) / max(len(losses), 1) / 10
            else:
                tokens = model.student.encode(pixels)[0]
            features.append(tokens[:, 0])
            student.append(model.head(tokens[:, 0]).double())
    spread = float(koleo(features[0]) + koleo(features[1]))
    expected = definition(student, teacher, centres[0], temperatures)
    assert float(output.metrics["view_loss"]) == pytest.approx(expected, abs=1e-5)
    assert float(output.metrics["patch_loss"]) == pytest.approx(patch_total, abs=1e-5) and patch_total > 0
    assert output.loss.item() == pytest.approx(expected + 0.5 * patch_total + 0.1 * spread, abs=1e-5)


def test_masks_hide_what_they_say():
    model = method()
    masks = model.mask(list(range(200)), torch.device("cpu"))
    counts = masks.sum(1)
    assert 0.4 < (counts == 0).float().mean() < 0.6
    assert counts[counts > 0].min() >= hidden_count(16, 0.1) and counts.max() <= hidden_count(16, 0.5)
    assert torch.equal(masks, model.mask(list(range(200)), torch.device("cpu")))
    assert torch.equal(masks[7:8], model.mask([7], torch.device("cpu"))), "a view's mask is a function of its seed alone"


def test_learns_and_repeats():
    data = batch(6, MULTI)

    def losses():
        model = method(momentum=(1.0, 1.0), teacher_temperature=(0.04, 0.04))  # a moving teacher moves the loss
        with torch.no_grad():
            for _ in range(40):  # the centres start at 0
                model(data)
        return trained(model, data)

    first = losses()
    assert first[-1] < first[0] - 0.5
    assert first[:3] == losses()[:3]


def test_gradient_reaches_the_student_and_the_mask_token_alone():
    model = method()
    model(batch(4, MULTI)).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.student.named_parameters() if n != "blocks.0.attn.qkv.bias")
    assert model.mask_token.grad.abs().sum() > 0
    assert all(p.grad is None for part in (model.encoder, model.teacher_head) for p in part.parameters())


def test_a_head_of_its_own_follows_too():
    model = method(shared_head=False)
    trained(model, batch(4, TWO), steps=2)
    assert not torch.equal(model.teacher_patch_head.mlp[0].weight, model.patch_head.mlp[0].weight)
    start = model.teacher_patch_head.mlp[0].weight.clone()
    model.after_step(0, 10)
    torch.testing.assert_close(model.teacher_patch_head.mlp[0].weight, 0.9 * start + 0.1 * model.patch_head.mlp[0].weight)
    assert {"patch_centre.value", "centre.value", "mask_token", "step_share"} <= model.state_dict().keys()
    assert not any("patch_head" in name for name in method().state_dict()), "one head, kept once"


def test_bad_input():
    with pytest.raises(ValueError, match="class_token"):
        method(vit(class_token=False))
    for bad in ({"whole": 1.0}, {"mask_ratio": (0.0, 0.5)}, {"mask_ratio": (0.5, 1.0)}, {"koleo": -1.0}, {"smallest": 0}):
        with pytest.raises(ValueError, match="expected"):
            IBOTConfig(**bad)
    with pytest.raises(ValueError, match="at least 2 views"):
        method()(batch(3, [type(TWO[0])(count=1, view=TWO[0].view)]))


def test_masks_are_drawn():
    for whole in (0.0, 0.99):
        (picture,) = method(whole=whole)(batch(5, MULTI)).visuals().values()
        assert picture.ndim == 3 and picture.shape[2] == 3 and picture.std() > 0
