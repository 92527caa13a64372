"""LeJEPA on LiDAR: a place predicts itself in another augmentation of the scan, and the embeddings of places are an isotropic Gaussian.

Balestriero & LeCun, "LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics", 2025 (algorithms 1 and 2), whose loss is
the image and video recipes' to the line; on LiDAR it is ours.

    z_v = head(f(view v) at matching places);    P = mean over views and places of |(z_1 + z_2) / 2 - z_v|^2 / dim
    R = mean over views of the Epps-Pulley statistic of z_v along random directions (SIGReg);    L = (1 - weight) * P + weight * R

Chosen, since the paper has pictures only: samples are places of a scan instead of pictures (:mod:`suite3d.pointcloud.methods.matched`), at most
``places`` of each scan so that no scan dominates the statistic; two views, both large; the head is a perceptron of three layers with batch norm.
Rows of one scan are not independent, which the statistic assumes; more scans a batch is better than more places a scan.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suite3d.losses.rows import own_rows
from suite3d.losses.sigreg import lejepa
from suite3d.masking import sub_generator
from suite3d.nn.heads import projector
from suite3d.output import Output
from suite3d.pointcloud.data.batch import PairBatch
from suite3d.pointcloud.encoders.base import LidarEncoder
from suite3d.pointcloud.methods.looking import sample_rows
from suite3d.pointcloud.methods.matched import matched_places, places_scene, project_rows
from suite3d.pointcloud.methods.units import unit_dim


@dataclass(kw_only=True)
class LidarLeJEPAConfig:
    """LeJEPA on LiDAR.

    Attributes:
        places: compared places of each scan, at most.
        weight: of the Gaussian regularisation, in [0, 1]. The paper: 0.05.
        slices: random directions in a step. The paper: 1024.
        hidden, dim: channels of the two hidden layers and of the output of the projection head.
    """

    places: int = 256
    weight: float = 0.05
    slices: int = 1024
    hidden: int = 512
    dim: int = 64

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1 or min(self.slices, self.hidden, self.dim) < 1 or self.places < 2:
            raise ValueError(f"expected a weight in [0, 1], positive slices and widths and at least 2 places, got {self}")


class LidarLeJEPA(nn.Module):
    """LeJEPA around any LiDAR encoder.

    Args:
        encoder: what is pretrained.
        config: see :class:`LidarLeJEPAConfig`.
    """

    needs: frozenset[str] = frozenset({"pairs"})
    step: Tensor

    def __init__(self, encoder: LidarEncoder, config: LidarLeJEPAConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or LidarLeJEPAConfig()
        self.encoder = encoder
        self.projector = projector([unit_dim(encoder), config.hidden, config.hidden, config.dim])
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: PairBatch) -> Output:
        config = self.config
        places = matched_places(self.encoder, batch, limit=config.places)
        embedded = torch.stack(project_rows(self.projector, places.features()).chunk(2))  # [2, P, dim]
        generator = sub_generator(int(self.step), "directions")  # of the step alone, so that all ranks draw the same
        if own_rows(places.first)[1] < 2:
            loss = prediction = gaussian = embedded.sum().float() * 0.0
        else:
            loss, prediction, gaussian = lejepa(embedded, generator=generator, weight=config.weight, slices=config.slices)
        return Output(
            loss=loss,
            metrics={"prediction": prediction.detach(), "gaussian": gaussian.detach(), "places": float(len(places.points))},
            features=sample_rows(places.first, batch.seeds),
            visuals=places_scene(self.encoder, batch, places, title="LeJEPA: compared places (predicted)"),
        )

    def after_step(self, step: int, total: int) -> None:
        """Other directions in the next step."""
        self.step.fill_(step + 1)
