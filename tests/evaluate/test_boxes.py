"""AP of plain LiDAR boxes against a slow reading of the definition, and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from suite3d.pointcloud.detection.evaluate.boxes import evaluate_boxes
from suite3d.pointcloud.detection.evaluate.overlap import box_ious


def car(x, y=0.0, *, yaw=0.0, z=0.0):
    return [x, y, z, 4.0, 2.0, 1.5, yaw]


def one(truth, found, scores, **options):
    result = evaluate_boxes([truth], [["car"] * len(truth)], [found], [scores], [["car"] * len(found)], iou_thresholds={"car": 0.7}, **options)
    return result.average_precision["car"]


def test_by_hand():
    # Two cars; found: the first, a false one, the second. Precision 1 to recall .5, then 2/3.
    ap = one([car(0), car(10)], [car(0), car(30), car(10)], [0.9, 0.8, 0.7])["all"]
    assert ap["bev"] == ap["3d"] == ap["aph"] == pytest.approx(100 * (20 * 1 + 20 * 2 / 3) / 40)


def test_a_second_detection_of_the_same_car_is_false():
    assert one([car(0)], [car(0), car(0.1)], [0.8, 0.9])["all"]["3d"] == pytest.approx(100)
    assert one([car(0), car(10)], [car(0), car(0.1), car(10)], [0.9, 0.8, 0.7])["all"]["3d"] == pytest.approx(100 * (20 + 20 * 2 / 3) / 40)


def test_heading_costs_in_aph_only():
    ap = one([car(0)], [car(0, yaw=np.pi)], [0.5])["all"]
    assert ap["3d"] == pytest.approx(100) and ap["aph"] == pytest.approx(0, abs=1e-9)
    assert one([car(0, yaw=3.1)], [car(0, yaw=-3.1)], [0.5])["all"]["aph"] == pytest.approx(100 * (1 - (2 * np.pi - 6.2) / np.pi))


def test_height_counts_only_in_space():
    ap = one([car(0)], [car(0, z=0.5)], [0.5])["all"]
    assert ap["bev"] == pytest.approx(100) and ap["3d"] == 0


def test_boxes_with_few_points_count_neither_way():
    ap = one([car(0), car(10)], [car(0), car(10)], [0.9, 0.8], gt_points=[[50, 2]], levels={"all": 1, "dense": 10, "none": 100})
    assert ap["all"]["3d"] == ap["dense"]["3d"] == pytest.approx(100) and np.isnan(ap["none"]["3d"])
    ap = one([car(0), car(10)], [car(0)], [0.9], gt_points=[[50, 2]], levels={"all": 1, "dense": 10})
    assert ap["all"]["3d"] == pytest.approx(50) and ap["dense"]["3d"] == pytest.approx(100)


def test_equal_scores_give_the_same_in_any_order():
    truth, found = [car(0), car(10), car(20)], [car(0), car(40), car(10), car(50)]
    values = {round(one(truth, [found[i] for i in order], [0.5] * 4)["all"]["3d"], 9) for order in ([0, 1, 2, 3], [3, 1, 0, 2], [1, 3, 2, 0])}
    assert values == {round(100 * (26 * 0.5) / 40, 9)}  # 2 of 4, recall 2/3: positions up to 26 / 40


def naive(truth, found, scores, limit):
    """The definition word for word: for each of 40 recalls the best precision at any score cut that reaches it."""
    total = sum(map(len, truth))
    points = []
    for cut in sorted({s for scan in scores for s in scan}, reverse=True):
        true = false = 0
        for boxes, candidates, values in zip(truth, found, scores, strict=True):
            free = list(range(len(boxes)))
            for row in sorted(range(len(candidates)), key=lambda r: -values[r]):
                if values[row] < cut:
                    continue
                overlaps = {g: box_ious(candidates[row : row + 1], boxes[g : g + 1])[1][0, 0] for g in free}
                best = max(overlaps, key=overlaps.get, default=None)
                if best is not None and overlaps[best] >= limit:
                    free.remove(best)
                    true += 1
                else:
                    false += 1
        points.append((true / total, true / (true + false)))
    return 100 * np.mean([max((p for r, p in points if r >= k / 40 - 1e-9), default=0) for k in range(1, 41)])


def test_equals_the_definition_on_random_scans():
    rng = np.random.default_rng(0)
    for _ in range(5):
        truth = [
            np.array([car(x, y, yaw=t) for x, y, t in zip(rng.uniform(0, 40, 6), rng.uniform(0, 40, 6), rng.uniform(-3, 3, 6), strict=True)])
            for _ in range(4)
        ]
        found = [np.concatenate([t + rng.normal(scale=0.2, size=t.shape), t[:3] + rng.normal(scale=0.5, size=(3, 7))]) for t in truth]
        scores = [np.round(rng.random(9), 1) + np.arange(9) * 1e-6 for _ in truth]
        result = evaluate_boxes(truth, [["car"] * 6] * 4, found, scores, [["car"] * 9] * 4, iou_thresholds={"car": 0.5})
        assert result.average_precision["car"]["all"]["3d"] == pytest.approx(naive(truth, found, scores, 0.5))
        assert result.average_precision["car"]["all"]["aph"] <= result.average_precision["car"]["all"]["3d"]


def test_classes_do_not_mix_and_empty_scans_are_fine():
    result = evaluate_boxes([[car(0)], []], [["car"], []], [[car(0)], []], [[0.5], []], [["bus"], []], iou_thresholds={"car": 0.7, "bus": 0.7})
    assert result.average_precision["car"]["all"]["3d"] == 0 and np.isnan(result.mean("bev", level="all") - result.mean("bev")) is np.False_
    assert result.mean() == 0 and result.truths == {"car": {"all": 1}, "bus": {"all": 0}}
    assert result.as_dict()["mean/3d/all"] == 0 and "bus" in result.table()


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="one entry per scan"):
        evaluate_boxes([[]], [[]], [], [], [], iou_thresholds={"car": 0.5})
    with pytest.raises(ValueError, match="gt_points"):
        one([car(0)], [], [], levels={"dense": 10})
    with pytest.raises(ValueError, match=r"\(M, 7\)"):
        one([[1, 2, 3]], [], [])
