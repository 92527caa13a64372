"""nuScenes detection score: mAP over centre distances, true-positive errors, NDS.

Gives the numbers of nuscenes-devkit 1.2 (``eval/detection``; Caesar et al., CVPR 2020, section 3.1) without the devkit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from suite3d.pointcloud.data.poses import quaternion_matrix
from suite3d.pointcloud.detection.evaluate.nuscenes_format import CLASSES, MAX_BOXES_PER_SAMPLE
from suite3d.pointcloud.detection.evaluate.table import aligned

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Entries = Mapping[str, Sequence[Mapping[str, Any]]]

ERRORS = ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")
ERROR_NAMES = {"trans_err": "ATE", "scale_err": "ASE", "orient_err": "AOE", "vel_err": "AVE", "attr_err": "AAE"}
NOT_DEFINED = {"traffic_cone": ("orient_err", "vel_err", "attr_err"), "barrier": ("vel_err", "attr_err")}
BICYCLE_RACK = "static_object.bicycle_rack"
POSITIONS = 101


@dataclass(frozen=True, kw_only=True)
class NuScenesProtocol:
    """The numbers of the official configuration ``detection_cvpr_2019``; metres."""

    class_range: Mapping[str, float] = field(
        default_factory=lambda: dict(zip(CLASSES, (50.0, 50.0, 50.0, 50.0, 50.0, 40.0, 40.0, 40.0, 30.0, 30.0), strict=True))
    )
    distances: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    error_distance: float = 2.0
    min_recall: float = 0.1
    min_precision: float = 0.1
    mean_ap_weight: float = 5.0


@dataclass(kw_only=True)
class NuScenesResult:
    """The devkit's numbers under the devkit's names; nan where an error is not defined for a class.

    Attributes:
        mean_ap, nd_score: mAP and NDS, 0 to 1.
        tp_errors: mean over classes of ATE (m), ASE (1 - IoU), AOE (rad), AVE (m/s), AAE (1 - accuracy).
        label_aps: ``[class][distance]``.
        mean_dist_aps: ``[class]``.
        label_tp_errors: ``[class][error]``.
        truths: ``[class]`` -> ground truth left after the filters.
        detections: detections left after the filters.
    """

    mean_ap: float
    nd_score: float
    tp_errors: dict[str, float]
    label_aps: dict[str, dict[float, float]]
    mean_dist_aps: dict[str, float]
    label_tp_errors: dict[str, dict[str, float]]
    truths: dict[str, int]
    detections: int

    def as_dict(self) -> dict[str, float]:
        """Flat ``{"mAP": ..., "NDS": ..., "mATE": ..., "car/AP": ..., "car/ATE": ...}``."""
        flat = {"mAP": self.mean_ap, "NDS": self.nd_score, **{f"m{ERROR_NAMES[error]}": value for error, value in self.tp_errors.items()}}
        for name, value in self.mean_dist_aps.items():
            flat[f"{name}/AP"] = value
            flat.update({f"{name}/{ERROR_NAMES[error]}": self.label_tp_errors[name][error] for error in ERRORS})
        return flat

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Column names and text cells, for reports; AP in percent."""
        distances = list(next(iter(self.label_aps.values())))
        columns = ["class", "objects", "AP", *(f"AP@{distance:g}m" for distance in distances), *ERROR_NAMES.values()]
        rows = []
        for name, mean in self.mean_dist_aps.items():
            aps = [f"{100 * value:.2f}" for value in (mean, *self.label_aps[name].values())]
            errors = [self.label_tp_errors[name][error] for error in ERRORS]
            rows.append([name, str(self.truths[name]), *aps, *(f"{error:.3f}" if np.isfinite(error) else "-" for error in errors)])
        overall = [f"{self.tp_errors[error]:.3f}" if np.isfinite(self.tp_errors[error]) else "-" for error in ERRORS]
        rows.append(["mean", str(sum(self.truths.values())), f"{100 * self.mean_ap:.2f}", *[""] * len(distances), *overall])
        return columns, rows

    def table(self) -> str:
        columns, rows = self.rows()
        lines = aligned(columns, rows)
        return "\n".join([*lines, f"NDS {100 * self.nd_score:.2f}, mAP {100 * self.mean_ap:.2f}; {self.detections} detections in range"])


@dataclass(kw_only=True)
class _Boxes:
    sample: Int
    name: NDArray[Any]
    translation: Float
    size: Float
    yaw: Float
    velocity: Float
    attribute: NDArray[Any]
    score: Float
    points: Int

    def keep(self, rows: NDArray[Any]) -> _Boxes:
        return _Boxes(**{key: value[rows] for key, value in vars(self).items()})


def evaluate_nuscenes(
    ground_truth: Entries,
    detections: Entries,
    ego_translations: Mapping[str, ArrayLike],
    *,
    classes: Sequence[str] = CLASSES,
    protocol: NuScenesProtocol | None = None,
) -> NuScenesResult:
    """Score ``detections`` against ``ground_truth``; both map a sample token to entries of the results format.

    Ground truth beyond the class's range or without a point (``num_pts`` 0) is left out, detections beyond it too, and of
    both the bicycles and motorcycles that stand in a ground-truth ``static_object.bicycle_rack`` of the same sample.

    Args:
        ground_truth: entries with ``translation, size, rotation, velocity`` (nan = unknown), ``detection_name`` and
            optionally ``num_pts`` and ``attribute_name``. Names outside ``classes`` are not evaluated.
        detections: entries with ``detection_score`` as well. Every sample of the ground truth needs a key.
        ego_translations: sample token -> position of the ego vehicle in the global frame (x, y[, z]).
        classes: the classes scored; means run over these.

    Raises:
        ValueError: the samples of the two differ, or a sample has more than 500 detections.
    """
    protocol = protocol or NuScenesProtocol()
    if set(ground_truth) != set(detections):
        odd = sorted(set(ground_truth) ^ set(detections))
        raise ValueError(
            f"detections must cover exactly the {len(ground_truth)} samples of the ground truth; {len(odd)} are on one side only, e.g. {odd[0]}"
        )
    crowded = next((token for token, entries in detections.items() if len(entries) > MAX_BOXES_PER_SAMPLE), None)
    if crowded is not None:
        raise ValueError(f"sample {crowded} has {len(detections[crowded])} detections; nuScenes allows {MAX_BOXES_PER_SAMPLE}")
    tokens = list(detections)
    racks = _racks(ground_truth, tokens)
    truth = _filter(_gather(ground_truth, tokens), ego_translations, tokens, racks, classes, protocol)
    found = _filter(_gather(detections, tokens), ego_translations, tokens, racks, classes, protocol)
    aps: dict[str, dict[float, float]] = {}
    errors: dict[str, dict[str, float]] = {}
    for name in classes:
        curves = {
            distance: _accumulate(truth.keep(truth.name == name), found.keep(found.name == name), name, distance) for distance in protocol.distances
        }
        aps[name] = {distance: _average_precision(curve["precision"], protocol) for distance, curve in curves.items()}
        at = curves[protocol.error_distance]
        errors[name] = {error: float("nan") if error in NOT_DEFINED.get(name, ()) else _mean_error(at, error, protocol) for error in ERRORS}
    mean_aps = {name: float(np.mean(list(values.values()))) for name, values in aps.items()}
    totals = {error: _nanmean([errors[name][error] for name in classes]) for error in ERRORS}
    mean_ap = float(np.mean(list(mean_aps.values())))
    rewards = [max(0.0, 1.0 - value) for value in totals.values()]
    return NuScenesResult(
        mean_ap=mean_ap,
        nd_score=(protocol.mean_ap_weight * mean_ap + float(np.sum(rewards))) / (protocol.mean_ap_weight + len(rewards)),
        tp_errors=totals,
        label_aps=aps,
        mean_dist_aps=mean_aps,
        label_tp_errors=errors,
        truths={name: int((truth.name == name).sum()) for name in classes},
        detections=len(found.name),
    )


def _gather(entries: Entries, tokens: Sequence[str]) -> _Boxes:
    flat = [(row, entry) for row, token in enumerate(tokens) for entry in entries[token]]
    column = lambda key, width, missing: np.array([entry.get(key, missing) for _, entry in flat], dtype=np.float64).reshape(len(flat), *width)  # noqa: E731
    forward = quaternion_matrix(column("rotation", (4,), None))[:, :, 0] if flat else np.zeros((0, 3))
    return _Boxes(
        sample=np.array([row for row, _ in flat], dtype=np.int64),
        name=np.array([entry["detection_name"] for _, entry in flat], dtype=object),
        translation=column("translation", (3,), None),
        size=column("size", (3,), None),
        yaw=np.arctan2(forward[:, 1], forward[:, 0]),
        velocity=column("velocity", (-1,) if flat else (2,), (0.0, 0.0))[:, :2],
        attribute=np.array([entry.get("attribute_name") or "" for _, entry in flat], dtype=object),
        score=column("detection_score", (), -1.0),
        points=np.array([entry.get("num_pts", -1) for _, entry in flat], dtype=np.int64),
    )


def _racks(ground_truth: Entries, tokens: Sequence[str]) -> dict[int, list[tuple[Float, Float, Float]]]:
    """Sample index -> (centre, rotation, half extents along x, y, z) of its bicycle racks."""
    racks: dict[int, list[tuple[Float, Float, Float]]] = {}
    for row, token in enumerate(tokens):
        for entry in ground_truth[token]:
            if entry["detection_name"] == BICYCLE_RACK:
                width, length, height = entry["size"]
                half = 0.5 * np.array([length, width, height])
                racks.setdefault(row, []).append((np.asarray(entry["translation"], dtype=np.float64), quaternion_matrix(entry["rotation"]), half))
    return racks


def _filter(
    boxes: _Boxes,
    ego: Mapping[str, ArrayLike],
    tokens: Sequence[str],
    racks: dict[int, list[tuple[Float, Float, Float]]],
    classes: Sequence[str],
    protocol: NuScenesProtocol,
) -> _Boxes:
    positions = np.array([np.asarray(ego[token], dtype=np.float64)[:2] for token in tokens]).reshape(-1, 2)
    distance = np.linalg.norm(boxes.translation[:, :2] - positions[boxes.sample], axis=1)
    reach = {name: protocol.class_range[name] for name in classes}
    keep = (distance < np.array([reach.get(name, -1.0) for name in boxes.name])) & (boxes.points != 0)
    cycles = np.isin(boxes.name, ["bicycle", "motorcycle"]) & np.isin(boxes.sample, list(racks))
    for row in np.flatnonzero(keep & cycles):
        for center, rotation, half in racks[int(boxes.sample[row])]:
            keep[row] &= not (np.abs((boxes.translation[row] - center) @ rotation) <= half).all()
    return boxes.keep(keep)


@njit(nogil=True)
def _match(order: Int, found_sample: Int, found_xy: Float, start: Int, truth_xy: Float, limit: float) -> Int:
    """For each detection in ``order`` the ground truth it takes (the nearest free one of its sample if nearer than ``limit``), or -1."""
    taken = np.zeros(len(truth_xy), dtype=np.bool_)
    matched = np.full(len(order), -1, dtype=np.int64)
    for position, row in enumerate(order):
        nearest, best = np.inf, -1
        for truth in range(start[found_sample[row]], start[found_sample[row] + 1]):
            distance = np.hypot(truth_xy[truth, 0] - found_xy[row, 0], truth_xy[truth, 1] - found_xy[row, 1])
            if not taken[truth] and distance < nearest:
                nearest, best = distance, truth
        if nearest < limit:
            taken[best] = True
            matched[position] = best
    return matched


def _accumulate(truth: _Boxes, found: _Boxes, name: str, distance: float) -> dict[str, Float]:
    """Precision, confidence and running mean errors of one class at 101 recall positions."""
    recall_positions = np.linspace(0, 1, POSITIONS)
    nothing = {"precision": np.zeros(POSITIONS), "confidence": np.zeros(POSITIONS), **{error: np.ones(POSITIONS) for error in ERRORS}}
    if not len(truth.name):
        return nothing
    # Among equal scores the devkit takes the later entry first.
    order = np.lexsort((np.arange(len(found.score)), found.score))[::-1]
    start = np.searchsorted(truth.sample, np.arange(max(truth.sample.max(initial=0), found.sample.max(initial=0)) + 2))
    matched = _match(order.copy(), found.sample, found.translation[:, :2].copy(), start, truth.translation[:, :2].copy(), distance)
    hit = matched >= 0
    if not hit.any():
        return nothing
    true, false = np.cumsum(hit), np.cumsum(~hit)
    recall = true / len(truth.name)
    curve = {
        "precision": np.interp(recall_positions, recall, true / (true + false), right=0),
        "confidence": np.interp(recall_positions, recall, found.score[order], right=0),
    }
    pairs = _pair_errors(truth.keep(matched[hit]), found.keep(order[hit]), period=np.pi if name == "barrier" else 2 * np.pi)
    scores = found.score[order][hit]
    for error, values in pairs.items():
        curve[error] = np.interp(curve["confidence"][::-1], scores[::-1], _running_mean(values)[::-1])[::-1]
    return curve


def _pair_errors(truth: _Boxes, found: _Boxes, *, period: float) -> dict[str, Float]:
    """Errors of matched pairs, row by row; nan where the ground truth does not say."""
    turn = (truth.yaw - found.yaw + period / 2) % period - period / 2
    shared = np.prod(np.minimum(truth.size, found.size), axis=1)
    union = np.prod(truth.size, axis=1) + np.prod(found.size, axis=1) - shared
    return {
        "trans_err": np.linalg.norm(found.translation[:, :2] - truth.translation[:, :2], axis=1),
        "scale_err": 1 - shared / union,
        "orient_err": np.abs(np.where(turn > np.pi, turn - 2 * np.pi, turn)),
        "vel_err": np.linalg.norm(found.velocity - truth.velocity, axis=1),
        "attr_err": np.where(truth.attribute == "", np.nan, (truth.attribute != found.attribute).astype(np.float64)),
    }


def _running_mean(values: Float) -> Float:
    """Mean of the entries so far that are not nan (0 before the first); ones if all are nan."""
    known = np.isfinite(values)
    if not known.any():
        return np.ones(len(values))
    return np.cumsum(np.where(known, values, 0.0)) / np.maximum(np.cumsum(known), 1)


def _average_precision(precision: Float, protocol: NuScenesProtocol) -> float:
    above = precision[round(100 * protocol.min_recall) + 1 :] - protocol.min_precision
    return float(np.mean(np.maximum(above, 0.0))) / (1.0 - protocol.min_precision)


def _mean_error(curve: dict[str, Float], error: str, protocol: NuScenesProtocol) -> float:
    """Mean over the recalls reached, from ``min_recall`` on; 1 if it is not reached."""
    first = round(100 * protocol.min_recall) + 1
    reached = np.flatnonzero(curve["confidence"])
    last = int(reached[-1]) if len(reached) else 0
    return 1.0 if last < first else float(np.mean(curve[error][first : last + 1]))


def _nanmean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
