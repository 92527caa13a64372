"""LeJEPA: all views of a picture predict the mean of its large ones, and the embeddings of every view are pressed into an isotropic Gaussian.

Balestriero & LeCun, "LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics", 2025 (algorithms 1 and 2).

    z_v = head(f(view v));   P = mean over views and samples of |mean_g z_g - z_v|^2 / dim,   g over the large views
    R = mean over views of the Epps-Pulley statistic of z_v along random directions (SIGReg)
    L = (1 - weight) * P + weight * R

One weight, no teacher, no stop-gradient, no predictor, no schedule. Views 0 and 1 are the large ones. Directions are drawn afresh every step,
alike on all ranks; the step is kept with the weights.

Where we are not certain of the paper's ImageNet recipe: the head is a perceptron of three layers with batch norm as in the released minimal
example, with an output of 64 channels (there: 16 on ten classes); the views are two large ones of at least 30 % of a picture and six small ones
of 5 to 30 %, with SimCLR's colours at half strength and blur and solarisation as in DINO.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suite3d.image.data.batch import ImageBatch
from suite3d.losses.sigreg import lejepa
from suite3d.masking import sub_generator
from suite3d.methods.multi_view import check_views, view_features
from suite3d.nn.heads import projector
from suite3d.output import Output

LARGE = 2
"""Views whose mean is predicted."""


@dataclass(kw_only=True)
class LeJEPAConfig:
    """LeJEPA.

    Attributes:
        weight: of the Gaussian regularisation, in [0, 1]. The paper: 0.05.
        slices: random directions in a step. The paper: 1024.
        hidden, dim: channels of the two hidden layers and of the output of the projection head.
    """

    weight: float = 0.05
    slices: int = 1024
    hidden: int = 2048
    dim: int = 64

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1 or min(self.slices, self.hidden, self.dim) < 1:
            raise ValueError(f"expected a weight in [0, 1] and positive slices and widths, got {self}")


class LeJEPA(nn.Module):
    """LeJEPA around any image encoder that takes views of both sizes.

    Args:
        encoder: ``(B, 3, S, S)`` -> ``(B, N, embed_dim)``.
        config: see :class:`LeJEPAConfig`.
    """

    step: Tensor

    def __init__(self, encoder: nn.Module, config: LeJEPAConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or LeJEPAConfig()
        self.encoder = encoder
        self.projector = projector([int(encoder.embed_dim), config.hidden, config.hidden, config.dim])  # type: ignore[arg-type]
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: ImageBatch) -> Output:
        check_views("LeJEPA", batch, LARGE)
        config = self.config
        features = view_features(self.encoder, batch)  # [V, B, D]
        embedded = self.projector(features.flatten(0, 1)).unflatten(0, features.shape[:2])  # [V, B, dim]
        generator = sub_generator(int(self.step), "directions")  # of the step alone, so that all ranks draw the same
        loss, prediction, gaussian = lejepa(embedded, generator=generator, global_views=LARGE, weight=config.weight, slices=config.slices)
        metrics: dict[str, Tensor | float] = {"prediction": prediction.detach(), "gaussian": gaussian.detach()}
        return Output(loss=loss, metrics=metrics, features=features[:LARGE].detach().flatten(0, 1))

    def after_step(self, step: int, total: int) -> None:
        """Other directions in the next step."""
        self.step.fill_(step + 1)
