"""One function reads any supported point file: units settled, broken files named and refused."""

from __future__ import annotations

import lzma
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite3d.pointcloud.data.formats.binary import read_bin, read_npy, read_npz
from suite3d.pointcloud.data.formats.las import read_las
from suite3d.pointcloud.data.formats.pcd import read_pcd
from suite3d.pointcloud.data.formats.ply import read_ply
from suite3d.pointcloud.data.formats.raw import RawPoints
from suite3d.pointcloud.data.frame import CHANNELS
from suite3d.source import BadSample

SUFFIXES = (".bin", ".bin.xz", ".npy", ".npz", ".pcd", ".ply", ".las", ".laz")
MAX_BAD_SHARE = 0.05
_FAR = 20_000.0  # float32 keeps 1 mm up to 16 km


@dataclass
class Points:
    """A scan as read.

    Attributes:
        xyz: ``(N, 3)`` float32 metres.
        feats: ``(N, C)`` float32, columns named by ``channels``; intensity in [0, 1].
        channels: names of the columns.
        dropped: rows left out because they held NaN or Inf.
        origin: ``(3,)`` float64 subtracted from georeferenced coordinates (zeros otherwise).
        intensity_scale: what stored intensities were divided by.
    """

    xyz: NDArray[np.float32]
    feats: NDArray[np.float32]
    channels: tuple[str, ...]
    dropped: int
    origin: NDArray[np.float64]
    intensity_scale: float


def is_point_file(path: Path) -> bool:
    """Whether the name ends like one of :data:`SUFFIXES`."""
    return path.name.lower().endswith(SUFFIXES)


def read_points(
    path: Path | str, columns: int | None = None, *, channels: Sequence[str] | None = None, intensity_scale: float | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32], tuple[str, ...]]:
    """``(xyz (N, 3), feats (N, C), channels)`` of a point file; see :func:`load_points`, which says more about the file."""
    points = load_points(path, columns, channels=channels, intensity_scale=intensity_scale)
    return points.xyz, points.feats, points.channels


def load_points(
    path: Path | str, columns: int | None = None, *, channels: Sequence[str] | None = None, intensity_scale: float | None = None
) -> Points:
    """Read ``.bin``, ``.pcd.bin``, ``.bin.xz``, ``.npy``, ``.npz``, ``.pcd``, ``.ply``, ``.las`` or ``.laz``.

    Args:
        path: the file.
        columns: columns of a ``.bin`` / ``.npy`` file; None finds 4 or 5 from the values (``formats.binary.guess_columns``).
        channels: names of the columns after x y z of a ``.bin`` / ``.npy`` file, "_" to skip one; None means intensity[, ring].
        intensity_scale: divide stored intensities by this. None: 8-bit integers by 255; everything else by the smallest of 1, 255 and
            65535 that is no less than the largest value. Reading many files of one sensor, pass the scale found over several of them.

    Rows with NaN or Inf are dropped and counted. More than 5 % of them make the file bad, except in ``.pcd`` and ``.ply``, where NaN
    coordinates are how organised clouds say "no return". Coordinates farther than 20 km from the origin (georeferenced) are given
    relative to ``origin``, their rounded mean, because float32 could not hold them.

    Raises:
        BadSample: missing, unreadable, empty, truncated, wrong columns, too many NaN, no points.
        ImportError: ``.las`` / ``.laz`` without laspy.
        ValueError: the name ends in none of :data:`SUFFIXES`, or a channel name is unknown.
    """
    path = Path(path)
    unknown = [name for name in channels or () if name not in CHANNELS and name != "_"]
    if unknown:
        raise ValueError(f"unknown channel {unknown[0]!r}, expected '_' or one of {', '.join(CHANNELS)}")
    name = path.name.lower()
    if not is_point_file(path):
        raise ValueError(f"{path}: not a point file, expected a name ending in {', '.join(SUFFIXES)}")
    try:
        if path.stat().st_size == 0:
            raise BadSample(path, "empty file (0 bytes)")
        if name.endswith((".bin", ".bin.xz")):
            raw = read_bin(path, columns=columns, channels=channels)
        elif name.endswith(".npy"):
            raw = read_npy(path, columns=columns, channels=channels)
        elif name.endswith(".npz"):
            raw = read_npz(path, columns=columns, channels=channels)
        else:
            raw = {".pcd": read_pcd, ".ply": read_ply, ".las": read_las, ".laz": read_las}[name[-4:]](path)
    except OSError as bad:
        raise BadSample(path, f"unreadable: {bad.strerror or bad}") from bad
    except (ValueError, EOFError, KeyError, OverflowError, MemoryError, lzma.LZMAError, zipfile.BadZipFile) as bad:
        raise BadSample(path, str(bad) or type(bad).__name__) from bad
    return _settle(path, raw, intensity_scale)


def _settle(path: Path, raw: RawPoints, intensity_scale: float | None) -> Points:
    """Drop bad rows, bring units to the contract, give float32."""
    if not len(raw.xyz):
        raise BadSample(path, "no points")
    xyz, fields, dropped = _finite_rows(path, raw)
    channels = tuple(name for name in CHANNELS if name in fields)
    feats = np.empty((len(xyz), len(channels)), dtype=np.float32)
    scale = 1.0
    for column, name in enumerate(channels):
        values: NDArray[Any] = fields[name]
        if name == "intensity":
            scale = _intensity_scale(values) if intensity_scale is None else float(intensity_scale)
            np.clip(np.divide(values, scale, dtype=np.float32), 0, 1, out=feats[:, column])
        else:
            feats[:, column] = values
    origin = np.zeros(3)
    if np.abs(xyz).max() > _FAR:
        origin = np.round(xyz.mean(axis=0, dtype=np.float64))
        xyz = xyz - origin
    return Points(np.ascontiguousarray(xyz, dtype=np.float32), feats, channels, dropped, origin, scale)


def _finite_rows(path: Path, raw: RawPoints) -> tuple[NDArray[Any], dict[str, NDArray[Any]], int]:
    """Coordinates and fields without the rows that hold NaN or Inf, and how many those were."""
    xyz, fields, total = raw.xyz, raw.fields, len(raw.xyz)
    with np.errstate(over="ignore", invalid="ignore"):
        if all(np.isfinite(array.sum(dtype=np.float64)) for array in (xyz, *fields.values())):
            return xyz, fields, 0
    good = np.isfinite(xyz).all(axis=1)
    no_return = int(total - good.sum()) if raw.sparse else 0
    for column in fields.values():
        good &= np.isfinite(column)
    dropped = int(total - good.sum())
    if dropped == total:
        raise BadSample(path, f"all {total} points hold NaN or Inf")
    if dropped - no_return > MAX_BAD_SHARE * total:
        raise BadSample(path, f"{dropped} of {total} points ({dropped / total:.0%}) hold NaN or Inf, more than {MAX_BAD_SHARE:.0%}")
    return xyz[good], {name: column[good] for name, column in fields.items()}, dropped


def _intensity_scale(values: NDArray[Any]) -> float:
    if values.dtype == np.uint8:
        return 255.0
    top = float(values.max())
    return next((scale for scale in (1.0, 255.0, 65535.0) if top <= scale), top)
