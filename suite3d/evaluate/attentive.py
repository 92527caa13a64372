"""Attentive probe: many small attention classifiers on frozen tokens, one for each learning rate and weight decay, trained at once.

V-JEPA 2 (Assran et al., 2025, appendix C): three self-attention blocks and one with a learned query, AdamW, cosine to 0, 20 heads. There the
best head is picked by its score on the test set, which is optimistic. Here the head is picked on a held-out part of the training set unless
``choose="test_set"`` asks for the published way, and the result says which it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from suite3d.engine.order import SampleOrder, stream_seed
from suite3d.evaluate.scores import classification_scores
from suite3d.labels import held_out_split
from suite3d.nn.attentive import AttentiveClassifier, fitting_heads


class TokenBank(Protocol):
    """Frozen tokens of labelled samples, from a cache or from an encoder that runs again.

    Attributes:
        labels: ``(n,)`` int64.
        groups: n names; samples of one group stay on one side of a split.
        dim: channels of a token.
    """

    @property
    def labels(self) -> Tensor: ...

    @property
    def groups(self) -> Sequence[str]: ...

    @property
    def dim(self) -> int: ...

    def batches(self, rows: Sequence[int], *, batch_size: int, epoch: int) -> Iterator[tuple[list[int], Tensor]]:
        """(rows, ``(B, V, N, dim)`` tokens of their V views), in order; samples that cannot be read are left out."""


@dataclass(kw_only=True)
class AttentiveConfig:
    """Attentive probe.

    Attributes:
        depth: blocks, the last of which has the learned query; 1 is the probe of V-JEPA 1.
        heads: attention heads; the largest smaller number that divides the encoder's width where it does not.
        rates, decays: learning rates and weight decays; one classifier for every pair.
        epochs, batch_size: of the training.
        held_out: share of the training set that the classifier is chosen on.
        choose: ``held_out``, or ``test_set``: the optimistic way of the published numbers.
        precision: ``bf16`` (autocast) or ``fp32``.
        seed: of weights and order.
    """

    depth: int = 4
    heads: int = 16
    rates: tuple[float, ...] = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4)
    decays: tuple[float, ...] = (0.01, 0.1, 0.4, 0.8)
    epochs: int = 20
    batch_size: int = 128
    held_out: float = 0.1
    choose: Literal["held_out", "test_set"] = "held_out"
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.rates or not self.decays or self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"the attentive probe expected learning rates, weight decays, epochs and a batch size, got {self}")

    @property
    def settings(self) -> list[tuple[float, float]]:
        """(learning rate, weight decay) of every classifier."""
        return list(product(self.rates, self.decays))


@dataclass(frozen=True, kw_only=True)
class AttentiveResult:
    """Outcome of a probe.

    Attributes:
        scores: ``top-1``, ``top-5``, ``mean-class`` of the chosen classifier on the test set, percent.
        rate, decay: its settings.
        grid: top-1 by setting, where it was chosen.
        chosen_on: in words.
        heads: attention heads that were used.
        test_rows: test samples that were scored.
    """

    scores: dict[str, float]
    rate: float
    decay: float
    grid: dict[str, float]
    chosen_on: str
    heads: int
    test_rows: int


def attentive_probe(
    train: TokenBank, test: TokenBank, *, classes: int, config: AttentiveConfig | None = None, device: torch.device | None = None
) -> AttentiveResult:
    """Train all classifiers, choose one, score it.

    Raises:
        ValueError: nothing can be held out, or no sample could be read.
    """
    config = config or AttentiveConfig()
    device = device or torch.device("cpu")
    everything, test_rows = list(range(len(train.labels))), list(range(len(test.labels)))
    if config.choose == "held_out" and len(config.settings) > 1:
        fit, held = held_out_split(train.groups, train.labels.tolist(), config.held_out)
        chosen_on = f"a held-out {100 * config.held_out:g} % of the training set ({len(held)} of {len(everything)} samples, not trained on)"
    else:
        fit, held, chosen_on = everything, [], "the test set itself: optimistic" if len(config.settings) > 1 else "nothing: one setting was given"
    models = train_classifiers(train, fit, classes=classes, config=config, device=device)
    bank, rows = (train, held) if held else (test, test_rows)
    best, grid = choose_classifier(models, bank, rows, config=config, device=device)
    kept, probabilities = predict([models[best]], test, test_rows, config=config, device=device)
    rate, decay = config.settings[best]
    return AttentiveResult(
        scores=classification_scores(probabilities[0], test.labels[kept]),
        rate=rate,
        decay=decay,
        grid=grid,
        chosen_on=chosen_on,
        heads=fitting_heads(train.dim, config.heads),
        test_rows=len(kept),
    )


def train_classifiers(
    bank: TokenBank, rows: Sequence[int], *, classes: int, config: AttentiveConfig, device: torch.device
) -> list[AttentiveClassifier]:
    """One classifier for every setting, trained on the samples ``rows`` only."""
    heads = fitting_heads(bank.dim, config.heads)
    models = []
    for number in range(len(config.settings)):
        generator = torch.Generator().manual_seed(stream_seed("attentive", config.seed, number))
        models.append(AttentiveClassifier(bank.dim, classes, heads=heads, depth=config.depth, generator=generator).to(device))
    optimizer = _optimizer(models, config)
    order = SampleOrder(len(rows), config.seed)
    per_epoch = math.ceil(len(rows) / config.batch_size)
    for epoch in range(config.epochs):
        shuffled = [rows[place] for place in order.permutation(epoch)]
        for step, (read, tokens) in enumerate(bank.batches(shuffled, batch_size=config.batch_size, epoch=epoch)):
            share = 0.5 * (1 + math.cos(math.pi * (epoch + step / per_epoch) / config.epochs))
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * share
            view = tokens[:, epoch % tokens.shape[1]].to(device)  # [B, N, dim]
            labels = bank.labels[read].to(device)
            for model in models:  # one graph at a time, so that memory does not grow with the number of classifiers
                with _autocast(config, device):
                    logits = model(view)
                F.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return [model.eval() for model in models]


def _optimizer(models: Sequence[AttentiveClassifier], config: AttentiveConfig) -> torch.optim.Optimizer:
    """AdamW with each classifier's own rate and decay; biases, norms and nothing else go undecayed."""
    groups = []
    for model, (rate, decay) in zip(models, config.settings, strict=True):
        weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
        groups += [{"params": part, "weight_decay": own, "lr": rate, "peak": rate} for part, own in ((weights, decay), (others, 0.0))]
    return torch.optim.AdamW(groups)


def choose_classifier(
    models: Sequence[AttentiveClassifier], bank: TokenBank, rows: Sequence[int], *, config: AttentiveConfig, device: torch.device
) -> tuple[int, dict[str, float]]:
    """Number of the classifier with the best top-1 on the samples ``rows``, the first among equals; and the top-1 of all by setting."""
    kept, probabilities = predict(models, bank, rows, config=config, device=device)
    labels = bank.labels[kept]
    scores = [classification_scores(part, labels)["top-1"] if bool(torch.isfinite(part).all()) else -1.0 for part in probabilities]
    grid = {f"lr {rate:g}, weight decay {decay:g}": score for (rate, decay), score in zip(config.settings, scores)}
    return max(range(len(scores)), key=scores.__getitem__), grid


@torch.no_grad()
def predict(
    models: Sequence[AttentiveClassifier], bank: TokenBank, rows: Sequence[int], *, config: AttentiveConfig, device: torch.device
) -> tuple[list[int], Tensor]:
    """(rows that could be read, ``(G, M, K)`` probabilities): the softmax of each of a sample's views, averaged."""
    kept: list[int] = []
    parts = []
    for read, tokens in bank.batches(rows, batch_size=config.batch_size, epoch=0):
        views = tokens.shape[1]
        flat = tokens.flatten(0, 1).to(device)  # [BV, N, dim]
        with _autocast(config, device):
            logits = torch.stack([model(flat) for model in models])  # [G, BV, K]
        parts.append(logits.float().softmax(-1).unflatten(1, (-1, views)).mean(2).cpu())
        kept += read
    if not kept:
        raise ValueError("no sample could be read, so there is nothing to score")
    return kept, torch.cat(parts, dim=1)


def _autocast(config: AttentiveConfig, device: torch.device) -> torch.autocast | nullcontext[None]:
    return torch.autocast(device.type, dtype=torch.bfloat16) if config.precision == "bf16" else nullcontext()
