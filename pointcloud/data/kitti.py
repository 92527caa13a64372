"""KITTI object detection layout: ``training/{velodyne,calib,label_2,image_2}`` with ``ImageSets``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from suite3d.pointcloud.data.dataset import FrameDataset
from suite3d.pointcloud.data.files import load_points
from suite3d.pointcloud.data.frame import Frame
from suite3d.pointcloud.data.kitti_calibration import KittiCalibration, png_size
from suite3d.pointcloud.data.kitti_labels import labels_to_boxes, read_kitti_labels
from suite3d.source import BadSample

DEFAULT_IMAGE_SIZE = (1242, 375)
_SCANS = (("velodyne", ".bin"), ("velodyne", ".bin.xz"), ("velodyne_reduced", ".bin"), ("velodyne_reduced", ".bin.xz"))
CLASSES = ("Car", "Pedestrian", "Cyclist", "Van", "Truck", "Person_sitting", "Tram", "Misc")


class KittiObject(FrameDataset):
    """Frames of a KITTI object data set, or of any export in its layout.

    ``root/training`` (``root/testing`` for ``split="test"``) holds ``velodyne`` or ``velodyne_reduced`` (``ID.bin`` or ``ID.bin.xz``),
    ``calib``, and where known ``label_2`` and ``image_2``. Frames whose scan is missing are bad samples; frames without a label file
    are unlabelled (``boxes`` None). Boxes are in the LiDAR frame; DontCare rows are no boxes but ``meta["dont_care"]`` (K, 4) pixels.
    ``meta`` also has ``id``, ``calibration``, ``image_size``, ``image_path``, ``label_path`` and ``labels`` (every row but DontCare,
    parallel to the boxes as read).

    Args:
        root: folder that holds ``training``.
        split: name of a list in ``root/ImageSets`` ("train", "val", "trainval", "test"), the path of a text file of ids, or "all".
            Without ``ImageSets``, "train" and "trainval" also mean every scan there is.
        sequence: "drive" groups frames by the raw drive they were cut from, by the devkit's ``train_mapping.txt`` and
            ``train_rand.txt`` (in root, ``root/mapping``, ``root/devkit/mapping`` or ``ImageSets``); "frame" makes each frame its own
            sequence (KITTI's frames were shuffled); "one" takes the whole set as one drive; "auto" is "drive" where the mapping is, else
            "frame".
        fov_only: keep only points the camera sees, as labels exist only there. None: wherever there is a calibration, for labelled
            training as for prediction. The image size comes from the PNG, else 1242 x 375.

    Raises:
        FileNotFoundError: root, its scans, or the split's list are missing; says what was looked for.
        ValueError: unknown sequence mode, or a split file without a usable id.
    """

    channels = ("intensity",)

    def __init__(
        self,
        root: Path | str,
        split: str | Path = "train",
        *,
        sequence: Literal["auto", "frame", "drive", "one"] = "auto",
        fov_only: bool | None = None,
    ) -> None:
        self.root = Path(root)
        self.split = str(split)
        self.fov_only = fov_only
        self.folder = self.root / ("testing" if self.split == "test" else "training")
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.root}: no KITTI object data, expected the folder {self.folder.name}/velodyne in it")
        self._scans = _find_scans(self.folder)
        if not self._scans:
            raise FileNotFoundError(f"{self.folder}: no scans, expected velodyne/ID.bin, velodyne/ID.bin.xz or velodyne_reduced/ID.bin")
        self.ids = self._read_split()
        if not any(name in self._scans for name in self.ids):
            raise FileNotFoundError(f"{self.root}: none of the {len(self.ids)} ids of split {self.split!r} has a scan in {self.folder.name}/velodyne")
        if sequence not in ("auto", "frame", "drive", "one"):
            raise ValueError(f"sequence: expected 'auto', 'frame', 'drive' or 'one', got {sequence!r}")
        drives = self._drives() if sequence in ("auto", "drive") and self.split != "test" else {}
        if sequence == "drive" and not drives:
            raise FileNotFoundError(
                f"{self.root}: sequence='drive' needs the devkit's train_mapping.txt and train_rand.txt in ImageSets, mapping or the root"
            )
        one = dict.fromkeys(self.ids, self.root.name) if sequence == "one" else {}
        self._sequence = one or drives
        self._labelled = {path.stem for path in (self.folder / "label_2").glob("*.txt")}
        provides = {"boxes"} if any(name in self._labelled for name in self.ids) else set()
        self.provides = frozenset(provides | ({"sequences"} if self._sequence else set()))
        self.class_names = CLASSES if provides else ()

    def _read_split(self) -> list[str]:
        path = self.root / "ImageSets" / f"{self.split}.txt"
        if Path(self.split).suffix == ".txt":
            path = Path(self.split)
        elif self.split == "all" or (self.split in ("train", "trainval", "test") and not path.parent.is_dir()):
            return sorted(self._scans)
        if not path.is_file():
            there = ", ".join(sorted(other.stem for other in path.parent.glob("*.txt"))) or "no lists"
            raise FileNotFoundError(f"split {self.split!r}: no {path}; there is {there}. Or give the path of a text file of ids, or 'all'")
        ids = path.read_text().split()
        ids = [name.zfill(6) if name.isdigit() and name not in self._scans else name for name in ids]
        if not ids:
            raise ValueError(f"{path}: no ids in it")
        if len(set(ids)) != len(ids):
            twice = next(name for place, name in enumerate(ids) if name in ids[:place])
            raise ValueError(f"{path}: id {twice} is listed twice")
        return ids

    def _drives(self) -> dict[str, str]:
        """Frame id -> drive: line rand[i] (from 1) of the mapping names the raw frame of training image i."""
        for folder in (self.root / "ImageSets", self.root / "mapping", self.root / "devkit" / "mapping", self.root):
            mapping, order = folder / "train_mapping.txt", folder / "train_rand.txt"
            if mapping.is_file() and order.is_file():
                lines = [line.split() for line in mapping.read_text().splitlines() if line.strip()]
                places = [int(word) for word in order.read_text().replace(",", " ").split()]
                if any(not 1 <= place <= len(lines) or len(lines[place - 1]) < 2 for place in places):
                    raise ValueError(f"{order}: entries must be line numbers of {mapping}, whose lines read 'date drive frame'")
                return {f"{image:06d}": lines[place - 1][1] for image, place in enumerate(places)}
        return {}

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, index: int) -> str:
        ident = self.ids[index]
        return f"{self._sequence[ident]}/{ident}" if ident in self._sequence else ident

    def sequence(self, index: int) -> str:
        ident = self.ids[index]
        return self._sequence.get(ident, ident)

    def labelled(self, index: int) -> bool:
        return self.ids[index] in self._labelled

    def calibration(self, index: int) -> KittiCalibration | None:
        """Calibration of frame ``index``, None without a file. Raises BadSample when the file is damaged."""
        path = self.folder / "calib" / f"{self.ids[index]}.txt"
        if not path.is_file():
            return None
        try:
            return KittiCalibration.read(path)
        except (ValueError, OSError) as bad:
            raise BadSample(path, str(bad)) from bad

    def image_size(self, index: int) -> tuple[int, int]:
        """(width, height) of image 2; 1242 x 375 when there is no readable PNG."""
        try:
            return png_size(self.folder / "image_2" / f"{self.ids[index]}.png")
        except (ValueError, OSError):
            return DEFAULT_IMAGE_SIZE

    def frame(self, index: int) -> Frame:
        ident = self.ids[index]
        if ident not in self._scans:
            raise BadSample(self.folder / "velodyne" / f"{ident}.bin", "no such scan, but the split lists it")
        points = load_points(self._scans[ident], columns=4, intensity_scale=1.0)
        calibration, image_size = self.calibration(index), self.image_size(index)
        label_path, image_path = self.folder / "label_2" / f"{ident}.txt", self.folder / "image_2" / f"{ident}.png"
        meta: dict[str, Any] = {
            "id": ident,
            "calibration": calibration,
            "image_size": image_size,
            "image_path": image_path if image_path.is_file() else None,
            "label_path": label_path if ident in self._labelled else None,
            "scan_path": self._scans[ident],
            "dropped": points.dropped,
        }
        frame = Frame(name=self.name(index), sequence=self.sequence(index), xyz=points.xyz, feats=points.feats, channels=points.channels, meta=meta)
        if self.fov_only or (self.fov_only is None and calibration is not None):
            if calibration is None:
                raise BadSample(self.folder / "calib" / f"{ident}.txt", "no calibration, and fov_only needs one")
            frame = frame.keep_points(calibration.in_view(frame.xyz, image_size))
        if ident in self._labelled:
            if calibration is None:
                raise BadSample(self.folder / "calib" / f"{ident}.txt", "no calibration, and labels need one")
            self._add_labels(frame, label_path, calibration)
        return frame

    @staticmethod
    def _add_labels(frame: Frame, path: Path, calibration: KittiCalibration) -> None:
        try:
            rows = read_kitti_labels(path)
        except (ValueError, OSError) as bad:
            raise BadSample(path, str(bad)) from bad
        ignored = np.array([name.lower() == "dontcare" for name in rows.classes], dtype=bool)
        frame.meta["dont_care"] = rows.boxes2d[ignored].astype(np.float32)
        labels = rows.select(~ignored)
        frame.meta["labels"] = labels
        frame.boxes = labels_to_boxes(labels, calibration)
        frame.classes = [_CANONICAL.get(name.lower(), name) for name in labels.classes]


_CANONICAL = {name.lower(): name for name in CLASSES}


def _find_scans(folder: Path) -> dict[str, Path]:
    scans: dict[str, Path] = {}
    for name, suffix in _SCANS:
        for path in (folder / name).glob(f"*{suffix}"):
            scans.setdefault(path.name.removesuffix(suffix), path)
    return scans
