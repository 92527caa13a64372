"""Average precision of boxes in the LiDAR frame, for data sets that have no camera image and no official evaluator.

Precision at 40 recall positions, 1/40 to 1 (Simonelli et al., ICCV 2019, equation 2), interpolated from the right and
exact: no score sampling. Detections are matched best score first, each to the free ground truth of its class and scan that
it overlaps most (Everingham et al., IJCV 2010). APH weighs each true positive with 1 - |heading error| / pi
(Sun et al., CVPR 2020, appendix), so a detector that finds boxes but turns them around shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from suite3d.pointcloud.detection.evaluate.overlap import box_ious
from suite3d.pointcloud.detection.evaluate.table import aligned

Float = NDArray[np.float64]
METRICS = ("bev", "3d", "aph")
POSITIONS = np.arange(1, 41) / 40


@dataclass(kw_only=True)
class BoxResult:
    """Average precision in percent.

    Attributes:
        average_precision: ``[class][level][metric]``; metric "bev", "3d" or "aph" (3D overlap, weighted by heading).
            nan where the class has no ground truth at that level.
        truths: ``[class][level]`` ground truth boxes.
        iou_thresholds: ``[class]``.
        scans: number of scans.
    """

    average_precision: dict[str, dict[str, dict[str, float]]]
    truths: dict[str, dict[str, int]]
    iou_thresholds: dict[str, float]
    scans: int

    def mean(self, metric: str = "3d", *, level: str = "all") -> float:
        """Mean over the classes with ground truth; nan if there is none."""
        known = [levels[level][metric] for levels in self.average_precision.values() if not np.isnan(levels[level][metric])]
        return float(np.mean(known)) if known else float("nan")

    def as_dict(self) -> dict[str, float]:
        """Flat ``{"Car/3d/all": 61.2, ..., "mean/3d/all": ...}``."""
        flat = {
            f"{name}/{metric}/{level}": value
            for name, levels in self.average_precision.items()
            for level, metrics in levels.items()
            for metric, value in metrics.items()
        }
        levels = next(iter(self.average_precision.values()), {})
        return flat | {f"mean/{metric}/{level}": self.mean(metric, level=level) for level in levels for metric in METRICS}

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Column names and text cells, for reports."""
        columns = ["class", "level", "objects", "IoU", "AP bev", "AP 3d", "APH 3d"]
        rows = []
        for name, levels in self.average_precision.items():
            for level, metrics in levels.items():
                cells = [f"{metrics[metric]:.2f}" if np.isfinite(metrics[metric]) else "-" for metric in METRICS]
                rows.append([name, level, str(self.truths[name][level]), f"{self.iou_thresholds[name]:.2f}", *cells])
        return columns, rows

    def table(self) -> str:
        columns, rows = self.rows()
        lines = aligned(columns, rows, left=2)
        return "\n".join([*lines, f"{self.scans} scans, 40 recall positions"])


def evaluate_boxes(
    gt_boxes: Sequence[ArrayLike],
    gt_classes: Sequence[Sequence[str]],
    det_boxes: Sequence[ArrayLike],
    det_scores: Sequence[ArrayLike],
    det_classes: Sequence[Sequence[str]],
    *,
    iou_thresholds: Mapping[str, float],
    gt_points: Sequence[ArrayLike] | None = None,
    levels: Mapping[str, int] | None = None,
) -> BoxResult:
    """AP of ``det_*[i]`` against ``gt_*[i]`` over scans i, for the classes named in ``iou_thresholds``.

    Args:
        gt_boxes, det_boxes: per scan ``(M, >=7)`` (cx, cy, cz, dx, dy, dz, yaw, ...), metres and radians.
        gt_classes, det_classes: per scan M class names.
        det_scores: per scan ``(K,)``.
        iou_thresholds: class -> IoU that a match must reach, on the ground for "bev" and in space for "3d" and "aph".
        gt_points: per scan ``(M,)`` LiDAR points inside each ground truth; needed if a level asks for more than 0.
        levels: name -> fewest points a ground truth must hold to count; boxes with fewer may be matched but count
            neither way. Default ``{"all": 1}`` with ``gt_points``, else ``{"all": 0}``.

    Raises:
        ValueError: sequences of different lengths, or a level that needs points without ``gt_points``.
    """
    lengths = {len(gt_boxes), len(gt_classes), len(det_boxes), len(det_scores), len(det_classes)} | (
        {len(gt_points)} if gt_points is not None else set()
    )
    if len(lengths) != 1:
        raise ValueError(f"expected one entry per scan in every argument, got lengths {sorted(lengths)}")
    levels = dict(levels) if levels is not None else {"all": 0 if gt_points is None else 1}
    if gt_points is None and any(points > 0 for points in levels.values()):
        raise ValueError(f"levels {levels} count points inside the boxes: pass gt_points")
    truth = [_rows(boxes) for boxes in gt_boxes]
    found = [_rows(boxes) for boxes in det_boxes]
    points = [np.asarray(p).reshape(-1) for p in gt_points] if gt_points is not None else [np.zeros(len(boxes)) for boxes in truth]
    result = BoxResult(average_precision={}, truths={}, iou_thresholds=dict(iou_thresholds), scans=len(truth))
    for name, limit in iou_thresholds.items():
        mine = [np.array([other == name for other in names], dtype=bool) for names in gt_classes]
        theirs = [np.array([other == name for other in names], dtype=bool) for names in det_classes]
        boxes, candidates = [b[m] for b, m in zip(truth, mine, strict=True)], [b[m] for b, m in zip(found, theirs, strict=True)]
        scores = [np.asarray(s, dtype=np.float64).reshape(-1)[m] for s, m in zip(det_scores, theirs, strict=True)]
        ious = [box_ious(d, g) for d, g in zip(candidates, boxes, strict=True)]
        result.average_precision[name], result.truths[name] = {}, {}
        for level, fewest in levels.items():
            counts = [p[m] >= fewest for p, m in zip(points, mine, strict=True)]
            result.truths[name][level] = total = int(sum(c.sum() for c in counts))
            precisions = {}
            for metric, which in (("bev", 0), ("3d", 1)):
                hits = _match([iou[which] for iou in ious], scores, counts, limit)
                precisions[metric] = _average_precision(*hits, total)
                if metric == "3d":
                    precisions["aph"] = _average_precision(*hits, total, weight=_heading_weight(hits[1], hits[2], candidates, boxes))
            result.average_precision[name][level] = precisions
    return result


def _rows(boxes: ArrayLike) -> Float:
    array = np.asarray(boxes, dtype=np.float64)
    if array.size == 0:
        return np.zeros((0, 7))
    if array.ndim != 2 or array.shape[1] < 7:
        raise ValueError(f"expected boxes of shape (M, 7) or wider, got {array.shape}")
    return array[:, :7]


def _match(
    ious: list[Float], scores: list[Float], counts: list[NDArray[np.bool_]], limit: float
) -> tuple[Float, NDArray[np.int64], NDArray[np.int64]]:
    """Detections that count, best first: their scores, their (scan, row) and the ground truth each takes (-1: false)."""
    kept: list[tuple[float, int, int, int]] = []
    for scan, (iou, score, counted) in enumerate(zip(ious, scores, counts, strict=True)):
        free = np.ones(len(counted), dtype=bool)
        for row in np.argsort(-score, kind="stable"):
            # A box that counts is preferred to one that does not, so that the levels only ever forgive.
            overlap = np.where(free, iou[row], -1.0)
            best = -1
            for wanted in (counted, ~counted):
                choice = np.where(wanted, overlap, -1.0)
                if best < 0 and len(choice) and choice.max() >= limit:
                    best = int(choice.argmax())
            if best >= 0:
                free[best] = False
            if best < 0 or counted[best]:
                kept.append((float(score[row]), scan, int(row), best))
    kept.sort(key=lambda item: -item[0])
    table = np.array([item[1:] for item in kept], dtype=np.int64).reshape(-1, 3)
    return np.array([item[0] for item in kept]), table[:, :2], table[:, 2]


def _heading_weight(rows: NDArray[np.int64], taken: NDArray[np.int64], found: list[Float], truth: list[Float]) -> Float:
    weight = np.zeros(len(taken))
    for index, ((scan, row), target) in enumerate(zip(rows, taken, strict=True)):
        if target >= 0:
            turn = (found[scan][row, 6] - truth[scan][target, 6] + np.pi) % (2 * np.pi) - np.pi
            weight[index] = 1.0 - abs(turn) / np.pi
    return weight


def _average_precision(score: Float, rows: NDArray[np.int64], taken: NDArray[np.int64], total: int, *, weight: Float | None = None) -> float:
    """Percent; recall is never weighted, so that APH <= AP at every position."""
    if total == 0:
        return float("nan")
    hit = taken >= 0
    if not hit.any():
        return 0.0
    ranks = np.arange(1, len(hit) + 1, dtype=np.float64)
    recall = np.cumsum(hit) / total
    precision = np.cumsum(hit.astype(np.float64) if weight is None else weight) / ranks
    # Detections of equal score enter together: only the last of each group is a point of the curve.
    last = np.append(score[1:] != score[:-1], True)
    recall, precision = recall[last], np.maximum.accumulate(precision[last][::-1])[::-1]
    at = np.searchsorted(recall, POSITIONS - 1e-9)
    return 100 * float(np.where(at < len(recall), precision[np.minimum(at, len(recall) - 1)], 0.0).mean())
