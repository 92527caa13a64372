"""Published parameter counts and costs, and what every video encoder promises."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from suite3d.nn.vit import VisionTransformer
from suite3d.video.backbones import UniFormer, UniFormerConfig, decoder_size, r2plus1d_18, r3d_18, r3d_50, uniformer_b, uniformer_s, vit_config

HEAD_512, HEAD_2048 = 512 * 400 + 400, 2048 * 400 + 400  # the 400-class heads that published counts include


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build()


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (r3d_18, 33_371_472 - HEAD_512),  # torchvision's documentation
        (r2plus1d_18, 31_505_325 - HEAD_512),
        (lambda: r3d_50(stem_frames=1, stem_stride=1), 32_454_096 - HEAD_2048),  # Slow R50: 32.45 M
        (r3d_50, 32_454_096 - HEAD_2048 + 64 * 3 * 4 * 49),  # four more frames in the stem
    ],
)
def test_residual_networks_have_the_published_parameters(build: Callable[[], nn.Module], count: int) -> None:
    assert parameters(on_meta(build)) == count


@pytest.mark.parametrize(("build", "millions", "gflop"), [(uniformer_s, 21.4, 41.8), (uniformer_b, 49.8, 96.7)])
def test_uniformer_has_the_published_size_and_cost(build: Callable[[], nn.Module], millions: float, gflop: float) -> None:
    model = on_meta(build)
    assert (parameters(model) + HEAD_512) / 1e6 == pytest.approx(millions, abs=0.05)
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        model(torch.empty(1, 3, 16, 224, 224))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gflop, rel=0.01)


def test_slow_r50_has_the_published_cost() -> None:
    model = on_meta(lambda: r3d_50(stem_frames=1, stem_stride=1))
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        model(torch.empty(1, 3, 8, 256, 256))
    assert counter.get_total_flops() / 2e9 == pytest.approx(54.52, rel=1e-3)


@pytest.mark.parametrize(("size", "millions"), [("S", 22), ("B", 87), ("L", 305), ("H", 633), ("g", 1013)])
def test_transformers_have_the_published_parameters(size: str, millions: float) -> None:
    model = on_meta(lambda: VisionTransformer(vit_config(size)))
    head = 400 * model.embed_dim + 400
    assert (parameters(model) + head) / 1e6 == pytest.approx(millions, rel=0.007)


def test_sizes_and_decoders() -> None:
    assert [vit_config(size).heads for size in "SBLHg"] == [6, 12, 16, 16, 16]
    assert vit_config("g").hidden == 6144 and vit_config("g").patch == (2, 14, 14) and vit_config("g").grid == (8, 16, 16)
    assert [decoder_size(size).depth for size in "SBLHg"] == [4, 4, 12, 12, 4]
    assert [decoder_size(size, version=2).depth for size in "SBLHg"] == [4] * 5
    assert [(d.dim, d.heads) for d in map(decoder_size, "SBLHg")] == [(192, 3), (384, 6), (512, 8), (640, 8), (512, 8)]
    assert vit_config("B", clip=(1, 224, 224)).grid == (1, 14, 14)
    with pytest.raises(ValueError, match="one of S, B, L, H, g, got 'XL'"):
        vit_config("XL")


TINY_UNIFORMER = UniFormerConfig(dims=(8, 16, 32, 64), depths=(1, 1, 1, 1), head_dim=16, drop_path=0.2)


@pytest.mark.parametrize(
    ("build", "clip", "grid"),
    [
        (r3d_18, (8, 32, 48), (1, 2, 3)),
        (r2plus1d_18, (16, 32, 16), (2, 2, 1)),
        (r3d_50, (4, 32, 64), (2, 1, 2)),
        (lambda generator=None: UniFormer(TINY_UNIFORMER, generator=generator), (5, 32, 64), (3, 1, 2)),
    ],
)
def test_contract(build: Callable[..., nn.Module], clip: tuple[int, int, int], grid: tuple[int, int, int]) -> None:
    model = build(generator=torch.Generator().manual_seed(0)).eval()
    x = torch.randn(2, 3, *clip, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tokens, image = model(x), model.feature_map(x)
    assert image.shape == (2, model.embed_dim, *grid)
    assert torch.equal(tokens.reshape(2, *grid, -1).permute(0, 4, 1, 2, 3), image)
    assert all(-(-size // stride) == cells for size, stride, cells in zip(clip, model.strides, grid, strict=True))
    with torch.no_grad():
        torch.testing.assert_close(model(x[1:]), tokens[1:], atol=1e-4, rtol=1e-4)
    again = build(generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    assert model.describe()["class"] == type(model).__name__


@pytest.mark.parametrize("build", [r3d_18, r3d_50, lambda: UniFormer(TINY_UNIFORMER)])
def test_nothing_stays_uninitialised(build: Callable[[], nn.Module]) -> None:
    model = on_meta(build).to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.fill_(float("nan") if tensor.is_floating_point() else -1)
    model.reset_parameters(torch.Generator().manual_seed(0))
    assert all(tensor.isfinite().all() for tensor in [*model.parameters(), *model.buffers()])


def test_names_are_torchvisions() -> None:
    flat = on_meta(r3d_18).state_dict()
    assert flat["stem.0.weight"].shape == (64, 3, 3, 7, 7) and flat["layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1, 1)
    assert flat["layer1.1.conv2.0.weight"].shape == (64, 64, 3, 3, 3)
    split = on_meta(r2plus1d_18).state_dict()
    assert split["stem.3.weight"].shape == (64, 45, 3, 1, 1) and split["layer1.0.conv1.0.3.weight"].shape == (64, 144, 3, 1, 1)
    assert split["layer2.0.conv1.0.0.weight"].shape == (230, 64, 1, 3, 3)


def test_temporal_kernels_of_the_r3d_50() -> None:
    model = on_meta(r3d_50)
    kernels = [getattr(model, f"layer{stage}")[1].conv1[0].kernel_size[0] for stage in (1, 2, 3, 4)]
    assert kernels == [1, 1, 3, 3] and model.stem[0].kernel_size == (5, 7, 7) and model.stem[0].stride == (2, 2, 2)


def test_uniformer_names_and_sizes() -> None:
    names = on_meta(uniformer_s).state_dict()
    assert names["patch_embed1.proj.weight"].shape == (64, 3, 3, 4, 4) and names["blocks1.2.attn.weight"].shape == (64, 1, 5, 5, 5)
    assert names["blocks3.7.attn.qkv.bias"].shape == (960,) and "norm.running_mean" in names
    with pytest.raises(ValueError, match=r"multiples of 32, got \(30, 32\)"):
        UniFormer(TINY_UNIFORMER)(torch.zeros(1, 3, 4, 30, 32))


def test_uniformer_sees_the_whole_clip_only_in_the_global_stages() -> None:
    model = UniFormer(UniFormerConfig(dims=(8, 16, 32, 64), depths=(1, 1, 1, 1), head_dim=16)).eval()
    x = torch.randn(1, 3, 16, 32, 32, requires_grad=True)
    model.feature_map(x)[0, :, 0].sum().backward()
    assert (x.grad.abs().sum((0, 1, 3, 4)) > 0).all()
    x.grad = None
    model.blocks1[0](model.patch_embed1(x))[0, :, 0].sum().backward()
    assert not x.grad[:, :, 8:].any()
