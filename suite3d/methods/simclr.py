"""SimCLR: two augmented views of a picture find one another among all other pictures of the batch.

Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020 (figure 2, equation 1).

    L = mean over the 2B views i of -log( exp(z_i.z_i' / t) / sum_{k != i} exp(z_i.z_k / t) ),    z = head(pooled features) of unit length

``loss="decoupled"`` leaves the positive pair out of the sum (DCL, Yeh et al., ECCV 2022), which keeps the gradient of small batches alive.

Differences to the released code: the steps of the colour change have one order; the optimiser is AdamW instead of LARS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from suite3d.image.data.batch import ImageBatch
from suite3d.losses.decoupled import decoupled_contrast
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.nt_xent import nt_xent
from suite3d.methods.multi_view import check_views
from suite3d.nn.heads import projector
from suite3d.nn.pooling import pooled_features
from suite3d.output import Output


@dataclass(kw_only=True)
class SimCLRConfig:
    """SimCLR.

    Attributes:
        temperature: t.
        hidden, dim: channels of the hidden layer and of the output of the projection head.
        loss: ``nt_xent`` (SimCLR) or ``decoupled`` (DCL).
    """

    temperature: float = 0.1
    hidden: int = 2048
    dim: int = 128
    loss: Literal["nt_xent", "decoupled"] = "nt_xent"

    def __post_init__(self) -> None:
        check_temperature(self.temperature)


class SimCLR(nn.Module):
    """SimCLR around any image encoder.

    Args:
        encoder: ``(B, 3, S, S)`` -> ``(B, N, embed_dim)``.
        config: see :class:`SimCLRConfig`.
    """

    def __init__(self, encoder: nn.Module, config: SimCLRConfig | None = None) -> None:
        super().__init__()
        self.config = config or SimCLRConfig()
        self.encoder = encoder
        self.projector = projector([int(encoder.embed_dim), self.config.hidden, self.config.dim])  # type: ignore[arg-type]

    def forward(self, batch: ImageBatch) -> Output:
        check_views("SimCLR", batch, 2)
        features = pooled_features(self.encoder, torch.cat((batch.pixels(0), batch.pixels(1))))  # [2B, D]
        first, second = self.projector(features).chunk(2)
        loss = nt_xent if self.config.loss == "nt_xent" else decoupled_contrast
        with torch.no_grad():
            closeness = nn.functional.cosine_similarity(first.float(), second.float()).mean()
        return Output(
            loss=loss(first, second, temperature=self.config.temperature),
            metrics={"positive_similarity": closeness},
            features=features.detach(),
        )
