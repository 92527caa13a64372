"""``suite3d data make-street``: the street world on disk, in a layout that other tools read, or as driving video."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from suite3d.config import ConfigError, load_config
from suite3d.pointcloud.data.street import StreetConfig
from suite3d.pointcloud.data.street.writers import write_kitti, write_nuscenes, write_videos


@dataclass(kw_only=True)
class MakeStreetConfig:
    """What to write.

    Attributes:
        format: folder layout; ``video`` writes only the camera, one ``{train,val}/drive_<number>.mp4`` for each drive.
        images: also render the camera (``video`` always does).
        workers: processes; 0 = one per core.
        street: the world.
    """

    format: Literal["kitti", "nuscenes", "video"] = "kitti"
    images: bool = True
    workers: int = 0
    street: StreetConfig = field(default_factory=StreetConfig)


def make_street(out: Path, overrides: Sequence[str]) -> str:
    """Write the world and say what was written. Raises ConfigError for a folder that is not empty or a wrong key."""
    config = load_config(MakeStreetConfig, overrides=overrides)
    workers = config.workers or os.cpu_count() or 1
    try:
        if config.format == "video":
            count = write_videos(config.street, out, workers=workers, progress=_progress)
        else:
            write = write_kitti if config.format == "kitti" else write_nuscenes
            count = write(config.street, out, images=config.images, workers=workers, progress=_progress)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return f"\n{out}: {count} synthetic frames, format {config.format}"


def _progress(done: int, total: int) -> None:
    if done % 20 == 0 or done == total:
        print(f"\r{done} of {total}", end="", flush=True)
