"""Few labels: K training samples of each class, several draws, mean and interval.

K = 2, 4, 8, 16 and the draws over seeds as in X-CLIP (Ni et al., ECCV 2022) and later video work; on frozen features, so the classifier is
either a class-balanced logistic layer or the nearest class mean. All test samples are scored each time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from suite3d.engine.order import stream_seed
from suite3d.evaluate.probes import fit_logistic
from suite3d.evaluate.scores import classification_scores
from suite3d.evaluate.statistics import Interval, mean_interval


@dataclass(kw_only=True)
class FewShotConfig:
    """Few-shot classification.

    Attributes:
        shots: samples of each class.
        seeds: independent draws of them.
        classifier: ``logistic``, or ``nearest_mean`` (cosine similarity to the mean of the class's normalised features).
        penalty: of the logistic layer.
    """

    shots: tuple[int, ...] = (2, 4, 8, 16)
    seeds: int = 3
    classifier: Literal["logistic", "nearest_mean"] = "logistic"
    penalty: float = 1e-2

    def __post_init__(self) -> None:
        if not self.shots or min(self.shots) < 1 or self.seeds < 1:
            raise ValueError(f"few-shot expected positive shots and at least one seed, got shots={self.shots}, seeds={self.seeds}")


@dataclass(frozen=True, kw_only=True)
class FewShotScore:
    """Top-1 (percent) of one K: by draw, and its mean with the 95 % interval over draws."""

    shots: int
    values: tuple[float, ...]
    interval: Interval


def draw_shots(labels: Tensor, shots: int, seed: int, *, groups: Sequence[str] | None = None) -> list[int]:
    """Indices of ``shots`` samples of each class that occurs, of different groups while there are enough; a pure function of its arguments.

    Within one seed the draws are nested: those for 2 shots are among those for 4.

    Raises:
        ValueError: a class with fewer samples.
    """
    picked = []
    for label in sorted(set(labels.tolist())):
        rows = (labels == label).nonzero()[:, 0].tolist()
        if len(rows) < shots:
            raise ValueError(f"class {label} has {len(rows)} training samples, fewer than {shots} shots: take fewer shots")
        order = np.random.default_rng(stream_seed("shots", seed, label)).permutation(len(rows))
        rows = [rows[place] for place in order]
        if groups is not None:
            seen: Counter[str] = Counter()
            turn = {}
            for row in rows:  # a group's second sample waits until every group has had its first
                turn[row] = seen[groups[row]]
                seen[groups[row]] += 1
            rows.sort(key=turn.__getitem__)
        picked += rows[:shots]
    return sorted(picked)


def few_shot(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    classes: int,
    config: FewShotConfig | None = None,
    groups: Sequence[str] | None = None,
) -> list[FewShotScore]:
    """Scores by K. Features ``(N, C)`` and ``(M, C)``, labels int64; ``groups``: see :func:`draw_shots`."""
    config = config or FewShotConfig()
    results = []
    for shots in config.shots:
        values = []
        for seed in range(config.seeds):
            rows = draw_shots(train_labels, shots, seed, groups=groups)
            scores = _classify(train[rows], train_labels[rows], test, classes, config)
            values.append(classification_scores(scores, test_labels)["top-1"])
        results.append(FewShotScore(shots=shots, values=tuple(values), interval=mean_interval(values)))
    return results


def _classify(train: Tensor, labels: Tensor, test: Tensor, classes: int, config: FewShotConfig) -> Tensor:
    present, compact = torch.unique(labels, return_inverse=True)
    if config.classifier == "logistic":
        known = fit_logistic(train, compact, classes=len(present), penalty=config.penalty).logits(test).float()
    else:
        rows = F.normalize(train.float(), dim=1)
        means = torch.stack([rows[compact == place].mean(0) for place in range(len(present))])
        known = F.normalize(test.float(), dim=1) @ F.normalize(means, dim=1).T
    scores = torch.full((len(test), classes), float(known.min()) - 1, device=test.device)
    scores[:, present] = known
    return scores
