"""RotNet: by how many quarter turns was the picture turned?

Gidaris et al., "Unsupervised Representation Learning by Predicting Image Rotations", ICLR 2018 (figure 2, equations 1 to 3).

    L = mean over pictures and turns k = 0 ... 3 of -log softmax(head(f(picture turned by 90 k degrees)))_k

All four copies of a picture are in one batch. A quarter turn moves pixels without resampling, so nothing but the content tells it; a picture
whose content has no up and no down (the procedural fractals, most views from above) teaches nothing but the light.

Differences to the released code: the classifier is linear on the pooled features, so that the encoder itself must know the answer (there: the
last convolutional block of the network belongs to the classifier, and earlier ones are evaluated); the optimiser is AdamW.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite3d.image.data.batch import ImageBatch
from suite3d.losses.gather import mean_over_ranks
from suite3d.losses.rows import full_precision
from suite3d.methods.multi_view import check_views
from suite3d.nn.pooling import pooled_features
from suite3d.output import Output

TURNS = 4


class RotNet(nn.Module):
    """RotNet around any image encoder.

    Args:
        encoder: ``(B, 3, S, S)`` -> ``(B, N, embed_dim)``.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(int(encoder.embed_dim), TURNS)  # type: ignore[arg-type]

    def forward(self, batch: ImageBatch) -> Output:
        check_views("RotNet", batch, 1)
        turned, turns = all_turns(batch.pixels())  # [4B, 3, S, S], [4B]
        features = pooled_features(self.encoder, turned)  # [4B, D]
        logits = full_precision(self.head(features))  # [4B, 4]
        loss = mean_over_ranks(F.cross_entropy(logits, turns, reduction="sum"), len(turns))
        found = logits.detach().argmax(dim=1)
        return Output(
            loss=loss,
            metrics={"accuracy": (found == turns).float().mean()},
            features=features.detach(),
            visuals=partial(_pictures, turned[:: len(batch)], found[:: len(batch)], batch),
        )


def all_turns(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """``(B, 3, S, S)`` -> all pictures turned by 0, then by 90, 180 and 270 degrees counter-clockwise ``(4B, 3, S, S)``; the turns ``(4B,)``.

    Raises ValueError for pictures that are not square.
    """
    if pixels.ndim != 4 or pixels.shape[2] != pixels.shape[3]:
        raise ValueError(f"turning expected square pictures (B, 3, S, S), got {tuple(pixels.shape)}")
    turned = torch.cat([pixels.rot90(turn, (2, 3)) for turn in range(TURNS)])
    return turned, torch.arange(TURNS, device=pixels.device).repeat_interleave(len(pixels))


def _pictures(turned: Tensor, found: Tensor, batch: ImageBatch) -> dict[str, Any]:
    """The first picture four times, and what was found."""
    from suite3d.report.clip import draw_strip

    mean, std = (torch.tensor(value, device=turned.device)[:, None, None] for value in (batch.mean, batch.std))
    frames = ((turned * std + mean).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()  # [4, S, S, 3]
    said = ", ".join(str(90 * int(turn)) for turn in found)
    return {"turns": draw_strip([frames], ("turned",), title=f"{batch.names[0]}: taken for {said}")}
