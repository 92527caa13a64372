"""Linear probe of frozen features: batch norm without affine parameters, then a linear layer, a grid of learning rates trained at once.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, appendix A.1: the parameter-free batch norm makes the learning rate
comparable between encoders. The learning rate is chosen on a held-out part of the training set and the layer is then fitted to all of it;
the fit never sees the test set, so it cannot leak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from suite3d.evaluate.scores import classification_scores
from suite3d.labels import held_out_split


@dataclass(kw_only=True)
class LinearConfig:
    """Linear probe.

    Attributes:
        rates: peak learning rates of the grid for a batch of 256; they scale with the batch and fall to 0 along a cosine.
        epochs, batch_size: of the stochastic gradient descent.
        momentum, weight_decay: of it.
        held_out: share of the training set that the learning rate is chosen on.
        seed: of the order.
    """

    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    epochs: int = 90
    batch_size: int = 1024
    momentum: float = 0.9
    weight_decay: float = 0.0
    held_out: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.rates or min(self.rates) <= 0 or self.epochs < 1 or self.batch_size < 2:
            raise ValueError(f"the linear probe expected positive rates and epochs and batches of at least 2, got {self}")


@dataclass(frozen=True, kw_only=True)
class LinearFit:
    """A fitted layer.

    Attributes:
        weight: ``(C, K)``. bias: ``(K,)``. mean, scale: ``(C,)`` of the batch norm.
        rate: learning rate that was used.
        grid: held-out top-1 by learning rate; empty where there was nothing to choose.
        chosen_on: in words.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor
    rate: float
    grid: dict[str, float]
    chosen_on: str

    def logits(self, features: Tensor) -> Tensor:
        """``(N, C)`` -> ``(N, K)`` float32."""
        return ((features.float() - self.mean) / self.scale) @ self.weight + self.bias


def fit_linear(
    features: Tensor, labels: Tensor, *, classes: int, config: LinearConfig | None = None, groups: Sequence[str] | None = None
) -> LinearFit:
    """Fit to the training set.

    Args:
        features: ``(N, C)``. labels: ``(N,)`` int64 in [0, classes).
        groups: sample names by which the held-out part is chosen; samples of one group (clips of one video) stay together. None = row numbers.

    Raises:
        ValueError: nothing can be held out, or labels that are no class.
    """
    config = config or LinearConfig()
    if features.ndim != 2 or labels.shape != features.shape[:1] or len(labels) < 2:
        raise ValueError(f"expected features (N, C) and labels (N,) with N > 1, got {tuple(features.shape)} and {tuple(labels.shape)}")
    if len(config.rates) == 1:
        return _fit(features, labels, classes, config, config.rates[0], {}, "nothing: one learning rate was given")
    names = [str(row) for row in range(len(labels))] if groups is None else list(groups)
    fit, held = held_out_split(names, labels.tolist(), config.held_out)
    mean, scale = _norm(features[fit])
    weight, bias = _descend((features[fit].float() - mean) / scale, labels[fit], classes, config.rates, config)
    logits = torch.einsum("nc,gck->gnk", (features[held].float() - mean) / scale, weight) + bias[:, None]
    scores = [_top1(head, labels[held]) for head in logits]
    grid = {f"{rate:g}": score for rate, score in zip(config.rates, scores, strict=True)}
    rate = config.rates[max(range(len(scores)), key=lambda place: scores[place])]
    chosen = f"a held-out {100 * config.held_out:g} % of the training set ({len(held)} of {len(labels)}), then fitted to all of it"
    return _fit(features, labels, classes, config, rate, grid, chosen)


def _top1(logits: Tensor, labels: Tensor) -> float:
    """Percent; a head that diverged loses to all others."""
    return classification_scores(logits, labels)["top-1"] if bool(torch.isfinite(logits).all()) else -1.0


def _fit(features: Tensor, labels: Tensor, classes: int, config: LinearConfig, rate: float, grid: dict[str, float], chosen: str) -> LinearFit:
    mean, scale = _norm(features)
    weight, bias = _descend((features.float() - mean) / scale, labels, classes, (rate,), config)
    return LinearFit(weight=weight[0], bias=bias[0], mean=mean, scale=scale, rate=rate, grid=grid, chosen_on=chosen)


def _norm(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation over the set: what the running statistics of a batch norm tend to on fixed features."""
    x = features.double()
    variance, mean = torch.var_mean(x, dim=0, correction=0)
    return mean.float(), (variance + 1e-6).sqrt().float()


def _descend(x: Tensor, labels: Tensor, classes: int, rates: Sequence[float], config: LinearConfig) -> tuple[Tensor, Tensor]:
    """Weights ``(G, C, K)`` and biases ``(G, K)`` of G independent layers, one for each rate: SGD with momentum on the mean cross-entropy."""
    batch = min(config.batch_size, len(x))
    per_epoch = max(len(x) // batch, 1)
    total = config.epochs * per_epoch
    generator = torch.Generator().manual_seed(config.seed)
    peaks = torch.tensor(rates, device=x.device)[:, None, None] * batch / 256  # [G, 1, 1]
    weight = torch.zeros(len(rates), x.shape[1] + 1, classes, device=x.device)  # the last row is the bias
    speed = torch.zeros_like(weight)
    ones = x.new_ones(batch, 1)
    for epoch in range(config.epochs):
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for step in range(per_epoch):
            rows = order[step * batch : (step + 1) * batch]
            inputs = torch.cat((x[rows], ones), dim=1)  # [b, C + 1]
            residual = torch.softmax(inputs @ weight, dim=2) - F.one_hot(labels[rows], classes)  # [G, b, K]
            gradient = inputs.T @ residual / batch + config.weight_decay * weight
            speed = config.momentum * speed + gradient
            share = torch.tensor((epoch * per_epoch + step) / total * torch.pi)
            weight = weight - peaks * 0.5 * (1 + float(torch.cos(share))) * speed
    return weight[:, :-1], weight[:, -1]
