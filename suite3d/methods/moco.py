"""MoCo v2: a view finds the key of the other view among the keys of earlier batches, which a slowly moving encoder made.

He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020 (algorithm 1, equation 1); v2: Chen et al., "Improved
Baselines with Momentum Contrastive Learning", 2020 (projection head, blur, cosine schedule).

    q = head(f(view 0)),  k = head'(f'(view 1)),     f', head' <- m f', head' + (1 - m) f, head
    L = mean_i -log( exp(q_i.k_i / t) / (exp(q_i.k_i / t) + sum over the queue exp(q_i.n_j / t)) ),   all of unit length

The keys are computed on shuffled ranks, because of batch norm; the encoder that survives is the query's.

``mixing`` adds harder negatives, mixed from each query's hardest ones in the queue and from the query itself (MoCHi: Kalantidis et al., "Hard
Negative Mixing for Contrastive Learning", NeurIPS 2020, equations 3 and 4).

Differences to the released code: the average moves and the keys enter the queue after the optimiser's step (there: before the next forward and
after the loss, which is the same); the queue need not be a multiple of the batch; MoCHi's first steps without synthetic negatives are a share of
the run (there: 10 of 100 or 200 epochs).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from suite3d.image.data.batch import ImageBatch
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.mixed_negatives import mixed_info_nce, mixed_negatives
from suite3d.losses.queue_info_nce import queue_info_nce
from suite3d.losses.rows import dots, unit
from suite3d.masking import sub_generator
from suite3d.methods.multi_view import check_views
from suite3d.nn.heads import projector
from suite3d.nn.momentum import momentum_copy, momentum_update, run_shuffled
from suite3d.nn.pooling import pooled_features
from suite3d.nn.queue import FeatureQueue
from suite3d.output import Output


@dataclass(kw_only=True)
class MixingConfig:
    """MoCHi; off while ``pairs`` and ``with_query`` are 0.

    Attributes:
        hardest: negatives of each query that are mixed. The paper: 1024.
        pairs: synthetic negatives from two of them; 1024 with 16384 in the queue.
        with_query: synthetic negatives from one of them and the query; 128.
        warmup: share of the run before they come in.
    """

    hardest: int = 1024
    pairs: int = 0
    with_query: int = 0
    warmup: float = 0.05

    def __post_init__(self) -> None:
        if self.hardest < 1 or self.pairs < 0 or self.with_query < 0 or not 0 <= self.warmup <= 1:
            raise ValueError(f"mixing expected hardest >= 1, counts >= 0 and a warmup in [0, 1], got {self}")


@dataclass(kw_only=True)
class MoCoConfig:
    """MoCo v2.

    Attributes:
        temperature: t.
        hidden, dim: channels of the hidden layer and of the output of the projection head; hidden 0 = the encoder's channels.
        queue: keys kept.
        momentum: m; 0.999 is for 10^5 steps, a run of a few hundred needs about 0.99.
        mixing: MoCHi's synthetic negatives.
    """

    temperature: float = 0.2
    hidden: int = 0
    dim: int = 128
    queue: int = 65536
    momentum: float = 0.999
    mixing: MixingConfig = field(default_factory=MixingConfig)

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if not 0 <= self.momentum <= 1 or self.queue < 1:
            raise ValueError(f"expected a momentum in [0, 1] and a queue of at least one key, got {self.momentum} and {self.queue}")


class MoCoBranch(nn.Module):
    """Encoder and projection head: ``(N, 3, S, S)`` -> pooled features ``(N, D)``, embedding ``(N, dim)``. One for queries, one for keys."""

    def __init__(self, encoder: nn.Module, hidden: int, dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        width = int(encoder.embed_dim)  # type: ignore[arg-type]
        self.projector = projector([width, hidden or width, dim], norm="none")

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = pooled_features(self.encoder, pixels)
        return features, self.projector(features)


class MoCo(nn.Module):
    """MoCo v2 around any image encoder.

    Args:
        encoder: ``(B, 3, S, S)`` -> ``(B, N, embed_dim)``.
        config: see :class:`MoCoConfig`.
        generator: source of the queue's initial rows.
    """

    mixing_on: Tensor

    def __init__(self, encoder: nn.Module, config: MoCoConfig | None = None, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config or MoCoConfig()
        self.query = MoCoBranch(encoder, self.config.hidden, self.config.dim)
        self.key = momentum_copy(self.query)
        self.queue = FeatureQueue(self.config.queue, self.config.dim, generator=generator)
        self.register_buffer("mixing_on", torch.tensor(self.config.mixing.warmup == 0))
        self._fresh: list[Tensor] = []

    @property
    def encoder(self) -> nn.Module:
        return self.query.encoder

    def forward(self, batch: ImageBatch) -> Output:
        check_views("MoCo", batch, 2)
        features, query = self.query(batch.pixels(0))  # [B, D], [B, dim]
        with torch.no_grad():
            key = run_shuffled(self.key, batch.pixels(1))[1]
        # The queue changes in after_step, before which nothing may need its rows any more; accumulation needs them until then.
        negatives = self.queue.rows.clone()
        loss = self.contrast(query, key, negatives, sub_generator(batch.view_seeds()[0], "mixed negatives"))
        if self.training and torch.is_grad_enabled():
            self._fresh.append(unit(key))
        with torch.no_grad():
            q = unit(query)
            positive = (q * unit(key)).sum(dim=1)
            hardest = dots(q, negatives).amax(dim=1)
        metrics: dict[str, Tensor | float] = {
            "positive_similarity": positive.mean(),
            "hardest_similarity": hardest.mean(),
            "accuracy": (positive > hardest).float().mean(),
        }
        return Output(loss=loss, metrics=metrics, features=features.detach())

    def contrast(self, query: Tensor, key: Tensor, negatives: Tensor, generator: torch.Generator) -> Tensor:
        """The loss, with synthetic negatives once they are on."""
        config, mixing = self.config, self.config.mixing
        if mixing.pairs + mixing.with_query == 0 or not bool(self.mixing_on):
            return queue_info_nce(query, key, negatives, temperature=config.temperature)
        hard = mixed_negatives(
            query, negatives, hardest=mixing.hardest, pairs=mixing.pairs, with_query=mixing.with_query, generator=generator
        )  # [B, pairs + with_query, dim]
        return mixed_info_nce(query, key, negatives, hard, temperature=config.temperature)

    def after_step(self, step: int, total: int) -> None:
        """Move the average, and the new keys into the queue."""
        momentum_update(self.key, self.query, self.config.momentum)
        for keys in self._fresh:
            self.queue.push(keys)
        self._fresh.clear()
        self.mixing_on.fill_(step + 1 >= self.config.mixing.warmup * total)
