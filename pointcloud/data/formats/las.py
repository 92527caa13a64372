"""Airborne and terrestrial laser files through laspy: ``.las`` and ``.laz``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite3d.pointcloud.data.formats.raw import RawPoints


def read_las(path: Path) -> RawPoints:
    """Coordinates (float64, georeferenced), intensity and colours (both 16 bit; 8-bit values stored as such are recognised by their range).

    Raises:
        ImportError: laspy (or a LAZ backend) is missing; names the command that installs it.
        ValueError: not a LAS file, or damaged.
    """
    try:
        import laspy
    except ImportError as missing:
        raise ImportError(f"reading {path.suffix} files needs laspy: pip install 'suite3d[las]'") from missing
    if path.suffix.lower() == ".laz" and not laspy.LazBackend.detect_available():
        raise ImportError("reading .laz files needs a LAZ backend (lazrs): pip install 'suite3d[las]'")
    try:
        cloud = laspy.read(path)
    except laspy.errors.LaspyException as bad:
        raise ValueError(f"not a readable LAS file: {bad}") from bad
    if len(cloud.points) != cloud.header.point_count:
        raise ValueError(f"expected {cloud.header.point_count} points, got {len(cloud.points)}: truncated")
    names = set(cloud.point_format.dimension_names)
    fields: dict[str, NDArray[Any]] = {"intensity": np.asarray(cloud.intensity)} if "intensity" in names else {}
    if {"red", "green", "blue"} <= names:
        colours = np.stack([np.asarray(cloud[name]) for name in ("red", "green", "blue")]).astype(np.float32)
        colours /= 255 if colours.max(initial=0) <= 255 else 65535
        fields |= dict(zip("rgb", colours))
    return RawPoints(xyz=np.asarray(cloud.xyz, dtype=np.float64), fields=fields)
