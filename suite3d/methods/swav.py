"""SwAV: every crop predicts the prototypes that the other, large crops of its picture were assigned to, in balance over the batch.

Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", NeurIPS 2020 (figure 1, equations 1 to 6).

    s_v = cosines of head(f(crop v)) with K prototypes;   q_g = Sinkhorn(s_g / eps) of the large crops g, without gradient
    L = mean over large crops g and other crops v of mean_i -sum_k q_gik log softmax(s_vi / t)_k

Views 0 and 1 are the large crops, all from 2 on the small ones. The prototypes stand still for the first steps. ``queue`` keeps embeddings of
earlier batches, which only help to balance the assignments where the batch is small against K.

Differences to the released code:
- The queue is one of all ranks' embeddings and each rank balances with its share of it (there: every rank keeps its own). It fills from the
  first step and is used from ``queue_start`` on once it is full (there: it fills from then on, so that its use begins a little later).
- Prototypes are scaled to unit length in the forward pass instead of before it, so that their gradient is tangential.
- While the prototypes stand still they receive no gradient (there: it is deleted after the backward pass, which is the same).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suite3d.image.data.batch import ImageBatch
from suite3d.losses.gather import rank, world_size
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.rows import own_rows, unit
from suite3d.losses.sinkhorn import usage
from suite3d.losses.swav import swav
from suite3d.methods.multi_view import check_views, view_features
from suite3d.nn.heads import projector
from suite3d.nn.projection import Prototypes
from suite3d.nn.queue import FeatureQueue
from suite3d.output import Output

LARGE = 2
"""Crops that are assigned to prototypes."""


@dataclass(kw_only=True)
class SwAVConfig:
    """SwAV.

    Attributes:
        prototypes: K; the paper: 3000 for ImageNet, about three to each class that one expects.
        temperature: t.
        eps, sweeps: of Sinkhorn.
        hidden, dim: channels of the hidden layer and of the output of the projection head.
        frozen_steps: steps in which the prototypes stand still; 313 in runs of 10^5.
        queue: embeddings of each large crop that are kept; 0 = none, as with large batches. The paper: 3840 with a batch of 256.
        queue_start: share of the run before the queue is used. The paper: 15 of 200 epochs.
    """

    prototypes: int = 3000
    temperature: float = 0.1
    eps: float = 0.05
    sweeps: int = 3
    hidden: int = 2048
    dim: int = 128
    frozen_steps: int = 313
    queue: int = 0
    queue_start: float = 0.075

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        check_temperature(self.eps)
        if self.prototypes < 2 or self.sweeps < 1:
            raise ValueError(f"expected at least two prototypes and one sweep, got {self.prototypes} and {self.sweeps}")
        if self.frozen_steps < 0 or self.queue < 0 or not 0 <= self.queue_start <= 1:
            raise ValueError(f"expected frozen_steps >= 0, queue >= 0 and queue_start in [0, 1], got {self}")


class SwAV(nn.Module):
    """SwAV around any image encoder that takes crops of both sizes.

    Args:
        encoder: ``(B, 3, S, S)`` -> ``(B, N, embed_dim)``.
        config: see :class:`SwAVConfig`.
        generator: source of the first prototypes and of the queue's initial rows.
    """

    frozen: Tensor
    queue_on: Tensor
    queued: Tensor

    def __init__(self, encoder: nn.Module, config: SwAVConfig | None = None, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config = config or SwAVConfig()
        self.encoder = encoder
        self.projector = projector([int(encoder.embed_dim), config.hidden, config.dim])  # type: ignore[arg-type]
        self.prototypes = Prototypes(config.dim, config.prototypes, generator=generator)
        self.queues = nn.ModuleList(FeatureQueue(config.queue, config.dim, generator=generator) for _ in range(LARGE if config.queue else 0))
        self.register_buffer("frozen", torch.tensor(config.frozen_steps > 0))
        self.register_buffer("queue_on", torch.tensor(config.queue_start == 0))
        self.register_buffer("queued", torch.zeros((), dtype=torch.int64))  # embeddings that have entered each queue
        self._fresh: list[Tensor] = []

    def forward(self, batch: ImageBatch) -> Output:
        check_views("SwAV", batch, LARGE)
        config = self.config
        features = view_features(self.encoder, batch)  # [V, B, D]
        if own_rows(features[0])[1] < 2:
            raise ValueError("SwAV expected at least two pictures in a batch, since a single one is assigned to all prototypes alike, got one")
        embedded = unit(self.projector(features.flatten(0, 1))).unflatten(0, features.shape[:2])  # [V, B, dim]
        self.prototypes.requires_grad_(not bool(self.frozen))
        scores = self.prototypes(embedded)  # [V, B, K]
        loss = swav(scores, assigned=LARGE, queued=self.queued_scores(), temperature=config.temperature, eps=config.eps, sweeps=config.sweeps)
        if self.queues and self.training and torch.is_grad_enabled():
            self._fresh.append(embedded[:LARGE].detach())
        nearest = scores[:LARGE].detach().argmax(dim=2)  # [2, B]
        metrics: dict[str, Tensor | float] = {
            "prototype_usage": usage(nearest.flatten(), config.prototypes),
            "same_prototype": (nearest[0] == nearest[1]).float().mean(),
        }
        return Output(loss=loss, metrics=metrics, features=features[:LARGE].detach().flatten(0, 1))

    @torch.no_grad()
    def queued_scores(self) -> Tensor | None:
        """``(2, Q, K)`` scores of this rank's share of the queues, None while they are not in use."""
        if not self.queues or not bool(self.queue_on) or int(self.queued) < self.config.queue:
            return None
        rows = torch.stack([queue.rows[rank() :: world_size()] for queue in self.queues])  # type: ignore[union-attr, index]
        scores: Tensor = self.prototypes(rows)
        return scores

    def after_step(self, step: int, total: int) -> None:
        """New embeddings into the queues; free the prototypes and use the queues when it is time."""
        for embedded in self._fresh:
            for queue, rows in zip(self.queues, embedded, strict=True):
                queue.push(rows)  # type: ignore[operator]
            self.queued += own_rows(embedded[0])[1]
        self._fresh.clear()
        self.frozen.fill_(step + 1 < self.config.frozen_steps)
        self.queue_on.fill_(step + 1 >= self.config.queue_start * total)
