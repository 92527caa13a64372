"""The matching rules of the official KITTI evaluator, over all images at once.

Ground truth and detections of all images lie one after another; image i owns rows ``offsets[i]:offsets[i + 1]``, and the
overlaps of image i are a row-major (ground truth, detection) block that starts at ``pair_offsets[i]``.
Codes of an object, for one class and difficulty: 0 counts, 1 may be matched but counts neither way, -1 is not there.
Source: KITTI object development kit, ``cpp/evaluate_object.cpp`` (Geiger, Lenz, Urtasun, CVPR 2012).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Float = NDArray[np.float64]
Int = NDArray[np.int64]
NONE = -1


@njit(nogil=True)
def _best_scored(overlaps: Float, code: Int, taken: NDArray[np.bool_], score: Float, min_overlap: float) -> int:
    """Row of the highest-scored detection that overlaps enough (the first of equals), or -1."""
    best = NONE
    for row in range(len(code)):
        if code[row] != -1 and not taken[row] and overlaps[row] > min_overlap and (best == NONE or score[row] > score[best]):
            best = row
    return best


@njit(nogil=True)
def _best_overlapping(overlaps: Float, code: Int, taken: NDArray[np.bool_], score: Float, min_overlap: float, threshold: float) -> int:
    """Row of the detection above ``threshold`` with the greatest overlap; one that is too small only if there is no other."""
    best, fallback = NONE, NONE
    for row in range(len(code)):
        if code[row] == -1 or taken[row] or score[row] < threshold or not overlaps[row] > min_overlap:
            continue
        if code[row] == 0:
            if best == NONE or overlaps[row] > overlaps[best]:
                best = row
        elif fallback == NONE:
            fallback = row
    return fallback if best == NONE else best


@njit(nogil=True)
def true_positive_scores(
    overlaps: Float,
    pair_offsets: Int,
    truth_offsets: Int,
    detection_offsets: Int,
    truth_code: Int,
    detection_code: Int,
    score: Float,
    min_overlap: float,
) -> Float:
    """Scores of the true positives when nothing is cut off, each ground truth taking the highest-scored overlapping detection."""
    found = np.empty(len(truth_code))
    count = 0
    for image in range(len(truth_offsets) - 1):
        first, last = detection_offsets[image], detection_offsets[image + 1]
        code, confidence = detection_code[first:last], score[first:last]
        taken = np.zeros(last - first, dtype=np.bool_)
        for truth in range(truth_offsets[image], truth_offsets[image + 1]):
            if truth_code[truth] == -1:
                continue
            start = pair_offsets[image] + (truth - truth_offsets[image]) * (last - first)
            row = _best_scored(overlaps[start : start + last - first], code, taken, confidence, min_overlap)
            if row == NONE:
                continue
            taken[row] = True
            if truth_code[truth] == 0 and code[row] == 0:
                found[count] = confidence[row]
                count += 1
    return found[:count]


@njit(nogil=True)
def count_matches(
    overlaps: Float,
    pair_offsets: Int,
    truth_offsets: Int,
    detection_offsets: Int,
    truth_code: Int,
    detection_code: Int,
    score: Float,
    truth_alpha: Float,
    detection_alpha: Float,
    covered: Float,
    min_overlap: float,
    thresholds: Float,
) -> tuple[Float, Float, Float]:
    """True positives, false positives and orientation similarity at each score threshold.

    ``covered`` holds for each detection the greatest share of it inside a DontCare region of its image; unmatched
    detections covered by more than ``min_overlap`` are not false.
    """
    true = np.zeros(len(thresholds))
    false = np.zeros(len(thresholds))
    similarity = np.zeros(len(thresholds))
    for image in range(len(truth_offsets) - 1):
        first, last = detection_offsets[image], detection_offsets[image + 1]
        code, confidence = detection_code[first:last], score[first:last]
        for level in range(len(thresholds)):
            taken = np.zeros(last - first, dtype=np.bool_)
            for truth in range(truth_offsets[image], truth_offsets[image + 1]):
                if truth_code[truth] == -1:
                    continue
                start = pair_offsets[image] + (truth - truth_offsets[image]) * (last - first)
                row = _best_overlapping(overlaps[start : start + last - first], code, taken, confidence, min_overlap, thresholds[level])
                if row == NONE:
                    continue
                taken[row] = True
                if truth_code[truth] == 0 and code[row] == 0:
                    true[level] += 1
                    similarity[level] += 0.5 * (1 + np.cos(truth_alpha[truth] - detection_alpha[first + row]))
            for row in range(last - first):
                if code[row] == 0 and not taken[row] and confidence[row] >= thresholds[level] and not covered[first + row] > min_overlap:
                    false[level] += 1
    return true, false, similarity


def recall_thresholds(scores: Float, truths: int, *, samples: int = 41) -> Float:
    """Score thresholds that cut the true positives at recalls closest to 0, 1/40, ..., 1; at most ``samples`` of them."""
    ordered = np.sort(scores)[::-1]
    thresholds: list[float] = []
    recall = 0.0
    for index, score in enumerate(ordered):
        last = index == len(ordered) - 1
        left = (index + 1) / truths
        right = left if last else (index + 2) / truths
        if right - recall < recall - left and not last:
            continue
        thresholds.append(float(score))
        recall += 1 / (samples - 1.0)
    return np.array(thresholds[:samples])
