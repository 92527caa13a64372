"""nuScenes detection results: the official json, and boxes in the LiDAR frame turned into its entries.

Format: nuScenes detection task, results format (nuscenes.org/object-detection). Boxes are in the global frame, sizes are
(width, length, height), rotations are quaternions (w, x, y, z).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from suite3d.engine.files import write_text

Array = NDArray[np.float64]

CLASSES = ("car", "truck", "bus", "trailer", "construction_vehicle", "pedestrian", "motorcycle", "bicycle", "traffic_cone", "barrier")
MAX_BOXES_PER_SAMPLE = 500
MOVING_SPEED = 0.2
RESULT_FIELDS = ("sample_token", "translation", "size", "rotation", "velocity", "detection_name", "detection_score", "attribute_name")


def default_attribute(name: str, speed: float) -> str:
    """Attribute of a class from its speed (m/s) where a detector predicts none; "" for classes without attributes."""
    moving = speed > MOVING_SPEED
    if name in ("car", "truck", "bus", "trailer", "construction_vehicle"):
        return "vehicle.moving" if moving else "vehicle.parked"
    if name == "pedestrian":
        return "pedestrian.moving" if moving else "pedestrian.standing"
    if name in ("motorcycle", "bicycle"):
        return "cycle.with_rider" if moving else "cycle.without_rider"
    return ""


def lidar_boxes_to_nuscenes(
    sample_token: str,
    boxes: ArrayLike,
    names: Sequence[str],
    scores: ArrayLike,
    *,
    lidar_to_global: ArrayLike,
    attributes: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Entries of the results json for one sample, best score first, at most 500.

    Args:
        sample_token: the key frame's token.
        boxes: ``(K, 7 | 9)`` (cx, cy, cz, dx, dy, dz, yaw[, vx, vy]) in the LiDAR frame, metres and m/s; without velocity: 0.
        names: K nuScenes detection names.
        scores: ``(K,)``.
        lidar_to_global: ``(4, 4)``.
        attributes: K attribute names; default by :func:`default_attribute`.

    Raises:
        ValueError: a name nuScenes does not know, or lengths that differ.
    """
    boxes, scores, transform = (
        np.asarray(boxes, dtype=np.float64),
        np.asarray(scores, dtype=np.float64),
        np.asarray(lidar_to_global, dtype=np.float64),
    )
    if len(boxes) != len(names) or len(boxes) != len(scores):
        raise ValueError(f"expected as many names and scores as boxes, got {len(boxes)} boxes, {len(names)} names, {len(scores)} scores")
    unknown = sorted(set(names) - set(CLASSES))
    if unknown:
        raise ValueError(f"nuScenes has no class {unknown}; its detection classes are {list(CLASSES)}")
    entries = []
    for row in np.argsort(-scores, kind="stable")[:MAX_BOXES_PER_SAMPLE]:
        box = boxes[row]
        turn = transform[:3, :3] @ np.array([[np.cos(box[6]), -np.sin(box[6]), 0], [np.sin(box[6]), np.cos(box[6]), 0], [0, 0, 1]])
        velocity = transform[:3, :3] @ np.array([box[7], box[8], 0.0]) if len(box) >= 9 else np.zeros(3)
        speed = float(np.hypot(velocity[0], velocity[1]))
        entries.append(
            {
                "sample_token": sample_token,
                "translation": (transform[:3, :3] @ box[:3] + transform[:3, 3]).tolist(),
                "size": [float(box[4]), float(box[3]), float(box[5])],
                "rotation": rotation_to_quaternion(turn).tolist(),
                "velocity": velocity[:2].tolist(),
                "detection_name": names[row],
                "detection_score": float(scores[row]),
                "attribute_name": default_attribute(names[row], speed) if attributes is None else attributes[row],
            }
        )
    return entries


def write_nuscenes_results(
    path: str | Path,
    results: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    use_camera: bool = False,
    use_lidar: bool = True,
    use_radar: bool = False,
    use_map: bool = False,
    use_external: bool = False,
) -> None:
    """Write the official results file. Every evaluated sample needs a key, with an empty list where nothing was found.

    Raises:
        ValueError: an entry misses a field, lies under another sample's token, or a sample has more than 500 boxes.
    """
    for token, entries in results.items():
        if len(entries) > MAX_BOXES_PER_SAMPLE:
            raise ValueError(f"sample {token}: nuScenes takes at most {MAX_BOXES_PER_SAMPLE} boxes, got {len(entries)}; keep the best-scored ones")
        for entry in entries:
            missing = [name for name in RESULT_FIELDS if name not in entry]
            if missing or entry["sample_token"] != token:
                raise ValueError(
                    f"sample {token}: an entry lacks {missing}" if missing else f"sample {token}: an entry carries the token {entry['sample_token']}"
                )
    meta = {"use_camera": use_camera, "use_lidar": use_lidar, "use_radar": use_radar, "use_map": use_map, "use_external": use_external}
    write_text(Path(path), json.dumps({"meta": meta, "results": {token: list(entries) for token, entries in results.items()}}, allow_nan=False))


def rotation_to_quaternion(matrix: ArrayLike) -> Array:
    """``(3, 3)`` rotation -> (w, x, y, z) with w >= 0 (Shepperd's method: the largest component first)."""
    m = np.asarray(matrix, dtype=np.float64)
    squares = np.array([m[0, 0] + m[1, 1] + m[2, 2], m[0, 0], m[1, 1], m[2, 2]])
    largest = int(np.argmax(squares))
    if largest == 0:
        q = np.array([1 + squares[0], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]])
    else:
        i = largest - 1
        j, k = (i + 1) % 3, (i + 2) % 3
        q = np.empty(4)
        q[0] = m[k, j] - m[j, k]
        q[1 + i] = 1 + m[i, i] - m[j, j] - m[k, k]
        q[1 + j] = m[j, i] + m[i, j]
        q[1 + k] = m[k, i] + m[i, k]
    q /= np.linalg.norm(q)
    return -q if q[0] < 0 else q
