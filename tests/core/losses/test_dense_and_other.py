"""Words, pixels, slots, equivariance, cMIM, cosine error, alignment and uniformity, HOG, against their formulas written as loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from suite3d.evaluate.diagnostics import alignment, uniformity
from suite3d.losses.alignment_uniformity import alignment_loss, uniformity_loss
from suite3d.losses.bag_of_words import WordScale, bag_of_words, bag_of_words_loss
from suite3d.losses.contrastive_mim import contrastive_factor, contrastive_mim
from suite3d.losses.equivariance import equivariance_by_classification, equivariance_by_contrast
from suite3d.losses.hog import hog_target
from suite3d.losses.pixel_contrast import near_places, pixel_contrast, pixel_contrast_to, pixel_propagation, propagate
from suite3d.losses.scaled_cosine import scaled_cosine_error
from suite3d.losses.slot_contrast import slot_contrast, slots
from tests.core.losses.naive import check_gradient, dot, features, squared, unit, units


def softmax(row):
    top = [math.exp(v) for v in row]
    return [v / sum(top) for v in top]


def mask(*shape, seed=0):
    return features(*shape, seed=seed) > 0.3


def test_bag_of_words():
    maps, words = features(2, 5, 3, seed=1), features(4, 3, seed=2)
    scale = WordScale(momentum=0.9)
    scale.update(maps, words)
    nearest = [min(squared(u, v) for v in words.tolist()) for u in maps.flatten(0, 1).tolist()]
    assert scale.value.item() == pytest.approx(sum(nearest) / 10, rel=1e-6)
    scale.update(maps * 0, words * 0)
    assert scale.value.item() == pytest.approx(0.9 * sum(nearest) / 10, rel=1e-6)
    target = bag_of_words(maps, words, delta=0.7)
    for b in range(2):
        assigned = [softmax([-squared(u, v) / 0.7 for v in words.tolist()]) for u in maps[b].tolist()]
        present = [max(row[k] for row in assigned) for k in range(4)]
        assert target[b].tolist() == pytest.approx([p / sum(present) for p in present], abs=1e-9)
    logits = features(3, 2, 4, seed=3)
    expected = -sum(y * math.log(p) for v in range(3) for b in range(2) for y, p in zip(target[b].tolist(), softmax(logits[v, b].tolist()))) / 6
    assert bag_of_words_loss(logits, target).item() == pytest.approx(expected, abs=1e-9)


def test_a_bag_does_not_count():
    words = torch.eye(3)
    once, often = words[[0, 1, 1]][None], words[[0, 1, 0, 0, 0, 0]][None]
    torch.testing.assert_close(bag_of_words(once, words, delta=0.1), bag_of_words(often, words, delta=0.1))


def test_near_places_of_two_crops():
    first = torch.tensor([[[0.0, 0.0], [0.0, 2.0]]])
    second = torch.tensor([[[0.0, 1.0], [0.6, 0.0], [5.0, 5.0]]])
    assert near_places(first, second, torch.tensor([2.0]), threshold=0.5).tolist() == [[[True, True, False], [True, False, False]]]


def test_pixel_contrast():
    first, second, near = features(3, 4, 5, seed=1), features(3, 6, 5, seed=2), mask(3, 4, 6)
    near[1] = False
    expected = 0.0
    for b in (0, 2):
        x, y = units(first[b]), units(second[b])
        for anchors, keys, pairs in ((x, y, near[b]), (y, x, near[b].T)):
            losses = []
            for i, anchor in enumerate(anchors):
                scores = [math.exp(dot(anchor, key) / 0.3) for key in keys]
                own = sum(s for s, hit in zip(scores, pairs[i].tolist(), strict=True) if hit)
                if own:
                    losses.append(-math.log(own / sum(scores)))
            expected += sum(losses) / len(losses) / 4
    assert pixel_contrast(first, second, near).item() == pytest.approx(expected, abs=1e-9)
    check_gradient(lambda a, b: pixel_contrast(a, b, near), first, second)
    assert pixel_contrast(first, second, torch.zeros_like(near)).item() == 0
    ways = pixel_contrast_to(first, second, near), pixel_contrast_to(second, first, near.transpose(1, 2))
    assert (float(ways[0]) + float(ways[1])) / 2 == pytest.approx(expected, abs=1e-9), "the mean of both ways"
    check_gradient(lambda a: pixel_contrast_to(a, second, near), first)


def test_propagation():
    x, g = features(2, 4, 3, seed=1), features(2, 4, 5, seed=2)
    y = propagate(x, g, sharpness=2.0)
    for b in range(2):
        z = units(x[b])
        for i in range(4):
            weights = [max(dot(z[i], z[j]), 0.0) ** 2 for j in range(4)]
            assert y[b, i].tolist() == pytest.approx([sum(w * g[b, j, c].item() for j, w in enumerate(weights)) for c in range(5)], abs=1e-9)
    target, near = features(2, 6, 5, seed=3), mask(2, 4, 6)
    expected = 0.0
    for b in range(2):
        pairs = [(i, j) for i in range(4) for j in range(6) if near[b, i, j]]
        expected -= sum(dot(unit(y[b, i].tolist()), unit(target[b, j].tolist())) for i, j in pairs) / len(pairs) / 2
    assert pixel_propagation(y, target, near).item() == pytest.approx(expected, abs=1e-9)
    check_gradient(lambda a, b: pixel_propagation(propagate(a, b), target, near), x, g)


def test_slots_and_their_contrast():
    z, assignment = features(2, 6, 3, seed=1), (3 * features(2, 6, 4, seed=2)).softmax(2)
    pooled, occurs = slots(z, assignment)
    for b in range(2):
        winners = {max(range(4), key=lambda k: assignment[b, i, k]) for i in range(6)}
        assert {k for k in range(4) if occurs[b, k]} == winners
        for k in range(4):
            mean = [sum(assignment[b, i, k].item() * z[b, i, c].item() for i in range(6)) for c in range(3)]
            assert pooled[b, k].tolist() == pytest.approx(unit(mean), abs=1e-9)
    queries, keys, here, there = features(2, 4, 3, seed=3), features(2, 4, 3, seed=4), features(2, 4, seed=5) > -0.5, features(2, 4, seed=1) > -0.5
    losses = []
    for b in range(2):
        for k in range(4):
            if here[b, k] and there[b, k]:
                q = unit(queries[b, k].tolist())
                scores = {(c, m): math.exp(dot(q, unit(keys[c, m].tolist())) / 0.2) for c in range(2) for m in range(4) if there[c, m]}
                losses.append(-math.log(scores[b, k] / sum(scores.values())))
    assert len(losses) >= 2
    assert slot_contrast(queries, keys, here, there).item() == pytest.approx(sum(losses) / len(losses), abs=1e-9)
    check_gradient(lambda a: slot_contrast(a, keys, here, there), queries)
    assert slot_contrast(queries, keys, here & False, there).item() == 0


def test_equivariance_by_classification():
    turns, flips = features(5, 4, seed=1), features(5, 2, seed=2)
    applied = torch.tensor([[0, 1], [3, -1], [2, 0], [1, -1], [3, 1]])
    expected = 0.0
    for part, column in ((turns, 0), (flips, 1)):
        seen = [(row, int(answer)) for row, answer in zip(part.tolist(), applied[:, column]) if answer >= 0]
        expected -= sum(math.log(softmax(row)[answer]) for row, answer in seen) / len(seen)
    assert equivariance_by_classification([turns, flips], applied).item() == pytest.approx(expected, abs=1e-9)


def test_equivariance_by_contrast():
    first, second = features(4, 6, 4, seed=1), features(4, 6, 4, seed=2)
    predicted = []
    for g in range(4):
        x, y = first[g, :5, :3].numpy(), second[g, :5, :3].numpy()
        turn = np.linalg.inv(x.T @ x) @ x.T @ y
        predicted.append([*(first[g, 5, :3].numpy() @ turn), first[g, 5, 3].item()])
    expected = 0.0
    for g in range(4):
        scores = [math.exp(-squared(predicted[g], second[k, 5].tolist()) / 2) for k in range(4)]
        expected -= math.log(scores[g] / sum(scores)) / 4
    assert equivariance_by_contrast(first, second, equivariant=3, temperature=2.0).item() == pytest.approx(expected, abs=1e-9)
    check_gradient(lambda a, b: equivariance_by_contrast(a, b, temperature=3.0), first, second)


def test_a_linear_world_is_equivariant():
    x = 3 * features(5, 9, 4, seed=3)
    moved = x @ features(5, 4, 4, seed=4)
    assert equivariance_by_contrast(x, moved).item() < 1e-3
    assert equivariance_by_contrast(x, x[:, torch.randperm(9, generator=torch.Generator().manual_seed(0))]).item() > 1


def test_contrastive_mim():
    z, x, q, p = features(5, 3, seed=1), features(5, seed=2), features(5, seed=3), features(5, seed=4)
    rows, expected = units(z), []
    for i in range(5):
        mean = sum(math.exp(dot(rows[i], rows[j]) / 0.5) for j in range(5) if j != i) / 4
        expected.append(math.log(math.exp(2) / (math.exp(2) + mean)))
    assert contrastive_factor(z, temperature=0.5).tolist() == pytest.approx(expected, abs=1e-9)
    total = -sum(x[i].item() + expected[i] + (q[i].item() + p[i].item()) / 2 for i in range(5)) / 5
    assert contrastive_mim(x, q, p, z, temperature=0.5).item() == pytest.approx(total, abs=1e-9)
    twice = contrastive_factor(z.repeat(1, 1).float() * 0 + 1, temperature=0.5)
    assert twice.tolist() == pytest.approx([-math.log(2)] * 5, abs=1e-6), "equal codes: whatever their number, a coin"


def test_scaled_cosine_error():
    p, t = features(2, 3, 4, seed=1), features(2, 3, 4, seed=2)
    cosines = [dot(unit(a), unit(b)) for a, b in zip(p.flatten(0, 1).tolist(), t.flatten(0, 1).tolist(), strict=True)]
    assert scaled_cosine_error(p, t, gamma=3.0).item() == pytest.approx(sum((1 - c) ** 3 for c in cosines) / 6, abs=1e-9)
    assert scaled_cosine_error(p, 2 * p).item() == pytest.approx(0, abs=1e-12)


def test_alignment_and_uniformity():
    first, second = features(6, 4, seed=1), features(6, 4, seed=2)
    z = units(first)
    distances = [squared(a, b) for a, b in zip(z, units(second), strict=True)]
    assert alignment_loss(first, second, power=1.0).item() == pytest.approx(sum(map(math.sqrt, distances)) / 6, abs=1e-9)
    assert alignment_loss(first, second).item() == pytest.approx(alignment(first, second), abs=1e-9)
    potential = sum(math.exp(-2 * squared(a, b)) for a in z for b in z if a is not b) / 30
    assert uniformity_loss(first).item() == pytest.approx(math.log(potential), abs=1e-9)
    assert uniformity_loss(first).item() == pytest.approx(uniformity(first), abs=1e-9)
    same = first.clone().requires_grad_()
    alignment_loss(same, first, power=1.0).backward()
    assert torch.isfinite(same.grad).all()


def slow_hog(image, patch, cell, bins, weights):
    """(N, C * bins * s * s) by visiting each pixel."""
    channels, height, width = image.shape
    cells = np.zeros((channels, bins, height // cell, width // cell))

    def mirrored(i, n):
        return -i if i < 0 else 2 * (n - 1) - i if i >= n else i

    for c in range(channels):
        for y in range(height):
            for x in range(width):
                gx = image[c, y, mirrored(x + 1, width)] - image[c, y, mirrored(x - 1, width)]
                gy = image[c, mirrored(y + 1, height), x] - image[c, mirrored(y - 1, height), x]
                angle = math.atan2(gy, gx) % math.pi
                cells[c, min(int(angle / math.pi * bins), bins - 1), y // cell, x // cell] += math.hypot(gx, gy) * weights[y, x]
    cells /= np.maximum(np.sqrt((cells**2).sum(1, keepdims=True)), 1e-12)
    side = patch // cell
    tokens = []
    for h in range(height // patch):
        for w in range(width // patch):
            tokens.append(cells[:, :, h * side : (h + 1) * side, w * side : (w + 1) * side].reshape(-1))
    return np.stack(tokens)


@pytest.mark.parametrize("window", [None, 4])
def test_hog(window):
    images = features(2, 2, 8, 12, seed=1).float()
    weights = np.ones((8, 12))
    if window:
        for y in range(8):
            for x in range(12):
                weights[y, x] = math.exp(-((y % 4 - 1.5) ** 2 + (x % 4 - 1.5) ** 2) / 8)
    target = hog_target(images, patch=4, cell=2, bins=5, window=window)
    for image, tokens in zip(images.double().numpy(), target, strict=True):
        np.testing.assert_allclose(tokens.numpy(), slow_hog(image, 4, 2, 5, weights), atol=1e-5)


def test_hog_ignores_brightness_and_contrast():
    images = features(1, 3, 32, 32, seed=2).float()
    torch.testing.assert_close(hog_target(3 * images + 7), hog_target(images), atol=1e-4, rtol=1e-4)
    assert hog_target(images).shape == (1, 4, 3 * 9 * 4)
    assert (hog_target(torch.ones(1, 3, 32, 32)) == 0).all()
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    assert hog_target(ramp).view(4, 9, 4)[:, 0].min() == 1, "left-right gradients are bin 0"


def test_gradients():
    first, second = features(4, 3, seed=1), features(4, 3, seed=2)
    target, applied = features(4, 3, seed=3).softmax(1), torch.tensor([[0], [2], [1], [-1]])
    check_gradient(lambda a: bag_of_words_loss(a[None], target), first)
    check_gradient(lambda a: equivariance_by_classification([a], applied), first)
    check_gradient(lambda a, b: contrastive_mim(a[:, 0], b[:, 0], b[:, 1], a, temperature=0.4), first, second)
    check_gradient(lambda a, b: scaled_cosine_error(a, b), first, second)
    check_gradient(lambda a, b: alignment_loss(a, b) + alignment_loss(a, b, power=1.0) + uniformity_loss(a), first, second)
    assignment = (3 * features(1, 4, 2, seed=4)).softmax(2)
    check_gradient(lambda a: slots(a[None], assignment)[0].square().sum(dim=2)[0, 0] * slots(a[None], assignment)[0][0, 1, 0], first)


@pytest.mark.parametrize(
    "call",
    [
        lambda: bag_of_words(features(2, 3, 4), features(3, 5), delta=1.0),
        lambda: bag_of_words(features(2, 3, 4), features(3, 4), delta=0.0),
        lambda: bag_of_words_loss(features(2, 3), features(2, 3)),
        lambda: WordScale(momentum=2.0),
        lambda: near_places(features(2, 3, 2), features(2, 3, 3), features(2)),
        lambda: pixel_contrast(features(2, 3, 4), features(2, 3, 4), torch.ones(2, 3, 4, dtype=torch.bool)),
        lambda: pixel_propagation(features(2, 3, 4), features(2, 3, 4), features(2, 3, 3)),
        lambda: propagate(features(2, 3, 4), features(2, 2, 4)),
        lambda: slots(features(2, 3, 4), features(2, 2, 4)),
        lambda: slot_contrast(features(2, 3, 4), features(2, 3, 4), mask(2, 3), mask(2, 2)),
        lambda: equivariance_by_classification([features(3, 2)], torch.zeros(3, 2, dtype=torch.int64)),
        lambda: equivariance_by_classification([features(3, 2)], torch.full((3, 1), 2)),
        lambda: equivariance_by_contrast(features(3, 4, 4), features(3, 4, 4)),
        lambda: equivariance_by_contrast(features(1, 6, 4), features(1, 6, 4)),
        lambda: contrastive_factor(features(1, 4), temperature=0.1),
        lambda: contrastive_mim(features(2), features(2), features(3), features(2, 4)),
        lambda: scaled_cosine_error(features(2, 3), features(2, 4)),
        lambda: scaled_cosine_error(features(2, 3), features(2, 3), gamma=0.5),
        lambda: alignment_loss(features(2, 3), features(2, 3), power=0.0),
        lambda: uniformity_loss(features(1, 3)),
        lambda: hog_target(features(1, 3, 30, 32)),
        lambda: hog_target(features(1, 3, 32, 32), window=5),
    ],
)
def test_wrong_input_is_refused(call):
    with pytest.raises(ValueError, match="expected|must"):
        call()
