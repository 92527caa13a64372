"""SwAV on LiDAR: a place predicts the prototypes that it was assigned to in another augmentation of the scan, in balance over the batch.

Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", NeurIPS 2020 (figure 1, equations 1 to 6), whose loss
and Sinkhorn assignment are the image recipe's to the line; on LiDAR it is ours.

    s_v = cosines of head(f(view v) at matching places) with K prototypes;    q_v = Sinkhorn(s_v / eps), without gradient
    L = 1/2 sum over the two orders (v, w) of the views of mean over places of -sum_k q_vk log softmax(s_w / t)_k

Chosen, since the paper has pictures only: samples are places of a scan instead of pictures (:mod:`suite3d.pointcloud.methods.matched`), one point
a map cell, which keeps the road near the sensor from filling most of the balanced prototypes; both views are assigned and there are no small
crops; the batch has more places than there are prototypes, so that no queue is needed. The prototypes stand still for the first steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suite3d.losses.info_nce import check_temperature
from suite3d.losses.rows import own_rows
from suite3d.losses.sinkhorn import usage
from suite3d.losses.swav import swav
from suite3d.nn.heads import projector
from suite3d.nn.projection import Prototypes
from suite3d.output import Output
from suite3d.pointcloud.data.batch import PairBatch
from suite3d.pointcloud.encoders.base import LidarEncoder
from suite3d.pointcloud.methods.looking import sample_rows
from suite3d.pointcloud.methods.matched import matched_places, places_scene, project_rows
from suite3d.pointcloud.methods.units import unit_dim


@dataclass(kw_only=True)
class LidarSwAVConfig:
    """SwAV on LiDAR.

    Attributes:
        places: compared places of each scan, at most.
        prototypes: K.
        temperature: t.
        eps, sweeps: of Sinkhorn.
        hidden, dim: channels of the hidden layer and of the output of the projection head.
        frozen_steps: steps in which the prototypes stand still.
    """

    places: int = 512
    prototypes: int = 128
    temperature: float = 0.1
    eps: float = 0.05
    sweeps: int = 3
    hidden: int = 512
    dim: int = 128
    frozen_steps: int = 100

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        check_temperature(self.eps)
        if self.prototypes < 2 or self.sweeps < 1 or self.places < 2 or self.frozen_steps < 0:
            raise ValueError(f"expected at least two prototypes and places, one sweep and frozen_steps >= 0, got {self}")


class LidarSwAV(nn.Module):
    """SwAV around any LiDAR encoder.

    Args:
        encoder: what is pretrained.
        config: see :class:`LidarSwAVConfig`.
        generator: source of the first prototypes.
    """

    needs: frozenset[str] = frozenset({"pairs"})
    frozen: Tensor

    def __init__(self, encoder: LidarEncoder, config: LidarSwAVConfig | None = None, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config = config or LidarSwAVConfig()
        self.encoder = encoder
        self.projector = projector([unit_dim(encoder), config.hidden, config.dim])
        self.prototypes = Prototypes(config.dim, config.prototypes, generator=generator)
        self.register_buffer("frozen", torch.tensor(config.frozen_steps > 0))

    def forward(self, batch: PairBatch) -> Output:
        config = self.config
        places = matched_places(self.encoder, batch, limit=config.places)
        embedded = torch.stack(project_rows(self.projector, places.features()).chunk(2))  # [2, P, dim]
        self.prototypes.requires_grad_(not bool(self.frozen))
        scores = self.prototypes(embedded)  # [2, P, K]
        if own_rows(places.first)[1] < 2:
            loss = scores.sum().float() * 0.0
        else:
            loss = swav(scores, temperature=config.temperature, eps=config.eps, sweeps=config.sweeps)
        nearest = scores.detach().argmax(dim=2)  # [2, P]
        metrics: dict[str, Tensor | float] = {
            "prototype_usage": usage(nearest.flatten(), config.prototypes),
            "same_prototype": (nearest[0] == nearest[1]).float().mean() if len(places.points) else 0.0,
            "places": float(len(places.points)),
        }
        return Output(
            loss=loss,
            metrics=metrics,
            features=sample_rows(places.first, batch.seeds),
            visuals=places_scene(self.encoder, batch, places, title="SwAV: assigned places (predicted)"),
        )

    def after_step(self, step: int, total: int) -> None:
        """Free the prototypes when it is time."""
        self.frozen.fill_(step + 1 < self.config.frozen_steps)
