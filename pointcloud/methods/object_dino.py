"""DINO on object clouds: a student that sees a part of an object names it as a slow, centred teacher names nearly all of it.

Caron et al., DINO, ICCV 2021, whose loss, heads, centre, teacher and schedules these are (:mod:`suite3d.methods.dino`, one copy); on object clouds
it is ours. The views are Sonata's (Wu et al., CVPR 2025) on single objects: two global crops of 40 to 100 % of the points, small ones of 10 to 40 %,
each the points nearest to a random one, each brought to the unit sphere by itself, so that neither place nor size tells which part it is.
"""

from __future__ import annotations

from typing import Any

import torch

from suite3d.methods.dino import DINO, DINOConfig
from suite3d.output import Output
from suite3d.pointcloud.data.batch import PointBatch
from suite3d.pointcloud.data.objects.batch import ObjectBatch
from suite3d.pointcloud.encoders.point_patch import PointPatchTransformer

SHOWN = 3
"""Objects in the picture."""


class ObjectDINO(DINO):
    """DINO around a point-patch transformer.

    Args:
        student: its class token, or else the mean of its patches, is what the heads see.
        config: see :class:`suite3d.methods.dino.DINOConfig`.
    """

    def __init__(self, student: PointPatchTransformer, config: DINOConfig | None = None) -> None:
        super().__init__(student, config)

    def forward(self, batch: ObjectBatch) -> Output:  # type: ignore[override]
        output = super().forward(batch)
        output.visuals = lambda: views_picture(batch)
        return output


def cloud_of(points: PointBatch, place: int) -> torch.Tensor:
    """``(N, 3)`` points of one cloud on the host, float32."""
    start, end = points.offsets[place : place + 2].tolist()
    return points.xyz[start:end].detach().float().cpu()


def views_picture(batch: ObjectBatch) -> dict[str, Any]:
    """The views of the first objects, the global ones first."""
    from suite3d.report.clouds import CloudCell, draw_clouds

    rows = []
    for place in range(min(SHOWN, len(batch))):
        kinds = ["global" if number < 2 else "local" for number in range(len(batch.views))]
        rows.append([CloudCell(points=cloud_of(view, place).numpy(), label=kind) for view, kind in zip(batch.views, kinds, strict=True)])
    return {"views": draw_clouds(rows, title="DINO: what teacher (global) and student (all) see")}
