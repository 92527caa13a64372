"""Batch normalisation over voxels or points, of which a scan may have none."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class VoxelNorm(nn.BatchNorm1d):
    """BatchNorm1d with the constants of published LiDAR networks (eps 1e-3, momentum 0.01).

    One row has no variance and none has no mean, so with fewer than two rows training normalises by the running statistics and
    leaves them as they are, where BatchNorm1d fails or turns them into NaN.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C)`` -> ``(N, C)``."""
        if self.training and len(x) < 2:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps)
        return super().forward(x)
