"""nuScenes detection score: the devkit's recorded numbers, and cases small enough to count by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from suite3d.pointcloud.data.poses import quaternion_matrix
from suite3d.pointcloud.detection.evaluate.nuscenes import evaluate_nuscenes
from suite3d.pointcloud.detection.evaluate.nuscenes_format import (
    lidar_boxes_to_nuscenes,
    rotation_to_quaternion,
    write_nuscenes_results,
)


@pytest.mark.parametrize("detector", ["centerpoint", "megvii"])
def test_equals_the_devkit(nuscenes_folder, detector):
    read = lambda name: json.loads((nuscenes_folder / name).read_text())  # noqa: E731
    expected = read(f"expected_{detector}.json")
    ego = {token: sample["ego_translation"] for token, sample in read("samples.json").items()}
    result = evaluate_nuscenes(read("gt.json"), read(f"pred_{detector}.json")["results"], ego)
    assert result.truths == expected["num_gt_after_filter"] and result.detections == expected["num_pred_after_filter"]
    assert result.mean_ap == pytest.approx(expected["mean_ap"], abs=1e-9)
    assert result.nd_score == pytest.approx(expected["nd_score"], abs=1e-9)
    assert result.tp_errors == pytest.approx(expected["tp_errors"], abs=1e-9)
    assert result.mean_dist_aps == pytest.approx(expected["mean_dist_aps"], abs=1e-9)
    for name, distances in expected["label_aps"].items():
        assert result.label_aps[name] == pytest.approx({float(d): ap for d, ap in distances.items()}, abs=1e-9)
    for name, errors in expected["label_tp_errors"].items():
        known = {error: np.nan if value is None else value for error, value in errors.items()}
        assert result.label_tp_errors[name] == pytest.approx(known, abs=1e-9, nan_ok=True)


def entry(x, y, name="car", *, score=None, token="a", yaw=0.0, size=(2.0, 4.0, 1.5), velocity=(0.0, 0.0), attribute="", **extra):
    row = {
        "sample_token": token,
        "translation": [x, y, 0.0],
        "size": list(size),
        "rotation": [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)],
        "velocity": list(velocity),
        "detection_name": name,
        "attribute_name": attribute,
        **extra,
    }
    return row if score is None else row | {"detection_score": score}


def score(truth, found, **options):
    return evaluate_nuscenes({"a": truth}, {"a": found}, {"a": [0, 0, 0]}, **options)


def test_perfect_car():
    truth = [entry(10, 0, attribute="vehicle.moving", velocity=(3, 0))]
    result = score(truth, [entry(10, 0, score=0.5, attribute="vehicle.moving", velocity=(3, 0))])
    assert result.mean_dist_aps["car"] == pytest.approx(1.0) and result.mean_ap == pytest.approx(0.1)
    assert list(result.label_tp_errors["car"].values()) == pytest.approx([0, 0, 0, 0, 0])


def test_distance_thresholds_are_strict_and_each_counts():
    result = score([entry(10, 0)], [entry(11, 0, score=0.5)])
    assert result.label_aps["car"] == {0.5: 0.0, 1.0: 0.0, 2.0: pytest.approx(1.0), 4.0: pytest.approx(1.0)}
    assert result.label_tp_errors["car"]["trans_err"] == pytest.approx(1.0)


def test_one_false_car_above_one_true_one():
    # Recall 0 has precision 0, recall 1 has 0.5, linear between: the mean over r = .11, ..., 1 of max(r / 2 - .1, 0) / .9 is 16.2 / 90 / .9.
    result = score([entry(10, 0)], [entry(30, 0, score=0.9), entry(10, 0, score=0.8)])
    assert result.mean_dist_aps["car"] == pytest.approx(0.2)


def test_errors_of_one_match():
    truth = [entry(10, 0, velocity=(1, 0), attribute="vehicle.parked")]
    found = [entry(10.3, 0.4, yaw=-3.0, size=(1, 4, 1.5), velocity=(1, 2), attribute="vehicle.moving", score=0.4)]
    assert score(truth, found).label_tp_errors["car"] == pytest.approx(
        {"trans_err": 0.5, "scale_err": 0.5, "orient_err": 3.0, "vel_err": 2.0, "attr_err": 1.0}
    )


def test_a_barrier_has_no_front_and_a_cone_no_heading():
    result = score(
        [entry(10, 0, "barrier"), entry(5, 5, "traffic_cone")], [entry(10, 0, "barrier", yaw=3.0, score=0.5), entry(5, 5, "traffic_cone", score=0.5)]
    )
    assert result.label_tp_errors["barrier"]["orient_err"] == pytest.approx(np.pi - 3.0)
    assert np.isnan(result.label_tp_errors["barrier"]["vel_err"])
    assert all(np.isnan(result.label_tp_errors["traffic_cone"][error]) for error in ("orient_err", "vel_err", "attr_err"))


def test_unknown_velocity_and_attribute_are_left_out_of_the_mean():
    truth = [entry(10, 0, velocity=(np.nan, np.nan)), entry(20, 0, velocity=(1, 0), attribute="vehicle.parked")]
    found = [entry(10, 0, score=0.9, velocity=(7, 0)), entry(20, 0, score=0.8, velocity=(1.5, 0), attribute="vehicle.parked")]
    errors = score(truth, found).label_tp_errors["car"]
    # At recalls up to 0.5 only the unknown one is matched: mean 0 so far; beyond it falls linearly in score to the mean of the known one.
    assert 0 < errors["vel_err"] < 0.5 and errors["attr_err"] == pytest.approx(0)


def test_ranges_empty_boxes_and_bicycle_racks():
    rack = entry(10, 10, "static_object.bicycle_rack", size=(4, 6, 3), yaw=0.7)
    truth = [
        entry(49.9, 0),
        entry(50.1, 0),
        entry(20, 0, num_pts=0),
        entry(10, 11, "bicycle"),
        entry(20, 20, "bicycle"),
        entry(39, 0, "pedestrian"),
        rack,
    ]
    found = [entry(10, 11, "bicycle", score=0.9), entry(10, 11, "car", score=0.9), entry(60, 0, score=0.9), entry(41, 0, "pedestrian", score=0.3)]
    result = score(truth, found)
    assert result.truths["car"] == 1 and result.truths["bicycle"] == 1 and result.truths["pedestrian"] == 1
    assert result.detections == 1  # the car in the rack


def test_samples_must_match_and_be_limited():
    with pytest.raises(ValueError, match="e.g. b"):
        evaluate_nuscenes({"a": []}, {"a": [], "b": []}, {"a": [0, 0], "b": [0, 0]})
    with pytest.raises(ValueError, match="501 detections"):
        score([], [entry(0, 0, score=0.1)] * 501)


def test_quaternions_go_there_and_back():
    rng = np.random.default_rng(0)
    quaternions = rng.normal(size=(200, 4))
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    rotations = quaternion_matrix(quaternions)
    np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (200, 1, 1)), atol=1e-12)
    for quaternion, rotation in zip(quaternions, rotations, strict=True):
        np.testing.assert_allclose(rotation_to_quaternion(rotation), quaternion * np.sign(quaternion[0]), atol=1e-9)
    half_turns = quaternion_matrix([[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(quaternion_matrix([rotation_to_quaternion(r) for r in half_turns]), half_turns, atol=1e-12)


def test_lidar_boxes_written_and_evaluated_are_perfect(tmp_path):
    rng = np.random.default_rng(3)
    turn = quaternion_matrix([[0.7, 0.02, -0.01, 0.71]])[0]
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, [700, 1800, 1]
    boxes = np.concatenate(
        [rng.uniform(-30, 30, (12, 2)), np.zeros((12, 1)), rng.uniform(1, 5, (12, 3)), rng.uniform(-3, 3, (12, 1)), rng.normal(size=(12, 2))], axis=1
    )
    names = ["car", "pedestrian", "bus"] * 4
    rows = lidar_boxes_to_nuscenes("a", boxes, names, rng.random(12), lidar_to_global=pose)
    assert [row["detection_score"] for row in rows] == sorted((row["detection_score"] for row in rows), reverse=True)
    write_nuscenes_results(tmp_path / "results.json", {"a": rows})
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["meta"] == {"use_camera": False, "use_lidar": True, "use_radar": False, "use_map": False, "use_external": False}
    result = evaluate_nuscenes({"a": stored["results"]["a"]}, stored["results"], {"a": pose[:3, 3]}, classes=("car", "pedestrian", "bus"))
    assert result.mean_ap == pytest.approx(1) and result.nd_score == pytest.approx(1)
    back = (np.array(rows[0]["translation"]) - pose[:3, 3]) @ turn
    assert np.abs(boxes[:, :3] - back).sum(axis=1).min() < 1e-9
    assert not list(tmp_path.glob(".*"))


def test_results_file_refuses_what_the_server_would():
    row = entry(0, 0, score=0.5)
    with pytest.raises(ValueError, match="carries the token a"):
        write_nuscenes_results("unused.json", {"b": [row]})
    with pytest.raises(ValueError, match="lacks"):
        write_nuscenes_results("unused.json", {"a": [{"sample_token": "a"}]})
    with pytest.raises(ValueError, match="no class"):
        lidar_boxes_to_nuscenes("a", np.zeros((1, 7)), ["Car"], [0.5], lidar_to_global=np.eye(4))
