"""The street world as a data set: deterministic in (seed, split, sequence, frame), nothing read from disk."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from suite3d.pointcloud.data.dataset import FrameDataset
from suite3d.pointcloud.data.frame import Frame
from suite3d.pointcloud.data.street.camera import StreetCamera
from suite3d.pointcloud.data.street.config import StreetConfig
from suite3d.pointcloud.data.street.layout import lay_out
from suite3d.pointcloud.data.street.scene import Drive
from suite3d.pointcloud.data.street.sensor import SpinningLidar, Sweep, relative_poses
from suite3d.pointcloud.data.street.shapes import CLASS_NAMES

_STREAMS = {"train": 0, "val": 1}


class StreetWorld(FrameDataset):
    """Procedural drives through streets, seen by a spinning LiDAR and a camera.

    Frames carry boxes with velocities (over ground, in the axes of the frame) and track ids, semantic labels
    (``shapes.POINT_CLASSES``), instances (the track id, 0 elsewhere), poses and flow. The sweep is motion compensated:
    geometry is that of the frame's time stamp, the ``time`` channel is the firing time within the revolution. Flow is
    the motion of the surface itself until the next frame in the axes of this frame: zero for what stands still.
    ``meta`` has ``num_points`` (returns on each box), ``calibration`` and ``image_size`` as :class:`KittiObject` gives them, and
    ``image`` where ``config.images`` asks for it.

    Args:
        config: what to generate.
        split: "train" or "val"; they share no drive.
        cache: drives whose layout is kept in memory (some 0.5 MB each).
    """

    provides = frozenset({"boxes", "poses", "sequences", "point_labels", "flow"})
    channels = ("intensity", "time", "ring")
    class_names = CLASS_NAMES

    def __init__(self, config: StreetConfig, split: Literal["train", "val"] = "train", *, cache: int = 128) -> None:
        self.config = config
        self.split = split
        self._sequences = config.sequences(split)
        self._lidar = SpinningLidar(config)
        self.camera = StreetCamera(config)
        self._cache_size = max(1, cache)
        self._drives: OrderedDict[int, Drive] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_drives": OrderedDict()}

    def __len__(self) -> int:
        return self._sequences * self.config.frames

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"the {self.split} split of this street world has frames 0 to {len(self) - 1}, got {index}")
        return divmod(index, self.config.frames)

    def sequence(self, index: int) -> str:
        """Name of the drive of a frame."""
        return f"street_{self.split}_{self._locate(index)[0]:04d}"

    def name(self, index: int) -> str:
        """``sequence/frame``."""
        return f"{self.sequence(index)}/{self._locate(index)[1]:06d}"

    def drive(self, sequence: int) -> Drive:
        """Layout of a drive by its number within the split."""
        drive = self._drives.get(sequence)
        if drive is None:
            drive = lay_out(self.config, np.random.default_rng([self.config.seed, _STREAMS[self.split], sequence]))
            self._drives[sequence] = drive
            while len(self._drives) > self._cache_size:
                self._drives.popitem(last=False)
        self._drives.move_to_end(sequence)
        return drive

    def _key(self, sequence: int, frame: int) -> int:
        entropy = [self.config.seed, _STREAMS[self.split], sequence, frame, 1]
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(2))

    def frame(self, index: int) -> Frame:
        """Frame ``index``; frames of a drive are consecutive."""
        sequence, number = self._locate(index)
        drive, moment = self.drive(sequence), number + 1
        sweep = self._lidar.scan(drive, moment, self._key(sequence, number))
        instances = _instances(drive, sweep)
        boxes, rows, counts = self._boxes(drive, moment, instances)
        meta: dict[str, Any] = {"num_points": counts, "calibration": self.camera.calibration, "image_size": self.camera.image_size}
        if self.config.images:
            meta["image"] = self.image(index)
        return Frame(
            name=self.name(index),
            sequence=self.sequence(index),
            xyz=sweep.xyz,
            feats=np.stack([sweep.intensity, sweep.time, sweep.ring], axis=1),
            channels=self.channels,
            timestamp=number / self.config.frame_rate,
            pose=pose_matrix(drive.ego[moment]),
            boxes=boxes,
            classes=[drive.bodies[row].name for row in rows],
            track_ids=drive.tracks[rows],
            point_labels=sweep.label,
            instances=instances,
            flow=_flow(drive, moment, sweep),
            meta=meta,
        )

    def _boxes(self, drive: Drive, moment: int, instances: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """Boxes (M, 9), body rows (M,) and point counts (M,) of what is labelled in a frame."""
        rows = np.flatnonzero(drive.tracks)
        counts = np.bincount(instances, minlength=len(rows) + 1)[drive.tracks[rows]]
        poses = relative_poses(drive.poses[rows, moment], drive.ego[moment])
        within = np.linalg.norm(poses[:, :2], axis=1) < self.config.max_range
        keep = within | (counts > 0) if self.config.keep_empty else counts >= max(1, self.config.min_points)
        rows, counts, poses = rows[keep], counts[keep], poses[keep]
        sizes = drive.sizes[rows]
        velocity = (drive.poses[rows, moment + 1, :2] - drive.poses[rows, moment - 1, :2]) * (self.config.frame_rate / 2)
        heading = drive.ego[moment, 3]
        turned = np.stack(
            [
                velocity[:, 0] * np.cos(heading) + velocity[:, 1] * np.sin(heading),
                velocity[:, 1] * np.cos(heading) - velocity[:, 0] * np.sin(heading),
            ],
            axis=1,
        )
        centre = poses[:, :3] + np.array([0.0, 0.0, 0.5]) * sizes
        yaw = (poses[:, 3:] + np.pi) % (2 * np.pi) - np.pi
        return np.concatenate([centre, sizes, yaw, turned], axis=1).astype(np.float32), rows, counts.astype(np.int64)

    def image(self, index: int) -> NDArray[np.uint8]:
        """``(H, W, 3)`` RGB picture of the camera at a frame."""
        sequence, number = self._locate(index)
        return self.camera.render(self.drive(sequence), number + 1, self._key(sequence, number) + 7)

    def segment(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """``(H, W)`` distance (inf for the sky) and ``(H, W)`` track id (0 for the rest) of the pixels of :meth:`image`."""
        sequence, number = self._locate(index)
        return self.camera.segment(self.drive(sequence), number + 1, self._key(sequence, number) + 7)

    def visibility(self, index: int) -> NDArray[np.float64]:
        """``(M,)`` share of each box's rays that nothing else intercepts, parallel to ``frame(index).boxes``."""
        sequence, number = self._locate(index)
        drive, key = self.drive(sequence), self._key(sequence, number)
        sweep = self._lidar.scan(drive, number + 1, key)
        _, rows, _ = self._boxes(drive, number + 1, _instances(drive, sweep))
        return self._lidar.visibility(drive, number + 1, key, rows)


def _instances(drive: Drive, sweep: Sweep) -> NDArray[np.int64]:
    return np.where(sweep.body >= 0, drive.tracks[np.maximum(sweep.body, 0)], 0)


def pose_matrix(pose: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(4, 4)`` viewer-to-world transform of x, y, z, yaw."""
    cos, sin = np.cos(pose[3]), np.sin(pose[3])
    matrix = np.eye(4)
    matrix[:2, :2] = [[cos, -sin], [sin, cos]]
    matrix[:3, 3] = pose[:3]
    return matrix


def _flow(drive: Drive, moment: int, sweep: Sweep) -> NDArray[np.float32]:
    """``(N, 3)`` motion of each point with its body until the next frame, in the axes of this frame."""
    flow = np.zeros_like(sweep.xyz)
    moving = np.flatnonzero((drive.poses[:, moment + 1] != drive.poses[:, moment]).any(axis=1))
    hit = np.flatnonzero(np.isin(sweep.body, moving))
    if not len(hit):
        return flow
    body = sweep.body[hit]
    before = relative_poses(drive.poses[:, moment], drive.ego[moment])[body]
    after = relative_poses(drive.poses[:, moment + 1], drive.ego[moment])[body]
    gap = sweep.xyz[hit].astype(np.float64) - before[:, :3]
    turn = after[:, 3] - before[:, 3]
    cos, sin = np.cos(turn), np.sin(turn)
    moved = np.stack([cos * gap[:, 0] - sin * gap[:, 1], sin * gap[:, 0] + cos * gap[:, 1], gap[:, 2]], axis=1) + after[:, :3]
    flow[hit] = (moved - sweep.xyz[hit]).astype(np.float32)
    return flow
