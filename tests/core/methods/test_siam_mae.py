"""SiamMAE: two pictures of a scene, the loss is the definition's, only the second picture is masked."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from suite3d.image.data.sets import Digits
from suite3d.image.data.source import ImageSource
from suite3d.image.recipes.cross_view import SiamMAERecipe, pair_view
from suite3d.methods.siam_mae import SiamMAE, SiamMAEConfig
from suite3d.nn.decoder import CrossSelfDecoder
from tests.core.methods.cross_views import shaken, slow_loss, table
from tests.core.methods.joint import batch, gradient_norm, trained, vit

VIEWS = SiamMAERecipe(augment=replace(pair_view(), size=16)).views()


def method(ratio=0.85):
    decoder = CrossSelfDecoder(16, 16, 2, 2, 48, table(16), generator=torch.Generator().manual_seed(1))
    return SiamMAE(vit(), decoder, SiamMAEConfig(mask_ratio=ratio))


def test_loss_is_its_definition():
    """Two blocks deep, so that the second reads what the first wrote."""
    model, data = shaken(method()), batch(3, VIEWS)
    assert [view.picture for view in data.views] == [0, 1] and not torch.equal(data.pictures[0], data.pictures[1])
    assert model(data).loss.item() == pytest.approx(slow_loss(model, data, masked=1, reference=0, ratio=0.85, croco=False, depth=2), abs=1e-5)


def test_the_first_picture_is_seen_whole_and_read():
    """Moving one patch of the first picture, any of them, moves the loss."""
    model, data = shaken(method()), batch(1, VIEWS)
    for corner in [(0, 0), (0, 23), (23, 0), (23, 23), (12, 12)]:
        other = copy.copy(data)
        other.views = [replace(data.views[0], boxes=torch.tensor([[0, 0, 24, 24]])), data.views[1]]
        whole = model(other).loss.item()
        changed = data.pictures[0].clone()
        changed[:, 0, max(corner[0] - 3, 0) : corner[0] + 3, max(corner[1] - 3, 0) : corner[1] + 3] = 255
        other.pictures = [changed, data.pictures[1]]
        assert abs(model(other).loss.item() - whole) > 1e-7


def test_learns_and_repeats():
    data = batch(4, VIEWS)
    assert gradient_norm(method(), data) > 0
    losses = trained(method(), data)
    assert losses[-1] < 0.8 * losses[0]
    assert losses == trained(method(), data), "the same seed, the same losses"


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="mask ratio"):
        SiamMAEConfig(mask_ratio=1.0)
    with pytest.raises(ValueError, match="knows of no such pairs"):
        ImageSource(Digits(), VIEWS)
