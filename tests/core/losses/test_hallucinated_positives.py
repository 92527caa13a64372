"""Hallucinated positives stay with their prototype, reach as far as they may, and pull as the formula says."""

from __future__ import annotations

import math

import pytest
import torch

from suite3d.losses.hallucinated_positives import hallucinated_positive_loss, hallucinated_positives, spherical_kmeans
from tests.core.losses.naive import check_gradient, dot, features, units


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normalise(x):
    return torch.nn.functional.normalize(x, dim=-1)


def test_positives_keep_their_nearest_prototype():
    keys, prototypes = features(30, 4, seed=1), features(6, 4, seed=2)
    positives = hallucinated_positives(keys, prototypes, count=50, generator=generator())
    torch.testing.assert_close(positives.norm(dim=2), torch.ones(30, 50, dtype=torch.float64))
    nearest = (normalise(keys) @ normalise(prototypes).T).argmax(1)
    assert ((positives @ normalise(prototypes).T).argmax(2) == nearest[:, None]).all()
    again = hallucinated_positives(keys, prototypes, count=50, generator=generator())
    assert torch.equal(again, positives)


def test_they_lie_on_the_way_and_use_all_of_it():
    """Each positive is a slerp towards some prototype; the furthest allowed step, found by bisection, is nearly reached and never passed."""
    keys, prototypes = features(3, 3, seed=3), features(5, 3, seed=4)
    positives = hallucinated_positives(keys, prototypes, count=800, generator=generator())
    k, p = normalise(keys), normalise(prototypes)
    for i in range(3):
        near = int((p @ k[i]).argmax())
        seen = dict.fromkeys(set(range(5)) - {near}, 0.0)
        limits = {}
        for c in seen:
            angle = math.acos(dot(k[i].tolist(), p[c].tolist()))

            def slerp(t, i=i, c=c, angle=angle):
                return (math.sin((1 - t) * angle) * k[i] + math.sin(t * angle) * p[c]) / math.sin(angle)

            low, high = 0.0, 1.0
            for _ in range(50):
                middle = (low + high) / 2
                stays = all(int((p @ slerp(middle * f)).argmax()) == near for f in (0.25, 0.5, 0.75, 1.0))
                low, high = (middle, high) if stays else (low, middle)
            limits[c] = low
            axis = normalise(p[c] - math.cos(angle) * k[i])
            for h in positives[i]:
                turn = math.atan2(float(h @ axis), float(h @ k[i]))
                if (slerp(turn / angle) - h).norm() < 1e-9:
                    seen[c] = max(seen[c], turn / angle)
        for c, furthest in seen.items():
            assert 0.95 * limits[c] <= furthest <= limits[c] + 1e-9


def test_reach_shortens_the_way():
    keys, prototypes = features(20, 4, seed=1), features(6, 4, seed=2)
    full, half = (hallucinated_positives(keys, prototypes, count=5, generator=generator(), reach=reach) for reach in (1.0, 0.5))
    turns = [(h @ normalise(keys)[:, :, None]).clamp(-1, 1).acos() for h in (full, half)]
    torch.testing.assert_close(turns[1], turns[0] / 2)


def test_spherical_kmeans_finds_directions():
    centres = torch.eye(4, dtype=torch.float64)
    rows = (centres[torch.arange(200) % 4] + 0.1 * features(200, 4, seed=1)) * features(200, 1, seed=2).abs()
    found = min((spherical_kmeans(rows, 4, generator=generator(seed)) for seed in range(5)), key=lambda p: -float((p @ p.T).det()))
    assert (found @ centres.T).amax(0).min() > 0.99
    assignment = (normalise(rows) @ found.T).argmax(1)
    for number, prototype in enumerate(found):
        mean = normalise(rows)[assignment == number].mean(0)
        torch.testing.assert_close(prototype, normalise(mean))


def test_loss():
    queries, positives = features(3, 4, seed=1), features(3, 5, 4, seed=2)
    expected = -sum(dot(q, h) for q, own in zip(units(queries), positives) for h in units(own)) / 15 / 0.2
    assert hallucinated_positive_loss(queries, positives, temperature=0.2).item() == pytest.approx(expected, abs=1e-9)
    check_gradient(lambda q: hallucinated_positive_loss(q, positives, temperature=0.2), queries)


@pytest.mark.parametrize(
    "call",
    [
        lambda: spherical_kmeans(features(3, 4), 5, generator=generator()),
        lambda: hallucinated_positives(features(3, 4), features(1, 4), count=2, generator=generator()),
        lambda: hallucinated_positives(features(3, 4), features(3, 4), count=2, generator=generator(), reach=0.0),
        lambda: hallucinated_positive_loss(features(3, 4), features(3, 4), temperature=0.1),
    ],
)
def test_wrong_input_is_refused(call):
    with pytest.raises(ValueError, match="expected"):
        call()
