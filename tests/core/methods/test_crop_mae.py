"""CropMAE: the local crop lies in the global one, the loss is the definition's, the global crop is what the decoder reads."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from suite3d.image.recipes.cross_view import CropMAERecipe
from suite3d.methods.crop_mae import CropMAE, CropMAEConfig
from suite3d.nn.decoder import CrossSelfDecoder
from tests.core.methods.cross_views import shaken, slow_loss, table
from tests.core.methods.joint import VIEW, batch, gradient_norm, trained, vit

VIEWS = CropMAERecipe(augment=replace(VIEW, area=(0.4, 0.9), jitter=0.0, gray=0.0)).views()


def method(ratio=0.85, **changes):
    decoder = CrossSelfDecoder(16, 16, 1, 2, 48, table(16), generator=torch.Generator().manual_seed(1))
    return CropMAE(vit(**changes), decoder, CropMAEConfig(mask_ratio=ratio))


def test_the_local_crop_is_a_part_of_the_global_one():
    data = batch(32, VIEWS)
    outer, inner = data.views[0].boxes, data.views[1].boxes
    assert (inner[:, :2] >= outer[:, :2]).all() and (inner[:, :2] + inner[:, 2:] <= outer[:, :2] + outer[:, 2:]).all()
    share = inner[:, 2:].prod(1) / outer[:, 2:].prod(1)
    assert 0.2 < share.min() and share.max() < 0.75 and 0.35 < share.mean() < 0.55
    assert (data.views[0].flips != data.views[1].flips).any() and (data.views[0].flips == data.views[1].flips).any()


@pytest.mark.parametrize("class_token", [True, False])
def test_loss_is_its_definition(class_token):
    model, data = shaken(method(class_token=class_token)), batch(3, VIEWS)
    output = model(data)
    assert output.loss.item() == pytest.approx(slow_loss(model, data, masked=1, reference=0, ratio=0.85, croco=False), abs=1e-5)
    assert output.features.shape[1] == 16 and not output.features.requires_grad
    pictures = output.visuals()
    assert set(pictures) == {"reconstruction", "reference"} and pictures["reference"].dtype.name == "uint8"


def test_the_prediction_reads_the_global_crop_and_not_the_hidden_patches():
    model, data = method(), batch(4, VIEWS)
    loss = model(data).loss
    other = copy.copy(data)
    other.views = [replace(data.views[0], boxes=data.views[0].boxes.flip(0)), data.views[1]]
    assert abs(model(other).loss.item() - loss.item()) > 1e-5
    assert gradient_norm(model, data) > 0
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing, missing


def test_learns_and_repeats():
    data = batch(4, VIEWS)
    losses = trained(method(), data, steps=25)
    assert losses[-1] < 0.8 * losses[0]
    assert losses == trained(method(), data, steps=25), "the same seed, the same losses"


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5])
def test_a_ratio_that_hides_all_or_nothing_is_refused(ratio):
    with pytest.raises(ValueError, match="mask ratio"):
        CropMAEConfig(mask_ratio=ratio)


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="48 values of a patch"):
        CropMAE(vit(), CrossSelfDecoder(16, 16, 1, 2, 47, table(16)))
    with pytest.raises(ValueError, match="two views"):
        method()(batch(2, VIEWS[:1]))
