"""Label-free segments of a scan: what is left after ground removal, clustered (CALICO, ICLR 2024, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from suite3d.pointcloud.data.dbscan import dbscan
from suite3d.pointcloud.data.ground import ground_mask


@dataclass(frozen=True, kw_only=True)
class ClusterRegions:
    """Callable ``xyz (N, 3) -> (N,) int64`` segment ids, -1 for ground and noise.

    Attributes:
        eps: DBSCAN radius, metres (CALICO: 0.75).
        min_points: DBSCAN core size (CALICO: 5).
        ground_thickness: metres above the fitted ground that still count as ground.
        max_range: points farther than this in x, y belong to no region; 0 = no limit.
    """

    eps: float = 0.75
    min_points: int = 5
    ground_thickness: float = 0.2
    max_range: float = 0.0

    def __call__(self, xyz: NDArray[np.float32]) -> NDArray[np.int64]:
        above = ~ground_mask(xyz, thickness=self.ground_thickness)
        if self.max_range:
            above &= np.hypot(xyz[:, 0], xyz[:, 1]) <= self.max_range
        out = np.full(len(xyz), -1, dtype=np.int64)
        out[above] = dbscan(xyz[above], eps=self.eps, min_points=self.min_points)
        return out
