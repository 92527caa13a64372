"""UMD: both halves' losses are their definitions, the clean encoder is a plain ViT, noise follows the cosine schedule."""

from __future__ import annotations

import math

import pytest
import torch

from suite3d.image.recipes.cross_view import UMDRecipe
from suite3d.masking import generators_of, tube_mask
from suite3d.methods.umd import UMD, UMDConfig, UMDDecoder, cosine_schedule
from tests.core.methods.cross_views import GRID, part, shaken, slow_mlp, slow_self, state_of
from tests.core.methods.joint import batch, gradient_norm, trained, vit
from tests.core.nn.naive_vit import embed, flat_table, layer_norm, linear, patches


def method(*, prefix=None, **config):
    torch.manual_seed(0)
    encoder = vit(**({"class_token": True, "registers": 1, "positions": "learned"} if prefix is None else prefix))
    decoder = UMDDecoder(encoder, depth=1, generator=torch.Generator().manual_seed(1))
    return UMD(encoder, decoder, UMDConfig(**({"steps": 20} | config)), generator=torch.Generator().manual_seed(2))


def silu(x):
    return x / (1 + (-x).exp())


def slow_block(x, state, name, parts):
    """One block, shifted, scaled and gated; ``parts``: six rows of 16."""
    shift1, scale1, gate1, shift2, scale2, gate2 = parts
    x = x + slow_self(layer_norm(x, state, f"{name}.norm1") * (1 + scale1) + shift1, state, f"{name}.attn") * (1 + gate1)
    return x + slow_mlp(layer_norm(x, state, f"{name}.norm2") * (1 + scale2) + shift2, state, f"{name}.mlp") * (1 + gate2)


def slow_predict(model, picture, places, targets, time):
    """Pixels at the targets, noise at the places, of one picture."""
    state = state_of(model)
    encoder, decoder, clock = part(state, "encoder"), part(state, "decoder"), part(state, "time")
    table = flat_table(21, 16)
    cond = [silu(linear(silu(linear(table[t], clock, "fc1")), clock, "fc2")) for t in (time, 0)]
    mods = [(clock[f"blocks.{i}.weight"] @ (cond[0] - cond[1])).view(6, 16) for i in (0, 1)]
    x = embed(picture[None, :, None].double(), encoder)[0, places] + encoder["pos_embed.table"][places]
    x = torch.cat([encoder["cls_token"][0], encoder["register_tokens"][0], x])
    x = layer_norm(slow_block(x, encoder, "blocks.0", mods[0]), encoder, "norm")
    seen = x[2:] + decoder["pos_embed.table"][places]
    asked = decoder["mask_token"][0] + decoder["pos_embed.table"][targets]
    x = slow_block(torch.cat([x[:2].mean(0)[None], seen, asked]), decoder, "blocks.0", mods[1])
    shift, scale = (clock["final.weight"] @ (cond[0] - cond[1])).view(2, 16)
    out = linear(layer_norm(x[1:], decoder, "norm") * (1 + scale) + shift, decoder, "head")
    return out[len(places) :, :48], out[: len(places), 48:]


def test_loss_is_its_definition():
    model, data = shaken(method()), batch(5)
    pixels, seeds = data.pixels(), data.view_seeds()
    noisy, noise, time = model.add_noise(pixels[2:], seeds[2:])
    parts = {"completion": [], "noisy_completion": [], "noise": []}
    for b in range(5):
        clean = b < 2  # half of 5, rounded down
        mask = tube_mask(GRID, 0.75 if clean else 0.375, generators_of([seeds[b]], "mask"))[0]
        places, targets = (~mask).nonzero()[:, 0].tolist(), mask.nonzero()[:, 0].tolist()
        assert len(targets) == (12 if clean else 6)
        x0, e = slow_predict(model, pixels[b] if clean else noisy[b - 2], places, targets, 0 if clean else int(time[b - 2]))
        true = patches(pixels[b][None, :, None].double(), (1, 4, 4))[0]
        parts["completion" if clean else "noisy_completion"].append(float((x0 - true[targets]).square().mean()))
        if not clean:
            drawn = patches(noise[b - 2][None, :, None].double(), (1, 4, 4))[0]
            parts["noise"].append(float((e - drawn[places]).square().mean()))
    output = model(data)
    means = {name: sum(values) / len(values) for name, values in parts.items()}
    for name, value in means.items():
        assert output.metrics[name].item() == pytest.approx(value, abs=1e-5, rel=1e-5)
    expected = 0.4 * means["completion"] + 0.6 * (means["noisy_completion"] + means["noise"]) / 2
    assert output.loss.item() == pytest.approx(expected, abs=1e-5, rel=1e-5)
    assert output.visuals()["reconstruction"].dtype.name == "uint8"


def test_at_step_zero_the_encoder_is_a_plain_one():
    """Whatever the modulation has learned, it vanishes without noise; before training it vanishes at every step."""
    model, pixels = shaken(method()), batch(2).pixels()
    visible = torch.tensor([[0, 3, 9], [1, 2, 15]])
    plain = model.encoder.encode(pixels, visible)
    still = model.encode(pixels, visible, model.time.condition(torch.tensor([0, 0])))
    moved = model.encode(pixels, visible, model.time.condition(torch.tensor([0, 7])))
    torch.testing.assert_close(still[1], plain[1])
    torch.testing.assert_close(moved[1][0], plain[1][0])
    assert (moved[1][1] - plain[1][1]).abs().max() > 1e-3
    fresh = method()
    torch.testing.assert_close(fresh.encode(pixels, visible, fresh.time.condition(torch.tensor([5, 7])))[1], fresh.encoder(pixels, visible))


def test_noise_follows_the_cosine_schedule():
    levels = cosine_schedule(1000)
    assert levels[0] == 1 and (levels[1:] < levels[:-1]).all() and levels[-1] < 1e-6
    share = (0.5 + 0.008) / 1.008 * math.pi / 2
    assert levels[500].item() == pytest.approx((math.cos(share) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2, rel=1e-5)
    model, pixels = method(steps=1000), torch.randn(400, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    noisy, noise, time = model.add_noise(pixels, list(range(400)))
    assert time.min() >= 1 and time.max() <= 1000 and 450 < time.float().mean() < 550
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    level = levels[time][:, None, None, None]
    torch.testing.assert_close(noisy, level.sqrt() * pixels + (1 - level).sqrt() * noise)
    assert torch.equal(model.add_noise(pixels[7:8], [7])[0], noisy[7:8]), "a picture's noise is a function of its seed alone"


@pytest.mark.parametrize("prefix", [None, {"class_token": False}])
def test_learns_and_repeats(prefix):
    data = batch(6)
    model = method(prefix=prefix)
    assert gradient_norm(model, data) > 0
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing, missing
    losses = trained(method(prefix=prefix), data, steps=15)
    assert losses[-1] < 0.85 * losses[0]
    assert losses == trained(method(prefix=prefix), data, steps=15), "the same seed, the same losses"


def test_nothing_stays_uninitialised_and_pixels_are_symmetric():
    model = method()
    for built in (model.decoder, model.time):
        with torch.no_grad():
            for tensor in built.parameters():
                tensor.fill_(float("nan"))
        built.reset_parameters(torch.Generator().manual_seed(3))
        assert all(tensor.isfinite().all() for tensor in built.parameters())
    view = UMDRecipe().augment
    assert view.mean == view.std == (0.5, 0.5, 0.5)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="none of one kind"):
        method()(batch(1))
    for bad in ({"mask_ratio": 1.0}, {"noisy_mask_ratio": 0.0}, {"clean": 1.0}, {"steps": 0}):
        with pytest.raises(ValueError, match="mask ratio|clean share"):
            UMDConfig(**bad)
    with pytest.raises(ValueError, match="pixels and noise"):
        UMD(vit(), UMDDecoder(vit(patch=(1, 8, 8)), depth=1))
