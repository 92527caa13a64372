"""Every op against its reference on a small random scene: what ``suite3d doctor`` runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import suite3d.ops as ops


@dataclass(frozen=True)
class OpCheck:
    """Outcome of one op: the largest absolute difference to the reference, or what went wrong."""

    name: str
    error: float
    milliseconds: float
    problem: str = ""

    @property
    def ok(self) -> bool:
        return not self.problem and self.error < 1e-3


def _scene(device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    xyz = torch.rand(3000, 3, generator=generator) * torch.tensor([20.0, 20.0, 3.0])
    return xyz.to(device), torch.tensor([0, 1200, 3000], device=device)


def _boxes(device: str, count: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    low, high = torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0, 1.0, -3.0]), torch.tensor([20.0, 20.0, 2.0, 4.0, 2.0, 2.0, 3.0])
    return (low + torch.rand(count, 7, generator=generator) * (high - low)).to(device)


def _voxels(device: str) -> ops.SparseTensor:
    xyz, offsets = _scene(device)
    coords, row, order = ops.dynamic_voxelize(xyz, offsets, (0.0, 0.0, 0.0, 20.0, 20.0, 3.2), (0.4, 0.4, 0.4))
    return ops.SparseTensor(coords=coords, feats=ops.scatter_mean(xyz[order], row, len(coords)), spatial_shape=(8, 50, 50), batch_size=2)


def _voxel_query(device: str) -> Tensor:
    xyz, offsets = _scene(device)
    voxels = _voxels(device)
    index, _ = ops.voxel_query(
        xyz,
        voxels.coords,
        spatial_shape=voxels.spatial_shape,
        start=(0.0, 0.0, 0.0),
        voxel_size=(0.4, 0.4, 0.4),
        distance=3,
        k=8,
        query_offsets=offsets,
    )
    return index


def _convolution(device: str, kind: str) -> Tensor:
    torch.manual_seed(0)
    layer = ops.SparseConv3d(3, 16, 3, stride=2, padding=1) if kind == "strided" else ops.SubMConv3d(3, 16, 3)
    voxels = _voxels(device)
    if kind == "half precision":  # small values, so that their rounding is too
        voxels = voxels.replace(0.01 * voxels.feats.half())
    with torch.no_grad():
        result: Tensor = layer.to(device)(voxels).feats
    return result


def cases(device: str) -> dict[str, Callable[[], Tensor]]:
    """Name -> computation whose result must not depend on who computes it."""
    xyz, offsets = _scene(device)
    boxes = _boxes(device)
    scores = torch.linspace(1, 0, len(boxes), device=device)
    grid = ((0.0, 0.0, 0.0, 20.0, 20.0, 3.2), (0.4, 0.4, 0.4))
    index = torch.arange(len(xyz), device=device) % 50
    cell = {"query_offsets": offsets, "point_offsets": offsets}
    return {
        "dynamic_voxelize": lambda: ops.dynamic_voxelize(xyz, offsets, *grid)[0],
        "hard_voxelize": lambda: ops.hard_voxelize(xyz, xyz[:, :1], offsets, *grid, max_points=5, max_voxels=500)[1],
        "scatter_mean": lambda: ops.scatter_mean(xyz, index, 50),
        "scatter_max": lambda: ops.scatter_max(xyz, index, 50),
        "furthest_point_sample": lambda: ops.furthest_point_sample(xyz, offsets, 64),
        "knn": lambda: ops.knn(xyz, xyz, 8, **cell)[1],
        "ball_query": lambda: ops.ball_query(xyz, xyz, 1.0, 8, **cell)[0],
        "points_in_boxes": lambda: ops.points_in_boxes(xyz, boxes),
        "box_iou_bev": lambda: ops.box_iou_bev(boxes, boxes),
        "box_iou_3d": lambda: ops.box_iou_3d(boxes, boxes),
        "nms_rotated": lambda: ops.nms_rotated(boxes, scores, 0.2),
        "chamfer_distance": lambda: torch.cat(list(ops.chamfer_distance(xyz[:1200], xyz[1200:])[:2])),
        "curve_codes": lambda: ops.curve_codes((xyz * 16).int(), "hilbert", depth=9),
        "curve_order": lambda: ops.curve_order((xyz * 16).int(), "z", depth=9, offsets=offsets)[0],
        "traverse_voxels": lambda: torch.cat([x.double() for x in ops.traverse_voxels(xyz, xyz.flip(0), *grid, offsets=offsets)[::2]], dim=1),
        "roi_grid_pool": lambda: ops.roi_grid_pool(boxes, xyz, xyz, grid_size=4, radius=0.6, k=8)[0],
        "voxel_query": lambda: _voxel_query(device),
        "submanifold convolution": lambda: _convolution(device, "submanifold"),
        "strided convolution": lambda: _convolution(device, "strided"),
        "half precision convolution": lambda: _convolution(device, "half precision"),
    }


def self_test(device: str) -> list[OpCheck]:
    """Run every op on ``device``, compiled where it is, and compare with the reference."""
    results = []
    for name, compute in cases(device).items():
        start = time.perf_counter()
        try:
            value = compute().double()
            elapsed = (time.perf_counter() - start) * 1e3
            with ops.use_reference():
                expected = compute().double()
        except (RuntimeError, ValueError) as error:
            results.append(OpCheck(name, float("inf"), 0.0, " ".join(str(error).split())[:160]))
            continue
        same = value.shape == expected.shape
        error_size = float((value - expected).abs().max()) if same and value.numel() else (0.0 if same else float("inf"))
        results.append(OpCheck(name, error_size, elapsed, "" if same else f"shape {tuple(value.shape)}, expected {tuple(expected.shape)}"))
    return results
