"""What frozen LiDAR features know about objects: labels for voxels and BEV cells, and a probe on them.

There is no standard probe for LiDAR detection; this one asks whether a linear map of a voxel's (or BEV cell's) features
tells which class of object it lies in. The label is 1 + the class of the box that contains the centre, or 0, background;
or, where the data have point labels, the most frequent label of the voxel's points. Classes are sampled evenly and scored
by balanced accuracy, because nine voxels in ten are background.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from suite3d.evaluate.probes import ProbeScore, ridge_probe
from suite3d.ops import points_in_boxes
from suite3d.pointcloud.data.batch import PointBatch
from suite3d.pointcloud.encoders.base import LidarEncoder, VoxelGrid, Voxels


def labels_from_boxes(centers: Tensor, batch_index: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """1 + class of the box around each position, 0 where there is none.

    Args:
        centers: ``(V, 3)`` metres. batch_index: ``(V,)`` scan of each position.
        boxes: per scan ``(M, 7 | 9)``. labels: per scan ``(M,)`` int64 classes from 0.

    Returns:
        ``(V,)`` int64. Where boxes overlap the first counts.
    """
    result = torch.zeros(len(centers), dtype=torch.int64, device=centers.device)
    for scan, (scan_boxes, scan_labels) in enumerate(zip(boxes, labels, strict=True)):
        if not len(scan_boxes):
            continue
        rows = (batch_index == scan).nonzero().squeeze(1)
        inside = points_in_boxes(centers[rows].contiguous().float(), scan_boxes[:, :7].contiguous().float())
        hit = inside >= 0
        result[rows[hit]] = scan_labels[inside[hit]] + 1
    return result


def box_feature_labels(coords: Tensor, grid: VoxelGrid, stride: Sequence[int], boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """As :func:`labels_from_boxes` for the cells of a feature level: ``coords (V, 4)`` [batch, z, y, x] at ``stride`` (z, y, x) voxels."""
    start, size = (coords.new_tensor(values, dtype=torch.float32) for values in (grid.point_range[:3], grid.voxel_size))
    steps = coords.new_tensor([stride[2], stride[1], stride[0]], dtype=torch.float32)
    centers = (coords[:, [3, 2, 1]].float() + 0.5) * steps * size + start
    return labels_from_boxes(centers, coords[:, 0].long(), boxes, labels)


def labels_from_points(voxels: Voxels, point_labels: Tensor, *, classes: int, ignore: int = -1) -> Tensor:
    """``(V,)`` int64: most frequent label of each voxel's points (the smallest of equals), -1 where all are ``ignore``.

    ``point_labels`` is ``(N,)`` over the batch, values in [0, classes) or ``ignore``.
    """
    mine = point_labels[voxels.point_index]
    known = mine != ignore
    votes = torch.bincount(voxels.point_voxel[known] * classes + mine[known], minlength=len(voxels) * classes).view(len(voxels), classes)
    count, winner = votes.max(dim=1)
    return torch.where(count > 0, winner, torch.full_like(winner, -1))


def bev_cells(
    grid: VoxelGrid, stride: int, shape: tuple[int, int], batch_size: int, *, height: float = 0.0, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Centres ``(B H W, 3)`` of the cells of a BEV map at z = ``height``, and their scan ``(B H W,)``, in row-major order."""
    rows, columns = torch.meshgrid(torch.arange(shape[0], device=device), torch.arange(shape[1], device=device), indexing="ij")
    x = grid.point_range[0] + (columns + 0.5) * grid.voxel_size[0] * stride
    y = grid.point_range[1] + (rows + 0.5) * grid.voxel_size[1] * stride
    centers = torch.stack([x, y, torch.full_like(x, height)], dim=-1).reshape(-1, 3).float()
    scan = torch.arange(batch_size, device=device).repeat_interleave(len(centers))
    return centers.repeat(batch_size, 1), scan


def bev_labels(centers: Tensor, scan: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """As :func:`labels_from_boxes` for BEV cells: a cell lies in a box if it does seen from above, whatever the height."""
    flat = []
    for scan_boxes in boxes:
        column = scan_boxes[:, :7].clone()
        column[:, 2], column[:, 5] = float(centers[0, 2]) if len(centers) else 0.0, 1.0
        flat.append(column)
    return labels_from_boxes(centers, scan, flat, labels)


def sample_evenly(labels: Tensor, *, per_class: int, generator: torch.Generator) -> Tensor:
    """Rows (ascending) with at most ``per_class`` of every label >= 0, drawn without replacement."""
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    kept = [order[labels[order] == label][:per_class] for label in labels.unique().tolist() if label >= 0]
    return torch.cat(kept).sort().values if kept else labels.new_zeros(0)


@torch.no_grad()
def probe_rows(
    encoder: LidarEncoder, batch: PointBatch, *, per_class: int = 256, generator: torch.Generator, point_classes: int | None = None
) -> tuple[Tensor, Tensor] | None:
    """Features of all levels at occupied voxels with their labels, an even sample of the classes; None for data without labels.

    The encoder is switched to evaluation and back.

    Args:
        encoder: any LiDAR encoder. batch: on the encoder's device.
        per_class: rows at most per class. generator: of the sample.
        point_classes: number of classes of ``batch.point_labels``; given, those label the voxels instead of the boxes.

    Returns:
        features ``(N, sum of level_dims)`` float32 and labels ``(N,)`` int64, or None.
    """
    if point_classes is None and (batch.boxes is None or batch.labels is None):
        return None
    if point_classes is not None and batch.point_labels is None:
        return None
    training = encoder.training
    encoder.eval()
    try:
        voxels = encoder.voxelize(batch)
        if point_classes is not None:
            assert batch.point_labels is not None
            labels = labels_from_points(voxels, batch.point_labels, classes=point_classes)
        else:
            assert batch.boxes is not None and batch.labels is not None
            labels = labels_from_boxes(voxels.centers(), voxels.coords[:, 0].long(), batch.boxes, batch.labels)
        rows = sample_evenly(labels, per_class=per_class, generator=generator)
        features = encoder.encode(voxels).hypercolumn(voxels.coords[rows])
    finally:
        encoder.train(training)
    return features.float(), labels[rows]


def probe_encoder(
    encoder: LidarEncoder,
    fit: Sequence[PointBatch],
    held_out: Sequence[PointBatch],
    *,
    classes: int,
    per_class: int = 256,
    seed: int = 0,
    point_classes: int | None = None,
    penalty: float = 1e-3,
) -> ProbeScore | None:
    """Ridge probe of a frozen encoder, fitted on some scans and scored on others; None without labels on both sides.

    ``classes`` is the number of object classes; other arguments as in :func:`probe_rows`. ``seed`` draws
    the rows, so the same weights always give the same score.
    """
    sides = []
    for purpose, batches in enumerate((fit, held_out)):
        generator = torch.Generator().manual_seed(2 * seed + purpose)
        rows = [probe_rows(encoder, batch, per_class=per_class, generator=generator, point_classes=point_classes) for batch in batches]
        known = [row for row in rows if row is not None and len(row[1])]
        if not known:
            return None
        sides.append((torch.cat([row[0] for row in known]), torch.cat([row[1] for row in known])))
    (features, labels), (others, targets) = sides
    if len(labels.unique()) < 2:
        return None
    total = classes + 1 if point_classes is None else point_classes
    return ridge_probe(features, labels, others, targets, classes=total, penalty=penalty)
