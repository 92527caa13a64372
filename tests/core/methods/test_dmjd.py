"""DMJD: disjoint views, histograms as targets, and both terms as defined."""

from __future__ import annotations

import math

import pytest
import torch

from suite3d.image.recipes.encoder import ImageDecoderConfig
from suite3d.methods.dmjd import DMJD, DMJDConfig
from tests.core.methods.joint import batch, gradient_norm, trained, vit
from tests.core.methods.naive_masked import decode, encode, part, rows, shaken
from tests.core.nn.naive_vit import gelu, layer_norm, linear


def dmjd(**config) -> DMJD:
    torch.manual_seed(1)
    backbone, settings = vit(), DMJDConfig(**({"cell": 2, "hidden": 20} | config))
    decoder = ImageDecoderConfig(dim=16, depth=1, heads=2).build(backbone, outputs=settings.outputs(backbone))
    return DMJD(backbone, decoder, settings)


def histogram(picture: torch.Tensor, top: int, left: int, cell: int, bins: int) -> list[float]:
    """Of one cell of one channel, pixel by pixel; standardised."""
    last, counts = len(picture) - 1, [0.0] * bins
    for i in range(top, top + cell):
        for j in range(left, left + cell):
            across = float(picture[i, min(j + 1, 2 * last - j - 1)] - picture[i, abs(j - 1)])
            down = float(picture[min(i + 1, 2 * last - i - 1), j] - picture[abs(i - 1), j])
            turn = math.atan2(down, across) % math.pi / math.pi
            counts[min(int(turn * bins), bins - 1)] += math.hypot(across, down)
    length = max(math.sqrt(sum(count**2 for count in counts)), 1e-12)
    counts = [count / length for count in counts]
    mean = sum(counts) / bins
    deviation = math.sqrt(sum((count - mean) ** 2 for count in counts) / bins + 1e-5)
    return [(count - mean) / deviation for count in counts]


def targets(pixels: torch.Tensor, patch: int, cell: int, bins: int) -> torch.Tensor:
    side, per = pixels.shape[-1] // patch, patch // cell
    out = torch.zeros(len(pixels), side * side, 3, bins, per, per, dtype=torch.float64)
    for b, picture in enumerate(pixels):
        for token in range(side * side):
            for c in range(3):
                for i in range(per):
                    for j in range(per):
                        top, left = token // side * patch + i * cell, token % side * patch + j * cell
                        out[b, token, c, :, i, j] = torch.tensor(histogram(picture[c], top, left, cell, bins))
    return out.flatten(2)


@pytest.mark.parametrize("block", [1, 2])
def test_loss_is_its_definition(block: int) -> None:
    """With blocks of one patch the views hide ten of 16 and predict eight of them."""
    method, data = shaken(dmjd(visible=0.7, beta=0.5, bins=5, block=block)), batch(2)
    pixels, state = data.pixels(), method.state_dict()
    wanted, head = targets(pixels, 4, 2, 5), part(state, "visible_head")
    hidden, asked = method.masks(data.view_seeds(), data.device)
    assert [int(asked[0, 0].sum()), int(hidden[0, 0].sum())] == ([8, 10] if block == 1 else [8, 8])
    squares, smooth = [], []
    for view in range(2):
        visible = torch.stack([(~row).nonzero()[:, 0] for row in hidden[view]])
        tokens = encode(pixels, part(state, "encoder"), 2, visible)[1]
        predicted = decode(tokens, visible, part(state, "decoder"), 2, 16)
        squares += ((predicted - wanted) ** 2).mean(-1)[asked[view]].tolist()
        x = gelu(layer_norm(linear(tokens, head, "0"), head, "1"))
        x = linear(gelu(layer_norm(linear(x, head, "3"), head, "4")), head, "6")
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        difference = (linear(x, head, "8") - rows(wanted, visible)).abs()
        smooth.append(torch.where(difference < 0.5, difference**2 / 1.0, difference - 0.25).mean())
    output = method(data)
    assert output.metrics["masked"].item() == pytest.approx(sum(squares) / len(squares), abs=1e-5)
    assert output.metrics["visible"].item() == pytest.approx(float(sum(smooth) / 2), abs=1e-5)
    assert output.loss.item() == pytest.approx(sum(squares) / len(squares) + 0.7 * float(sum(smooth) / 2), abs=2e-5)


def test_every_patch_is_predicted_once_in_whole_blocks() -> None:
    hidden, asked = dmjd().masks(list(range(8)), torch.device("cpu"))
    assert hidden.shape == (2, 8, 16) and (asked.sum(0) == 1).all() and (hidden | ~asked).all()
    blocks = hidden.view(2, 8, 2, 2, 2, 2)
    assert (blocks == blocks[:, :, :, :1, :, :1]).all()
    assert (hidden.sum(2) == 8).all()


def test_brightness_and_contrast_do_not_change_the_target() -> None:
    method, pixels = dmjd(), batch(3).pixels()
    torch.testing.assert_close(method.target(pixels), method.target(3 * pixels + 2), atol=1e-3, rtol=0)


def test_it_learns_reaches_the_encoder_and_repeats_itself() -> None:
    method, data = dmjd(), batch()
    assert gradient_norm(method, data) > 0
    assert torch.equal(method(data).loss, dmjd()(data).loss)
    assert not torch.equal(method(data).loss, method(batch(start=2)).loss)
    losses = trained(method, data, steps=30)
    assert losses[-1] < 0.85 * losses[0]
    assert method(data).visuals()["masks"].ndim == 3


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="mask ratio"):
        DMJDConfig(mask_ratio=0.0)
    with pytest.raises(ValueError, match="at least one view"):
        DMJDConfig(views=0)
    with pytest.raises(ValueError, match="whole number of cells"):
        dmjd(cell=3)
    with pytest.raises(ValueError, match="block that divides"):
        dmjd(block=3)
    backbone = vit()
    with pytest.raises(ValueError, match="108 numbers"):
        DMJD(backbone, ImageDecoderConfig(dim=16, depth=1, heads=2).build(backbone), DMJDConfig(cell=2))
