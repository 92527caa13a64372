"""Losses that keep features apart by statistics, clusters or neighbours, against their formulas written as loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from suite3d.losses.barlow_twins import barlow_twins
from suite3d.losses.koleo import koleo
from suite3d.losses.self_distillation import Centre, masked_distillation, self_distillation, sinkhorn_targets
from suite3d.losses.sigreg import lejepa, sigreg
from suite3d.losses.sinkhorn import sinkhorn
from suite3d.losses.swav import swav
from suite3d.losses.vicreg import vicreg
from tests.core.losses.naive import check_gradient, features, squared, units


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def softmax(row, t):
    top = [math.exp(v / t) for v in row]
    return [v / sum(top) for v in top]


def cross_entropy(target, row, t):
    return -sum(q * math.log(p) for q, p in zip(target, softmax(row, t), strict=True))


def test_barlow_twins():
    first, second = features(6, 4, seed=1), features(6, 4, seed=2) * 3 + 1
    a, b = ((x - x.mean(0)).numpy() for x in (first, second))
    expected = 0.0
    for c in range(4):
        for d in range(4):
            top = sum(a[i, c] * b[i, d] for i in range(6)) / 6
            correlation = top / math.sqrt((a[:, c] ** 2).mean() + 1e-5) / math.sqrt((b[:, d] ** 2).mean() + 1e-5)
            expected += (1 - correlation) ** 2 if c == d else 0.01 * correlation**2
    assert barlow_twins(first, second, redundancy=0.01).item() == pytest.approx(expected, abs=1e-9)
    assert barlow_twins(first, first * 5 - 2, redundancy=0.0).item() == pytest.approx(0, abs=1e-6), "blind to scale and shift"


def test_vicreg():
    first, second = features(6, 4, seed=1) * 0.5, features(6, 4, seed=2)
    apart = sum(squared(a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True)) / 24
    spread = repeats = 0.0
    for z in (first, second):
        c = np.cov(z.numpy().T)
        spread += sum(max(0.0, 1 - math.sqrt(c[d, d] + 1e-4)) for d in range(4)) / 4
        repeats += sum(c[d, e] ** 2 for d in range(4) for e in range(4) if d != e) / 4
    terms = vicreg(first, second)
    assert [t.item() for t in terms] == pytest.approx([25 * apart + 25 * spread + repeats, apart, spread, repeats], abs=1e-9)
    constant = torch.zeros(5, 3, dtype=torch.float64)
    assert vicreg(constant, constant).variance.item() == pytest.approx(2 * (1 - 0.01)), "collapse is what it is there to see"


@pytest.mark.parametrize(("views", "assigned", "queue"), [(2, 2, 0), (4, 2, 0), (3, 1, 5)])
def test_swav(views, assigned, queue):
    scores = torch.nn.functional.normalize(features(views, 6, 4, seed=1), dim=2)
    queued = torch.nn.functional.normalize(features(assigned, queue, 4, seed=2), dim=2) if queue else None
    expected = 0.0
    for g in range(assigned):
        pool = scores[g] if queued is None else torch.cat((scores[g], queued[g]))
        codes = sinkhorn(pool, sweeps=3)[:6].tolist()
        for v in range(views):
            if v != g:
                expected += sum(cross_entropy(codes[i], scores[v, i].tolist(), 0.2) for i in range(6)) / 6
    expected /= assigned * (views - 1)
    assert swav(scores, assigned=assigned, queued=queued, temperature=0.2).item() == pytest.approx(expected, abs=1e-6)


def test_self_distillation():
    student, logits = features(4, 3, 5, seed=1), features(2, 3, 5, seed=2)
    centre = Centre(5, momentum=0.9)
    centre.update(logits)
    torch.testing.assert_close(centre.value, 0.1 * logits.mean((0, 1)).float())
    centre.update(logits)
    torch.testing.assert_close(centre.value, 0.19 * logits.mean((0, 1)).float())
    teacher = centre.targets(logits, temperature=0.5)
    shifted = (logits - centre.value).tolist()
    expected = 0.0
    for g in range(2):
        for v in range(4):
            if v != g:
                expected += sum(cross_entropy(softmax(shifted[g][i], 0.5), student[v, i].tolist(), 0.1) for i in range(3)) / 3 / 6
    assert self_distillation(student, teacher).item() == pytest.approx(expected, abs=1e-6)
    balanced = sinkhorn_targets(logits, temperature=0.5)
    torch.testing.assert_close(balanced.flatten(0, 1), sinkhorn(logits.flatten(0, 1), eps=0.5, sweeps=3))


def test_self_distillation_teaches_only_the_student():
    student, teacher = features(2, 3, 5).requires_grad_(), features(2, 3, 5, seed=1).softmax(2).requires_grad_()
    self_distillation(student, teacher).backward()
    assert teacher.grad is None
    torch.testing.assert_close(student.grad[0], ((student[0] / 0.1).softmax(1) - teacher[1]).detach() / 0.1 / 3 / 2)


def test_masked_distillation():
    student, teacher = features(3, 4, 5, seed=1), features(3, 4, 5, seed=2).softmax(2)
    hidden = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)
    expected = 0.0
    for b in range(3):
        tokens = [n for n in range(4) if hidden[b, n]]
        expected += sum(cross_entropy(teacher[b, n].tolist(), student[b, n].tolist(), 0.1) for n in tokens) / max(len(tokens), 1) / 3
    assert masked_distillation(student, teacher, hidden).item() == pytest.approx(expected, abs=1e-6)


def test_koleo():
    z = features(7, 4, seed=1)
    rows = units(z)
    expected = -sum(math.log(min(math.sqrt(squared(a, b)) for b in rows if b is not a) + 1e-8) for a in rows) / 7
    assert koleo(z).item() == pytest.approx(expected, abs=1e-9)
    spread, tight = torch.eye(4), torch.ones(4, 4) + 1e-3 * torch.eye(4)
    assert koleo(spread).item() == pytest.approx(-math.log(math.sqrt(2)), abs=1e-6)
    assert koleo(tight) > koleo(spread) + 5
    assert torch.isfinite(koleo(torch.ones(4, 4)))


def slow_epps_pulley(x, knots, limit):
    points = np.linspace(-limit, limit, knots)
    values = []
    for s in points:
        gap = sum(complex(math.cos(s * v), math.sin(s * v)) for v in x) / len(x) - math.exp(-s * s / 2)
        values.append(abs(gap) ** 2 * math.exp(-s * s / 2))
    return len(x) * sum((values[i] + values[i + 1]) / 2 * (points[i + 1] - points[i]) for i in range(knots - 1))


@pytest.mark.parametrize("knots", [2, 16, 17])
def test_sigreg(knots):
    z = features(9, 3, seed=1) * 1.5 + 0.3
    directions = torch.nn.functional.normalize(torch.randn(5, 3, generator=generator(), dtype=torch.float64), dim=1)
    expected = sum(slow_epps_pulley((z @ a).tolist(), knots, 5.0) for a in directions) / 5
    assert sigreg(z, generator=generator(), slices=5, knots=knots).item() == pytest.approx(expected, abs=1e-9)


def test_seventeen_knots_are_the_integral():
    z = features(20, 1, seed=2)
    x = z[:, 0].numpy()

    def integrand(s):
        return abs(np.exp(1j * s * x).mean() - math.exp(-s * s / 2)) ** 2 * math.exp(-s * s / 2)

    exact = 20 * quad(integrand, -5, 5)[0]
    assert sigreg(z, generator=generator(), slices=4).item() == pytest.approx(exact, rel=2e-3)


def test_sigreg_prefers_the_isotropic_gaussian():
    z = features(400, 8, seed=3)
    value = {name: sigreg(x, generator=generator(), slices=256).item() for name, x in {
        "gaussian": z, "wide": 2 * z, "moved": z + 1, "flat": z * torch.tensor([2.0] * 4 + [0.1] * 4), "collapsed": z * 1e-3,
        "two-valued": z.sign()[:, :1].expand(-1, 8),
    }.items()}  # fmt: skip
    assert min(value, key=value.get) == "gaussian" and sorted(value.values())[1] > 5 * value["gaussian"]


def test_lejepa():
    views = features(3, 6, 4, seed=1)
    loss, prediction, gaussian = lejepa(views, generator=generator(), weight=0.1, slices=4)
    centre = ((views[0] + views[1]) / 2).tolist()
    expected = sum(squared(centre[i], view[i]) for view in views.tolist() for i in range(6)) / 3 / 6 / 4
    assert prediction.item() == pytest.approx(expected, abs=1e-9)
    g = generator()
    assert gaussian.item() == pytest.approx(sum(sigreg(view, generator=g, slices=4).item() for view in views) / 3, abs=1e-9)
    assert loss.item() == pytest.approx(0.9 * prediction.item() + 0.1 * gaussian.item(), abs=1e-9)


def test_gradients():
    first, second, views = features(4, 3, seed=1), features(4, 3, seed=2), features(3, 4, 3, seed=3)
    teacher, hidden = features(2, 4, 3, seed=4).softmax(2), features(3, 4, seed=5) > 0
    check_gradient(lambda a, b: barlow_twins(a, b), first, second)
    check_gradient(lambda a, b: vicreg(a, b).loss, first, second)
    check_gradient(lambda v: self_distillation(v, teacher), views)
    check_gradient(lambda v: masked_distillation(v, views.softmax(2), hidden), views)
    check_gradient(lambda a: koleo(a), first)
    check_gradient(lambda a: sigreg(a, generator=generator(), slices=3), first)
    check_gradient(lambda v: lejepa(v, generator=generator(), slices=2)[0], views)


@pytest.mark.parametrize(
    "call",
    [
        lambda: barlow_twins(features(1, 3), features(1, 3)),
        lambda: barlow_twins(features(2, 3), features(2, 3), redundancy=-1.0),
        lambda: vicreg(features(2, 3), features(2, 4)),
        lambda: vicreg(features(2, 3), features(2, 3), variance=-1.0),
        lambda: swav(features(1, 2, 3), assigned=1),
        lambda: swav(features(2, 2, 3), assigned=3),
        lambda: swav(features(2, 2, 3), queued=features(2, 2, 4)),
        lambda: self_distillation(features(1, 2, 3), features(1, 2, 3)),
        lambda: self_distillation(features(2, 2, 3), features(3, 2, 3)),
        lambda: masked_distillation(features(2, 2, 3), features(2, 2, 3), torch.ones(2, 3, dtype=torch.bool)),
        lambda: Centre(3, momentum=1.5),
        lambda: koleo(features(1, 3)),
        lambda: sigreg(features(1, 3), generator=generator()),
        lambda: sigreg(features(2, 3), generator=generator(), slices=0),
        lambda: lejepa(features(1, 3, 3), generator=generator()),
        lambda: lejepa(features(2, 3, 3), generator=generator(), weight=2.0),
    ],
)
def test_wrong_input_is_refused(call):
    with pytest.raises(ValueError, match="expected|must"):
        call()
