"""Selfie: the loss is the definition's, distractors come from the same picture, every patch is seen by itself."""

from __future__ import annotations

import math

import pytest
import torch

from suite3d.image.backbones.resnet import ResNet
from suite3d.image.recipes.encoder import rebuild_encoder
from suite3d.masking import generators_of, tube_mask
from suite3d.methods.selfie import AttentionPooling, Selfie, SelfieConfig
from tests.core.methods.cross_views import part, shaken, state_of
from tests.core.methods.joint import batch, gradient_norm, trained
from tests.core.nn.naive_vit import block, layer_norm


def method(**config):
    torch.manual_seed(0)
    encoder = ResNet(18, width=4, stem="small", stages=3)
    pooling = AttentionPooling(16, 4, depth=1, heads=2, hidden=24, generator=torch.Generator().manual_seed(1))
    return Selfie(encoder, pooling, SelfieConfig(**({"patch": 4, "mask_ratio": 0.25} | config)))


@torch.no_grad()
def test_loss_is_its_definition():
    model, data = shaken(method()).eval(), batch(3)
    state = part(state_of(model), "pooling")
    errors = []
    for row, picture in zip(tube_mask((1, 4, 4), 0.25, generators_of(data.view_seeds(), "mask")), data.pixels()):
        h, p = [], []
        for i in range(16):
            top, left = i // 4, i % 4
            alone = picture[None, :, 4 * top : 4 * top + 4, 4 * left : 4 * left + 4]
            h.append(model.encoder.levels(alone)[-1].mean((2, 3))[0].double())
            p.append(state["rows"][top] + state["columns"][left])
        x = torch.stack([state["first"][0, 0]] + [h[i] + p[i] for i in range(16) if not row[i]])
        u = layer_norm(block(x[None], state, "blocks.0", 2), state, "norm")[0, 0]
        holes = [i for i in range(16) if row[i]]
        assert len(holes) == 4
        for j in holes:
            scores = {k: float((u + p[j]) @ h[k]) for k in holes}
            errors.append(math.log(sum(math.exp(score) for score in scores.values())) - scores[j])
    output = model(data)
    assert output.loss.item() == pytest.approx(sum(errors) / len(errors), abs=1e-5)
    assert output.metrics["chance"] == 0.25 and 0 <= float(output.metrics["chosen_right"]) <= 1
    assert output.features.shape == (3, 16) and output.visuals()["chosen"].dtype.name == "uint8"


def test_distractors_are_of_the_same_picture():
    """With fixed batch statistics the loss of a batch is the mean of its pictures' losses."""
    model = shaken(method()).eval()
    alone = [model(batch(1, start=i)).loss.item() for i in range(4)]
    assert model(batch(4)).loss.item() == pytest.approx(sum(alone) / 4, abs=1e-6)


def test_learns_and_repeats():
    data = batch(6)
    model = method()
    assert gradient_norm(model, data) > 0
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing, missing
    losses = trained(method(), data, steps=20)
    assert losses[-1] < 0.8 * losses[0]
    assert losses == trained(method(), data, steps=20), "the same seed, the same losses"


def test_what_survives_are_the_first_stages_of_a_whole_resnet():
    few, whole = ResNet(18, width=4, stem="small", stages=3), ResNet(18, width=4, stem="small")
    assert (few.embed_dim, few.stride, whole.embed_dim, whole.stride) == (16, 4, 32, 8)
    missing, unexpected = whole.load_state_dict(few.state_dict(), strict=False)
    assert not unexpected and {name.split(".")[0] for name in missing} == {"layer4"}
    rebuilt = rebuild_encoder(few.describe())
    assert rebuilt.state_dict().keys() == few.state_dict().keys()
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(few.eval()(x), whole.eval().levels(x)[2].flatten(2).mT)


def test_nothing_stays_uninitialised():
    model = method().pooling
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.fill_(float("nan"))
    model.reset_parameters(torch.Generator().manual_seed(3))
    assert all(tensor.isfinite().all() for tensor in model.parameters())


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="mask ratio"):
        SelfieConfig(mask_ratio=1.0)
    with pytest.raises(ValueError, match="fewer than two"):
        method(mask_ratio=0.05)
    with pytest.raises(ValueError, match="4 x 8 pixels"):
        method(patch=8)(batch(2))
    with pytest.raises(ValueError, match="stages"):
        ResNet(18, stages=5)
