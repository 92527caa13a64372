"""Script of test_two_ranks.py: gradients of every loss on unequal shares of a fixed batch.

python two_ranks.py OUT STORE RANK WORLD; WORLD=1 computes the same on the whole batch. ``weight`` plays the model: its gradient is averaged
over ranks as DistributedDataParallel does.
"""

from __future__ import annotations

import sys

import torch

from suite3d.losses.chamfer import chamfer_loss
from suite3d.losses.info_nce import info_nce
from suite3d.losses.masked_pixels import token_mse
from suite3d.losses.occupancy import occupancy_loss
from suite3d.losses.region_info_nce import point_level_region_loss, region_aware_point_loss
from suite3d.losses.smooth_l1 import smooth_l1_loss
from tests.core.losses.rank_jobs import SHARES, gradients, group


def losses(rows: slice, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, sum(SHARES), 6, generator=generator)
    regions = torch.tensor([0, 0, 1, -1, 1, 2, 2, 2, -1, 3, -1, 3, 4])
    sizes = torch.randint(1, 5, (sum(SHARES),), generator=generator)
    clouds = torch.randn(int(sizes.sum()), 3, generator=generator).split(sizes.tolist())
    x, y, regions, sizes, points = x[rows], y[rows], regions[rows], sizes[rows], torch.cat(clouds[rows])
    if rows.start:
        regions = torch.where(regions >= 0, regions - 2, -1)  # a rank numbers its regions from 0
    queries, keys = x @ weight, y @ weight
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    return {
        "info_nce": info_nce(queries, keys, temperature=0.2),
        "info_nce symmetric": info_nce(queries, keys, temperature=0.2, symmetric=True),
        "point-level region": point_level_region_loss(queries, keys, regions, temperature=0.2),
        "region-aware point": region_aware_point_loss(queries, keys, regions, temperature=0.2),
        "chamfer l2": chamfer_loss(queries.unflatten(1, (2, 3)), points, offsets),
        "chamfer l1": chamfer_loss(queries.unflatten(1, (2, 3)), points, offsets, norm="l1"),
        "occupancy": occupancy_loss(queries, y > 0),
        "occupancy balanced": occupancy_loss(queries, y > 0.5, balanced=True),
        "smooth l1": smooth_l1_loss(queries, y, beta=0.5),
        "token mse": token_mse(queries[:, None], y[:, None]),
        "token mse weighted": token_mse(queries[:, None], y[:, None], weight=y[:, :1] > 0),
    }


def main(out: str, store: str, rank: int, world: int) -> None:
    with group(store, rank, world) as rows:
        results = gradients(lambda weight: losses(rows, weight), world)
        if rank == 0:
            torch.save(results, out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
