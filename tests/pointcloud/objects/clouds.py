"""Small batches of procedural objects and the smallest encoder, for the tests of object methods."""

from __future__ import annotations

import numpy as np
import torch

from suite3d.pointcloud.data.objects.source import ObjectSource
from suite3d.pointcloud.data.objects.synthetic import ShapeConfig, Shapes
from suite3d.pointcloud.data.objects.views import ObjectViewConfig
from suite3d.pointcloud.encoders.point_patch import PointPatchConfig, PointPatchTransformer

SHAPES = Shapes(ShapeConfig(classes=5, train=8, val=2, points=256))
ONE = [ObjectViewConfig(points=96, yaw=3.0)]
MULTI = [ObjectViewConfig(points=96, crop=(0.6, 1.0))] * 2 + [ObjectViewConfig(points=48, crop=(0.2, 0.4))] * 2


def batch(count=6, views=ONE, *, channels=(), start=0):
    """Some objects with their views, always the same."""
    source = ObjectSource(SHAPES, views, channels=channels)
    rows = range(start, start + count)
    return source.collate([source.get(row, np.random.default_rng(row)) for row in rows], [100 + row for row in rows])


def encoder(**changes):
    sizes = {"dim": 16, "depth": 2, "heads": 2, "spacing": 12, "group_size": 10, "widths": (8, 12, 16), "drop_path": 0.0}
    return PointPatchTransformer(PointPatchConfig(**(sizes | changes)), generator=torch.Generator().manual_seed(0))
