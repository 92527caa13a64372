"""Frame mean average precision of boxes in pictures, as the official AVA evaluation computes it.

Gu et al., "AVA: A Video Dataset of Spatio-temporally Localized Atomic Visual Actions", CVPR 2018, section 5: boxes are matched frame by frame at
an IoU of 0.5, the average precision of a class is the area under its precision envelope (PASCAL VOC 2010 and later), and the mean is over the
classes that occur. As in the official code a detection claims the true box it overlaps most, even if that one is taken (then it is false), and
of each frame only the 50 highest scores count.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

MAX_PER_FRAME = 50
Frame = TypeVar("Frame", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class FrameBoxes:
    """Labelled boxes of one frame: a person with two actions is two rows.

    Attributes:
        boxes: ``(n, 4)`` float64 x1, y1, x2, y2 in any unit.
        classes: ``(n,)`` int64.
        scores: ``(n,)`` float64; of true boxes they do not count.
    """

    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    scores: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FrameMap:
    """Average precision by class in [0, 1], nan where the class has no true box; its mean over the others; true boxes by class."""

    average_precision: dict[int, float]
    mean: float
    truths: dict[int, int]


def frame_map(
    truth: Mapping[Frame, FrameBoxes],
    found: Mapping[Frame, FrameBoxes],
    *,
    classes: list[int],
    iou: float = 0.5,
    max_per_frame: int = MAX_PER_FRAME,
) -> FrameMap:
    """Score detections.

    Args:
        truth, found: by frame. Frames that only one of them has count.
        classes: the classes that are scored; rows of others are ignored.
        iou: smallest overlap of a match.
        max_per_frame: rows of a frame that count, by score; 0 = all.

    Raises:
        ValueError: no true box of any of the classes.
    """
    found = {frame: _best(boxes, classes, max_per_frame) for frame, boxes in found.items()}
    precisions, counts = {}, {}
    for label in classes:
        scores, hits = [], []
        counts[label] = sum(int((boxes.classes == label).sum()) for boxes in truth.values())
        for frame, boxes in found.items():
            mine = boxes.classes == label
            true = truth[frame].boxes[truth[frame].classes == label] if frame in truth else np.zeros((0, 4))
            order = np.argsort(-boxes.scores[mine], kind="stable")
            scores.append(boxes.scores[mine][order])
            hits.append(_match(boxes.boxes[mine][order], true, iou))
        precisions[label] = average_precision(np.concatenate([*scores, []]), np.concatenate([*hits, np.zeros(0, bool)]), counts[label])
    known = [value for value in precisions.values() if not np.isnan(value)]
    if not known:
        raise ValueError("frame mAP: there is no true box of any of the classes")
    return FrameMap(average_precision=precisions, mean=float(np.mean(known)), truths=counts)


def average_precision(scores: NDArray[np.float64], hits: NDArray[np.bool_], truths: int) -> float:
    """Area under the envelope of precision over recall of ranked detections; nan without true boxes."""
    if truths == 0:
        return float("nan")
    hits = hits[np.argsort(-scores, kind="stable")]
    recall = np.cumsum(hits) / truths
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def box_iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(n, 4)``, ``(m, 4)`` -> ``(n, m)`` intersection over union."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    area = np.prod(a[:, 2:] - a[:, :2], axis=1)[:, None] + np.prod(b[:, 2:] - b[:, :2], axis=1)[None]
    return shared / np.maximum(area - shared, 1e-12)


def _best(boxes: FrameBoxes, classes: list[int], count: int) -> FrameBoxes:
    """The rows of the classes with proper boxes, the highest scores first, ``count`` at most."""
    sides = boxes.boxes[:, 2:] - boxes.boxes[:, :2]
    kept = np.flatnonzero(np.isin(boxes.classes, classes))
    kept = kept[np.argsort(-boxes.scores[kept], kind="stable")][: count or None]
    kept = kept[(sides[kept] > 0).all(axis=1)]
    return FrameBoxes(boxes=boxes.boxes[kept], classes=boxes.classes[kept], scores=boxes.scores[kept])


def _match(boxes: NDArray[np.float64], truth: NDArray[np.float64], iou: float) -> NDArray[np.bool_]:
    """Which of the ranked boxes of a frame and class are right."""
    hits = np.zeros(len(boxes), dtype=bool)
    if not len(truth):
        return hits
    overlap, taken = box_iou(boxes, truth), np.zeros(len(truth), dtype=bool)
    for row, nearest in enumerate(overlap.argmax(axis=1)):
        if overlap[row, nearest] >= iou and not taken[nearest]:
            hits[row] = taken[nearest] = True
    return hits
