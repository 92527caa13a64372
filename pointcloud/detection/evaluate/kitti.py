"""KITTI object average precision: 2D, orientation, bird's eye view and 3D; easy, moderate, hard; R11 and R40.

Gives the numbers of the official C++ evaluator (KITTI object development kit, ``evaluate_object.cpp``; Geiger, Lenz,
Urtasun, CVPR 2012; 40 recall positions: Simonelli et al., ICCV 2019) on parsed label and result files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from suite3d.pointcloud.data.kitti_labels import KittiLabels as KittiObjects
from suite3d.pointcloud.data.kitti_labels import read_kitti_labels as read_kitti_objects
from suite3d.pointcloud.detection.evaluate.kitti_matching import count_matches, recall_thresholds, true_positive_scores
from suite3d.pointcloud.detection.evaluate.overlap import box_intersections
from suite3d.pointcloud.detection.evaluate.table import aligned

__all__ = ["DIFFICULTIES", "METRICS", "OFFICIAL_OVERLAP", "KittiObjects", "KittiResult", "evaluate_kitti", "read_kitti_objects"]

Float = NDArray[np.float64]
Int = NDArray[np.int64]

DIFFICULTIES = ("easy", "moderate", "hard")
MIN_HEIGHT = (40, 25, 25)
MAX_OCCLUSION = (0, 1, 2)
MAX_TRUNCATION = (0.15, 0.3, 0.5)
METRICS = ("2d", "aos", "bev", "3d")
OFFICIAL_OVERLAP: dict[str, tuple[float, float, float]] = {"Car": (0.7, 0.7, 0.7), "Pedestrian": (0.5, 0.5, 0.5), "Cyclist": (0.5, 0.5, 0.5)}
NEIGHBOURS = {"car": "van", "pedestrian": "person_sitting"}
RECALLS = 41


@dataclass(kw_only=True)
class KittiResult:
    """Average precision in percent.

    Attributes:
        average_precision: ``[class][metric][protocol]`` -> (easy, moderate, hard); metric "2d", "aos", "bev" or "3d",
            protocol "R40" or "R11". nan where there is no ground truth to find (and for "aos" where a detection has no alpha).
        truths: ``[class]`` -> objects that count at (easy, moderate, hard).
        overlaps: ``[class]`` -> overlap needed in the image, on the ground and in space.
        images: number of images.
    """

    average_precision: dict[str, dict[str, dict[str, tuple[float, float, float]]]]
    truths: dict[str, tuple[int, int, int]]
    overlaps: dict[str, tuple[float, float, float]]
    images: int

    def mean(self, metric: str = "3d", *, difficulty: str = "moderate", protocol: str = "R40") -> float:
        """Mean over the classes that have ground truth; nan if none has."""
        values = [self.average_precision[name][metric][protocol][DIFFICULTIES.index(difficulty)] for name in self.average_precision]
        known = [value for value in values if not np.isnan(value)]
        return float(np.mean(known)) if known else float("nan")

    def as_dict(self) -> dict[str, float]:
        """Flat ``{"Car/3d/moderate/R40": 77.1, ...}`` and ``"mean/3d/moderate/R40"``."""
        flat = {}
        for name, metrics in self.average_precision.items():
            for metric, protocols in metrics.items():
                for protocol, values in protocols.items():
                    flat.update({f"{name}/{metric}/{level}/{protocol}": value for level, value in zip(DIFFICULTIES, values, strict=True)})
        flat["mean/3d/moderate/R40"] = self.mean()
        return flat

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Column names and text cells, for reports."""
        columns = ["class", "metric", "overlap", *(f"{protocol} {level}" for protocol in ("R40", "R11") for level in DIFFICULTIES)]
        rows = []
        for name, metrics in self.average_precision.items():
            for metric, protocols in metrics.items():
                overlap = self.overlaps[name][{"2d": 0, "aos": 0, "bev": 1, "3d": 2}[metric]]
                cells = [f"{value:.2f}" if np.isfinite(value) else "-" for protocol in ("R40", "R11") for value in protocols[protocol]]
                rows.append([name, metric, f"{overlap:.2f}", *cells])
        return columns, rows

    def table(self) -> str:
        """The numbers as aligned text; says over how many objects each class was measured."""
        columns, rows = self.rows()
        lines = aligned(columns, rows, left=2)
        lines.append(
            f"{self.images} images; objects (easy/moderate/hard): "
            + ", ".join(f"{name} {'/'.join(map(str, counts))}" for name, counts in self.truths.items())
        )
        return "\n".join(line.rstrip() for line in lines)


@dataclass(kw_only=True)
class _Scenes:
    """All images, one after another, with the overlaps of every (ground truth, detection) pair of an image."""

    truth: KittiObjects
    detected: KittiObjects
    truth_offsets: Int
    detection_offsets: Int
    pair_offsets: Int
    overlaps: dict[str, Float] = field(default_factory=dict)
    covered: dict[str, Float] = field(default_factory=dict)


def evaluate_kitti(
    ground_truth: Sequence[KittiObjects],
    detections: Sequence[KittiObjects],
    classes: Sequence[str] = ("Car", "Pedestrian", "Cyclist"),
    *,
    overlaps: Mapping[str, tuple[float, float, float]] | None = None,
) -> KittiResult:
    """Average precision of ``detections[i]`` against ``ground_truth[i]``, over images i.

    Class names compare without case. Van is neither right nor wrong for Car, Person_sitting for Pedestrian; DontCare
    regions take false positives away; objects too small, occluded or truncated for a difficulty are ignored.

    Args:
        ground_truth, detections: one entry per image, in the same order; detections need scores.
        classes: the classes to evaluate.
        overlaps: per class the overlap a match must exceed in the image, on the ground and in space. Default:
            :data:`OFFICIAL_OVERLAP`, and 0.5 for classes it does not know.

    Raises:
        ValueError: different numbers of images, no image, or detections without scores.
    """
    if len(ground_truth) != len(detections) or not ground_truth:
        raise ValueError(f"expected one list of detections per image, got {len(ground_truth)} images and {len(detections)} lists of detections")
    wanted = {**OFFICIAL_OVERLAP, **(overlaps or {})}
    scenes = _collect(ground_truth, detections)
    result = KittiResult(average_precision={}, truths={}, overlaps={}, images=len(ground_truth))
    for name in classes:
        limits = wanted.get(name, (0.5, 0.5, 0.5))
        result.overlaps[name] = limits
        per_difficulty = [_evaluate_class(scenes, name, difficulty, limits) for difficulty in range(3)]
        easy, moderate, hard = (truths for truths, _ in per_difficulty)
        result.truths[name] = (easy, moderate, hard)
        result.average_precision[name] = {
            metric: {"R40": _three(per_difficulty, metric, range(1, RECALLS)), "R11": _three(per_difficulty, metric, range(0, RECALLS, 4))}
            for metric in METRICS
        }
    return result


def _three(per_difficulty: list[tuple[int, dict[str, Float]]], metric: str, positions: range) -> tuple[float, float, float]:
    easy, moderate, hard = (100 * float(np.mean(curves[metric][list(positions)])) for _, curves in per_difficulty)
    return easy, moderate, hard


def _evaluate_class(scenes: _Scenes, name: str, difficulty: int, limits: tuple[float, float, float]) -> tuple[int, dict[str, Float]]:
    """Number of objects that count, and per metric the precision at the 41 recall positions."""
    truth_code, detection_code = _codes(scenes, name, difficulty)
    truths = int((truth_code == 0).sum())
    curves = {metric: np.full(RECALLS, np.nan if truths == 0 else 0.0) for metric in METRICS}
    if truths == 0:
        return 0, curves
    oriented = not (scenes.detected.alpha == -10).any()
    for metric, limit in zip(("2d", "bev", "3d"), limits, strict=True):
        layout = (
            scenes.overlaps[metric],
            scenes.pair_offsets,
            scenes.truth_offsets,
            scenes.detection_offsets,
            truth_code,
            detection_code,
            scenes.detected.scores,
        )
        thresholds = recall_thresholds(true_positive_scores(*layout, limit), truths, samples=RECALLS)
        true, false, similarity = count_matches(*layout, scenes.truth.alpha, scenes.detected.alpha, scenes.covered[metric], limit, thresholds)
        found = np.maximum(true + false, 1)
        curves[metric][: len(thresholds)] = _from_the_right(true / found)
        if metric == "2d":
            curves["aos"][: len(thresholds)] = _from_the_right(similarity / found)
    if not oriented:
        curves["aos"][:] = np.nan
    return truths, curves


def _from_the_right(precision: Float) -> Float:
    """Best value at this recall or a higher one."""
    return np.maximum.accumulate(precision[::-1])[::-1]


def _codes(scenes: _Scenes, name: str, difficulty: int) -> tuple[Int, Int]:
    """0 counts, 1 ignored, -1 absent, for every ground truth and detection."""
    truth, wanted = scenes.truth, name.lower()
    names = np.array([other.lower() for other in truth.classes], dtype=object)
    hard = (
        (truth.occluded > MAX_OCCLUSION[difficulty])
        | (truth.truncated > MAX_TRUNCATION[difficulty])
        | (truth.boxes2d[:, 3] - truth.boxes2d[:, 1] <= MIN_HEIGHT[difficulty])
    )
    truth_code = np.full(len(names), -1)
    truth_code[(names == NEIGHBOURS.get(wanted)) | ((names == wanted) & hard)] = 1
    truth_code[(names == wanted) & ~hard] = 0
    same = np.array([other.lower() == wanted for other in scenes.detected.classes], dtype=bool)
    # The official rule: a detection that is too small is ignored whatever its class, so it may still take a ground truth.
    small = np.trunc(np.abs(scenes.detected.boxes2d[:, 3] - scenes.detected.boxes2d[:, 1])) < MIN_HEIGHT[difficulty]
    return truth_code, np.where(small, 1, np.where(same, 0, -1))


def _collect(ground_truth: Sequence[KittiObjects], detections: Sequence[KittiObjects]) -> _Scenes:
    missing = next((image for image, objects in enumerate(detections) if np.isnan(objects.scores).any()), None)
    if missing is not None:
        raise ValueError(f"the detections of image {missing} have no scores; result files need a 16th column")
    truth_counts, detection_counts = np.array([len(objects) for objects in ground_truth]), np.array([len(objects) for objects in detections])
    scenes = _Scenes(
        truth=_join(ground_truth),
        detected=_join(detections),
        truth_offsets=np.concatenate([[0], np.cumsum(truth_counts)]),
        detection_offsets=np.concatenate([[0], np.cumsum(detection_counts)]),
        pair_offsets=np.concatenate([[0], np.cumsum(truth_counts * detection_counts)]),
    )
    ious: dict[str, list[Float]] = {"2d": [], "bev": [], "3d": []}
    covered: dict[str, list[Float]] = {"2d": [], "bev": [], "3d": []}
    for truth, detected in zip(ground_truth, detections, strict=True):
        stuff = np.array([name.lower() == "dontcare" for name in truth.classes], dtype=bool)
        for metric, (shared, of_truth, of_detected) in _shared(truth, detected).items():
            union = of_truth[:, None] + of_detected[None, :] - shared
            ious[metric].append((shared / np.where(union > 0, union, np.inf)).ravel())
            share = shared[stuff] / np.where(of_detected > 0, of_detected, np.inf)
            covered[metric].append(share.max(axis=0, initial=0.0))
    scenes.overlaps = {metric: np.concatenate(parts) for metric, parts in ious.items()}
    scenes.covered = {metric: np.concatenate(parts) for metric, parts in covered.items()}
    return scenes


def _shared(truth: KittiObjects, detected: KittiObjects) -> dict[str, tuple[Float, Float, Float]]:
    """Per metric: ``(G, D)`` intersections, ``(G,)`` and ``(D,)`` sizes."""
    low = np.maximum(truth.boxes2d[:, None, :2], detected.boxes2d[None, :, :2])
    high = np.minimum(truth.boxes2d[:, None, 2:], detected.boxes2d[None, :, 2:])
    image = np.prod(np.maximum(high - low, 0), axis=2)
    boxes, others = _camera_boxes(truth), _camera_boxes(detected)
    area, volume = box_intersections(boxes, others)
    return {
        "2d": (
            image,
            np.prod(truth.boxes2d[:, 2:] - truth.boxes2d[:, :2], axis=1),
            np.prod(detected.boxes2d[:, 2:] - detected.boxes2d[:, :2], axis=1),
        ),
        "bev": (area, boxes[:, 3] * boxes[:, 4], others[:, 3] * others[:, 4]),
        "3d": (volume, boxes[:, 3] * boxes[:, 4] * boxes[:, 5], others[:, 3] * others[:, 4] * others[:, 5]),
    }


def _camera_boxes(objects: KittiObjects) -> Float:
    """``(M, 7)`` boxes with z up: x right, the camera's z (forward) as y, its -y as z. The location is the centre of the bottom face."""
    height, width, length = objects.sizes.T
    x, y, z = objects.centers.T
    return np.stack([x, z, -y + 0.5 * height, length, width, height, -objects.rotation_y], axis=1)


def _join(parts: Sequence[KittiObjects]) -> KittiObjects:
    columns = ("truncated", "occluded", "alpha", "boxes2d", "sizes", "centers", "rotation_y", "scores")
    return KittiObjects(
        [name for objects in parts for name in objects.classes],
        *(np.concatenate([getattr(objects, column) for objects in parts]) for column in columns),
    )
