"""The nuScenes json tables (schema v1.0), cut down to what LiDAR frames need. No devkit.

Schema: https://www.nuscenes.org/nuscenes#data-format (scene, sample, sample_data, ego_pose, calibrated_sensor, sensor, sample_annotation,
instance, category, attribute).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
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
class BoxTable:
    """Boxes of key frames in world coordinates, one array a column (a full data set has a million boxes).

    Attributes:
        categories: ``(M,)`` int16 rows of ``category_names`` (``vehicle.car``, ...).
        instances: ``(M,)`` int64 number of the object, the same through a scene.
        centers: ``(M, 3)``; sizes: ``(M, 3)`` length, width, height; rotations: ``(M, 4)`` quaternions w, x, y, z.
        velocities: ``(M, 3)`` metres per second from the neighbouring key frames, NaN where there are none near enough.
        points: ``(M,)`` LiDAR points inside.
        attributes: ``(M,)`` int16 rows of ``attribute_names``, -1 for none.
    """

    categories: NDArray[np.int16]
    instances: NDArray[np.int64]
    centers: NDArray[np.float64]
    sizes: NDArray[np.float64]
    rotations: NDArray[np.float64]
    velocities: NDArray[np.float64]
    points: NDArray[np.int64]
    attributes: NDArray[np.int16]
    category_names: tuple[str, ...]
    attribute_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.points)

    def select(self, rows: Any) -> BoxTable:
        """Rows by slice, mask or index array."""
        picked = {name: getattr(self, name)[rows] for name in BOX_COLUMNS}
        return replace(self, **picked)


BOX_COLUMNS = ("categories", "instances", "centers", "sizes", "rotations", "velocities", "points", "attributes")


@dataclass(frozen=True)
class KeyFrame:
    """One annotated sample: its token, scene, sweeps (newest first, the key frame's own at 0) and boxes (None in a test set)."""

    token: str
    scene: str
    sweeps: tuple[Sweep, ...]
    boxes: BoxTable | None


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
        boxes, spans = _boxes(folder, data.sample_times)
        frames = []
        for scene in _read(folder, "scene"):
            token = scene["first_sample_token"]
            while token:
                if token in data.key_of_sample:
                    mine = None if boxes is None else boxes.select(spans.get(token, slice(0, 0)))
                    frames.append(KeyFrame(token, scene["name"], data.sweeps(token, sweeps), mine))
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


def _boxes(folder: Path, times: dict[str, float]) -> tuple[BoxTable | None, dict[str, slice]]:
    """All boxes ordered by sample, and the rows of each sample; None when there is no annotation table (test set)."""
    if not (folder / "sample_annotation.json").is_file():
        return None, {}
    rows = _read(folder, "sample_annotation")
    categories = {row["token"]: row["name"] for row in _read(folder, "category")}
    category_names = tuple(dict.fromkeys(categories.values()))
    instances = {
        row["token"]: (number, category_names.index(categories[row["category_token"]])) for number, row in enumerate(_read(folder, "instance"))
    }
    attribute_rows = _read(folder, "attribute")
    attributes = {row["token"]: place for place, row in enumerate(attribute_rows)}
    by_token = {row["token"]: row for row in rows}
    order = {token: place for place, token in enumerate(times)}
    rows = sorted(rows, key=lambda row: order[row["sample_token"]])
    numbers = np.array([instances[row["instance_token"]] for row in rows], dtype=np.int64).reshape(-1, 2)
    table = BoxTable(
        categories=numbers[:, 1].astype(np.int16),
        instances=numbers[:, 0],
        centers=_columns(rows, "translation", 3),
        sizes=_columns(rows, "size", 3)[:, [1, 0, 2]],  # stored as width, length, height
        rotations=_columns(rows, "rotation", 4),
        velocities=np.array([_velocity(row, by_token, times) for row in rows]).reshape(-1, 3),
        points=np.array([row["num_lidar_pts"] for row in rows], dtype=np.int64),
        attributes=np.array([attributes[row["attribute_tokens"][0]] if row["attribute_tokens"] else -1 for row in rows], dtype=np.int16),
        category_names=category_names,
        attribute_names=tuple(row["name"] for row in attribute_rows),
    )
    owner = np.array([order[row["sample_token"]] for row in rows], dtype=np.int64)
    starts, ends = (np.searchsorted(owner, np.arange(len(times)), side=side) for side in ("left", "right"))
    return table, {token: slice(int(starts[place]), int(ends[place])) for token, place in order.items()}


def _columns(rows: list[dict[str, Any]], key: str, width: int) -> NDArray[np.float64]:
    return np.array([row[key] for row in rows], dtype=np.float64).reshape(-1, width)


def _velocity(row: dict[str, Any], rows: dict[str, dict[str, Any]], times: dict[str, float]) -> tuple[float, float, float]:
    """Central difference over the neighbouring key frames (one-sided at the ends); NaN when they are more than 1.5 s a step away."""
    first = rows[row["prev"]] if row["prev"] else row
    last = rows[row["next"]] if row["next"] else row
    seconds = times[last["sample_token"]] - times[first["sample_token"]]
    steps = (first is not row) + (last is not row)
    if not steps or seconds <= 0 or seconds > _MAX_VELOCITY_SECONDS * steps:
        return (np.nan, np.nan, np.nan)
    x, y, z = ((b - a) / seconds for a, b in zip(first["translation"], last["translation"]))
    return (x, y, z)


def scenes_of(frames: Iterable[KeyFrame]) -> list[str]:
    """Scene names in order of first appearance."""
    return list(dict.fromkeys(frame.scene for frame in frames))
