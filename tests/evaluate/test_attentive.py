"""The attentive probe: what it computes, that its classifiers train apart, and that its choice does not see the test set."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from suite3d.evaluate.attentive import AttentiveConfig, attentive_probe, predict, train_classifiers
from suite3d.evaluate.features import FeatureSet
from suite3d.nn.attentive import AttentiveClassifier, AttentivePooler, fitting_heads

CPU = torch.device("cpu")


def bank(n=48, *, views=1, tokens=5, dim=8, seed=0, relabel=0):
    """Class = which of two directions one (random) token points in; the mean over tokens hardly shows it."""
    rng = torch.Generator().manual_seed(seed)
    x = 0.3 * torch.randn(n, views, tokens, dim, generator=rng)
    labels = torch.arange(n) % 2
    place = torch.randint(tokens, (n, views), generator=rng)
    for i in range(n):
        for v in range(views):
            x[i, v, place[i, v], 0] += 2.0 if labels[i] else -2.0
    names = [f"clip{i}" for i in range(n)]
    return FeatureSet(features=x, labels=(labels + relabel) % 2, names=names, groups=names)


def naive_pool(pooler: AttentivePooler, tokens: torch.Tensor) -> torch.Tensor:
    """The definition, sample by sample and head by head."""
    rows = []
    for x in tokens:
        for block in pooler.blocks:
            y = F.layer_norm(x, x.shape[-1:], block.norm1.weight, block.norm1.bias, 1e-6)
            q, k, v = (y @ block.attn.qkv.weight.T + block.attn.qkv.bias).chunk(3, dim=-1)
            x = x + attend(q, k, v, block.attn.heads) @ block.attn.proj.weight.T + block.attn.proj.bias
            x = x + mlp(block, F.layer_norm(x, x.shape[-1:], block.norm2.weight, block.norm2.bias, 1e-6))
        last = pooler.last
        y = F.layer_norm(x, x.shape[-1:], last.norm1.weight, last.norm1.bias, 1e-6)
        k, v = (y @ last.kv.weight.T + last.kv.bias).chunk(2, dim=-1)
        query = pooler.query[0]
        query = query + attend(query @ last.q.weight.T + last.q.bias, k, v, last.heads)
        rows.append(query + mlp(last, F.layer_norm(query, query.shape[-1:], last.norm2.weight, last.norm2.bias, 1e-6)))
    return torch.stack(rows)


def mlp(block, x):
    return F.gelu(x @ block.mlp.fc1.weight.T + block.mlp.fc1.bias) @ block.mlp.fc2.weight.T + block.mlp.fc2.bias


def attend(q, k, v, heads):
    size = q.shape[1] // heads
    parts = [slice(i * size, (i + 1) * size) for i in range(heads)]
    return torch.cat([torch.softmax(q[:, p] @ k[:, p].T / math.sqrt(size), dim=1) @ v[:, p] for p in parts], dim=1)


@torch.no_grad()
def test_the_pooler_is_its_definition():
    pooler = AttentivePooler(12, heads=3, depth=3, generator=torch.Generator().manual_seed(0))
    for parameter in pooler.parameters():
        parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    tokens = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(pooler(tokens), naive_pool(pooler, tokens), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pooler(tokens[:, torch.randperm(7)]), pooler(tokens), atol=1e-5, rtol=1e-5)


def test_four_blocks_have_v_jepa_2s_parameters():
    """A block: 12 d^2 + 13 d. The query's: q, kv, mlp and two norms without an output projection, 11 d^2 + 12 d. The query: d."""
    d, classes = 32, 10
    model = AttentiveClassifier(d, classes, heads=16)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == 3 * (12 * d * d + 13 * d) + (11 * d * d + 12 * d) + d + d * classes + classes
    assert [fitting_heads(dim) for dim in (768, 1024, 384, 192, 48, 7, 20)] == [16, 16, 16, 16, 16, 7, 10]


def test_classifiers_trained_together_equal_those_trained_alone():
    data = bank(20)
    config = AttentiveConfig(depth=2, heads=2, rates=(1e-3, 1e-2), decays=(0.1,), epochs=2, batch_size=8)
    together = train_classifiers(data, list(range(20)), classes=2, config=config, device=CPU)
    alone = train_classifiers(
        data, list(range(20)), classes=2, config=AttentiveConfig(depth=2, heads=2, rates=(1e-3,), decays=(0.1,), epochs=2, batch_size=8), device=CPU
    )
    for a, b in zip(together[0].parameters(), alone[0].parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_probe_solves_what_a_mean_hides_and_says_how_it_chose():
    config = AttentiveConfig(depth=2, heads=2, rates=(1e-6, 1e-2), decays=(0.01,), epochs=20, batch_size=16, held_out=0.25)
    result = attentive_probe(bank(96), bank(24, seed=7), classes=2, config=config)
    assert result.scores["top-1"] > 85 and result.rate == 1e-2 and result.test_rows == 24
    assert set(result.grid) == {"lr 1e-06, weight decay 0.01", "lr 0.01, weight decay 0.01"} and "not trained on" in result.chosen_on


def test_the_choice_sees_the_test_set_only_when_told_to():
    settings = {"depth": 1, "heads": 2, "rates": (1e-6, 1e-2), "decays": (0.01,), "epochs": 8, "batch_size": 16, "held_out": 0.25}
    honest, flipped = (attentive_probe(bank(), bank(24, seed=7, relabel=r), classes=2, config=AttentiveConfig(**settings)) for r in (0, 1))
    assert honest.grid == flipped.grid and honest.rate == flipped.rate
    assert honest.scores["top-1"] == pytest.approx(100 - flipped.scores["top-1"])
    optimistic = [
        attentive_probe(bank(), bank(24, seed=7, relabel=r), classes=2, config=AttentiveConfig(**settings, choose="test_set")) for r in (0, 1)
    ]
    assert optimistic[0].grid != optimistic[1].grid and "optimistic" in optimistic[0].chosen_on
    for result in optimistic:
        assert result.scores["top-1"] == max(result.grid.values())


def test_views_are_averaged_after_the_softmax():
    data = bank(6, views=3)
    config = AttentiveConfig(depth=1, heads=2, rates=(1e-2,), decays=(0.0,), epochs=1)
    models = train_classifiers(data, range(6), classes=2, config=config, device=CPU)
    _, together = predict(models, data, range(6), config=config, device=CPU)
    with torch.no_grad():
        single = torch.stack([models[0](data.features[:, view]).softmax(1) for view in range(3)])
    torch.testing.assert_close(together[0], single.mean(0))
