"""Frozen-feature probes that need features and labels and nothing else: kNN, ridge, logistic.

All are deterministic. A probe score means nothing without its protocol, so each result carries the number of rows, the
class counts and the chance level it has to be read against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class ProbeScore:
    """Result of a probe on held-out rows.

    Attributes:
        balanced_accuracy: mean over classes of the share of their rows that was predicted right, 0 to 1.
        accuracy: share of all rows.
        chance: balanced accuracy of guessing: 1 / classes present in the held-out rows.
        per_class: recall of each class; nan where it has no held-out row.
        train_rows, test_rows: rows fitted and scored.
        protocol: how, in a few words.
    """

    balanced_accuracy: float
    accuracy: float
    chance: float
    per_class: tuple[float, ...]
    train_rows: int
    test_rows: int
    protocol: str

    def __str__(self) -> str:
        return (
            f"{100 * self.balanced_accuracy:.1f} % balanced accuracy (chance {100 * self.chance:.1f} %), {self.protocol}, "
            f"{self.train_rows} rows fitted, {self.test_rows} held out"
        )


def knn_predict(train: Tensor, train_labels: Tensor, test: Tensor, *, classes: int, k: int = 20, temperature: float = 0.07) -> Tensor:
    """Class with the most votes of :func:`knn_votes`: ``(M,)`` int64."""
    return knn_votes(train, train_labels, test, classes=classes, k=k, temperature=temperature).argmax(dim=1)


def knn_votes(train: Tensor, train_labels: Tensor, test: Tensor, *, classes: int, k: int = 20, temperature: float = 0.07) -> Tensor:
    """Weighted nearest neighbours on cosine similarity (Wu et al., CVPR 2018, section 3.4).

    Each of the k nearest votes for its class with the weight ``exp(similarity / temperature)``.

    ``train (N, C)``, ``train_labels (N,)`` int64 in [0, classes), ``test (M, C)`` -> ``(M, classes)`` float32.
    """
    _check(train, train_labels, classes)
    keys = torch.nn.functional.normalize(train.float(), dim=1)
    queries = torch.nn.functional.normalize(test.float(), dim=1)
    votes = [torch.zeros(0, classes, device=train.device)]
    for chunk in queries.split(1024):
        similarity, rows = (chunk @ keys.T).topk(min(k, len(keys)), dim=1)  # [m, k]
        empty = torch.zeros(len(chunk), classes, device=train.device)
        votes.append(empty.scatter_add_(1, train_labels[rows], (similarity / temperature).exp()))
    return torch.cat(votes)


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """A fitted linear classifier on standardised features.

    Attributes:
        weight: ``(C, K)``. bias: ``(K,)``. mean, scale: ``(C,)`` of the rows it was fitted on. All float64.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """``(N, C)`` -> ``(N, K)``."""
        return ((features.double() - self.mean) / self.scale) @ self.weight + self.bias

    def predict(self, features: Tensor) -> Tensor:
        return self.logits(features).argmax(dim=1)


def fit_ridge(features: Tensor, labels: Tensor, *, classes: int, penalty: float = 1e-3) -> LinearProbe:
    """Ridge regression onto +-1 targets in closed form, every class with the same total weight.

    ``W = (X' S X + penalty I)^-1 X' S Y`` with standardised X (weighted by S) and ``S`` summing to 1, in float64.

    Args:
        features: ``(N, C)``. labels: ``(N,)`` int64 in [0, classes).
        penalty: relative to unit variance of a feature.
    """
    _check(features, labels, classes)
    x, weight, mean, scale = _standardise(features, labels, classes)
    targets = 2.0 * torch.nn.functional.one_hot(labels, classes).double() - 1.0
    bias = weight @ targets
    gram = x.T @ (weight[:, None] * x) + penalty * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    solution = torch.cholesky_solve(x.T @ (weight[:, None] * (targets - bias)), torch.linalg.cholesky(gram))
    return LinearProbe(weight=solution, bias=bias, mean=mean, scale=scale)


def fit_logistic(features: Tensor, labels: Tensor, *, classes: int, penalty: float = 1e-3, iterations: int = 100) -> LinearProbe:
    """Multinomial logistic regression from zero by L-BFGS, class-balanced, ``+ penalty / 2 |W|^2``; deterministic."""
    _check(features, labels, classes)
    x, weight, mean, scale = _standardise(features, labels, classes)
    parameters = torch.zeros(x.shape[1] + 1, classes, dtype=x.dtype, device=x.device, requires_grad=True)
    optimiser = torch.optim.LBFGS([parameters], max_iter=iterations, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = weight @ torch.nn.functional.cross_entropy(x @ parameters[:-1] + parameters[-1], labels, reduction="none")
        loss = loss + 0.5 * penalty * parameters[:-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
    fitted = parameters.detach()
    return LinearProbe(weight=fitted[:-1], bias=fitted[-1], mean=mean, scale=scale)


def score_predictions(predicted: Tensor, labels: Tensor, *, classes: int, train_rows: int, protocol: str) -> ProbeScore:
    """Accuracies of ``predicted (N,)`` against ``labels (N,)``, with the chance level of the classes that occur."""
    if not len(labels):
        raise ValueError("a probe needs held-out rows to score, got none")
    total = torch.bincount(labels, minlength=classes).double()
    right = torch.bincount(labels[predicted == labels], minlength=classes).double()
    recall = right / total  # nan for absent classes
    present = total > 0
    return ProbeScore(
        balanced_accuracy=float(recall[present].mean()),
        accuracy=float(right.sum() / total.sum()),
        chance=1.0 / int(present.sum()),
        per_class=tuple(recall.tolist()),
        train_rows=train_rows,
        test_rows=len(labels),
        protocol=protocol,
    )


def knn_probe(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, *, classes: int, k: int = 20) -> ProbeScore:
    """Fit on the first pair, score on the second."""
    predicted = knn_predict(train, train_labels, test, classes=classes, k=k)
    return score_predictions(predicted, test_labels, classes=classes, train_rows=len(train), protocol=f"kNN (k = {k}, cosine)")


def ridge_probe(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, *, classes: int, penalty: float = 1e-3) -> ProbeScore:
    """Fit on the first pair, score on the second."""
    probe = fit_ridge(train, train_labels, classes=classes, penalty=penalty)
    return score_predictions(probe.predict(test), test_labels, classes=classes, train_rows=len(train), protocol=f"ridge probe (penalty {penalty:g})")


def logistic_probe(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, *, classes: int, penalty: float = 1e-3) -> ProbeScore:
    """Fit on the first pair, score on the second."""
    probe = fit_logistic(train, train_labels, classes=classes, penalty=penalty)
    return score_predictions(
        probe.predict(test), test_labels, classes=classes, train_rows=len(train), protocol=f"logistic probe (penalty {penalty:g})"
    )


def probe_scores(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, *, classes: int, k: int = 20, penalty: float = 1e-2
) -> dict[str, float]:
    """``{"knn", "knn_standardised", "ridge", "knn_chance"}``: accuracies of frozen features ``(N, D)``.

    ``knn`` is the cosine of the features as they are; for ``knn_standardised`` each channel first gets mean 0 and deviation 1 over the rows
    to fit on (what the BatchNorm of MAE's linear probe does), which keeps a few large channels from deciding alone.
    """
    knn = knn_probe(train, train_labels, test, test_labels, classes=classes, k=k)
    mean, scale = train.mean(dim=0), train.std(dim=0).clamp_min(1e-6)
    even = knn_probe((train - mean) / scale, train_labels, (test - mean) / scale, test_labels, classes=classes, k=k)
    ridge = ridge_probe(train, train_labels, test, test_labels, classes=classes, penalty=penalty)
    return {"knn": knn.accuracy, "knn_standardised": even.accuracy, "ridge": ridge.accuracy, "knn_chance": knn.chance}


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most ``count`` of the items, evenly over the list: of items sorted by class, about as many of each."""
    return list(items) if len(items) <= count else [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def _check(features: Tensor, labels: Tensor, classes: int) -> None:
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
        raise ValueError(f"expected features (N, C) and labels (N,) with N > 0, got {tuple(features.shape)} and {tuple(labels.shape)}")
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(f"labels must lie in [0, {classes}), got {int(labels.min())} to {int(labels.max())}")


def _standardise(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Class-balanced row weights that sum to 1, and the features with weighted mean 0 and variance 1 (constant ones: 0)."""
    x = features.detach().double()
    counts = torch.bincount(labels, minlength=classes).double()
    weight = (1.0 / counts)[labels]
    weight = weight / weight.sum()
    mean = weight @ x
    std = (weight @ (x - mean).square()).sqrt()
    scale = torch.where(std > 1e-8 * (1 + mean.abs()), std, torch.full_like(std, torch.inf))
    return (x - mean) / scale, weight, mean, scale
