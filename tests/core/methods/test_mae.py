"""MAE: the loss is its definition, hidden pixels are only targets, and the picture shows what was seen."""

from __future__ import annotations

import pytest
import torch

from suite3d.image.recipes.encoder import ImageDecoderConfig
from suite3d.masking import generators_of, tube_mask
from suite3d.methods.mae import MAE, MAEConfig
from tests.core.methods.joint import batch, gradient_norm, trained, vit
from tests.core.methods.naive_masked import decode, encode, part, pixel_targets, shaken


def mae(ratio: float = 0.75, kind: str = "self", **encoder) -> MAE:
    torch.manual_seed(1)
    backbone = vit(**encoder)
    return MAE(backbone, ImageDecoderConfig(kind=kind, dim=16, depth=1, heads=2).build(backbone), MAEConfig(mask_ratio=ratio))


@pytest.mark.parametrize("ratio", [0.25, 0.75])
@pytest.mark.parametrize("class_token", [True, False])
def test_loss_is_its_definition(ratio: float, class_token: bool) -> None:
    method, data = shaken(mae(ratio, depth=2, class_token=class_token)), batch(4)
    mask = tube_mask((1, 4, 4), ratio, generators_of(data.view_seeds(), "mask"))
    visible = torch.stack([(~row).nonzero()[:, 0] for row in mask])
    pixels = data.pixels().double()
    tokens = encode(pixels, part(method.state_dict(), "encoder"), 2, visible)[1]
    error = (decode(tokens, visible, part(method.state_dict(), "decoder"), 2, 16) - pixel_targets(pixels, 4)) ** 2
    assert method(data).loss.item() == pytest.approx(error.mean(-1)[mask].mean().item(), abs=1e-5)


def test_hidden_pixels_do_not_reach_the_features() -> None:
    method, data = mae(), batch(3)
    features = method(data).features
    grid = method.mask(data.view_seeds(), data.device).view(3, 4, 4)
    hidden = grid.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].expand(3, 3, 16, 16)
    altered = data.pixels()
    altered[hidden] = 7.0
    data.pixels = lambda view=0: altered
    assert torch.equal(method(data).features, features)


def test_it_learns_reaches_the_encoder_and_repeats_itself() -> None:
    method, data = mae(), batch()
    assert gradient_norm(method, data) > 0
    assert torch.equal(method(data).loss, mae()(data).loss)
    assert not torch.equal(method(data).loss, method(batch(start=2)).loss)
    losses = trained(method, data, steps=30)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("kind", ["self", "cross"])
def test_pictures_show_the_visible_patches(kind: str) -> None:
    picture = mae(kind=kind)(batch()).visuals()["reconstruction"]
    assert picture.dtype == "uint8" and picture.ndim == 3 and len(set(picture.flatten().tolist())) > 4


def test_bad_input() -> None:
    for ratio in (0.0, 1.0):
        with pytest.raises(ValueError, match="mask ratio"):
            MAEConfig(mask_ratio=ratio)
    backbone = vit()
    with pytest.raises(ValueError, match="48 values of a patch"):
        MAE(backbone, ImageDecoderConfig(dim=16, depth=1, heads=2).build(backbone, outputs=7))
