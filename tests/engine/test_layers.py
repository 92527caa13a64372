"""Layer ids and rates as BEiT, MAE and VideoMAE have them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from suite3d.engine.layers import layer_ids, layer_scales
from suite3d.engine.optim import OptimConfig, build_optimizer, parameter_groups, set_schedule
from suite3d.nn.heads import ClassificationHead
from suite3d.nn.vit import VisionTransformer, ViTConfig


class Model(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.encoder = VisionTransformer(
            ViTConfig(dim=12, depth=3, heads=2, clip=(2, 16, 16), patch=(2, 8, 8), positions="learned", class_token=True, registers=1, **options)
        )
        self.head = ClassificationHead(12, 5)


def test_ids_of_every_parameter():
    ids, depth = layer_ids(Model().encoder)
    assert depth == 3
    for name, layer in ids.items():
        expected = 0 if name.startswith(("patch_embed", "pos_embed", "cls_token", "register")) else 4
        if name.startswith("blocks."):
            expected = int(name.split(".")[1]) + 1
        assert layer == expected, name
    assert {ids[name] for name in ids} == {0, 1, 2, 3, 4}


def test_rates_reach_the_optimiser():
    model = Model()
    config = OptimConfig(lr=1.0, weight_decay=0.05, layer_decay=0.75)
    optimizer = build_optimizer(model, config)
    set_schedule(optimizer, 2.0, 0.9)
    rates = {id(parameter): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for parameter in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    expect = {
        "head.head.weight": (1, 0.05),
        "head.fc_norm.weight": (1, 0),
        "encoder.norm.weight": (1, 0),
        "encoder.blocks.2.mlp.fc1.weight": (0.75, 0.05),
    }
    expect |= {"encoder.blocks.0.attn.q_bias": (0.75**3, 0), "encoder.patch_embed.proj.weight": (0.75**4, 0.05), "encoder.cls_token": (0.75**4, 0.05)}
    named = dict(model.named_parameters())
    for name, (scale, decay) in expect.items():
        assert rates[id(named[name])] == pytest.approx((2.0 * scale, decay)), name


def test_no_decay_changes_nothing_and_both_factors_multiply():
    model = Model()
    assert {group["scale"] for group in parameter_groups(model, OptimConfig())} == {1.0}
    scales = sorted({group["scale"] for group in parameter_groups(model, OptimConfig(layer_decay=0.5, encoder_lr=0.1))})
    assert scales == pytest.approx([0.00625, 0.0125, 0.025, 0.05, 0.1, 1.0])


def test_encoders_without_blocks_are_refused():
    model = nn.Module()
    model.encoder = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="layer_decay=1"):
        layer_scales(model, 0.75)
    with pytest.raises(ValueError, match="layer_decay"):
        layer_scales(Model(), 1.5)


def test_the_head_starts_almost_silent_and_pools_before_it_normalises():
    head = ClassificationHead(12, 5, generator=torch.Generator().manual_seed(0))
    tokens = torch.randn(3, 7, 12)
    assert head(tokens).abs().max() < 1e-3 and float(head.head.weight.std()) == pytest.approx(2e-5, rel=0.4)
    with torch.no_grad():
        head.head.weight.mul_(1000)
    expected = nn.functional.layer_norm(tokens.mean(1), (12,), eps=1e-6) @ head.head.weight.T
    torch.testing.assert_close(head(tokens), expected)
