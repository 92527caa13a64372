"""The labels of a batch, checked and flattened for target assignment."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from suite3d.pointcloud.data.batch import PointBatch


@dataclass(kw_only=True)
class BoxLabels:
    """The labelled boxes of a batch of scans.

    Attributes:
        boxes: ``(M, 9)`` float32; the velocity columns are NaN where it is unknown.
        labels: ``(M,)`` int64 in [0, number of classes).
        scan: ``(M,)`` int64, the scan of each box (non-decreasing).
        batch_size: number of scans; some may have no box.
    """

    boxes: Tensor
    labels: Tensor
    scan: Tensor
    batch_size: int

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, rows: Tensor) -> BoxLabels:
        return BoxLabels(boxes=self.boxes[rows], labels=self.labels[rows], scan=self.scan[rows], batch_size=self.batch_size)


def box_labels(batch: PointBatch, *, class_count: int, point_range: tuple[float, float, float, float, float, float]) -> BoxLabels:
    """The boxes of ``batch`` whose centre lies in ``point_range``; boxes outside it are not targets.

    Raises:
        ValueError: the batch carries no labels; boxes are not ``(M, 7 | 9)``; a box is not finite (the velocity may be NaN), has a
            size that is not positive or a label outside [0, class_count). The message names the scan.
    """
    if batch.boxes is None or batch.labels is None:
        raise ValueError(f"detection training needs boxes and labels, this batch (scans {batch.names}) has none: use a labelled data set")
    rows = []
    for name, boxes, labels in zip(batch.names, batch.boxes, batch.labels, strict=True):
        if boxes.ndim != 2 or boxes.shape[1] not in (7, 9) or labels.shape != boxes.shape[:1]:
            raise ValueError(f"scan {name}: expected boxes (M, 7 or 9) and labels (M,), got {tuple(boxes.shape)} and {tuple(labels.shape)}")
        rows.append(boxes.float() if boxes.shape[1] == 9 else torch.nn.functional.pad(boxes.float(), (0, 2), value=float("nan")))
    device = batch.xyz.device
    counts = torch.tensor([len(boxes) for boxes in rows], device=device)
    joined = BoxLabels(
        boxes=torch.cat(rows).to(device),
        labels=torch.cat(list(batch.labels)).to(device=device, dtype=torch.int64),
        scan=torch.repeat_interleave(torch.arange(len(rows), device=device), counts, output_size=sum(len(boxes) for boxes in rows)),
        batch_size=len(rows),
    )
    _check(joined, batch.names, class_count)
    low, high = joined.boxes.new_tensor(point_range[:3]), joined.boxes.new_tensor(point_range[3:])
    centers = joined.boxes[:, :3]
    return joined[((centers >= low) & (centers < high)).all(dim=1).nonzero().flatten()]


def _check(labels: BoxLabels, names: list[str], class_count: int) -> None:
    finite = labels.boxes[:, :7].isfinite().all(dim=1)
    positive = (labels.boxes[:, 3:6] > 0).all(dim=1)
    known = (labels.labels >= 0) & (labels.labels < class_count)
    bad = ~(finite & positive & known)
    if not bad.any():
        return
    row = int(bad.nonzero()[0])
    where = f"scan {names[int(labels.scan[row])]}: box {[round(value, 3) for value in labels.boxes[row].tolist()]}"
    if not finite[row]:
        raise ValueError(f"{where} expected finite centre, size and yaw. Repair or drop it in the data set")
    if not positive[row]:
        raise ValueError(f"{where} expected positive sizes (dx, dy, dz). Repair or drop it in the data set")
    raise ValueError(f"{where} has label {int(labels.labels[row])}, expected 0 to {class_count - 1}: the data's class_names must be the detector's")
