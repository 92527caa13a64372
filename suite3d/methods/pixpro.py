"""PixPro: the places of two crops that show the same spot agree, after each has asked the places that look like it.

Xie et al., "Propagate Yourself: Exploring Pixel-Level Consistency for Unsupervised Visual Representation Learning", CVPR 2021 (figures 2 and 3).

    A(i, j) = 1 where the centres of cells i of crop 1 and j of crop 2 are at most T cell diagonals apart in the picture
    propagation (PixPro):     L = -mean_{A} cos(y_i, x'_j) - mean_{A} cos(y'_j, x_i),    y_i = sum_k max(cos(x_i, x_k), 0)^gamma g(x_k)
    contrast (PixContrast):   L = -mean_i log( sum_{j: A(i, j)} exp(x_i.x'_j / t) / sum_j exp(x_i.x'_j / t) ), averaged over both directions

x and y come from the trained encoder and its head, x' from their moving average. Where the cells lie is read off the boxes and the mirror images
of the views; pictures whose two crops do not meet are left out.

Differences to the released code: one optimiser (AdamW) instead of LARS; the loss is averaged over the pictures whose crops meet, not over
those that do not meet too; the last layer of the head keeps its bias. Not stated in the paper and chosen here: in the contrast form both keys
come from the moving average, and the negatives are the other places of the other crop of the same picture (equation 2 sums over that map).
The optional loss on whole pictures beside it (PixPro + SimCLR) is not part of this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from suite3d.image.data.batch import ImageBatch
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.pixel_contrast import pixel_contrast_to, pixel_propagation, propagate
from suite3d.methods.places import map_side, shared_places
from suite3d.nn.heads import projector
from suite3d.nn.momentum import momentum_at, momentum_copy, momentum_update
from suite3d.output import Output


@dataclass(kw_only=True)
class PixProConfig:
    """PixPro.

    Attributes:
        loss: ``propagation`` (PixPro) or ``contrast`` (PixContrast).
        hidden, dim: channels of the hidden layer and of the output of the head, which acts on every place alike.
        threshold: T, in diagonals of the larger of the two crops' cells.
        sharpness: gamma. transforms: layers of g; 0 = the identity.
        temperature: t of the contrast.
        momentum: of the moving average at the first and the last step, cosine between.
    """

    loss: Literal["propagation", "contrast"] = "propagation"
    hidden: int = 2048
    dim: int = 256
    threshold: float = 0.7
    sharpness: float = 2.0
    transforms: int = 1
    temperature: float = 0.3
    momentum: tuple[float, float] = (0.99, 1.0)

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if not self.threshold > 0 or not self.sharpness > 0 or self.transforms < 0:
            raise ValueError(f"expected threshold > 0, sharpness > 0 and transforms >= 0, got {self.threshold}, {self.sharpness}, {self.transforms}")
        if not 0 <= self.momentum[0] <= self.momentum[1] <= 1:
            raise ValueError(f"momentum expected two increasing numbers in [0, 1], got {self.momentum}")


class PixPro(nn.Module):
    """PixPro around any image encoder with a square feature map.

    Args:
        encoder: ``(B, 3, S, S)`` -> ``(B, N, embed_dim)``, N places row by row.
        config: see :class:`PixProConfig`.

    Attributes:
        projector: head of the trained branch.
        transform: g.
        teacher: moving average of encoder and head.
    """

    def __init__(self, encoder: nn.Module, config: PixProConfig | None = None) -> None:
        super().__init__()
        self.config = config or PixProConfig()
        self.encoder = encoder
        dim = self.config.dim
        self.projector = projector([int(encoder.embed_dim), self.config.hidden, dim])  # type: ignore[arg-type]
        propagates = self.config.loss == "propagation" and self.config.transforms > 0
        self.transform = projector([dim] * (self.config.transforms + 1)) if propagates else nn.Identity()
        self.teacher = momentum_copy(nn.ModuleDict({"encoder": encoder, "projector": self.projector}))

    def forward(self, batch: ImageBatch) -> Output:
        pixels = batch.pixels(0), batch.pixels(1)  # [B, 3, S, S] each
        tokens = [self.encoder(view) for view in pixels]  # [B, N, D] each
        x = [by_place(self.projector, view) for view in tokens]  # [B, N, dim] each
        with torch.no_grad():
            keys = [by_place(self.teacher["projector"], self.teacher["encoder"](view)) for view in pixels]
        near = shared_places(batch, 0, 1, map_side(x[0].shape[1]), threshold=self.config.threshold)  # [B, N, N]
        if self.config.loss == "propagation":
            y = [propagate(view, by_place(self.transform, view), sharpness=self.config.sharpness) for view in x]
            loss = pixel_propagation(y[0], keys[1], near) + pixel_propagation(y[1], keys[0], near.mT)
        else:
            loss = (self._contrast(x[0], keys[1], near) + self._contrast(x[1], keys[0], near.mT)) / 2
        return Output(
            loss=loss,
            metrics={"crops_that_meet": near.flatten(1).any(dim=1).float().mean()},
            features=torch.cat(tokens).detach().mean(dim=1),
        )

    def _contrast(self, queries: Tensor, keys: Tensor, near: Tensor) -> Tensor:
        return pixel_contrast_to(queries, keys, near, temperature=self.config.temperature)

    def after_step(self, step: int, total: int) -> None:
        """Move the average."""
        momentum = momentum_at(step, total, *self.config.momentum, shape="cosine")
        for name, student in (("encoder", self.encoder), ("projector", self.projector)):
            momentum_update(self.teacher[name], student, momentum)


def by_place(head: nn.Module, tokens: Tensor) -> Tensor:
    """A head for rows ``(N, D)``, such as a 1 x 1 convolution with batch norm, on every place of ``(B, N, D)``."""
    rows: Tensor = head(tokens.flatten(0, 1))
    return rows.unflatten(0, tokens.shape[:2])
