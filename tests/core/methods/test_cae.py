"""CAE: the loss is the definition's for both targets, the visible latents are never changed, the alignment moves the regressor only."""

from __future__ import annotations

import math

import pytest
import torch

from suite3d.masking import blockwise_mask, generators_of
from suite3d.methods.cae import CAE, CAEConfig, LatentRegressor, PixelTarget, RandomTokens
from suite3d.nn.patch_embed import gather_patches
from suite3d.nn.positions import sincos_2d
from tests.core.methods.cross_views import GRID, normalised, part, shaken, slow_encode, slow_mlp, state_of
from tests.core.methods.joint import batch, gradient_norm, trained, vit
from tests.core.nn.naive_vit import attend, block, layer_norm, linear


def method(target="pixels", **config):
    encoder = vit()
    goal = PixelTarget(48) if target == "pixels" else RandomTokens(48, 20, dim=6)
    regressor = LatentRegressor(encoder, goal.outputs, depth=2, decoder_depth=1, generator=torch.Generator().manual_seed(1))
    return CAE(encoder, regressor, goal, CAEConfig(**({"smallest_block": 2} | config)))


def slow_regress(state, seen, places, targets):
    """Latents and outputs of one picture."""
    positions = sincos_2d(GRID, 16).double()
    x = state["mask_token"][0].expand(len(targets), -1)
    for i in range(2):
        name = f"blocks.{i}"
        context, place = torch.cat([seen, x]), torch.cat([positions[places], positions[targets]])
        q = linear(layer_norm(x + positions[targets], state, f"{name}.norm_q"), state, f"{name}.cross_attn.q")
        k = linear(layer_norm(context + place, state, f"{name}.norm_k"), state, f"{name}.cross_attn.kv")[:, :16]
        v = linear(layer_norm(context, state, f"{name}.norm_v"), state, f"{name}.cross_attn.kv")[:, 16:]
        x = x + linear(attend(q, k, v, 2), state, f"{name}.cross_attn.proj") * state[f"{name}.ls1.gamma"]
        x = x + slow_mlp(layer_norm(x, state, f"{name}.norm2"), state, f"{name}.mlp") * state[f"{name}.ls2.gamma"]
    latents = layer_norm(x, state, "norm")
    x = block((latents + positions[targets])[None], state, "decoder_blocks.0", 2)[0]
    return latents, linear(layer_norm(x, state, "decoder_norm"), state, "head")


def slow_token(state, patch):
    """Number of the code whose direction is nearest to the projected patch."""
    scores = [float((patch @ state["target.projection"]) @ code) for code in state["target.codes"]]
    return scores.index(max(scores))


@pytest.mark.parametrize("target", ["pixels", "random_tokens"])
def test_loss_is_its_definition(target):
    model, data = shaken(method(target)), batch(3)
    state = state_of(model)
    encoder, regressor = part(state, "encoder"), part(state, "regressor")
    decoding, alignment = [], []
    for row, picture in zip(blockwise_mask(GRID, 0.5, generators_of(data.view_seeds(), "mask"), smallest=2), data.pixels()):
        places, targets = (~row).nonzero()[:, 0].tolist(), row.nonzero()[:, 0].tolist()
        assert len(places) == len(targets) == 8
        latents, out = slow_regress(regressor, slow_encode(encoder, picture, places)[1:], places, targets)
        alignment.append(((latents - slow_encode(encoder, picture, targets)[1:]) ** 2).mean())
        wanted = normalised(picture, targets)
        if target == "pixels":
            decoding.append(((out - wanted) ** 2).mean())
        else:
            decoding += [-math.log(float(p.exp()[slow_token(state, w)] / p.exp().sum())) for p, w in zip(out, wanted)]
    output = model(data)
    assert output.metrics["decoding"].item() == pytest.approx(float(sum(decoding) / len(decoding)), abs=1e-5)
    assert output.metrics["alignment"].item() == pytest.approx(float(sum(alignment) / 3), abs=1e-5)
    assert output.loss.item() == pytest.approx(float(sum(decoding) / len(decoding) + 2 * sum(alignment) / 3), abs=3e-5)
    assert output.visuals is None if target == "random_tokens" else output.visuals()["reconstruction"].dtype.name == "uint8"


def test_no_gradient_flows_into_the_alignment_target():
    model, data = shaken(method()), batch(2)
    gradient_norm(model, data)
    got = model.encoder.blocks[0].mlp.fc1.weight.grad.clone()
    pixels = data.pixels()[:, :, None]
    mask = model.mask(data.view_seeds(), data.device)
    visible, targets = (~mask).nonzero()[:, 1].view(2, -1), mask.nonzero()[:, 1].view(2, -1)
    fixed = model.encoder(pixels, targets).detach()
    model.zero_grad()
    latents, predicted = model.regressor(model.encoder(pixels, visible), visible, targets)
    (model.target(predicted, gather_patches(pixels, targets, (1, 4, 4))) + 2 * (latents - fixed).square().mean()).backward()
    torch.testing.assert_close(got, model.encoder.blocks[0].mlp.fc1.weight.grad, atol=1e-6, rtol=1e-4)


def test_random_tokens_are_spread_and_kept_with_the_weights():
    tokens = RandomTokens(48, 16)
    found = tokens.tokens(torch.randn(4, 200, 48, generator=torch.Generator().manual_seed(0)))
    assert len(found.unique()) == 16
    other = RandomTokens(48, 16, seed=9)
    other.load_state_dict(tokens.state_dict())
    assert torch.equal(other.tokens(torch.ones(1, 1, 48).cumsum(2)), tokens.tokens(torch.ones(1, 1, 48).cumsum(2)))
    assert not list(tokens.parameters())


@pytest.mark.parametrize("target", ["pixels", "random_tokens"])
def test_learns_and_repeats(target):
    data = batch(4)
    model = method(target)
    assert gradient_norm(model, data) > 0
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing, missing
    losses = trained(method(target), data, steps=15)
    assert losses[-1] < 0.85 * losses[0]
    assert losses == trained(method(target), data, steps=15), "the same seed, the same losses"


def test_nothing_stays_uninitialised():
    model = method().regressor
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.fill_(float("nan"))
    model.reset_parameters(torch.Generator().manual_seed(3))
    assert all(tensor.isfinite().all() for tensor in [*model.parameters(), *model.buffers()])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="mask ratio"):
        CAEConfig(mask_ratio=1.0)
    with pytest.raises(ValueError, match="align_weight"):
        CAEConfig(align_weight=-1)
    with pytest.raises(ValueError, match="two codes"):
        RandomTokens(48, 1)
    with pytest.raises(ValueError, match="48 outputs of the target"):
        CAE(vit(), LatentRegressor(vit(), 5), PixelTarget(48))
