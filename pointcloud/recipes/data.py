"""Which scans a recipe reads: one folder is enough."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from suite3d.config import ConfigError
from suite3d.pointcloud.data.dataset import FrameDataset
from suite3d.pointcloud.data.street import StreetConfig

Kind = Literal["auto", "street", "folder", "kitti", "nuscenes", "semantickitti"]


@dataclass(kw_only=True)
class LidarDataConfig:
    """LiDAR data.

    Attributes:
        root: folder with the data; empty = the procedural street world.
        kind: layout; ``auto`` looks at the folder (KITTI object, nuScenes, SemanticKITTI, else a bare folder of scans).
        split, val_split: split names of the layout (``train``, ``val``, ``trainval``, a version's scene split, a file of ids).
        val_root: another folder for validation; empty = ``root``.
        columns: columns of bare ``.bin`` files; 0 = detect.
        version: nuScenes table folder.
        sweeps: nuScenes sweeps per key frame.
        fov_only: KITTI: keep only points inside the camera image, where the labels are.
        street: the street world.
    """

    root: Path = Path("")
    kind: Kind = "auto"
    split: str = "train"
    val_split: str = "val"
    val_root: Path = Path("")
    columns: int = 0
    version: str = "v1.0-trainval"
    sweeps: int = 10
    fov_only: bool = True
    street: StreetConfig = field(default_factory=StreetConfig)


def detect_kind(root: Path) -> Kind:
    """Layout of a folder from the names in it."""
    if (root / "training" / "velodyne").is_dir() or (root / "training" / "velodyne_reduced").is_dir():
        return "kitti"
    if any(root.glob("v1.0-*/scene.json")):
        return "nuscenes"
    if (root / "sequences").is_dir() and any(root.glob("sequences/*/velodyne")):
        return "semantickitti"
    return "folder"


def build_dataset(config: LidarDataConfig, *, validation: bool = False) -> FrameDataset:
    """The training or validation scans. Raises ConfigError for a folder that is not there."""
    root = config.val_root if validation and config.val_root != Path("") else config.root
    split = config.val_split if validation else config.split
    kind = config.kind
    if kind == "auto":
        kind = "street" if root == Path("") else detect_kind(root)
    if kind == "street":
        from suite3d.pointcloud.data.street import StreetWorld

        return StreetWorld(config.street, split)
    if root == Path(""):
        raise ConfigError(f"data.kind={kind} needs data.root=FOLDER")
    if not root.is_dir():
        raise ConfigError(f"data.root={root} is not a folder")
    if kind == "kitti":
        from suite3d.pointcloud.data.kitti import KittiObject

        return KittiObject(root, split, fov_only=config.fov_only)
    if kind == "nuscenes":
        from suite3d.pointcloud.data.nuscenes import NuScenes

        return NuScenes(root, config.version, split, sweeps=config.sweeps)
    if kind == "semantickitti":
        from suite3d.pointcloud.data.semantickitti import SemanticKitti

        return SemanticKitti(root, split)
    from suite3d.pointcloud.data.folder import ScanFolder

    return ScanFolder(root, columns=config.columns or None)
