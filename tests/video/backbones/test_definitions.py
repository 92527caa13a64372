"""The convolutional encoders against their definition, and against torchvision where it can be imported."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite3d.video.backbones import r2plus1d_18, r3d_18
from suite3d.video.backbones.resnet3d import Bottleneck
from suite3d.video.backbones.uniformer import Downsample, GlobalBlock, LocalBlock


def drawn(module: nn.Module) -> nn.Module:
    """Every parameter and running statistic away from its start."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer += 0.1 * torch.randn(buffer.shape, generator=generator)
            elif name.endswith("running_var"):
                buffer += 0.5 * torch.rand(buffer.shape, generator=generator)
    return module.eval()


def batch_norm(x: Tensor, layer: nn.Module) -> Tensor:
    view = (1, -1, 1, 1, 1)
    x = (x - layer.running_mean.view(view)) / (layer.running_var.view(view) + 1e-5).sqrt()
    return x * layer.weight.view(view) + layer.bias.view(view)


def channel_norm(x: Tensor, layer: nn.LayerNorm, eps: float) -> Tensor:
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).square().mean(1, keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * layer.weight.view(1, -1, 1, 1, 1) + layer.bias.view(1, -1, 1, 1, 1)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    out = torch.einsum("bcthw,oc->bothw", x, weight.flatten(1))
    return out if bias is None else out + bias.view(1, -1, 1, 1, 1)


def depthwise(x: Tensor, layer: nn.Conv3d) -> Tensor:
    """Sum over the offsets of the window, one by one."""
    k = layer.kernel_size[0]
    padded = F.pad(x, (k // 2,) * 6)
    out = torch.zeros_like(x) + layer.bias.view(1, -1, 1, 1, 1)
    t, h, w = x.shape[2:]
    for i in range(k):
        for j in range(k):
            for m in range(k):
                out = out + padded[:, :, i : i + t, j : j + h, m : m + w] * layer.weight[:, 0, i, j, m].view(1, -1, 1, 1, 1)
    return out


@torch.no_grad()
def test_local_block() -> None:
    block = drawn(LocalBlock(8, hidden=16, drop_path=0.0))
    x = torch.randn(2, 8, 3, 6, 5)
    y = x + depthwise(x, block.pos_embed)
    h = pointwise(batch_norm(y, block.norm1), block.conv1.weight, block.conv1.bias)
    y = y + pointwise(depthwise(h, block.attn), block.conv2.weight, block.conv2.bias)
    h = F.gelu(pointwise(batch_norm(y, block.norm2), block.mlp.fc1.weight, block.mlp.fc1.bias))
    torch.testing.assert_close(block(x), y + pointwise(h, block.mlp.fc2.weight, block.mlp.fc2.bias), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_global_block() -> None:
    block = drawn(GlobalBlock(8, heads=2, hidden=16, drop_path=0.0))
    x = torch.randn(2, 8, 3, 2, 5)
    y = (x + depthwise(x, block.pos_embed)).flatten(2).transpose(1, 2)
    h = F.layer_norm(y, (8,), block.norm1.weight, block.norm1.bias, 1e-6)
    q, k, v = (h @ block.attn.qkv.weight.T + block.attn.qkv.bias).chunk(3, dim=-1)
    heads = [((q[..., s] @ k[..., s].transpose(1, 2)) / 2).softmax(-1) @ v[..., s] for s in (slice(0, 4), slice(4, 8))]
    y = y + torch.cat(heads, dim=-1) @ block.attn.proj.weight.T + block.attn.proj.bias
    h = F.gelu(F.layer_norm(y, (8,), block.norm2.weight, block.norm2.bias, 1e-6) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
    y = y + h @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
    torch.testing.assert_close(block(x), y.transpose(1, 2).reshape(x.shape), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_downsample_normalises_the_channels_of_each_place() -> None:
    layer = drawn(Downsample(3, 6, kernel=(3, 4, 4), stride=(2, 4, 4), padding=(1, 0, 0)))
    x = torch.randn(2, 3, 5, 8, 12)
    convolved = F.conv3d(x, layer.proj.weight, layer.proj.bias, stride=(2, 4, 4), padding=(1, 0, 0))
    torch.testing.assert_close(layer(x), channel_norm(convolved, layer.norm, 1e-5), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("cin", "stride", "kernel"), [(8, 2, 3), (16, 1, 1), (16, 1, 3)])
def test_bottleneck(cin: int, stride: int, kernel: int) -> None:
    block = drawn(Bottleneck(cin, 4, stride, kernel=kernel))
    x = torch.randn(2, cin, 4, 6, 6)
    h = batch_norm(F.conv3d(x, block.conv1[0].weight, padding=(kernel // 2, 0, 0)), block.conv1[1]).relu()
    h = batch_norm(F.conv3d(h, block.conv2[0].weight, stride=(1, stride, stride), padding=(0, 1, 1)), block.conv2[1]).relu()
    h = batch_norm(pointwise(h, block.conv3[0].weight), block.conv3[1])
    shortcut = x
    if cin != 16 or stride != 1:
        shortcut = batch_norm(pointwise(x[:, :, :, ::stride, ::stride], block.downsample[0].weight), block.downsample[1])
    torch.testing.assert_close(block(x), (h + shortcut).relu(), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("name", "build"), [("r3d_18", r3d_18), ("r2plus1d_18", r2plus1d_18)])
def test_torchvision_computes_the_same(name: str, build: Any) -> None:
    try:
        video = importlib.import_module("torchvision.models.video")
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision cannot be used as the reference here: {type(error).__name__}: {str(error)[:100]}")
    ours = drawn(build(generator=torch.Generator().manual_seed(0)))
    theirs = getattr(video, name)(weights=None).eval()
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert set(missing) == {"fc.weight", "fc.bias"} and not unexpected
    theirs.fc = nn.Identity()
    x = 0.1 * torch.randn(1, 3, 8, 32, 32)
    expected = theirs(x)
    torch.testing.assert_close(ours(x).mean(1), expected, atol=1e-4 * expected.abs().max().item(), rtol=1e-4)
