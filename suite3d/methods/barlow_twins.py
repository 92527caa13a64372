"""Barlow Twins: every channel of the embedding agrees with itself across two views and with no other channel.

Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", ICML 2021 (figure 1, algorithm 1).

    C = correlation over the batch of the channels of head(f(view 0)) with those of head(f(view 1))
    L = sum_c (1 - C_cc)^2 + redundancy * sum_{c != d} C_cd^2

No negatives, no teacher, no stop-gradient; both views go through the same encoder and head.

Differences to the released code: the views pass batch norm together instead of one after the other; the loss is not scaled (there: by 0.024
with LARS), which AdamW would not notice; the last linear layer has a bias, which centring the channels takes out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suite3d.image.data.batch import ImageBatch
from suite3d.losses.barlow_twins import barlow_twins
from suite3d.losses.rows import full_precision
from suite3d.methods.multi_view import check_views, view_features
from suite3d.nn.heads import projector
from suite3d.output import Output


@dataclass(kw_only=True)
class BarlowTwinsConfig:
    """Barlow Twins.

    Attributes:
        redundancy: weight of the off-diagonal of the correlation.
        hidden, dim: channels of the two hidden layers and of the output of the projection head.
    """

    redundancy: float = 0.0051
    hidden: int = 8192
    dim: int = 8192

    def __post_init__(self) -> None:
        if self.redundancy < 0 or self.hidden < 1 or self.dim < 1:
            raise ValueError(f"expected redundancy >= 0 and positive widths, got {self.redundancy}, {self.hidden} and {self.dim}")


class BarlowTwins(nn.Module):
    """Barlow Twins around any image encoder.

    Args:
        encoder: ``(B, 3, S, S)`` -> ``(B, N, embed_dim)``.
        config: see :class:`BarlowTwinsConfig`.
    """

    def __init__(self, encoder: nn.Module, config: BarlowTwinsConfig | None = None) -> None:
        super().__init__()
        self.config = config or BarlowTwinsConfig()
        self.encoder = encoder
        width = int(encoder.embed_dim)  # type: ignore[arg-type]
        self.projector = projector([width, self.config.hidden, self.config.hidden, self.config.dim])

    def forward(self, batch: ImageBatch) -> Output:
        check_views("Barlow Twins", batch, 2)
        features = view_features(self.encoder, batch, range(2)).flatten(0, 1)  # [2B, D]
        first, second = self.projector(features).chunk(2)  # [B, dim] each
        loss = barlow_twins(first, second, redundancy=self.config.redundancy)
        return Output(loss=loss, metrics={"own_correlation": _own_correlation(first, second)}, features=features.detach())


@torch.no_grad()
def _own_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Mean of the correlation's diagonal on this rank: 1 = the embedding does not notice the views."""
    a, b = (full_precision(x) - x.mean(dim=0) for x in (first, second))
    scale = (a.square().mean(dim=0) * b.square().mean(dim=0)).sqrt().clamp(min=1e-12)
    return ((a * b).mean(dim=0) / scale).mean()
