"""The nuScenes json tables (schema v1.0), cut down to what LiDAR frames need. No devkit.

Schema: https://www.nuscenes.org/nuscenes#data-format (scene, sample, sample_data, ego_pose, calibrated_sensor, sensor, sample_annotation,
instance, category, attribute).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite3d.pointcloud.data.poses import quaternion_matrix, rigid

_MAX_VELOCITY_SECONDS = 1.5


@dataclass(frozen=True)
class Sweep:
    """One LiDAR recording: file name relative to the root, time in seconds, LiDAR-to-world transform (4, 4) float64."""

    file: str
    timestamp: float
    pose: NDArray[np.float64]


@dataclass(frozen=True)
class Annotation:
    """One box of a key frame in world coordinates.

    Attributes:
        category: full category name (``vehicle.car``).
        instance: number of the object, the same through a scene.
        center: ``(3,)``; size: ``(3,)`` length, width, height; rotation: ``(3, 3)``.
        velocity: ``(3,)`` metres per second from the neighbouring key frames, NaN where there are none near enough.
        points: LiDAR points inside; radar_points: radar returns.
        attributes: attribute names.
    """

    category: str
    instance: int
    center: NDArray[np.float64]
    size: NDArray[np.float64]
    rotation: NDArray[np.float64]
    velocity: NDArray[np.float64]
    points: int
    radar_points: int
    attributes: tuple[str, ...]


@dataclass(frozen=True)
class KeyFrame:
    """One annotated sample: its token, scene, sweeps (newest first, the key frame's own at 0) and boxes (None in a test set)."""

    token: str
    scene: str
    sweeps: tuple[Sweep, ...]
    annotations: tuple[Annotation, ...] | None


def read_key_frames(root: Path, version: str, *, sweeps: int, sensor: str = "LIDAR_TOP") -> list[KeyFrame]:
    """Key frames of every scene, in order of scene and time.

    Raises:
        FileNotFoundError: ``root/version`` or one of its tables is missing.
        ValueError: a table is damaged or refers to a record that does not exist.
    """
    folder = root / version
    if not folder.is_dir():
        there = ", ".join(sorted(path.parent.name for path in root.glob("*/sample.json"))) or "no such folder"
        raise FileNotFoundError(f"{folder}: no nuScenes tables; {root} holds: {there}. Set version to one of those")
    try:
        data = _LidarTable(folder, sensor)
        boxes = _annotations(folder, data.sample_times)
        frames = []
        for scene in _read(folder, "scene"):
            token = scene["first_sample_token"]
            while token:
                if token in data.key_of_sample:
                    frames.append(KeyFrame(token, scene["name"], data.sweeps(token, sweeps), None if boxes is None else tuple(boxes.get(token, ()))))
                token = data.next_sample[token]
    except (KeyError, TypeError) as bad:
        raise ValueError(f"{folder}: a table lacks the field or record {bad}") from bad
    if not frames:
        raise ValueError(f"{folder}: no key frames of sensor {sensor}")
    return frames


def _read(folder: Path, table: str) -> list[dict[str, Any]]:
    path = folder / f"{table}.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing nuScenes table")
    try:
        rows = json.loads(path.read_bytes())
    except ValueError as bad:
        raise ValueError(f"{path}: not json: {bad}") from bad
    if not isinstance(rows, list):
        raise ValueError(f"{path}: expected a list of records")
    return rows


def _matrix(row: dict[str, Any]) -> NDArray[np.float64]:
    return rigid(quaternion_matrix(row["rotation"]), row["translation"])


class _LidarTable:
    """``sample_data`` of one sensor: chains of sweeps with their poses."""

    def __init__(self, folder: Path, sensor: str) -> None:
        samples = _read(folder, "sample")
        self.next_sample = {row["token"]: row["next"] for row in samples}
        self.sample_times = {row["token"]: row["timestamp"] * 1e-6 for row in samples}
        sensors = {row["token"] for row in _read(folder, "sensor") if row["channel"] == sensor}
        mounts = {row["token"]: _matrix(row) for row in _read(folder, "calibrated_sensor") if row["sensor_token"] in sensors}
        rows = [row for row in _read(folder, "sample_data") if row["calibrated_sensor_token"] in mounts]
        needed = {row["ego_pose_token"] for row in rows}
        egos = {row["token"]: _matrix(row) for row in _read(folder, "ego_pose") if row["token"] in needed}
        self.previous = {row["token"]: row["prev"] for row in rows}
        self.records = {
            row["token"]: Sweep(row["filename"], row["timestamp"] * 1e-6, egos[row["ego_pose_token"]] @ mounts[row["calibrated_sensor_token"]])
            for row in rows
        }
        self.key_of_sample = {row["sample_token"]: row["token"] for row in rows if row["is_key_frame"]}

    def sweeps(self, sample: str, count: int) -> tuple[Sweep, ...]:
        """The key frame's sweep and the ``count - 1`` before it (fewer at the start of a scene)."""
        chain: list[Sweep] = []
        token = self.key_of_sample[sample]
        while token and len(chain) < count:
            chain.append(self.records[token])
            token = self.previous[token]
        return tuple(chain)


def _annotations(folder: Path, times: dict[str, float]) -> dict[str, list[Annotation]] | None:
    """Boxes of each sample, or None when there is no annotation table (test set)."""
    if not (folder / "sample_annotation.json").is_file():
        return None
    rows = _read(folder, "sample_annotation")
    categories = {row["token"]: row["name"] for row in _read(folder, "category")}
    instances = {row["token"]: (number, categories[row["category_token"]]) for number, row in enumerate(_read(folder, "instance"))}
    attributes = {row["token"]: row["name"] for row in _read(folder, "attribute")}
    by_token = {row["token"]: row for row in rows}
    found: dict[str, list[Annotation]] = {}
    rotations = quaternion_matrix(np.array([row["rotation"] for row in rows], dtype=np.float64).reshape(-1, 4))
    for row, rotation in zip(rows, rotations):
        number, category = instances[row["instance_token"]]
        width, length, height = row["size"]
        box = Annotation(
            category=category,
            instance=number,
            center=np.array(row["translation"], dtype=np.float64),
            size=np.array([length, width, height], dtype=np.float64),
            rotation=rotation,
            velocity=_velocity(row, by_token, times),
            points=int(row["num_lidar_pts"]),
            radar_points=int(row["num_radar_pts"]),
            attributes=tuple(attributes[token] for token in row["attribute_tokens"]),
        )
        found.setdefault(row["sample_token"], []).append(box)
    return found


def _velocity(row: dict[str, Any], rows: dict[str, dict[str, Any]], times: dict[str, float]) -> NDArray[np.float64]:
    """Central difference over the neighbouring key frames (one-sided at the ends); NaN when they are more than 1.5 s a step away."""
    first = rows[row["prev"]] if row["prev"] else row
    last = rows[row["next"]] if row["next"] else row
    seconds = times[last["sample_token"]] - times[first["sample_token"]]
    steps = (first is not row) + (last is not row)
    if not steps or seconds <= 0 or seconds > _MAX_VELOCITY_SECONDS * steps:
        return np.full(3, np.nan)
    return (np.array(last["translation"]) - np.array(first["translation"])) / seconds


def scenes_of(frames: Iterable[KeyFrame]) -> list[str]:
    """Scene names in order of first appearance."""
    return list(dict.fromkeys(frame.scene for frame in frames))
