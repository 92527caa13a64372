"""Probes against independent solutions, and what an online probe must not do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from suite3d.evaluate.probes import fit_logistic, fit_ridge, knn_predict, knn_probe, logistic_probe, ridge_probe, score_predictions


def clusters(n, classes=4, c=12, noise=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(classes, c, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(classes, (n,), generator=generator)
    return centers[labels] + noise * torch.randn(n, c, generator=generator), labels


def test_ridge_is_the_weighted_least_squares_solution():
    x, y = clusters(60, noise=1.5)
    probe = fit_ridge(x, y, classes=4, penalty=0.1)
    weight = (1 / np.bincount(y))[y]
    weight /= weight.sum()
    mean = weight @ x.numpy()
    scale = np.sqrt(weight @ (x.numpy() - mean) ** 2)
    z = (x.numpy() - mean) / scale
    targets = 2 * np.eye(4)[y] - 1
    bias = weight @ targets
    # As an augmented least squares problem, solved by another algorithm.
    rows = np.concatenate([np.sqrt(weight)[:, None] * z, np.sqrt(0.1) * np.eye(12)])
    goal = np.concatenate([np.sqrt(weight)[:, None] * (targets - bias), np.zeros((12, 4))])
    expected = np.linalg.lstsq(rows, goal, rcond=None)[0]
    np.testing.assert_allclose(probe.weight.numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(probe.logits(x).numpy(), z @ expected + bias, atol=1e-9)


def test_logistic_equals_sklearn():
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is the oracle")
    x, y = clusters(200, noise=1.5)
    probe = fit_logistic(x, y, classes=4, penalty=0.01, iterations=500)
    z = ((x.double() - probe.mean) / probe.scale).numpy()
    weight = (1 / np.bincount(y))[y]
    oracle = linear.LogisticRegression(C=1 / 0.01, tol=1e-10, max_iter=10000).fit(z, y.numpy(), sample_weight=weight / weight.sum())
    centred = probe.logits(x) - probe.logits(x).mean(dim=1, keepdim=True)
    np.testing.assert_allclose(centred.numpy(), oracle.decision_function(z), atol=1e-3)


def test_knn_votes_as_written():
    x, y = clusters(50, noise=1.5)
    q, _ = clusters(20, noise=1.5, seed=1)
    predicted = knn_predict(x, y, q, classes=4, k=7)
    for row, query in enumerate(q):
        similarity = [(float(torch.nn.functional.cosine_similarity(query, key, dim=0)), int(label)) for key, label in zip(x, y, strict=True)]
        votes = np.zeros(4)
        for value, label in sorted(similarity, reverse=True)[:7]:
            votes[label] += np.exp(value / 0.07)
        assert votes.argmax() == predicted[row]


@pytest.mark.parametrize("probe", [ridge_probe, logistic_probe, knn_probe])
def test_separable_is_perfect_random_is_chance_and_the_same_twice(probe):
    (x, y), (q, t) = clusters(400, noise=0.2), clusters(200, noise=0.2, seed=1)
    score = probe(x, y, q, t, classes=4)
    assert score.balanced_accuracy == 1 and score.chance == 0.25 and score == probe(x, y, q, t, classes=4)
    noise = torch.randn(400, 12, generator=torch.Generator().manual_seed(5)), torch.randn(200, 12, generator=torch.Generator().manual_seed(6))
    assert probe(noise[0], y, noise[1], t, classes=4).balanced_accuracy == pytest.approx(0.25, abs=0.1)


def test_scale_of_features_does_not_matter_to_the_linear_probes_and_constants_are_harmless():
    (x, y), (q, t) = clusters(200, noise=1.0), clusters(200, noise=1.0, seed=1)
    stretch = torch.logspace(-4, 4, 12)
    widen = lambda v: torch.cat([v * stretch + 10, torch.full((len(v), 2), 3.0)], dim=1)  # noqa: E731
    assert ridge_probe(widen(x), y, widen(q), t, classes=4).per_class == pytest.approx(ridge_probe(x, y, q, t, classes=4).per_class, abs=0.05)


def test_balanced_accuracy_is_not_fooled_by_the_majority():
    labels = torch.tensor([0] * 95 + [1] * 5)
    score = score_predictions(torch.zeros(100, dtype=torch.long), labels, classes=3, train_rows=1, protocol="always 0")
    assert score.accuracy == pytest.approx(0.95) and score.balanced_accuracy == pytest.approx(0.5) == pytest.approx(score.chance)
    assert np.isnan(score.per_class[2]) and "chance 50.0 %" in str(score)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match=r"\[0, 2\)"):
        fit_ridge(torch.zeros(2, 3), torch.tensor([0, 2]), classes=2)
