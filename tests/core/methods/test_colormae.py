"""ColorMAE: its masks come out of filtered noise, and the rest is MAE."""

from __future__ import annotations

import copy

import pytest
import torch

from suite3d.image.recipes.encoder import ImageDecoderConfig
from suite3d.masking import ColourNoiseConfig, sub_generator
from suite3d.methods.colormae import ColorMAE, ColorMAEConfig
from tests.core.methods.joint import batch, gradient_norm, trained, vit
from tests.core.methods.naive_masked import decode, encode, part, pixel_targets, shaken

COLOURS = ["red", "blue", "green", "purple"]


def colormae(colour: str = "green", *, pixels: int = 16, patch: int = 4, **noise) -> ColorMAE:
    torch.manual_seed(1)
    backbone = vit(clip=(1, pixels, pixels), patch=(1, patch, patch))
    decoder = ImageDecoderConfig(dim=16, depth=1, heads=2).build(backbone)
    return ColorMAE(backbone, decoder, ColorMAEConfig(noise=ColourNoiseConfig(**({"colour": colour, "slices": 8, "side": 20} | noise))))


def blurred(white: torch.Tensor, sigma: float) -> torch.Tensor:
    """A slice convolved with a wrapped Gaussian, offset by offset."""
    side, reach, out, total = len(white), 10, torch.zeros_like(white), 0.0
    for i in range(-reach, reach + 1):
        for j in range(-reach, reach + 1):
            weight = float(torch.exp(torch.tensor(-(i * i + j * j) / (2 * sigma * sigma), dtype=torch.float64)))
            out += weight * white.roll((i, j), (0, 1))
            total += weight
    assert side >= 2 * reach
    return out / total


@pytest.mark.parametrize("colour", COLOURS)
def test_noise_is_what_the_colour_says(colour: str) -> None:
    """Blurs of 1 and 2.5 patches, wide enough that sampling the Gaussian is convolving with it."""
    method = colormae(colour, blurs=(1.0, 2.5))
    white = torch.randn(8, 20, 20, generator=sub_generator(0, "colour noise")).double()[3]
    narrow, wide = blurred(white, 1.0), blurred(white, 2.5)
    expected = {"red": wide, "blue": white - narrow, "green": narrow - wide, "purple": white - (narrow - wide)}[colour]
    torch.testing.assert_close(method.noise.bank[3].double(), expected, atol=0.01, rtol=0)


@pytest.mark.parametrize("colour", COLOURS)
def test_loss_is_maes_on_these_masks(colour: str) -> None:
    method, data = shaken(colormae(colour)), batch(4)
    mask = method.mask(data.view_seeds(), data.device)
    assert mask.sum(1).tolist() == [12] * 4
    visible = torch.stack([(~row).nonzero()[:, 0] for row in mask])
    pixels = data.pixels().double()
    tokens = encode(pixels, part(method.state_dict(), "encoder"), 2, visible)[1]
    error = (decode(tokens, visible, part(method.state_dict(), "decoder"), 2, 16) - pixel_targets(pixels, 4)) ** 2
    assert method(data).loss.item() == pytest.approx(error.mean(-1)[mask].mean().item(), abs=1e-5)


def test_red_masks_clump_and_blue_ones_spread() -> None:
    def together(colour: str) -> float:
        """How often the right neighbour of a hidden patch is hidden."""
        method = colormae(colour, pixels=28, patch=2)
        grid = method.mask(list(range(64)), torch.device("cpu")).view(64, 14, 14)
        return float((grid[:, :, 1:] & grid[:, :, :-1]).sum() / grid[:, :, :-1].sum())

    assert together("blue") < together("green") < together("red")


def test_noise_is_a_function_of_the_configuration() -> None:
    first, second = colormae(), colormae()
    assert torch.equal(first.noise.bank, second.noise.bank) and torch.equal(copy.deepcopy(first).noise.bank, first.noise.bank)
    assert not torch.equal(first.noise.bank, colormae(seed=1).noise.bank)
    assert not any("bank" in name or "noise" in name for name in first.state_dict())
    data = batch()
    assert torch.equal(first(data).loss, second(data).loss)


def test_it_learns_and_reaches_the_encoder() -> None:
    method, data = colormae(), batch()
    assert gradient_norm(method, data) > 0
    losses = trained(method, data, steps=30)
    assert losses[-1] < 0.8 * losses[0]


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="mask ratio"):
        ColorMAEConfig(mask_ratio=1.0)
    with pytest.raises(ValueError, match="narrow < wide"):
        ColourNoiseConfig(blurs=(2.0, 0.8))
    with pytest.raises(ValueError, match="at least as large as the token grid"):
        colormae(pixels=28, patch=1)
