"""Residual networks: the published parameter counts and names, grids, starts as shortcuts, rebuilt from their description."""

from __future__ import annotations

import pytest
import torch

from suite3d.image.backbones.resnet import BasicBlock, Bottleneck, ResNet
from suite3d.image.recipes.encoder import rebuild_encoder

CLASSIFIER = 2048 * 1000 + 1000


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("depth", "parameters"), [(18, 11_176_512), (34, 21_284_672), (50, 25_557_032 - CLASSIFIER), (101, 44_549_160 - CLASSIFIER)])
def test_published_parameter_counts(depth, parameters):
    with torch.device("meta"):
        assert count(ResNet(depth)) == parameters


def test_names_are_the_published_ones():
    names = set(ResNet(50, width=8).state_dict())
    assert {"conv1.weight", "bn1.running_mean", "layer1.0.downsample.0.weight", "layer1.0.downsample.1.bias", "layer4.2.conv3.weight"} <= names
    assert not any("downsample" in name for name in ResNet(18, width=8).state_dict() if name.startswith("layer1"))


@pytest.mark.parametrize(("stem", "stride"), [("imagenet", 32), ("small", 8)])
@pytest.mark.parametrize("depth", [18, 50])
def test_levels_halve_and_the_grid_is_read_row_by_row(stem, stride, depth):
    torch.manual_seed(0)
    encoder = ResNet(depth, width=8, stem=stem).eval()
    x = torch.randn(2, 3, 64, 96)
    maps = encoder.levels(x)
    assert encoder.stride == stride and encoder.embed_dim == encoder.level_dims[-1]
    for place, level in enumerate(maps):
        side = stride // 2 ** (3 - place)
        assert level.shape == (2, encoder.level_dims[place], 64 // side, 96 // side)
    features = encoder(x)
    wide = 96 // stride
    assert torch.equal(features[:, wide + 1], maps[-1][:, :, 1, 1])


@pytest.mark.parametrize("depth", [18, 50])
def test_every_block_starts_as_its_shortcut(depth):
    encoder = ResNet(depth, width=8).eval()
    block = encoder.layer2[1]
    assert isinstance(block, BasicBlock if depth < 50 else Bottleneck)
    x = torch.rand(1, encoder.level_dims[1], 8, 8)
    torch.testing.assert_close(block(x), x)


def test_stride_of_a_bottleneck_is_in_its_middle_convolution():
    block = ResNet(50, width=8).layer3[0]
    assert (block.conv1.stride, block.conv2.stride, block.conv3.stride) == ((1, 1), (2, 2), (1, 1))


def test_rebuilt_from_its_description_and_refused_otherwise():
    encoder = ResNet(18, width=8, stem="small")
    again = rebuild_encoder(encoder.describe())
    again.load_state_dict(encoder.state_dict())
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(again.eval()(x), encoder.eval()(x))
    with pytest.raises(ValueError, match="depth"):
        ResNet(20)
    with pytest.raises(ValueError, match="stem"):
        ResNet(18, stem="cifar")
