"""SparK: masked dense and sparse convolution give the same numbers, hidden pixels never matter, the loss is its definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from suite3d.image.backbones.convnext import ConvNeXt
from suite3d.image.backbones.resnet import ResNet
from suite3d.image.backbones.sparse_resnet import sparse_levels
from suite3d.image.backbones.visible import VisibleCells, masked_levels
from suite3d.methods.spark import LightDecoder, SparK, SparKConfig
from suite3d.recipes import find_recipe, resolve
from tests.core.methods.joint import batch, gradient_norm, resnet, trained, vit


def convnext():
    torch.manual_seed(0)
    return ConvNeXt(depths=(1, 1, 1, 1), dims=(4, 6, 8, 12), patch=1, layer_scale=0.5)


def method(encoder=resnet, **config):
    built = encoder()
    torch.manual_seed(0)
    return SparK(built, SparKConfig(**{"width": 16, "mask_ratio": 0.5} | config))


def shaken(encoder):
    """All parameters drawn anew, so that no branch is zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + (0.5 if name.endswith("weight") else -0.5))
    return encoder


def cells_of(encoder, batch_size, cells, hidden, seed=0):
    """A random mask of ``cells`` x ``cells`` with ``hidden`` of them hidden."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(batch_size, cells**2, generator=generator).argsort(dim=1)
    mask = (order < hidden).view(batch_size, cells, cells)
    side = cells * encoder.stride
    return VisibleCells(mask, cells**2 - hidden), torch.randn(batch_size, 3, side, side, generator=generator)


def slow_levels(encoder, x, mask):
    """The encoder once more, every step written out on boolean masks."""

    def seen(x):
        side = x.shape[2] // mask.shape[1]
        return (~mask).repeat_interleave(side, 1).repeat_interleave(side, 2)

    def keep(x):
        return x * seen(x)[:, None].to(x.dtype)

    def norm(layer, x):
        rows = x.movedim(1, -1)[seen(x)]  # [P, C]
        rows = (rows - rows.mean(0)) / (rows.var(0, correction=0) + layer.eps).sqrt() * layer.weight + layer.bias
        out = torch.zeros_like(x).movedim(1, -1)
        out[seen(x)] = rows
        return out.movedim(-1, 1)

    def conv(layer, x):
        return keep(F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, 1, layer.groups))

    x = keep(x)
    maps = []
    if isinstance(encoder, ConvNeXt):
        x = keep(encoder.stem[1](conv(encoder.stem[0], x)))
        for stage in encoder.stages:
            if not isinstance(stage.downsample, nn.Identity):
                x = conv(stage.downsample[1], keep(stage.downsample[0](x)))
            for block in stage.blocks:
                x = x + keep((block.gamma * block.mlp(block.norm(conv(block.conv_dw, x).movedim(1, -1)))).movedim(-1, 1))
            maps.append(x)
        return maps
    x = encoder.maxpool(norm(encoder.bn1, conv(encoder.conv1, x)).relu())
    x = keep(x)
    for stage in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4):
        for block in stage:
            short = x if block.downsample is None else norm(block.downsample[1], conv(block.downsample[0], x))
            x = (norm(block.bn2, conv(block.conv2, norm(block.bn1, conv(block.conv1, x)).relu())) + short).relu()
        maps.append(x)
    return maps


@pytest.mark.parametrize("build", [resnet, convnext])
def test_loss_is_its_definition(build):
    model, data = method(build), batch(4)
    shaken(model.encoder)
    for token in model.mask_tokens:
        nn.init.normal_(token)
    output = model(data)
    pixels = data.pixels()
    mask = model.mask(data.view_seeds(), pixels)
    side = model.stride
    assert (mask.flatten(1).sum(1) == 2).all() and mask.shape == (4, 2, 2)
    levels = slow_levels(model.encoder, pixels, mask)
    filled = []
    for level, norm, token, project in zip(levels[::-1], model.norms, model.mask_tokens, model.projections, strict=True):
        seen = ~mask.repeat_interleave(level.shape[2] // 2, 1).repeat_interleave(level.shape[2] // 2, 2)
        rows = level.movedim(1, -1)[seen]
        if build is resnet:
            rows = (rows - rows.mean(0)) / (rows.var(0, correction=0) + norm.eps).sqrt()
        else:
            rows = F.layer_norm(rows, rows.shape[1:], eps=1e-6)
        full = token[0, :, 0, 0].detach().expand(*seen.shape, -1).clone()
        full[seen] = (rows * norm.weight + norm.bias).detach()
        filled.append(project(full.movedim(-1, 1)))
    x = filled[0]
    for step, level in zip(model.decoder.steps, filled[1:], strict=True):
        x = step(x) + level
    picture = model.decoder.head(x)
    errors = []
    for b, row, column in mask.nonzero().tolist():
        window = (b, slice(None), slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side))
        true = pixels[window]
        errors.append(((picture[window] - (true - true.mean()) / (true.var() + 1e-6).sqrt()) ** 2).mean())
    assert output.loss.item() == pytest.approx(torch.stack(errors).mean().item(), abs=1e-5)
    assert output.features.shape == (8, model.encoder.embed_dim) and not output.features.requires_grad
    assert output.visuals()["reconstruction"].ndim == 3


@pytest.mark.parametrize(("depth", "stem", "cells"), [(18, "small", 4), (18, "imagenet", 3), (50, "small", 3), (50, "imagenet", 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sparse_convolution_equals_masked_dense_convolution(depth, stem, cells, dtype):
    runs = []
    for levels in (masked_levels, sparse_levels):
        torch.manual_seed(0)
        encoder = shaken(ResNet(depth, width=8, stem=stem)).to(dtype)
        visible, pixels = cells_of(encoder, 8, cells, cells**2 // 2)
        pixels = pixels.to(dtype).requires_grad_()
        maps = levels(encoder, pixels, visible)
        generator = torch.Generator().manual_seed(2)
        sum((torch.randn(level.shape, generator=generator, dtype=dtype) * level).mean() for level in maps).backward()
        gradients = {name: parameter.grad for name, parameter in encoder.named_parameters()} | {"pixels": pixels.grad}
        running = {name: value for name, value in encoder.state_dict().items() if "running" in name}
        forward = {f"level{place}": level.detach() for place, level in enumerate(maps)} | running
        deep = depth == 50 and dtype == torch.float32  # fifty norms amplify rounding, which then decides the sign of some ReLUs' inputs
        runs.append(forward if deep else forward | gradients)
    limit = 1e-9 if dtype == torch.float64 else 1e-4 if deep else 1e-5
    for name, dense in runs[0].items():
        error = float((runs[1][name] - dense).abs().max() / dense.abs().max())
        assert error < limit, f"{name}: {error:.1e} of its largest value"


@pytest.mark.parametrize("build", [resnet, convnext, lambda: ResNet(18, width=4)])
def test_hidden_pixels_never_matter_and_the_encoder_is_left_as_it_was(build):
    encoder = shaken(build())
    visible, pixels = cells_of(encoder, 2, 3, 5)
    plain = encoder.eval()(pixels)
    encoder.train()
    maps = masked_levels(encoder, pixels, visible)
    other = torch.where(visible.at(*pixels.shape[2:]), pixels, torch.randn_like(pixels))
    for one, two, slow in zip(maps, masked_levels(encoder, other, visible), slow_levels(encoder, pixels, visible.mask), strict=True):
        assert torch.equal(one, two)
        torch.testing.assert_close(one, slow, atol=1e-5, rtol=1e-4)
        assert (one.movedim(1, -1)[~visible.at(*one.shape[2:])[:, 0]] == 0).all()
    fresh = shaken(build())
    fresh.load_state_dict(encoder.state_dict())
    assert torch.equal(encoder.eval()(pixels), fresh.eval()(pixels)) and plain.shape == fresh(pixels).shape
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in encoder.modules())


def test_hooks_go_when_a_layer_fails():
    encoder = resnet()
    visible, pixels = cells_of(encoder, 2, 3, 5)
    with pytest.raises(ValueError, match="divide"):
        masked_levels(encoder, pixels[:, :, :-1], visible)
    assert not any(module._forward_hooks for module in encoder.modules())


def test_the_steps_of_both_convolutions_are_the_same():
    data = batch(4)
    dense, sparse = (trained(method(convolution=kind), data, steps=4) for kind in ("masked", "sparse"))
    assert sparse == pytest.approx(dense, rel=1e-3)


@pytest.mark.parametrize("build", [resnet, convnext])
def test_learns_and_repeats(build):
    data = batch()
    assert gradient_norm(method(build), data) > 0
    losses = trained(method(build), data)
    assert losses[-1] < 0.8 * losses[0]
    assert losses == trained(method(build), data), "the same seed, the same losses"


def test_masks_are_a_function_of_the_seeds():
    model, data = method(), batch(6)
    pixels = data.pixels()
    first = model.mask(data.view_seeds(), pixels)
    assert torch.equal(first, model.mask(data.view_seeds(), pixels)) and not torch.equal(first, model.mask(list(range(6)), pixels))
    assert torch.equal(first[2:4], model.mask(data.view_seeds()[2:4], pixels[2:4]))


def test_published_decoder():
    decoder = LightDecoder(768, 32)
    assert decoder.widths == [768, 384, 192, 96, 48, 24]
    assert decoder.eval()([torch.zeros(1, 768, 1, 1)]).shape == (1, 3, 32, 32)


def test_bad_input_is_refused():
    for ratio in (0.0, 1.0):
        with pytest.raises(ValueError, match="mask ratio"):
            SparKConfig(mask_ratio=ratio)
    with pytest.raises(ValueError, match="levels"):
        method(vit)
    with pytest.raises(ValueError, match="ResNet only"):
        method(convnext, convolution="sparse")
    with pytest.raises(ValueError, match="multiple"):
        method(width=12)
    with pytest.raises(ValueError, match="two cells"):
        method(lambda: ResNet(18, width=4), width=32)(batch(2))


@pytest.mark.parametrize(("kind", "dims"), [("resnet", [2048, 1024, 512, 256]), ("convnext", [768, 384, 192, 96])])
def test_published_sizes(kind, dims):
    recipe = resolve(find_recipe("spark"), ["config=spark_in1k", f"encoder.kind={kind}", "method.convolution=masked"])
    with torch.device("meta"):
        model = recipe.build_method(recipe.build_encoder())
    assert [token.shape[1] for token in model.mask_tokens] == dims and model.stride == 32 and recipe.augment.size == 224
    assert [project.out_channels for project in model.projections] == [768, 384, 192, 96]
