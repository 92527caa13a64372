"""The variants of InfoNCE against their formulas, written as loops, and their gradients against finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from suite3d.losses.attraction_repulsion import attraction_repulsion
from suite3d.losses.decoupled import decoupled_contrast, weighted_decoupled_contrast
from suite3d.losses.multi_view import mv_dhel, mv_info_nce
from tests.core.losses.naive import check_gradient, dot, features, squared, units


def views_of(first, second):
    """[(sample, unit row)] of both views."""
    return list(enumerate(units(first))) + list(enumerate(units(second)))


def decoupled_terms(first, second, t):
    rows = views_of(first, second)
    for sample, z in rows:
        own = [other for k, other in rows if k == sample and other is not z][0]
        yield dot(z, own), math.log(sum(math.exp(dot(z, other) / t) for k, other in rows if k != sample))


@pytest.mark.parametrize("t", [0.1, 1.0])
def test_decoupled(t):
    first, second = features(5, 4, seed=1), features(5, 4, seed=2)
    terms = list(decoupled_terms(first, second, t))
    expected = sum(repulsion - s / t for s, repulsion in terms) / 10
    assert decoupled_contrast(first, second, temperature=t).item() == pytest.approx(expected, abs=1e-9)
    mean = sum(math.exp(s / 0.5) for s, _ in terms) / 10
    weighted = sum(repulsion - (2 - math.exp(s / 0.5) / mean) * s / t for s, repulsion in terms) / 10
    assert weighted_decoupled_contrast(first, second, temperature=t).item() == pytest.approx(weighted, abs=1e-9)


def test_decoupled_keeps_its_pull_where_info_nce_loses_it():
    """With far negatives the gradient of the positive is 1/t, not (1 - p)/t."""
    z = torch.eye(3, 4, dtype=torch.float64) + 0.01
    other = z.clone().requires_grad_()
    decoupled_contrast(z, other, temperature=0.05).backward()
    assert torch.isfinite(other.grad).all()
    assert decoupled_contrast(z, z.flip(0), temperature=0.05).item() > decoupled_contrast(z, z, temperature=0.05).item() + 10


def slow_mv_info_nce(views, t):
    z = [units(view) for view in views]
    count, samples = len(z), len(z[0])
    total = 0.0
    for i in range(samples):
        top = sum(math.exp(dot(z[a][i], z[b][i]) / t) for a in range(count) for b in range(count) if a != b)
        every = [(j, b) for j in range(samples) for b in range(count)]
        bottom = sum(math.exp(dot(z[a][i], z[b][j]) / t) for a in range(count) for j, b in every if (j, b) != (i, a))
        total -= math.log(top / bottom)
    return total / samples


def slow_mv_dhel(views, t):
    z = [units(view) for view in views]
    count, samples = len(z), len(z[0])
    total = 0.0
    for i in range(samples):
        top = sum(math.exp(dot(z[a][i], z[b][i]) / t) for b in range(count) for a in range(b))
        bottom = math.prod(sum(math.exp(dot(view[i], view[j]) / t) for j in range(samples) if j != i) for view in z)
        total -= math.log(top / bottom)
    return total / samples


@pytest.mark.parametrize("count", [2, 3, 5])
def test_multi_view(count):
    views = features(count, 4, 6, seed=count)
    assert mv_info_nce(views, temperature=0.3).item() == pytest.approx(slow_mv_info_nce(views, 0.3), abs=1e-9)
    assert mv_dhel(views, temperature=0.3).item() == pytest.approx(slow_mv_dhel(views, 0.3), abs=1e-9)
    for loss in (mv_info_nce, mv_dhel):
        assert loss(views.flip(0), temperature=0.3).item() == pytest.approx(loss(views, temperature=0.3).item(), abs=1e-9), "order of views"


def test_dhel_never_compares_different_samples_across_views():
    """A rotation of one view changes only the alignment; the uniformity of each view is its own."""
    views = features(2, 6, 4, seed=3)
    turn = torch.linalg.qr(features(4, 4, seed=4))[0]
    turned = torch.stack((views[0], views[1] @ turn))
    alignment = [sum(dot(a, b) for a, b in zip(units(v[0]), units(v[1]), strict=True)) / 6 / 0.5 for v in (views, turned)]
    assert mv_dhel(turned, temperature=0.5).item() + alignment[1] == pytest.approx(mv_dhel(views, temperature=0.5).item() + alignment[0], abs=1e-9)


@pytest.mark.parametrize("count", [1, 3])
def test_attraction_repulsion(count):
    anchors, positives = features(4, 5, seed=1), features(4, count, 5, seed=2)
    z, keys = units(anchors), [units(own) for own in positives]
    expected = 0.0
    for i in range(4):
        near = [squared(z[i], key) for key in keys[i]]
        weights = [math.exp(0.7 * d) for d in near]
        far = [squared(z[i], key) for j in range(4) if j != i for key in keys[j]]
        pushes = [math.exp(-1.5 * d) for d in far]
        expected += sum(w * d for w, d in zip(weights, near)) / sum(weights) - sum(w * d for w, d in zip(pushes, far)) / sum(pushes)
    assert attraction_repulsion(anchors, positives, attraction=0.7, repulsion=1.5).item() == pytest.approx(expected / 4, abs=1e-9)


def test_gradients():
    first, second, views = features(3, 4, seed=1), features(3, 4, seed=2), features(3, 3, 4, seed=3)
    check_gradient(lambda a, b: decoupled_contrast(a, b, temperature=0.4), first, second)
    check_gradient(lambda a, b: weighted_decoupled_contrast(a, b, temperature=0.4), first, second)
    check_gradient(lambda v: mv_info_nce(v, temperature=0.4), views)
    check_gradient(lambda v: mv_dhel(v, temperature=0.4), views)
    check_gradient(lambda a, p: attraction_repulsion(a, p), first, views)


@pytest.mark.parametrize(
    "call",
    [
        lambda: decoupled_contrast(features(1, 3), features(1, 3), temperature=0.1),
        lambda: decoupled_contrast(features(2, 3), features(3, 3), temperature=0.1),
        lambda: decoupled_contrast(features(2, 3), features(2, 3), temperature=0.0),
        lambda: weighted_decoupled_contrast(features(2, 3), features(2, 3), temperature=0.1, sigma=0.0),
        lambda: mv_info_nce(features(1, 3, 3), temperature=0.1),
        lambda: mv_dhel(features(2, 1, 3), temperature=0.1),
        lambda: attraction_repulsion(features(3, 3), features(3, 3)),
        lambda: attraction_repulsion(features(3, 3), features(3, 2, 3), repulsion=-1.0),
    ],
)
def test_wrong_input_is_refused(call):
    with pytest.raises(ValueError, match="expected|must"):
        call()
