"""GMML: what is overwritten, with what, and an absolute error on just that."""

from __future__ import annotations

import pytest
import torch

from suite3d.methods.corruption import CorruptionConfig, corrupt
from suite3d.methods.gmml import GMML, GMMLConfig
from tests.core.methods.joint import batch, gradient_norm, trained, vit
from tests.core.methods.naive_masked import encode, part, pixel_targets, shaken
from tests.core.nn.naive_vit import gelu, linear


def gmml(hidden: int = 24, **corruption) -> GMML:
    torch.manual_seed(1)
    return GMML(vit(), GMMLConfig(corruption=CorruptionConfig(**corruption), hidden=hidden))


def by_pixel(mask: torch.Tensor) -> torch.Tensor:
    return mask.view(-1, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3).expand(-1, 3, -1, -1)


def test_loss_is_its_definition() -> None:
    method, data = shaken(gmml()), batch(5)
    pixels = data.pixels()
    corrupted, mask = corrupt(pixels, data.view_seeds(), method.encoder, method.config.corruption)
    tokens, head = encode(corrupted, part(method.state_dict(), "encoder"), 2)[1], part(method.state_dict(), "head")
    predicted = linear(gelu(linear(gelu(linear(tokens, head, "0")), head, "2")), head, "4")
    error = (predicted - pixel_targets(pixels, 4, normalised=False)).abs().mean(-1)
    expected = sum(error[sample, token] for sample, token in mask.nonzero().tolist()) / int(mask.sum())
    output = method(data)
    assert output.loss.item() == pytest.approx(float(expected), abs=1e-5)
    assert output.metrics["corrupted"].item() == pytest.approx(float(mask.float().mean()))


@pytest.mark.parametrize("fill", ["noise", "zero", "image"])
def test_only_groups_are_overwritten(fill: str) -> None:
    pixels, encoder = batch(6).pixels(), vit()
    corrupted, mask = corrupt(pixels, list(range(6)), encoder, CorruptionConfig(fill=(fill,), ratio=(0.4, 0.8), image_ratio=(0.2, 0.5)))
    inside = by_pixel(mask)
    assert torch.equal(corrupted[~inside], pixels[~inside])
    shares = mask.float().mean(1)
    low, high = (0.2, 0.5) if fill == "image" else (0.4, 0.8)
    assert (shares >= low - 0.5 / 16).all() and (shares <= high + 0.5 / 16).all() and len(set(shares.tolist())) > 1
    if fill == "zero":
        assert (corrupted[inside] == 0).all()
    elif fill == "noise":
        assert abs(corrupted[inside].mean()) < 0.15 and abs(corrupted[inside].std() - 1) < 0.1
    else:
        for sample in range(6):
            donors = [o for o in range(6) if torch.equal(corrupted[sample][inside[sample]], pixels[o][inside[sample]])]
            assert donors and sample not in donors


def test_fillings_take_turns_and_groups_are_connected() -> None:
    pixels = batch(2).pixels().repeat(32, 1, 1, 1)
    corrupted, mask = corrupt(pixels, list(range(64)), vit(), CorruptionConfig(fill=("zero", "image"), ratio=(0.4, 0.4), image_ratio=(0.2, 0.2)))
    zero = torch.tensor([bool((one[inside] == 0).all()) for one, inside in zip(corrupted, by_pixel(mask), strict=True)])
    assert 16 < zero.sum() < 48
    assert mask[zero].sum(1).unique().tolist() == [6] and mask[~zero].sum(1).unique().tolist() == [3]


def test_it_learns_reaches_the_encoder_and_repeats_itself() -> None:
    method, data = gmml(), batch()
    assert gradient_norm(method, data) > 0
    assert torch.equal(method(data).loss, gmml()(data).loss)
    assert not torch.equal(method(data).loss, method(batch(start=2)).loss)
    losses = trained(method, data, steps=30)
    assert losses[-1] < 0.85 * losses[0]
    picture = method(data).visuals()["reconstruction"]
    assert picture.dtype == "uint8" and len(set(picture.flatten().tolist())) > 4


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="noise, zero and image"):
        CorruptionConfig(fill=("blur",))
    with pytest.raises(ValueError, match="0 < low <= high < 1"):
        CorruptionConfig(ratio=(0.5, 1.0))
    with pytest.raises(ValueError, match="largest"):
        CorruptionConfig(largest=0.0)
    with pytest.raises(ValueError, match="at least two"):
        gmml()(batch(1))
    assert torch.isfinite(gmml(fill=("noise",))(batch(1)).loss)
