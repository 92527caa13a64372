"""SIGMA: the loss is the definition's, prototypes learn from the target branch only, both targets are what they say."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from suite3d.losses.sinkhorn import sinkhorn
from suite3d.masking import generators_of, tube_mask
from suite3d.nn.decoder import SelfDecoder
from suite3d.nn.positions import Positions
from suite3d.nn.vit import VisionTransformer, ViTConfig
from suite3d.video.methods.sigma import SIGMA, ImageTarget, PixelTarget, SIGMAConfig
from tests.core.nn.naive_vit import gelu
from tests.video.methods import definition
from tests.video.methods.clips import batch, encoder


def image_encoder(dim=32, side=48):
    return VisionTransformer(ViTConfig(dim=dim, depth=1, heads=2, clip=(1, side, side), patch=(1, 8, 8), positions="learned", class_token=True))


def method(target="pixels", ratio=0.75, prototypes=24):
    torch.manual_seed(0)
    backbone = encoder()
    phi = PixelTarget(backbone, (40, 40, 24, 16)) if target == "pixels" else ImageTarget(image_encoder(), backbone, allow_random=True)
    decoder = SelfDecoder(backbone.embed_dim, 24, 1, 2, phi.dim, Positions("sincos_flat", backbone.grid, 24))
    return SIGMA(backbone, decoder, phi, SIGMAConfig(mask_ratio=ratio, prototypes=prototypes), generator=torch.Generator().manual_seed(1))


def described(model, clips, target):
    """phi of every token, without the package: (B, N, d) float64."""
    clip = clips.frames.permute(0, 4, 1, 2, 3).double() / 255
    if target == "pixels":
        x = definition.targets(clip, (2, 8, 8))
        state = [(layer.weight.double(), layer.bias.double()) for layer in model.target.layers if isinstance(layer, nn.Linear)]
        for i, (weight, bias) in enumerate(state):
            x = x @ weight.T + bias
            x = gelu(x) if i < len(state) - 1 else x
        return x
    normalised = (clip - definition.MEAN) / definition.STD
    out = []
    for sample in normalised.float():
        tokens = torch.cat([model.target.image_encoder(sample[None, :, t : t + 1])[0] for t in range(0, 8, 2)]).double()
        out.append((tokens - tokens.mean(0)) / (tokens.std(0) + 1e-6))
    return torch.stack(out)


@pytest.mark.parametrize("target", ["pixels", "image"])
def test_loss_is_its_definition(target):
    model, clips = method(target), batch(3)
    output = model(clips)
    mask = tube_mask(model.encoder.grid, 0.75, generators_of(clips.view_seeds(), "mask"))
    pixels, chosen = model.prepare(clips)
    assert torch.equal(chosen.decoded, torch.stack([row.nonzero()[:, 0] for row in mask]))
    z1 = model.decoder(model.encoder(pixels, chosen.visible), chosen.visible, chosen.decoded).flatten(0, 1).double()
    z2 = described(model, clips, target)[mask]
    prototypes = model.prototypes.double()
    scores = [torch.stack([z / z.norm() for z in rows]) @ prototypes.T for rows in (z1, z2)]
    q1, q2 = (slow_assign(s.detach(), 0.05, 10) for s in scores)
    expected = 0.0
    for s, q in ((scores[0], q2), (scores[1], q1)):
        expected -= (s / 0.1).log_softmax(1)[torch.arange(len(q)), q].mean().item()
    assert output.loss.item() == pytest.approx(expected, abs=2e-5)
    assert 0 < float(output.metrics["agreement"]) <= 1 and 1 / 24 <= float(output.metrics["prototypes_predicted"]) <= 1


def slow_assign(scores, eps, sweeps):
    """Sinkhorn on the whole matrix in float64, prototypes first."""
    plan = (scores / eps).exp().T
    plan = plan / plan.sum()
    for _ in range(sweeps):
        plan = plan / plan.sum(1, keepdim=True) / plan.shape[0]
        plan = plan / plan.sum(0, keepdim=True) / plan.shape[1]
    return plan.argmax(0)


def test_prototypes_learn_from_the_target_branch_only():
    model, clips = method(), batch()
    pixels, chosen = model.prepare(clips)
    z1 = model.decoder(model.encoder(pixels, chosen.visible), chosen.visible, chosen.decoded)
    z2 = torch.randn(*z1.shape[:2], model.target.dim)
    loss, _ = model.contrast(z1, z2)
    loss.backward()
    unit1, unit2 = (nn.functional.normalize(z.detach(), dim=-1).flatten(0, 1) for z in (z1, z2))
    prototypes = model.prototypes.detach().clone().requires_grad_()
    q1 = sinkhorn(unit1 @ prototypes.T).argmax(1)
    nn.functional.cross_entropy(unit2 @ prototypes.T / 0.1, q1).backward()
    torch.testing.assert_close(model.prototypes.grad, prototypes.grad, atol=1e-6, rtol=1e-4)


def test_prototypes_stay_of_unit_length_and_the_loss_falls():
    model, clips = method(), batch(4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for step in range(30):
        loss = model(clips).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.after_step(step, 30)
        losses.append(loss.item())
        torch.testing.assert_close(model.prototypes.norm(dim=1), torch.ones(24))
    assert losses[-1] < 0.8 * losses[0]


def test_every_trained_part_gets_a_gradient_and_the_image_encoder_none():
    for target in ("pixels", "image"):
        model = method(target)
        model(batch()).loss.backward()
        missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing
        assert all(p.grad is None for name, p in model.named_parameters() if "image_encoder" in name)
    assert not model.train().target.image_encoder.training


def test_hidden_pixels_reach_the_prediction_only_through_the_target():
    model, clips = method(), batch()
    pixels, chosen = model.prepare(clips)
    hidden = torch.ones(len(pixels), math.prod(model.encoder.grid), dtype=torch.bool).scatter_(1, chosen.visible, False)
    inside = hidden.view(-1, 1, *model.encoder.grid)
    for axis, step in zip((2, 3, 4), model.encoder.patch):
        inside = inside.repeat_interleave(step, axis)
    altered = torch.where(inside, torch.nan, pixels)
    first, second = (model.decoder(model.encoder(x, chosen.visible), chosen.visible, chosen.decoded) for x in (pixels, altered))
    assert torch.equal(first, second)


def test_image_target_needs_weights_that_fit():
    backbone = encoder()
    with pytest.raises(ValueError, match="initial weights"):
        ImageTarget(image_encoder(), backbone)
    loaded = image_encoder()
    loaded.origin = {"file": "dino.pth"}
    assert ImageTarget(loaded, backbone).dim == 32
    with pytest.raises(ValueError, match="patches"):
        ImageTarget(image_encoder(side=64), backbone, allow_random=True)
    with pytest.raises(ValueError, match="channels of the target"):
        SIGMA(backbone, SelfDecoder(48, 24, 1, 2, 99, Positions("sincos_flat", backbone.grid, 24)), PixelTarget(backbone, (16, 8)))


def test_published_sizes():
    """phi on ViT-B tubes: 3.28 MMAC a token, with 3000 prototypes 4.0, 16 % of VideoMAE's 35.4 GMAC for 1408 tokens."""
    with torch.device("meta"):
        phi = PixelTarget(VisionTransformer(ViTConfig()))
    macs = sum(layer.weight.numel() for layer in phi.layers if isinstance(layer, nn.Linear))
    assert [layer.out_features for layer in phi.layers if isinstance(layer, nn.Linear)] == [1024, 1024, 512, 256]
    assert macs + 3000 * 256 == pytest.approx(4.0e6, rel=0.02)
    assert 1408 * (macs + 3000 * 256) / 35.4e9 == pytest.approx(0.16, abs=0.005)
