"""SemanticKITTI layout: ``sequences/XX/{velodyne,labels,poses.txt,calib.txt}``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from suite3d.pointcloud.data.dataset import FrameDataset
from suite3d.pointcloud.data.files import load_points
from suite3d.pointcloud.data.frame import Frame
from suite3d.pointcloud.data.poses import read_poses
from suite3d.source import BadSample

SPLITS = {
    "train": ("00", "01", "02", "03", "04", "05", "06", "07", "09", "10"),
    "val": ("08",),
    "trainval": ("00", "01", "02", "03", "04", "05", "06", "07", "08", "09", "10"),
    "test": tuple(f"{number:02d}" for number in range(11, 22)),
}
NAMES = (
    "unlabeled car bicycle motorcycle truck other-vehicle person bicyclist motorcyclist road parking sidewalk other-ground "
    "building fence vegetation trunk terrain pole traffic-sign"
).split()
# raw id -> class id of the single-scan benchmark; moving objects count as their class
LEARNING_MAP = {
    0: 0, 1: 0, 10: 1, 11: 2, 13: 5, 15: 3, 16: 5, 18: 4, 20: 5, 30: 6, 31: 7, 32: 8, 40: 9, 44: 10, 48: 11, 49: 12, 50: 13, 51: 14,
    52: 0, 60: 9, 70: 15, 71: 16, 72: 17, 80: 18, 81: 19, 99: 0, 252: 1, 253: 7, 254: 6, 255: 8, 256: 5, 257: 5, 258: 4, 259: 5,
}  # fmt: skip
_TABLE = np.full(65536, -1, dtype=np.int64)
_TABLE[list(LEARNING_MAP)] = list(LEARNING_MAP.values())


class SemanticKitti(FrameDataset):
    """Scans of the odometry sequences with point labels and poses where the files are.

    ``point_labels`` are the 19 benchmark classes (1..19, :data:`NAMES`; 0 = unlabeled, to be ignored) or with ``mapped=False`` the raw ids;
    ``instances`` are the upper 16 bits. Poses are LiDAR-to-world: ``inv(Tr) @ P @ Tr`` for camera poses P of ``poses.txt`` and Tr of ``calib.txt``.

    Args:
        root: folder that holds ``sequences`` (or is it).
        split: "train", "val", "trainval", "test", "all" (whatever is there), or a list of sequence names.
        mapped: map raw label ids to the benchmark classes.

    Raises:
        FileNotFoundError: no such folder, or no scan of the split in it.
        ValueError: unknown split, or poses that do not fit the scans.
    """

    channels = ("intensity",)
    class_names: tuple[str, ...] = ()

    def __init__(self, root: Path | str, split: str | Sequence[str] = "train", *, mapped: bool = True) -> None:
        root = Path(root)
        self.root = root / "sequences" if (root / "sequences").is_dir() else root
        self.mapped = mapped
        if isinstance(split, str) and split != "all" and split not in SPLITS:
            raise ValueError(f"split: expected {', '.join(SPLITS)}, 'all' or a list of sequences, got {split!r}")
        there = sorted(path.parent.name for path in self.root.glob("*/velodyne"))
        wanted = there if split == "all" else SPLITS[split] if isinstance(split, str) else tuple(split)
        self.scans = [path for name in wanted if name in there for path in _scans(self.root / name / "velodyne")]
        if not self.scans:
            raise FileNotFoundError(
                f"{self.root}: no scans of split {split!r}, expected SEQUENCE/velodyne/*.bin; there is {', '.join(there) or 'nothing'}"
            )
        self._poses = self._read_poses()
        provides = {"sequences"}
        if all(self._label_path(scan).is_file() for scan in self.scans):
            provides.add("point_labels")
        if self._poses is not None:
            provides.add("poses")
        self.provides = frozenset(provides)

    def _label_path(self, scan: Path) -> Path:
        return scan.parent.parent / "labels" / (scan.name.split(".")[0] + ".label")

    def _read_poses(self) -> NDArray[np.float64] | None:
        poses = np.empty((len(self.scans), 4, 4))
        for name, indices in self.by_sequence().items():
            folder = self.root / name
            if not (folder / "poses.txt").is_file() or not (folder / "calib.txt").is_file():
                return None
            rows, extrinsic = read_poses(folder / "poses.txt"), _read_extrinsic(folder / "calib.txt")
            numbers = [self.scans[index].name.split(".")[0] for index in indices]
            bad = next((number for number in numbers if not number.isdigit() or int(number) >= len(rows)), None)
            if bad is not None:
                raise ValueError(f"{folder / 'poses.txt'}: {len(rows)} poses, but there is a scan {bad!r}")
            poses[indices] = np.linalg.inv(extrinsic) @ rows[[int(number) for number in numbers]] @ extrinsic
        return poses

    def __len__(self) -> int:
        return len(self.scans)

    def name(self, index: int) -> str:
        return f"{self.sequence(index)}/{self.scans[index].name.split('.')[0]}"

    def sequence(self, index: int) -> str:
        return self.scans[index].parent.parent.name

    def frame(self, index: int) -> Frame:
        scan = self.scans[index]
        points = load_points(scan, columns=4, intensity_scale=1.0)
        frame = Frame(
            name=self.name(index),
            sequence=self.sequence(index),
            xyz=points.xyz,
            feats=points.feats,
            channels=points.channels,
            pose=None if self._poses is None else self._poses[index],
            meta={"scan_path": scan, "dropped": points.dropped},
        )
        path = self._label_path(scan)
        if path.is_file():
            frame.point_labels, frame.instances = self._labels(path, points.dropped, len(points.xyz))
        return frame

    def _labels(self, path: Path, dropped: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if dropped:
            raise BadSample(path, f"{dropped} points of the scan hold NaN, so its labels cannot be matched")
        try:
            packed = np.fromfile(path, dtype="<u4")
        except OSError as bad:
            raise BadSample(path, f"unreadable: {bad.strerror or bad}") from bad
        if len(packed) != count or path.stat().st_size != 4 * count:
            raise BadSample(path, f"expected {count} labels of 4 bytes, got {path.stat().st_size} bytes")
        labels = (packed & 0xFFFF).astype(np.int64)
        if self.mapped:
            mapped = _TABLE[labels]
            if mapped.min() < 0:
                raise BadSample(path, f"label id {int(labels[mapped < 0][0])} is none of SemanticKITTI's")
            labels = mapped
        return labels, (packed >> 16).astype(np.int64)


def _scans(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.bin"), *folder.glob("*.bin.xz")], key=lambda path: path.name)


def _read_extrinsic(path: Path) -> NDArray[np.float64]:
    """(4, 4) LiDAR to camera of a ``calib.txt``."""
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("Tr"):
            numbers = np.array([float(word) for word in line.split()[1:]])
            if numbers.shape == (12,):
                return np.vstack([numbers.reshape(3, 4), [0, 0, 0, 1]])
    raise ValueError(f"{path}: no line 'Tr:' with 12 numbers")
