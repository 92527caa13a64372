"""Multi-crop: large views first, small ones after them with their own size, area and appearance, and encoders that take both."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from suite3d.config import ConfigError
from suite3d.image.recipes.contrastive import LeJEPARecipe, SwAVRecipe
from suite3d.image.recipes.encoder import ImageEncoderConfig, ImageViTConfig
from suite3d.image.recipes.multi_crop import LocalViewConfig
from suite3d.methods.multi_view import view_features
from suite3d.nn.pooling import pooled_features
from suite3d.nn.vit import VisionTransformer
from tests.core.methods.joint import MULTI, batch, resnet, vit

TINY = ImageViTConfig(size="S", dim=16, depth=1, heads=2, patch=4)


def recipe(kind="vit", **local):
    made = SwAVRecipe(encoder=ImageEncoderConfig(kind=kind, vit=TINY, depth=18, width=4, stem="small"))
    return replace(made, augment=replace(made.augment, size=16), local=LocalViewConfig(**({"count": 3, "size": 8, "area": (0.1, 0.3)} | local)))


def test_large_views_come_first():
    first, second, small = recipe().views()
    assert [(group.count, group.view.size) for group in (first, second, small)] == [(1, 16), (1, 16), (3, 8)]
    assert first.view.area == (0.14, 1.0) and small.view.area == (0.1, 0.3)
    assert replace(small.view, size=16, area=first.view.area) == first.view, "colours and mirrors are shared"
    lejepa = LeJEPARecipe().views()
    assert [group.appearance.blur for group in lejepa] == [1.0, 0.1, 0.5], "DINO's appearance"
    assert len(recipe(count=0).views()) == 2


def test_crops_cover_what_they_say():
    data = batch(32, [*recipe().views()])
    for view, (low, high) in enumerate([(0.14, 1.0)] * 2 + [(0.1, 0.3)] * 3):
        share = data.views[view].boxes[:, 2:].prod(dim=1) / data.views[view].sizes.prod(dim=1)
        assert low - 0.03 < share.min() and share.max() < high + 0.03


def test_vision_transformers_take_both_sizes():
    encoder = recipe().build_encoder()
    assert isinstance(encoder, VisionTransformer) and encoder.config.any_size and encoder.grid == (1, 4, 4)
    assert encoder(torch.zeros(1, 3, 8, 8)).shape == (1, 4, 16)
    one_size = recipe(size=16).build_encoder()
    assert isinstance(one_size, VisionTransformer) and not one_size.config.any_size
    rope = recipe()
    rope.encoder.vit = replace(TINY, positions="rope")
    with pytest.raises(ConfigError):
        rope.build_encoder()


@pytest.mark.parametrize("make", [lambda: vit(any_size=True), resnet])
def test_views_of_one_size_share_a_pass(make):
    encoder, data = make().eval(), batch(4, MULTI)
    assert [numbers for numbers, _ in data.runs()] == [[0, 1], [2, 3]]
    features = view_features(encoder, data)
    for view in range(4):
        torch.testing.assert_close(features[view], pooled_features(encoder, data.pixels(view)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(view_features(encoder, data, range(2, 4)), features[2:])


def test_bad_local_views_are_refused():
    for wrong in ({"count": -1}, {"size": 0}, {"area": (0.5, 0.1)}, {"area": (0.0, 0.1)}):
        with pytest.raises(ValueError, match="increasing area"):
            LocalViewConfig(**wrong)
