"""ConvNeXt: the published parameter counts and names, a block by hand, grids, rebuilt from its description."""

from __future__ import annotations

import math

import pytest
import torch

from suite3d.image.backbones.convnext import ConvNeXt, ConvNeXtBlock, LayerNorm2d
from suite3d.image.recipes.encoder import ConvNeXtConfig, ImageEncoderConfig, rebuild_encoder

TINY = {"depths": (1, 1, 2, 1), "dims": (4, 8, 12, 16)}


@pytest.mark.parametrize(
    ("size", "with_classifier", "dim"), [("T", 28_589_128, 768), ("S", 50_223_688, 768), ("B", 88_591_464, 1024), ("L", 197_767_336, 1536)]
)
def test_published_parameter_counts(size, with_classifier, dim):
    with torch.device("meta"):
        encoder = ConvNeXt(size)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == with_classifier - (dim * 1000 + 1000)


def test_names_are_timms():
    names = set(ConvNeXt(**TINY).state_dict())
    block = {f"stages.2.blocks.1.{name}" for name in ("gamma", "conv_dw.weight", "conv_dw.bias", "norm.weight", "mlp.fc1.weight", "mlp.fc2.bias")}
    assert block | {"stem.0.weight", "stem.1.bias", "stages.1.downsample.0.weight", "stages.3.downsample.1.bias", "head.norm.weight"} <= names
    assert not any(name.startswith("stages.0.downsample") for name in names)


def test_a_block_by_hand():
    torch.manual_seed(0)
    block = ConvNeXtBlock(3, layer_scale=0.5, drop_path=0.0).double()
    x = torch.randn(1, 3, 9, 9, dtype=torch.float64)
    out = block(x)
    window = torch.nn.functional.pad(x, (3, 3, 3, 3))[0]
    for y, column in ((0, 0), (4, 7)):
        mixed = [(window[c, y : y + 7, column : column + 7] * block.conv_dw.weight[c, 0]).sum() + block.conv_dw.bias[c] for c in range(3)]
        row = torch.stack(mixed)
        row = (row - row.mean()) / (row.var(correction=0) + 1e-6).sqrt() * block.norm.weight + block.norm.bias
        hidden = block.mlp.fc1.weight @ row + block.mlp.fc1.bias
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        expected = x[0, :, y, column] + 0.5 * (block.mlp.fc2.weight @ hidden + block.mlp.fc2.bias)
        torch.testing.assert_close(out[0, :, y, column], expected)


def test_layer_norm_is_over_the_channels_of_a_place():
    x = torch.randn(2, 6, 3, 4)
    out = LayerNorm2d(6)(x)
    torch.testing.assert_close(out.mean(dim=1), torch.zeros(2, 3, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(dim=1, correction=0), torch.ones(2, 3, 4), atol=1e-3, rtol=0)


@pytest.mark.parametrize("patch", [1, 4])
def test_levels_halve_and_the_grid_is_normed_row_by_row(patch):
    torch.manual_seed(0)
    encoder = ConvNeXt(**TINY, patch=patch)
    x = torch.randn(2, 3, 16 * patch, 24 * patch)
    maps = encoder.levels(x)
    assert encoder.stride == 8 * patch
    assert [tuple(level.shape[1:]) for level in maps] == [(4, 16, 24), (8, 8, 12), (12, 4, 6), (16, 2, 3)]
    torch.testing.assert_close(encoder(x)[:, 4], encoder.head.norm(maps[-1])[:, :, 1, 1])


def test_recipe_builds_it_and_its_description_rebuilds_it():
    encoder = ImageEncoderConfig(kind="convnext", convnext=ConvNeXtConfig(**TINY, patch=2)).build(32)
    again = rebuild_encoder(encoder.describe())
    again.load_state_dict(encoder.state_dict())
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(again(x), encoder(x))


@pytest.mark.parametrize("bad", [{"size": "X"}, {"dims": (8, 8, 16, 32)}, {"depths": (1, 1)}, {"patch": 0}, {"drop_path": 1.0}])
def test_impossible_sizes_are_refused(bad):
    with pytest.raises(ValueError):
        ConvNeXt(**bad)
    with pytest.raises(ValueError, match="encoder"):
        ImageEncoderConfig(kind="convnext", convnext=ConvNeXtConfig(**bad)).build(32)
