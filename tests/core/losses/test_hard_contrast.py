"""Hard negatives (mixed, concentrated), adaptive temperatures, labels and targets in contrast, against their formulas written as loops."""

from __future__ import annotations

import math

import pytest
import torch

from suite3d.losses.adaptive_temperature import adaptive_contrast
from suite3d.losses.hard_negatives import hard_negative_contrast
from suite3d.losses.mixed_negatives import mixed_info_nce, mixed_negatives
from suite3d.losses.nt_xent import nt_xent
from suite3d.losses.queue_info_nce import queue_info_nce
from suite3d.losses.sup_re_mix import anchor_shares, sup_re_mix
from suite3d.losses.supervised_contrast import supervised_contrast
from suite3d.nn.pair_temperature import PairTemperature
from tests.core.losses.naive import check_gradient, dot, features, units


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_mixed_negatives_lie_between_the_hardest_and_the_query():
    queries, queue = features(3, 4, seed=1), features(50, 4, seed=2)
    mixed = mixed_negatives(queries, queue, hardest=6, pairs=10, with_query=10, generator=generator())
    assert mixed.shape == (3, 20, 4)
    torch.testing.assert_close(mixed.norm(dim=2), torch.ones(3, 20, dtype=torch.float64))
    z, pool = torch.nn.functional.normalize(queries, dim=1), torch.nn.functional.normalize(queue, dim=1)
    for i in range(3):
        hard = pool[(pool @ z[i]).argsort(descending=True)[:6]]
        for number, h in enumerate(mixed[i]):
            # h is a non-negative combination of two parts: solve for every admissible pair, one must fit exactly
            partners = [(hard[a], hard[b]) for a in range(6) for b in range(6)] if number < 10 else [(z[i], hard[b]) for b in range(6)]
            fits = []
            for one, other in partners:
                basis = torch.stack((one, other), dim=1)
                weights = torch.linalg.lstsq(basis, h[:, None], driver="gelsd").solution[:, 0]
                fits.append((basis @ weights - h).norm() < 1e-8 and weights.min() > -1e-8 and (number < 10 or weights[0] <= weights[1] + 1e-8))
            assert any(fits)
    again = mixed_negatives(queries, queue, hardest=6, pairs=10, with_query=10, generator=generator())
    assert torch.equal(again, mixed)
    assert len(mixed_negatives(queries, queue[:2], hardest=6, pairs=1, with_query=0, generator=generator())) == 3


def test_mixed_info_nce():
    queries, keys, queue, synthetic = features(3, 4, seed=1), features(3, 4, seed=2), features(5, 4, seed=3), features(3, 2, 4, seed=4)
    q, k, n = units(queries), units(keys), units(queue)
    expected = 0.0
    for i in range(3):
        own = math.exp(dot(q[i], k[i]) / 0.2)
        rest = sum(math.exp(dot(q[i], x) / 0.2) for x in n + units(synthetic[i]))
        expected -= math.log(own / (own + rest)) / 3
    assert mixed_info_nce(queries, keys, queue, synthetic, temperature=0.2).item() == pytest.approx(expected, abs=1e-9)
    none = mixed_info_nce(queries, keys, queue, synthetic[:, :0], temperature=0.2)
    assert none.item() == pytest.approx(queue_info_nce(queries, keys, queue, temperature=0.2).item(), abs=1e-6)


def slow_hard(first, second, t, b, prior):
    rows = list(enumerate(units(first))) + list(enumerate(units(second)))
    total = 0.0
    for i, z in rows:
        own = [other for k, other in rows if k == i and other is not z][0]
        scores = [dot(z, other) for k, other in rows if k != i]
        weights = [math.exp(b * s / t) for s in scores]
        n, positive = len(scores), math.exp(dot(z, own) / t)
        hard = n * sum(w * math.exp(s / t) for w, s in zip(weights, scores, strict=True)) / sum(weights)
        ng = max((hard - n * prior * positive) / (1 - prior), n * math.exp(-1 / t))
        total -= math.log(positive / (positive + ng)) / len(rows)
    return total


@pytest.mark.parametrize(("t", "b", "prior"), [(0.1, 1.0, 0.1), (0.5, 0.0, 0.2), (0.3, 2.0, 0.0), (0.5, 1.0, 0.9)])
def test_hard_negative_contrast(t, b, prior):
    first, second = features(5, 4, seed=1), features(5, 4, seed=2)
    loss = hard_negative_contrast(first, second, temperature=t, concentration=b, prior=prior)
    assert loss.item() == pytest.approx(slow_hard(first, second, t, b, prior), abs=1e-9)


def test_hard_negative_contrast_contains_nt_xent():
    first, second = features(5, 4, seed=1), features(5, 4, seed=2)
    plain = hard_negative_contrast(first, second, temperature=0.2, concentration=0.0, prior=0.0)
    assert plain.item() == pytest.approx(nt_xent(first, second, temperature=0.2).item(), abs=1e-5)
    assert hard_negative_contrast(first, second, temperature=0.2, prior=0.0) > plain
    assert torch.isfinite(hard_negative_contrast(first.float(), first.float(), temperature=0.03, concentration=2.0))


def test_adaptive_contrast():
    first, second = features(3, 2, 4, seed=1), features(3, 2, 4, seed=2)
    torch.manual_seed(0)
    temperature = PairTemperature(4, hidden=5, lowest=0.05, highest=1.5).double()

    def tau(a, b):
        embedded = [temperature.phi(torch.tensor(x, dtype=torch.float64)).tolist() for x in (a, b)]
        return 0.05 + 1.45 / (1 + math.exp(dot(*embedded)))

    def score(a, b):
        return dot(a, b) / tau(a, b) - 0.3 * (2 * math.log(tau(a, b)) + 1 / tau(a, b))

    expected = 0.0
    for head in range(2):
        rows = list(enumerate(units(first[:, head]))) + list(enumerate(units(second[:, head])))
        for i, z in rows:
            own = [other for k, other in rows if k == i and other is not z][0]
            expected += (math.log(sum(math.exp(score(z, other)) for k, other in rows if k != i)) - score(z, own)) / 6
    assert adaptive_contrast(first, second, temperature, regularisation=0.3).item() == pytest.approx(expected, abs=1e-9)
    check_gradient(lambda a, b: adaptive_contrast(a, b, temperature), first, second)
    adaptive_contrast(first, second, temperature).backward()
    assert all(p.grad.abs().max() > 0 for p in temperature.parameters())


def test_supervised_contrast():
    z, labels = features(6, 4, seed=1), torch.tensor([0, 1, 0, 0, -1, 2])
    rows, expected, anchors = units(z), 0.0, 0
    for i in range(6):
        positives = [j for j in range(6) if j != i and labels[j] == labels[i] >= 0]
        if positives:
            anchors += 1
            bottom = sum(math.exp(dot(rows[i], rows[j]) / 0.3) for j in range(6) if j != i)
            expected -= sum(math.log(math.exp(dot(rows[i], rows[j]) / 0.3) / bottom) for j in positives) / len(positives)
    assert anchors == 3
    assert supervised_contrast(z, labels, temperature=0.3).item() == pytest.approx(expected / 3, abs=1e-9)
    two = torch.arange(3).repeat(2)
    assert supervised_contrast(z, two, temperature=0.3).item() == pytest.approx(nt_xent(z[:3], z[3:], temperature=0.3).item(), abs=1e-6)
    assert supervised_contrast(z.requires_grad_(), torch.arange(6), temperature=0.3).item() == 0


def test_sup_re_mix():
    z, y = features(7, 4, seed=1), torch.tensor([1.0, 2.0, 2.0, 3.0, 5.5, 2.5, 9.0])
    shares = torch.rand(7, 7, generator=generator(), dtype=torch.float64)
    rows, target = units(z), y.tolist()
    expected, anchors = 0.0, 0
    for i in range(7):
        top, bottom = [], []
        for j in range(7):
            if j == i:
                continue
            score = dot(rows[i], rows[j]) / 0.3
            bottom.append((1 + abs(target[i] - target[j])) * math.exp(score))
            if target[j] == target[i]:
                top.append(score)
            else:
                c = shares[i, j].item()
                mixture = [c * a + (1 - c) * b for a, b in zip(rows[i], rows[j], strict=True)]
                mixed = c * target[i] + (1 - c) * target[j]
                bottom.append((1 + abs(target[i] - mixed)) * math.exp(dot(rows[i], mixture) / 0.3))
        for j in range(7):
            for k in range(7):
                if target[j] < target[i] < target[k] and target[i] - target[j] < 2 and target[k] - target[i] < 2:
                    a = (target[k] - target[i]) / (target[k] - target[j])
                    assert a * target[j] + (1 - a) * target[k] == pytest.approx(target[i])
                    mixture = [a * u + (1 - a) * v for u, v in zip(rows[j], rows[k], strict=True)]
                    top.append(dot(rows[i], mixture) / 0.3)
                    bottom.append(math.exp(top[-1]))
        if top:
            anchors += 1
            expected += math.log(sum(bottom)) - sum(top) / len(top)
    assert anchors == 3
    assert sup_re_mix(z, y, shares, window=2.0).item() == pytest.approx(expected / anchors, abs=1e-9)


def test_anchor_shares_are_beta():
    x = anchor_shares(200, 200, generator=generator()).flatten()
    assert x.mean().item() == pytest.approx(0.2, abs=2e-3)
    assert x.var().item() == pytest.approx(2 * 8 / (100 * 11), abs=5e-4)


def test_gradients():
    first, second = features(4, 4, seed=1), features(4, 4, seed=2)
    check_gradient(lambda a, b: hard_negative_contrast(a, b, temperature=0.4), first, second)
    check_gradient(lambda a: supervised_contrast(a, torch.tensor([0, 1, 0, 1]), temperature=0.4), first)
    check_gradient(lambda a, b: mixed_info_nce(a, b, first, second[:, None], temperature=0.4), first, second)


@pytest.mark.parametrize(
    "call",
    [
        lambda: mixed_negatives(features(3, 4), features(0, 4), hardest=1, pairs=1, with_query=1, generator=generator()),
        lambda: mixed_negatives(features(3, 4), features(3, 4), hardest=0, pairs=1, with_query=1, generator=generator()),
        lambda: mixed_info_nce(features(3, 4), features(3, 4), features(3, 5), features(3, 1, 4), temperature=0.1),
        lambda: hard_negative_contrast(features(3, 4), features(3, 4), temperature=0.1, prior=1.0),
        lambda: hard_negative_contrast(features(1, 4), features(1, 4), temperature=0.1),
        lambda: adaptive_contrast(features(3, 4), features(3, 4), PairTemperature(4)),
        lambda: PairTemperature(4, lowest=1.0, highest=0.5),
        lambda: supervised_contrast(features(3, 4), torch.zeros(2), temperature=0.1),
        lambda: sup_re_mix(features(3, 4), torch.zeros(3), torch.zeros(3, 2), window=1.0),
        lambda: sup_re_mix(features(3, 4), torch.zeros(3), torch.zeros(3, 3), window=0.0),
    ],
)
def test_wrong_input_is_refused(call):
    with pytest.raises(ValueError, match="expected|must"):
        call()
