"""A bare folder of scans: no index files, no labels needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite3d.pointcloud.data.dataset import FrameDataset
from suite3d.pointcloud.data.files import is_point_file, load_points
from suite3d.pointcloud.data.frame import Frame
from suite3d.pointcloud.data.poses import read_poses, rigid
from suite3d.source import BadSample

POSE_FILES = ("poses.txt", "poses_lidar.txt", "poses_lidar_estimated.txt")
_PROBES = 16


class ScanFolder(FrameDataset):
    """Every point file under a folder, recursively, in sorted order (numbers by value).

    A scan's sequence is the folder it lies in, relative to root (folders named ``data``, ``velodyne``, ``velodyne_points``, ``lidar``
    and ``points`` count as their parent, so KITTI raw drives come out by drive).

    **Channels and intensity scale** are found once, over up to 16 readable scans spread over the folder: the channels they share, and the
    largest intensity scale (1, 255 or 65535). A scan that lacks one of the channels is a bad sample.

    **Boxes** (optional): ``boxes.json`` in a scan's folder with file names as keys, or one ``labels.json`` at the root with paths relative
    to the root as keys::

        {"000000.bin": {"boxes": [[cx, cy, cz, dx, dy, dz, yaw], ...], "classes": ["car", ...], "track_ids": [3, ...]}, ...}

    Boxes are in the LiDAR frame (metres, centre, full sizes, yaw counter-clockwise from +x in radians), with 7 numbers, or 9 with the
    velocity vx, vy; ``track_ids`` may be left out. A scan without an entry is unlabelled; an entry with no boxes says "nothing there".

    **Poses** (optional): ``poses.txt``, ``poses_lidar.txt`` or ``poses_lidar_estimated.txt`` in the scans' folder or the nearest parent
    up to root; 12 numbers a row (3x4 LiDAR-to-world, KITTI style), one row per scan of the sequence in sorted order.

    Args:
        root: the folder.
        columns, channels: layout of ``.bin`` / ``.npy`` rows when it cannot be told from the values; see ``files.load_points``.
        intensity_scale: divide stored intensities by this; None finds it.

    Raises:
        FileNotFoundError: root is missing or holds no point file.
        ValueError: none of the probed scans can be read (quotes the reasons); a pose file does not fit its scans; a json is damaged.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        columns: int | None = None,
        channels: Sequence[str] | None = None,
        intensity_scale: float | None = None,
    ) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root}: no such folder")
        self.columns = columns
        self._named = None if channels is None else tuple(channels)
        self.files = sorted((path for path in self.root.rglob("*") if is_point_file(path) and path.is_file()), key=_natural)
        if not self.files:
            raise FileNotFoundError(f"{self.root}: no point files in it (.bin, .bin.xz, .npy, .npz, .pcd, .ply, .las, .laz)")
        self.channels, self.intensity_scale = self._probe(intensity_scale)
        self._sequences = [self._sequence_of(path) for path in self.files]
        self._labels = self._read_labels()
        self._poses = self._read_poses()
        provides = {"boxes"} if self._labels else set()
        if self._poses is not None:
            provides.add("poses")
        if len(set(self._sequences)) < len(self.files):
            provides.add("sequences")
        self.provides = frozenset(provides)
        self.class_names = tuple(sorted({name for entry in self._labels.values() for name in entry["classes"]}))

    def _probe(self, intensity_scale: float | None) -> tuple[tuple[str, ...], float | None]:
        places = np.unique(np.linspace(0, len(self.files) - 1, min(_PROBES, len(self.files))).round().astype(int))
        shared: tuple[str, ...] | None = None
        scales, reasons = [], []
        for path in [self.files[place] for place in places]:
            try:
                points = load_points(path, self.columns, channels=self._named, intensity_scale=intensity_scale)
            except BadSample as bad:
                reasons.append(f"  {bad}")
                continue
            shared = points.channels if shared is None else tuple(name for name in shared if name in points.channels)
            scales.append(points.intensity_scale)
        if shared is None:
            listed = "\n".join(reasons[:5])
            raise ValueError(f"{self.root}: none of {len(reasons)} scans tried (of {len(self.files)}) can be read:\n{listed}")
        return shared, max(scales) if "intensity" in shared else None

    def _sequence_of(self, path: Path) -> str:
        parts = list(path.parent.relative_to(self.root).parts)
        while len(parts) > 1 and parts[-1] in ("data", "velodyne", "velodyne_points", "lidar", "points"):
            parts.pop()
        return "/".join(parts) or self.root.name

    def _read_labels(self) -> dict[Path, dict[str, Any]]:
        labels: dict[Path, dict[str, Any]] = {}
        candidates = [self.root / "labels.json", *(folder / "boxes.json" for folder in dict.fromkeys(path.parent for path in self.files))]
        known = set(self.files)
        for path in filter(Path.is_file, candidates):
            try:
                table = json.loads(path.read_text())
            except ValueError as bad:
                raise ValueError(f"{path}: not json: {bad}") from bad
            if not isinstance(table, dict):
                raise ValueError(f"{path}: expected an object of scan name -> {{boxes, classes}}, got a {type(table).__name__}")
            for key, entry in table.items():
                if path.parent / key in known:
                    labels[path.parent / key] = _check_entry(path, key, entry)
            if table and not any(path.parent / key in known for key in table):
                raise ValueError(
                    f"{path}: none of its {len(table)} keys (first: {next(iter(table))!r}) is a scan file name relative to {path.parent}"
                )
        return labels

    def _read_poses(self) -> NDArray[np.float64] | None:
        """Poses of all scans, or None when any sequence has none."""
        poses = np.empty((len(self.files), 4, 4))
        for sequence, indices in self.by_sequence().items():
            folders = [self.files[indices[0]].parent, *self.files[indices[0]].parent.parents]
            folders = folders[: folders.index(self.root) + 1]
            path = next((folder / name for folder in folders for name in POSE_FILES if (folder / name).is_file()), None)
            if path is None:
                return None
            rows = read_poses(path)
            if len(rows) != len(indices):
                raise ValueError(
                    f"{path}: {len(rows)} poses for the {len(indices)} scans of sequence {sequence!r}; expected one row a scan, in sorted order"
                )
            poses[indices] = rows
        return poses

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.files[index].relative_to(self.root).as_posix()

    def sequence(self, index: int) -> str:
        return self._sequences[index]

    def labelled(self, index: int) -> bool:
        return self.files[index] in self._labels

    def frame(self, index: int) -> Frame:
        path = self.files[index]
        points = load_points(path, self.columns, channels=self._named, intensity_scale=self.intensity_scale)
        missing = [name for name in self.channels if name not in points.channels]
        if missing:
            raise BadSample(path, f"has no channel {missing[0]!r}, the other scans of the folder do")
        feats = points.feats
        if points.channels != self.channels:
            feats = np.ascontiguousarray(feats[:, [points.channels.index(name) for name in self.channels]])
        pose = None if self._poses is None else self._poses[index]
        if points.origin.any():
            pose = (np.eye(4) if pose is None else pose) @ rigid(np.eye(3), points.origin)
        frame = Frame(
            name=self.name(index),
            sequence=self.sequence(index),
            xyz=points.xyz,
            feats=feats,
            channels=self.channels,
            pose=pose,
            meta={"scan_path": path, "dropped": points.dropped, "origin": points.origin},
        )
        entry = self._labels.get(path)
        if entry is not None:
            frame.boxes = entry["boxes"].copy()
            frame.boxes[:, :3] -= points.origin
            frame.classes = list(entry["classes"])
            frame.track_ids = entry["track_ids"]
        return frame


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """Sort key by which 2.bin comes before 10.bin, on every part of the path."""
    key: list[tuple[int, int | str]] = []
    for part in path.parts:
        digits = ""
        for letter in part + "/":
            if letter.isascii() and letter.isdigit():
                digits += letter
                continue
            if digits:
                key.append((0, int(digits)))
                digits = ""
            key.append((1, letter))
    return key


def _check_entry(path: Path, key: str, entry: Any) -> dict[str, Any]:
    """An entry with arrays in it. Raises ValueError naming file and key."""
    if not isinstance(entry, dict) or "boxes" not in entry or "classes" not in entry:
        raise ValueError(f"{path}: entry {key!r}: expected an object with 'boxes' and 'classes'")
    try:
        boxes = np.array(entry["boxes"], dtype=np.float32)
    except (TypeError, ValueError) as bad:
        raise ValueError(f"{path}: entry {key!r}: boxes are not rows of 7 or 9 numbers") from bad
    boxes = boxes.reshape(0, 7) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] not in (7, 9) or not np.isfinite(boxes).all() or (boxes[:, 3:6] <= 0).any():
        raise ValueError(f"{path}: entry {key!r}: expected rows of 7 or 9 finite numbers with positive sizes, got shape {boxes.shape}")
    classes = [str(name) for name in entry["classes"]]
    tracks = entry.get("track_ids")
    if len(classes) != len(boxes) or (tracks is not None and len(tracks) != len(boxes)):
        raise ValueError(
            f"{path}: entry {key!r}: {len(boxes)} boxes but {len(classes)} classes and {None if tracks is None else len(tracks)} track ids"
        )
    return {"boxes": boxes, "classes": classes, "track_ids": None if tracks is None else np.array(tracks, dtype=np.int64)}
