"""Ranks and distances by definition; the monitor stays silent on healthy runs and speaks within 200 steps of collapsing ones."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from suite3d.evaluate.diagnostics import (
    CollapseMonitor,
    TokenSimilarity,
    alignment,
    effective_rank,
    feature_std,
    lidar_rank,
    rank_me,
    spread,
    token_similarity,
    uniformity,
)


def gaussian(n, c, seed=0):
    return torch.randn(n, c, generator=torch.Generator().manual_seed(seed))


def test_rank_counts_equal_directions():
    basis = torch.linalg.qr(gaussian(64, 64))[0]
    for rank in (1, 3, 17):
        assert rank_me(basis[:, :rank] @ basis[:rank]) == pytest.approx(rank, rel=1e-3)
    assert rank_me(torch.zeros(8, 4)) == 0


def test_rank_is_the_entropy_of_the_singular_values():
    x = gaussian(50, 20) @ torch.diag(torch.logspace(0, -3, 20))
    s = torch.linalg.svdvals(x.double())
    p = s / s.sum() + 1e-7
    assert rank_me(x) == pytest.approx(float(torch.exp(-(p * p.log()).sum())), rel=1e-4)
    centred = x - x.mean(dim=0)
    assert effective_rank(x + 100) == pytest.approx(rank_me(centred), rel=1e-3) and rank_me(x + 100) < 1.2


def test_spread_and_std():
    x = gaussian(4000, 32)
    assert feature_std(x) == pytest.approx(1, abs=0.02) and spread(x) == pytest.approx(1, abs=0.01)
    same = x[:1].repeat(10, 1)
    assert feature_std(same) == pytest.approx(0, abs=1e-6) and spread(same) == pytest.approx(0, abs=1e-6)
    assert spread(7 * x) == pytest.approx(spread(x)) == pytest.approx(spread(x * torch.rand(4000, 1)))


def test_alignment_and_uniformity_by_definition():
    x, y = gaussian(30, 8), gaussian(30, 8, seed=1)
    a, b = (nn.functional.normalize(v.double(), dim=1) for v in (x, y))
    assert alignment(x, y) == pytest.approx(float(sum((a[i] - b[i]).square().sum() for i in range(30)) / 30))
    pairs = [math.exp(-2 * float((a[i] - a[j]).square().sum())) for i in range(30) for j in range(i)]
    assert uniformity(x) == pytest.approx(math.log(sum(pairs) / len(pairs)))
    assert alignment(x, 3 * x) == pytest.approx(0, abs=1e-12) and uniformity(x[:1].repeat(5, 1)) == pytest.approx(0, abs=1e-9)


def test_lidar_is_the_entropy_of_the_lda_spectrum():
    """By definition: scatter matrices as sums of outer products, the inverse root by an eigen-decomposition."""
    x = (gaussian(12, 5) @ torch.diag(torch.tensor([3.0, 1, 1, 0.3, 0.1])))[:, None] + 0.2 * gaussian(12 * 4, 5, seed=1).view(12, 4, 5)
    z, delta = x.double(), 1e-2
    means = torch.stack([sample.mean(dim=0) for sample in z])
    between = sum(torch.outer(m - means.mean(dim=0), m - means.mean(dim=0)) for m in means) / 12
    within = sum(torch.outer(v - m, v - m) for sample, m in zip(z, means, strict=True) for v in sample) / 48 + delta * torch.eye(5)
    values, vectors = torch.linalg.eigh(within)
    root = vectors @ torch.diag(values**-0.5) @ vectors.T
    p = torch.linalg.eigvalsh(root @ between @ root)
    p = p / p.sum() + 1e-7
    assert lidar_rank(x, delta=delta) == pytest.approx(float(torch.exp(-(p * p.log()).sum())), rel=1e-6)


def test_lidar_counts_the_directions_that_views_share():
    """Four directions tell the samples apart; noise of each view in the other twelve raises RankMe and not LiDAR."""
    basis = torch.linalg.qr(gaussian(16, 16))[0]
    shared = (gaussian(400, 4) @ basis[:4])[:, None].expand(400, 6, 16)
    noise = (gaussian(2400, 12, seed=1) @ basis[4:]).view(400, 6, 16)
    assert lidar_rank(shared + noise, delta=1e-6) < 6 < 11 < rank_me((shared + noise).flatten(0, 1))
    assert lidar_rank(shared) == pytest.approx(4, abs=0.1) and lidar_rank(torch.ones(5, 3, 4)) == 0
    turned = (shared + noise) @ torch.linalg.qr(gaussian(16, 16, seed=3))[0]
    assert lidar_rank(turned) == pytest.approx(lidar_rank(shared + noise), rel=1e-6), "a rotation changes nothing"
    for wrong in (torch.zeros(4, 4), torch.zeros(1, 5, 4), torch.zeros(5, 1, 4)):
        with pytest.raises(ValueError, match="two views"):
            lidar_rank(wrong)


def test_token_similarity_by_definition():
    tokens = gaussian(3 * 7, 5).view(3, 7, 5)
    cosines = [float(torch.cosine_similarity(s[i], s[j], dim=0)) for s in tokens for i in range(7) for j in range(i)]
    assert token_similarity(tokens) == pytest.approx(sum(cosines) / len(cosines), abs=1e-6)
    assert token_similarity(tokens[:, :1].expand(3, 7, 5)) == pytest.approx(1)
    counted = TokenSimilarity()
    counted.add(tokens[:1])
    counted.add(tokens[1:])
    assert counted.metrics()["token_similarity"] == pytest.approx(token_similarity(tokens))
    counted.add(tokens[:, :1])
    assert counted.samples == 3 and TokenSimilarity().metrics() == {}
    with pytest.raises(ValueError, match="two tokens"):
        token_similarity(tokens[:, :1])


class Pairs:
    """Two noisy views of clustered inputs and a small encoder."""

    def __init__(self, seed, channels=32, learning_rate=0.05):
        self.generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self.centers = 2 * torch.randn(10, 8, generator=self.generator)
        self.encoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, channels))
        self.optimizer = torch.optim.SGD(self.encoder.parameters(), lr=learning_rate, momentum=0.9)

    def views(self):
        base = self.centers[torch.randint(10, (128,), generator=self.generator)]
        return [self.encoder(base + 0.3 * torch.randn(128, 8, generator=self.generator)) for _ in range(2)]

    def step(self, loss):
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def info_nce(a, b):
    a, b = (nn.functional.normalize(v, dim=1) for v in (a, b))
    return nn.functional.cross_entropy(a @ b.T / 0.2, torch.arange(len(a)))


def all_pairs_together(a, b):
    """What a collapsing method ends in, made fast: every feature is drawn to the batch mean."""
    both = torch.cat([nn.functional.normalize(a, dim=1), nn.functional.normalize(b, dim=1)])
    return (both - both.mean(dim=0)).square().sum(dim=1).mean()


@pytest.mark.parametrize("loss, rate", [(all_pairs_together, 0.05), (all_pairs_together, 0.5)])
@pytest.mark.parametrize("seed", [0, 1])
def test_collapse_is_called_within_200_steps(loss, rate, seed):
    run, monitor, messages = Pairs(seed, learning_rate=rate), CollapseMonitor(), []
    for step in range(200):
        a, b = run.views()
        verdict = monitor.update(a.detach())
        if verdict.message:
            messages.append((step, verdict.message))
        run.step(loss(a, b))
    assert len(messages) == 1, messages
    assert messages[0][1].startswith("The representation has collapsed") and monitor.update(a).collapsed


def test_constant_flat_and_shrinking_features_are_called_and_named():
    monitor = CollapseMonitor()
    verdicts = [monitor.update(1 + 1e-3 * gaussian(64, 16, seed=i)) for i in range(60)]
    (message,) = [v.message for v in verdicts if v.message]
    assert "nearly the same feature" in message
    monitor = CollapseMonitor()
    verdicts = [monitor.update(gaussian(64, 16, seed=i) * torch.tensor([1.0] + [0.9**i] * 15)) for i in range(200)]
    (message,) = [v.message for v in verdicts if v.message]
    assert "single direction" in message
    monitor = CollapseMonitor()
    verdicts = [monitor.update(gaussian(64, 16, seed=i) * 0.5**i) for i in range(100)]
    (message,) = [v.message for v in verdicts if v.message]
    assert "shrunk" in message


@pytest.mark.parametrize("loss", [info_nce, "reconstruct", "supervised"])
@pytest.mark.parametrize("seed", [0, 1])
def test_healthy_training_is_never_called(loss, seed):
    run, monitor = Pairs(seed), CollapseMonitor(every=1)
    decoder = nn.Linear(32, 8)
    run.optimizer.add_param_group({"params": decoder.parameters()})
    for _ in range(300):
        a, b = run.views()
        verdict = monitor.update(a.detach())
        assert not verdict.collapsed and not verdict.message, verdict.summary
        if loss == "reconstruct":
            inputs = run.centers[torch.randint(10, (128,), generator=run.generator)]
            run.step((decoder(run.encoder(inputs)) - inputs).square().mean())
        elif loss == "supervised":
            labels = torch.randint(10, (128,), generator=run.generator)
            run.step(nn.functional.cross_entropy(run.encoder(run.centers[labels]), labels))
        else:
            run.step(loss(a, b))


@pytest.mark.parametrize(
    "features",
    [
        lambda i: gaussian(256, 64, i),
        lambda i: gaussian(256, 64, i).relu(),
        lambda i: gaussian(256, 64, i) + 5,  # a large common mean
        lambda i: gaussian(256, 3, i) @ gaussian(3, 64),  # three channels behind it
        lambda i: gaussian(20, 128, i),  # few rows
        lambda i: gaussian(256, 1, i) @ gaussian(1, 64),  # one direction from the very start: the encoder's doing, not a collapse
        lambda i: gaussian(256, 64, i) * (0.97**i),  # weight decay
        lambda i: gaussian(256, 64, i) ** 5,  # heavy tails
    ],
)
def test_unusual_but_living_features_are_never_called(features):
    monitor = CollapseMonitor(every=1)
    assert not any(monitor.update(features(i)).message for i in range(60))


def test_a_short_dip_is_not_a_collapse_and_recovery_is_told():
    monitor = CollapseMonitor(every=1, patience=3)
    alive, dead = gaussian(64, 16), torch.ones(64, 16) + 1e-4 * gaussian(64, 16)
    assert not any(monitor.update(x).message for x in [alive] * 3 + [dead, dead, alive, dead, dead, alive])
    messages = [monitor.update(x).message for x in [dead] * 4 + [alive] * 2]
    assert ["collapsed" in m for m in messages] == [False, False, True, False, False, False]
    assert messages[4].startswith("The representation has recovered")


def test_nan_few_rows_and_no_features_yet():
    monitor = CollapseMonitor(every=1)
    assert monitor.metrics() == {}
    assert "Too few" in monitor.update(torch.randn(3, 4)).summary
    assert "NaN" in monitor.update(torch.full((64, 4), math.nan)).message
    monitor = CollapseMonitor(every=1)
    monitor.update(gaussian(64, 8))
    assert set(monitor.metrics()) == {"rankme", "effective_rank", "feature_std", "feature_spread", "uniformity"}


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(N, C\)"):
        rank_me(torch.zeros(3))
    with pytest.raises(ValueError, match="pairs"):
        alignment(torch.zeros(3, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="two samples"):
        uniformity(torch.ones(1, 2))
