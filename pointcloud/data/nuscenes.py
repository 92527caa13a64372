"""nuScenes layout: key frames with accumulated sweeps, boxes with velocities."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from suite3d.pointcloud.data.dataset import FrameDataset
from suite3d.pointcloud.data.files import Points, load_points
from suite3d.pointcloud.data.frame import Frame
from suite3d.pointcloud.data.nuscenes_cache import cached_key_frames
from suite3d.pointcloud.data.nuscenes_tables import BoxTable, scenes_of
from suite3d.pointcloud.data.poses import quaternion_matrix
from suite3d.source import BadSample

CLASSES = ("car", "truck", "construction_vehicle", "bus", "trailer", "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone")
# category -> detection class of the official benchmark; categories not listed are not evaluated
DETECTION_CLASS = {
    "movable_object.barrier": "barrier",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}
MINI_SPLITS = {
    "mini_train": ("scene-0061", "scene-0553", "scene-0655", "scene-0757", "scene-0796", "scene-1077", "scene-1094", "scene-1100"),
    "mini_val": ("scene-0103", "scene-0916"),
}
_VAL_SCENES = "3 12-18 35-39 92-110 221 268-278 329-346 519-524 552-565 625-638 770-784 794-802 904-931 962-972 1059-1073"
"""Numbers of the official validation scenes of v1.0-trainval (150 of 850; numbers between that were never released do not matter)."""
_VAL_SHARE = 0.15
_EGO_RADIUS = 1.0


class NuScenes(FrameDataset):
    """Key frames of a nuScenes data set (or an export in its layout): tables in ``root/version``, files below ``root``.

    A frame is the key sweep and up to ``sweeps - 1`` sweeps before it, moved into the key sweep's LiDAR frame by ego pose and mounting. The
    ``time`` channel is seconds relative to the key sweep (<= 0; OpenPCDet and mmdetection3d use the opposite sign). Points within 1 m of
    the sensor in both x and y (the car itself) are removed from the older sweeps, as is customary. ``ring`` is kept.

    Boxes are (centre, length, width, height, yaw, vx, vy) in the key LiDAR frame, for the 10 detection classes. Unknown velocities (no
    neighbouring annotation within 1.5 s) are NaN with ``unknown_velocity="nan"``, else 0. ``meta`` has ``token``, ``attributes`` (a name or
    "", parallel to the boxes as read), ``box_points`` and ``sweep_poses``.

    Args:
        root: folder that holds ``version`` and ``samples``.
        version: "v1.0-mini", "v1.0-trainval", "v1.0-test", ...
        split: "train" / "val" (the official ones for v1.0-trainval), "mini_train" / "mini_val"; "all"; the path of a text file of scene
            names; a name in ``root/splits.json`` (an object of split name -> list of scene names), which goes before the official ones. Any
            other version is split by a hash of the scene names (about 15 % val). ``split_note`` says which it was.
        sweeps: recordings to accumulate, including the key frame.
        min_box_points: boxes with fewer LiDAR points are left out (0 keeps all).
        unknown_velocity: "zero" or "nan".

    Raises:
        FileNotFoundError, ValueError: missing or damaged tables, unknown split, a split without scenes here.
    """

    channels = ("intensity", "time", "ring")
    class_names = CLASSES

    def __init__(
        self,
        root: Path | str,
        version: str = "v1.0-trainval",
        split: str = "train",
        *,
        sweeps: int = 10,
        min_box_points: int = 1,
        unknown_velocity: str = "zero",
    ) -> None:
        self.root = Path(root)
        if sweeps < 1:
            raise ValueError(f"sweeps: expected at least 1, got {sweeps}")
        if unknown_velocity not in ("zero", "nan"):
            raise ValueError(f"unknown_velocity: expected 'zero' or 'nan', got {unknown_velocity!r}")
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root}: no such folder")
        self.min_box_points, self.unknown_velocity = min_box_points, unknown_velocity
        frames = cached_key_frames(self.root, version, sweeps=sweeps)
        names, self.split_note = choose_scenes(self.root, version, split, scenes_of(frames))
        self.frames = [frame for frame in frames if frame.scene in names]
        if not self.frames:
            raise ValueError(f"{self.root}: none of the {len(names)} scenes of split {split!r} is in {version}")
        provides = {"poses", "sequences"}
        if all(frame.boxes is not None for frame in self.frames):
            provides.add("boxes")
        self.provides = frozenset(provides)

    def __len__(self) -> int:
        return len(self.frames)

    def name(self, index: int) -> str:
        return f"{self.frames[index].scene}/{self.frames[index].token}"

    def sequence(self, index: int) -> str:
        return self.frames[index].scene

    def frame(self, index: int) -> Frame:
        key = self.frames[index]
        now = key.sweeps[0]
        to_key = np.linalg.inv(now.pose).astype(np.float64)
        clouds, feats, dropped = [], [], 0
        for place, sweep in enumerate(key.sweeps):
            points = self._read(sweep.file)
            dropped += points.dropped
            xyz = points.xyz
            keep = slice(None) if not place else ~((np.abs(xyz[:, 0]) < _EGO_RADIUS) & (np.abs(xyz[:, 1]) < _EGO_RADIUS))
            xyz, columns = xyz[keep], points.feats[keep]
            if place:
                matrix = (to_key @ sweep.pose).astype(np.float32)
                xyz = xyz @ matrix[:3, :3].T + matrix[:3, 3]
            clouds.append(xyz)
            feats.append(np.stack([columns[:, 0], np.full(len(xyz), sweep.timestamp - now.timestamp, np.float32), columns[:, 1]], axis=1))
        frame = Frame(
            name=self.name(index),
            sequence=key.scene,
            xyz=np.concatenate(clouds),
            feats=np.concatenate(feats),
            channels=self.channels,
            timestamp=now.timestamp,
            pose=now.pose,
            meta={
                "token": key.token,
                "scan_path": self.root / now.file,
                "dropped": dropped,
                "sweep_poses": np.stack([sweep.pose for sweep in key.sweeps]),
            },
        )
        if key.boxes is not None:
            self._add_boxes(frame, key.boxes, to_key)
        return frame

    def _read(self, file: str) -> Points:
        points = load_points(self.root / file, columns=5, intensity_scale=255.0)
        if points.channels != ("intensity", "ring"):
            raise BadSample(self.root / file, f"expected intensity and ring, got {points.channels}")
        return points

    def _add_boxes(self, frame: Frame, boxes: BoxTable, to_key: NDArray[np.float64]) -> None:
        classes = [DETECTION_CLASS.get(boxes.category_names[row], "") for row in boxes.categories]
        kept = np.flatnonzero(np.array([bool(name) for name in classes], dtype=bool) & (boxes.points >= self.min_box_points))
        boxes = boxes.select(kept)
        frame.boxes = lidar_boxes(boxes, to_key)
        if self.unknown_velocity == "zero":
            frame.boxes[:, 7:] = np.nan_to_num(frame.boxes[:, 7:])
        frame.classes = [classes[row] for row in kept]
        frame.track_ids = boxes.instances
        frame.meta["attributes"] = [boxes.attribute_names[row] if row >= 0 else "" for row in boxes.attributes]
        frame.meta["box_points"] = boxes.points


def lidar_boxes(boxes: BoxTable, to_key: NDArray[np.float64]) -> NDArray[np.float32]:
    """``(M, 9)`` boxes in the LiDAR frame; yaw is the bearing of the box's x axis, so the sensor's small tilt is left out of it."""
    turn = to_key[:3, :3]
    centers = boxes.centers @ turn.T + to_key[:3, 3]
    forward = quaternion_matrix(boxes.rotations)[:, :, 0] @ turn.T
    velocity = boxes.velocities @ turn.T
    yaw = np.arctan2(forward[:, 1], forward[:, 0])
    return np.concatenate([centers, boxes.sizes, yaw[:, None], velocity[:, :2]], axis=1).astype(np.float32)


def _official_val() -> set[int]:
    spans = [span.split("-") for span in _VAL_SCENES.split()]
    return {number for span in spans for number in range(int(span[0]), int(span[-1]) + 1)}


def choose_scenes(root: Path, version: str, split: str, scenes: Sequence[str]) -> tuple[set[str], str]:
    """Scene names of a split and a sentence on where the split comes from. Raises ValueError for an unknown one."""
    if split == "all":
        return set(scenes), "every scene there is"
    if Path(split).suffix == ".txt":
        return set(Path(split).read_text().split()), f"scene list {split}"
    if split in MINI_SPLITS:
        return set(MINI_SPLITS[split]), "official mini split"
    lists = root / "splits.json"
    if lists.is_file():
        table = json.loads(lists.read_text())
        if split in table:
            return set(table[split]), f"{lists}"
        raise ValueError(f"split {split!r}: {lists} has {', '.join(table)}")
    if split in ("train", "val") and version == "v1.0-trainval" and all(re.fullmatch(r"scene-\d{4}", name) for name in scenes):
        val = {name for name in scenes if int(name[-4:]) in _official_val()}
        return (val if split == "val" else set(scenes) - val), "official split"
    if split in ("train", "val"):
        val = {name for name in scenes if int(hashlib.sha256(f"suite3d nuscenes|{name}".encode()).hexdigest()[:8], 16) < _VAL_SHARE * 2**32}
        note = f"hash of the scene names ({_VAL_SHARE:.0%} val), not an official split: put lists of your own into {lists}"
        return (val if split == "val" else set(scenes) - val), note
    raise ValueError(f"split {split!r}: expected 'all', 'train', 'val', {', '.join(MINI_SPLITS)}, a list in {lists}, or a .txt file of scene names")
