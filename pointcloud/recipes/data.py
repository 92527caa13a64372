"""Which scans a recipe reads: one folder is enough."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from suite3d.config import ConfigError
from suite3d.pointcloud.data.dataset import ConcatDataset, FrameDataset
from suite3d.pointcloud.data.street import StreetConfig

Kind = Literal["auto", "street", "folder", "kitti", "nuscenes", "semantickitti"]


@dataclass(kw_only=True)
class LidarDataConfig:
    """LiDAR data.

    Attributes:
        root: folder with the data; empty = the procedural street world.
        also: further folders to train on, each with its own layout.
        kind: layout; ``auto`` looks at the folder (KITTI object, nuScenes, SemanticKITTI, else a bare folder of scans).
        split, val_split: split names of the layout (``train``, ``val``, ``trainval``, a version's scene split, a file of ids).
        val_root: another folder for validation; empty = ``root``.
        columns: columns of bare ``.bin`` files; 0 = detect.
        version: nuScenes table folder.
        sweeps: nuScenes sweeps per key frame.
        fov_only: KITTI: keep only points inside the camera image, where the labels are.
        memory_mb: training scans kept in memory as they were read, megabytes in each loader worker; 0 reads every scan every time.
        street: the street world.
    """

    root: Path = Path("")
    also: tuple[Path, ...] = ()
    kind: Kind = "auto"
    split: str = "train"
    val_split: str = "val"
    val_root: Path = Path("")
    columns: int = 0
    version: str = "v1.0-trainval"
    sweeps: int = 10
    fov_only: bool = True
    memory_mb: int = 256
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
    """The training or validation scans.

    Raises:
        ConfigError: a folder that is not there or holds nothing of its layout.
    """
    root = config.val_root if validation and config.val_root != Path("") else config.root
    try:
        first = _build_one(config, root, validation=validation)
        if validation or not config.also:
            return first
        parts = [first] + [_build_one(config, other, validation=False) for other in config.also]
        return ConcatDataset(parts, tags=_tags([root, *config.also]))
    except (FileNotFoundError, ValueError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error


def _tags(roots: list[Path]) -> list[str]:
    """Folder names, numbered where two are the same."""
    names = [root.name for root in roots]
    return [name if names.count(name) == 1 else f"{place}-{name}" for place, name in enumerate(names)]


def _build_one(config: LidarDataConfig, root: Path, *, validation: bool) -> FrameDataset:
    split = config.val_split if validation else config.split
    kind = config.kind
    if kind == "auto":
        kind = "street" if root == Path("") else detect_kind(root)
    if kind == "street":
        from suite3d.pointcloud.data.street import StreetWorld

        if split not in ("train", "val"):
            raise ConfigError(f"the street world has the splits train and val, got '{split}'")
        return StreetWorld(config.street, "val" if split == "val" else "train")
    if root == Path(""):
        raise ConfigError(f"data.kind={kind} needs data.root=FOLDER")
    if not root.is_dir():
        raise ConfigError(f"data.root={root} is not a folder")
    if kind == "kitti":
        from suite3d.pointcloud.data.kitti import KittiObject

        return KittiObject(root, split, fov_only=None if config.fov_only else False)
    if kind == "nuscenes":
        from suite3d.pointcloud.data.nuscenes import NuScenes

        return NuScenes(root, config.version, split, sweeps=config.sweeps)
    if kind == "semantickitti":
        from suite3d.pointcloud.data.semantickitti import SemanticKitti

        return SemanticKitti(root, split)
    from suite3d.pointcloud.data.folder import ScanFolder

    return ScanFolder(root, columns=config.columns or None)


def describe_data(config: LidarDataConfig) -> str:
    """Where the scans come from, for provenance; procedural data are called synthetic."""
    if config.root == Path("") and config.kind in ("auto", "street"):
        return f"street world (synthetic, seed {config.street.seed})"
    return ", ".join(str(root) for root in (config.root, *config.also))
