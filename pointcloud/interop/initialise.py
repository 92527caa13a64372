"""``init=FILE`` of a fine-tuning run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from suite3d.config import ConfigError
from suite3d.pointcloud.encoders.base import LidarEncoder
from suite3d.pointcloud.interop.load import load_lidar_weights


def initialise_encoder(encoder: LidarEncoder, path: Path, *, minimum: float = 0.9) -> dict[str, Any]:
    """Load a file, or the encoder of a run directory, into ``encoder``; returns the printed report as json for ``load.json``.

    Raises:
        ConfigError: nothing there.
        LoadRefused, ValueError: see :func:`suite3d.pointcloud.interop.load.load_lidar_weights`.
    """
    file = path / "encoder.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"init={path}: {file} does not exist")
    return load_lidar_weights(encoder, file, minimum=minimum).as_dict()
