"""Every loss against its formula, written as loops."""

from __future__ import annotations

import math

import pytest
import torch

from suite3d.losses.chamfer import chamfer_loss
from suite3d.losses.info_nce import info_nce
from suite3d.losses.occupancy import occupancy_loss, occupancy_sum
from suite3d.losses.region_info_nce import point_level_region_loss, region_aware_point_loss
from suite3d.losses.smooth_l1 import smooth_l1_loss


def rows(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def unit(row):
    norm = math.sqrt(sum(v * v for v in row))
    return [v / norm for v in row]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b))


def slow_info_nce(queries, keys, t):
    queries, keys = [[unit(r) for r in x.tolist()] for x in (queries, keys)]
    losses = []
    for i, q in enumerate(queries):
        scores = [math.exp(dot(q, k) / t) for k in keys]
        losses.append(-math.log(scores[i] / sum(scores)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("t", [0.07, 1.0])
def test_info_nce(t):
    q, k = rows(9, 5), rows(9, 5, 1)
    assert info_nce(q, k, temperature=t).item() == pytest.approx(slow_info_nce(q, k, t), rel=1e-5)
    both = (slow_info_nce(q, k, t) + slow_info_nce(k, q, t)) / 2
    assert info_nce(q, k, temperature=t, symmetric=True).item() == pytest.approx(both, rel=1e-5)


def test_info_nce_known_values():
    same = torch.ones(8, 3)
    assert info_nce(same, same, temperature=0.1).item() == pytest.approx(math.log(8), rel=1e-5)
    axes = torch.eye(4)
    assert info_nce(axes, 3 * axes, temperature=0.5).item() == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + 3)), rel=1e-5)


def test_info_nce_refuses_what_has_no_negative():
    with pytest.raises(ValueError, match="at least two pairs"):
        info_nce(torch.ones(1, 3), torch.ones(1, 3), temperature=0.1)
    with pytest.raises(ValueError, match="temperature"):
        info_nce(torch.ones(3, 3), torch.ones(3, 3), temperature=0.0)
    with pytest.raises(ValueError, match="one shape"):
        info_nce(torch.ones(3, 3), torch.ones(4, 3), temperature=0.1)


@pytest.mark.parametrize("loss", ["info_nce", "point", "region"])
def test_contrast_keeps_full_precision_under_autocast(loss):
    q, k, regions = rows(64, 16), rows(64, 16, 1), torch.arange(64) // 4
    losses = {
        "info_nce": lambda: info_nce(q, k, temperature=0.07),
        "point": lambda: point_level_region_loss(q, k, regions, temperature=0.07),
        "region": lambda: region_aware_point_loss(q, k, regions, temperature=0.07),
    }
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = losses[loss]()
    assert mixed.item() == losses[loss]().item()


REGIONS = [0, 0, 3, -1, 3, 3, -1, 7]


def slow_point_level(queries, keys, regions, t):
    queries, keys = [[unit(r) for r in x.tolist()] for x in (queries, keys)]
    losses = []
    for i, q in enumerate(queries):
        if regions[i] < 0:
            continue
        total = sum(math.exp(dot(q, k) / t) for k in keys)
        positives = [j for j in range(len(keys)) if regions[j] == regions[i]]
        losses.append(-sum(math.log(math.exp(dot(q, keys[j]) / t) / total) for j in positives) / len(positives))
    return sum(losses) / len(losses)


def slow_region_aware(queries, keys, regions, t):
    queries, keys = [[unit(r) for r in x.tolist()] for x in (queries, keys)]
    total = weights = 0.0
    for i, q in enumerate(queries):
        other = [j for j in range(len(keys)) if j == i or regions[i] < 0 or regions[j] != regions[i]]
        share = math.exp(dot(q, keys[i]) / t) / sum(math.exp(dot(q, keys[j]) / t) for j in other)
        weight = 1 / regions.count(regions[i]) if regions[i] >= 0 else 1.0
        total, weights = total - weight * math.log(share), weights + weight
    return total / weights


@pytest.mark.parametrize(("loss", "slow"), [(point_level_region_loss, slow_point_level), (region_aware_point_loss, slow_region_aware)])
@pytest.mark.parametrize("t", [0.1, 0.7])
def test_region_contrast(loss, slow, t):
    q, k = rows(8, 5), rows(8, 5, 1)
    assert loss(q, k, torch.tensor(REGIONS), temperature=t).item() == pytest.approx(slow(q, k, REGIONS, t), rel=1e-5)


def test_region_contrast_without_regions():
    q, k = rows(6, 4).requires_grad_(), rows(6, 4, 1)
    none = torch.full((6,), -1)
    loss = point_level_region_loss(q, k, none, temperature=0.1)
    loss.backward()
    assert loss.item() == 0 and q.grad.abs().max() == 0
    assert region_aware_point_loss(q, k, none, temperature=0.1).item() == pytest.approx(slow_info_nce(q, k, 0.1), rel=1e-5)


def slow_chamfer(predicted, clouds, norm):
    distance = (lambda a, b: dot(d := [x - y for x, y in zip(a, b)], d)) if norm == "l2" else math.dist
    total = 0.0
    for points, cloud in zip(predicted.tolist(), clouds):
        cloud = cloud.tolist()
        forth = sum(min(distance(p, c) for c in cloud) for p in points) / len(points)
        back = sum(min(distance(p, c) for p in points) for c in cloud) / len(cloud)
        total += (forth + back) / (1 if norm == "l2" else 2)
    return total / len(clouds)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_chamfer(norm):
    predicted = rows(12, 3).view(3, 4, 3).requires_grad_()
    clouds = [rows(n, 3, seed=n) for n in (1, 6, 3)]
    offsets = torch.tensor([0, 1, 7, 10])
    loss = chamfer_loss(predicted, torch.cat(clouds), offsets, norm=norm)
    assert loss.item() == pytest.approx(slow_chamfer(predicted, clouds, norm), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, predicted)
    for place in [(0, 0, 0), (1, 2, 1), (2, 3, 2)]:
        with torch.no_grad():
            moved = [predicted.clone() for _ in range(2)]
            moved[0][place] += 1e-4
            moved[1][place] -= 1e-4
        slope = (slow_chamfer(moved[0], clouds, norm) - slow_chamfer(moved[1], clouds, norm)) / 2e-4
        assert gradient[place].item() == pytest.approx(slope, abs=2e-3)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_chamfer_of_equal_sets_is_zero_with_a_finite_gradient(norm):
    points = rows(4, 3)
    predicted = points[None].clone().requires_grad_()
    loss = chamfer_loss(predicted, points, torch.tensor([0, 4]), norm=norm)
    loss.backward()
    assert loss.item() == 0 and predicted.grad.abs().max() == 0


def test_chamfer_of_no_sets_and_of_an_empty_set():
    none = chamfer_loss(torch.zeros(0, 4, 3, requires_grad=True), torch.zeros(0, 3), torch.zeros(1, dtype=torch.int64))
    assert none.item() == 0 and none.requires_grad
    with pytest.raises(ValueError, match="empty target set"):
        chamfer_loss(torch.zeros(2, 4, 3), torch.zeros(3, 3), torch.tensor([0, 3, 3]))


def test_occupancy():
    logits, occupied = rows(5, 7), rows(5, 7, 1) > 0.5
    terms = [(-math.log(1 / (1 + math.exp(-v if y else v))), y) for v, y in zip(logits.flatten().tolist(), occupied.flatten().tolist())]
    positive, negative = [t for t, y in terms if y], [t for t, y in terms if not y]
    assert occupancy_loss(logits, occupied).item() == pytest.approx(sum(positive + negative) / 35, rel=1e-5)
    balanced = sum(positive) / len(positive) / 2 + sum(negative) / len(negative) / 2
    assert occupancy_loss(logits, occupied, balanced=True).item() == pytest.approx(balanced, rel=1e-5)
    assert occupancy_sum(logits, occupied, positive_weight=3.0).item() == pytest.approx(3 * sum(positive) + sum(negative), rel=1e-5)
    with pytest.raises(ValueError, match="bool"):
        occupancy_loss(logits, occupied.float())


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_smooth_l1(beta):
    p, t = rows(6, 2), rows(6, 2, 1)
    d = [abs(a - b) for a, b in zip(p.flatten().tolist(), t.flatten().tolist())]
    slow = sum(v * v / (2 * beta) if v < beta else v - beta / 2 for v in d) / len(d)
    assert smooth_l1_loss(p, t, beta=beta).item() == pytest.approx(slow, rel=1e-5)
