"""A queue of features of earlier batches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite3d.losses.gather import gather_rows


class FeatureQueue(nn.Module):
    """Ring of the latest K features of all ranks (MoCo's dictionary, He et al., CVPR 2020, section 3.2).

    Everything is in buffers, so a resumed run continues with the same negatives.

    Args:
        size: K.
        dim: channels.
        generator: source of the random unit vectors it starts with.

    Attributes:
        rows: ``(K, dim)`` float32.
        position: int64 scalar, where the next feature goes.
    """

    rows: Tensor
    position: Tensor

    def __init__(self, size: int, dim: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if size < 1 or dim < 1:
            raise ValueError(f"a queue expected a positive size and width, got {size} and {dim}")
        self.register_buffer("rows", F.normalize(torch.randn(size, dim, generator=generator), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, features: Tensor) -> None:
        """Replace the oldest rows by ``features (N, dim)`` of every rank, in rank order; of more than K rows the last K remain.

        Rows that are not finite are left out: one bad clip must not poison the negatives of the next thousand steps.
        """
        rows = gather_rows(features.detach().float())
        rows = rows[rows.isfinite().all(dim=1)]
        size = len(self.rows)
        skipped = max(len(rows) - size, 0)
        where = (self.position + skipped + torch.arange(len(rows) - skipped, device=self.rows.device)) % size
        self.rows[where] = rows[skipped:]
        self.position.copy_((self.position + len(rows)) % size)
