"""The arithmetic against the published figures and against torch's counter on the real modules."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from suite3d.nn.decoder import CrossDecoder, SelfDecoder
from suite3d.nn.flops import encoder_macs, pretraining_macs
from suite3d.nn.positions import Positions
from suite3d.nn.vit import VisionTransformer, ViTConfig

VIT_B = ViTConfig()


def decoder(cls: type = SelfDecoder, *, enc: int = 768, dim: int = 384, depth: int = 4, heads: int = 6) -> SelfDecoder | CrossDecoder:
    with torch.device("meta"):
        return cls(enc, dim, depth, heads, 1536, Positions("sincos_flat", (8, 14, 14), dim))


@pytest.mark.parametrize(
    ("targets", "embedded", "gmac", "training"),
    [(1408, 1568, 35.440, 208.9), (1408, None, 33.779, 202.3), (784, 1568, 25.840, 151.3), (784, None, 24.179, 144.7)],
)
def test_videomae_b(targets: int, embedded: int | None, gmac: float, training: float) -> None:
    macs = pretraining_macs(VIT_B, decoder(), visible=160, targets=targets, embedded=embedded)
    assert macs.forward / 1e9 == pytest.approx(gmac, rel=1e-4)
    assert macs.training_flops / 1e9 == pytest.approx(training, rel=1e-3)


def test_parts_of_videomae_b() -> None:
    macs = pretraining_macs(VIT_B, decoder(), visible=160, targets=1408, embedded=1568)
    assert [round(part / 1e9, 4) for part in (macs.embed, macs.encoder, macs.decoder, macs.head)] == [1.8497, 14.0614, 18.6982, 0.8305]
    dual = pretraining_macs(VIT_B, decoder(), visible=160, targets=784)
    assert [round(part / 1e9, 4) for part in (dual.embed, dual.decoder, dual.head)] == [0.1887, 9.4663, 0.4624]


@pytest.mark.parametrize(("targets", "gmac"), [(1408, 24.27), (704, 19.35), (352, 16.90)])
def test_cross_decoder(targets: int, gmac: float) -> None:
    """The published sums leave the bridge out."""
    macs = pretraining_macs(VIT_B, decoder(CrossDecoder), visible=160, targets=targets)
    assert (macs.forward - 160 * 768 * 384) / 1e9 == pytest.approx(gmac, abs=0.006)


@pytest.mark.parametrize(
    ("config", "size", "targets", "gmac"),
    [
        (ViTConfig(dim=384, depth=12, heads=6), (192, 4, 3), 784, 7.84),
        (ViTConfig(dim=1024, depth=24, heads=16), (512, 4, 8), 784, 68.3),
        (ViTConfig(dim=1024, depth=24, heads=16), (512, 12, 8), 784, 99.3),
        (ViTConfig(dim=1024, depth=24, heads=16), (512, 12, 8), 1408, 142.6),
        (ViTConfig(dim=1280, depth=32, heads=16), (640, 4, 8), 784, 129.9),
    ],
)
def test_other_sizes(config: ViTConfig, size: tuple[int, int, int], targets: int, gmac: float) -> None:
    dim, depth, heads = size
    macs = pretraining_macs(config, decoder(enc=config.dim, dim=dim, depth=depth, heads=heads), visible=160, targets=targets, embedded=1568)
    assert macs.forward / 1e9 == pytest.approx(gmac, rel=1e-3)


def test_unmasked_vit_b_is_the_published_180() -> None:
    assert encoder_macs(VIT_B).forward / 1e9 == pytest.approx(180.3, rel=1e-3)


def test_ucf_ratio() -> None:
    assert encoder_macs(VIT_B, visible=392).encoder / 1e9 == pytest.approx(36.1, rel=2e-3)
    assert pretraining_macs(VIT_B, decoder(), visible=392, targets=1176, embedded=1568).forward / 1e9 == pytest.approx(57.4, rel=2e-3)


@pytest.mark.parametrize(("cls", "targets"), [(SelfDecoder, 1408), (SelfDecoder, 784), (CrossDecoder, 704)])
def test_torch_counts_the_same_on_the_modules(cls: type, targets: int) -> None:
    part = decoder(cls)
    with torch.device("meta"):
        encoder = VisionTransformer(VIT_B)
        clip, visible, index = torch.empty(1, 3, 16, 224, 224), torch.zeros(1, 160, dtype=torch.long), torch.zeros(1, targets, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        part(encoder(clip, visible), visible, index)
    assert counter.get_total_flops() == 2 * pretraining_macs(VIT_B, part, visible=160, targets=targets).forward


@pytest.mark.parametrize(
    "config",
    [
        ViTConfig(dim=48, depth=2, heads=4, clip=(4, 32, 32), mlp="swiglu", class_token=True, registers=4, qkv_bias="full"),
        ViTConfig(dim=48, depth=3, heads=4, clip=(4, 32, 48), mlp_ratio=48 / 11, positions="rope", qkv_bias="none"),
    ],
)
def test_torch_counts_the_same_on_other_encoders(config: ViTConfig) -> None:
    with torch.device("meta"):
        encoder = VisionTransformer(config)
        clip = torch.empty(1, 3, *config.clip)
    with FlopCounterMode(display=False) as counter:
        encoder(clip)
    assert counter.get_total_flops() == 2 * encoder_macs(config).forward
