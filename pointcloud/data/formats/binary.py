"""Bare float32 rows (KITTI ``.bin``, nuScenes ``.pcd.bin``, either with ``.xz``) and numpy files."""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite3d.pointcloud.data.formats.raw import RawPoints, from_named_columns

DEFAULT_CHANNELS: dict[int, tuple[str, ...]] = {3: (), 4: ("intensity",), 5: ("intensity", "ring")}
_MAX_INTENSITY = 65535
_PLAUSIBLE_SHARE = 0.99


def read_bin(path: Path, *, columns: int | None, channels: Sequence[str] | None) -> RawPoints:
    """Rows of float32: x y z intensity, or x y z intensity ring.

    Without ``columns`` the width is 5 for ``.pcd.bin`` (nuScenes), else it is found by :func:`guess_columns`.
    Raises ValueError for a size that is not a whole number of rows, when the width cannot be told, or when ``columns`` is 4 (5) and the
    values look like 5 (4).
    """
    data = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    if len(data) % 4:
        raise ValueError(f"{len(data)} bytes is not a whole number of float32 values: truncated, or not a scan")
    flat = np.frombuffer(data, dtype="<f4")
    width = columns
    if width is None and channels is not None:
        width = 3 + len(channels)
    if width is None and path.name.removesuffix(".xz").endswith(".pcd.bin"):
        width = 5
    if width is None:
        width = guess_columns(flat)
    if columns in (4, 5) and channels is None:
        _refuse_other_width(flat, width)
    if len(flat) % width:
        raise ValueError(f"{len(flat)} float32 values is not a whole number of rows of {width} columns: truncated, or another column count")
    return _numeric_columns(flat.reshape(-1, width), channels)


def guess_columns(flat: NDArray[np.float32]) -> int:
    """4 (x y z intensity) or 5 (x y z intensity ring) columns, decided by the values and never by the size alone.

    A width is possible when it divides the number of values. It is plausible when, in at least 99 % of the rows, column 4 lies in
    [0, 65535] as intensities do (read at the wrong width, coordinates with their negative values land there) and, for 5 columns,
    column 5 is an integer in [0, 255] as ring numbers are. Values one row apart belong to one column and so differ least: a plausible
    width whose mean difference is more than 1.2 times that of another width of 3 to 8 is dropped (it catches 3 columns and x y z r g b).
    Exactly one width must remain.

    Raises:
        ValueError: no width or both widths are plausible. Pass ``columns=`` then.
    """
    possible = [width for width in (4, 5) if len(flat) % width == 0]
    if not possible:
        raise ValueError(f"{len(flat)} float32 values is a multiple of neither 4 nor 5 columns: truncated, or pass columns=")
    if not len(flat):
        return 4
    plausible = [width for width in possible if _plausible(flat.reshape(-1, width)) and _repeats_best(flat, width)]
    if len(plausible) == 1:
        return plausible[0]
    if plausible:
        raise ValueError("the values fit 4 columns (x y z intensity) as well as 5 (x y z intensity ring): pass columns=4 or columns=5")
    raise ValueError("column 4 does not look like intensity (0..65535) at 4 or 5 columns: not a scan of that layout, or pass columns=")


def _refuse_other_width(flat: NDArray[np.float32], width: int) -> None:
    """Raise ValueError when the values fit the other of 4 and 5 columns but not the ``width`` asked for. Naming channels turns this off."""
    other = 9 - width
    if len(flat) % other:
        return
    fits = [len(flat) > 0 and len(flat) % w == 0 and _plausible(flat.reshape(-1, w)) and _repeats_best(flat, w) for w in (width, other)]
    if fits == [False, True]:
        raise ValueError(f"expected {width} columns, but the values look like {other}")


def _plausible(rows: NDArray[np.float32]) -> bool:
    intensity = rows[:, 3]
    with np.errstate(invalid="ignore"):
        good = (intensity >= 0) & (intensity <= _MAX_INTENSITY)
        if rows.shape[1] == 5:
            ring = rows[:, 4]
            good &= (ring >= 0) & (ring <= 255) & (ring == np.floor(ring))
    finite = np.isfinite(rows).all(axis=1)
    return int(good[finite].sum()) >= _PLAUSIBLE_SHARE * max(1, int(finite.sum())) and bool(finite.any())


def _repeats_best(flat: NDArray[np.float32], width: int) -> bool:
    if len(flat) < 32 * width:
        return True
    part = np.nan_to_num(flat[: 40_000 * width], nan=0, posinf=0, neginf=0)

    def difference(lag: int) -> float:
        return float(np.abs(part[lag:] - part[:-lag]).mean())

    return difference(width) <= 1.2 * min(difference(lag) for lag in range(3, 9) if lag % width)


def read_npy(path: Path, *, columns: int | None, channels: Sequence[str] | None) -> RawPoints:
    """``.npy``: an (N, C) array, or a structured array with named fields."""
    return _from_array(np.load(path, allow_pickle=False), columns, channels)


def read_npz(path: Path, *, columns: int | None, channels: Sequence[str] | None) -> RawPoints:
    """``.npz``: ``points`` (N, C), or ``xyz`` (N, 3) beside one array a channel, or a single unnamed (N, C) array."""
    with np.load(path, allow_pickle=False) as archive:
        names = archive.files
        if "xyz" in names:
            xyz = archive["xyz"]
            if xyz.ndim != 2 or xyz.shape[1] != 3:
                raise ValueError(f"expected xyz of shape (N, 3), got {xyz.shape}")
            flat = {name: archive[name] for name in names if archive[name].shape == (len(xyz),)}
            return from_named_columns({"x": xyz[:, 0], "y": xyz[:, 1], "z": xyz[:, 2], **flat}, sparse=False)
        if "points" in names or len(names) == 1:
            return _from_array(archive["points" if "points" in names else names[0]], columns, channels)
    raise ValueError(f"expected arrays 'xyz' or 'points', got {', '.join(names) or 'an empty archive'}")


def _from_array(array: NDArray[Any], columns: int | None, channels: Sequence[str] | None) -> RawPoints:
    if array.dtype.names:
        return from_named_columns({name: array[name] for name in array.dtype.names}, sparse=False)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise ValueError(f"expected an (N, columns) array of numbers, got {array.dtype} {array.shape}")
    if columns is not None and array.shape[1] != columns:
        raise ValueError(f"expected {columns} columns, got {array.shape[1]}")
    return _numeric_columns(array, channels)


def _numeric_columns(rows: NDArray[Any], channels: Sequence[str] | None) -> RawPoints:
    width = rows.shape[1]
    names = DEFAULT_CHANNELS.get(width) if channels is None else tuple(channels)
    if names is None:
        raise ValueError(f"{width} columns: which are they? Pass channels= with a name per column after x y z ('_' to skip one)")
    if width < 3 or len(names) != width - 3:
        raise ValueError(f"expected {3 + len(names)} columns (x y z {' '.join(names)}), got {width}")
    return RawPoints(xyz=rows[:, :3], fields={name: rows[:, 3 + column] for column, name in enumerate(names) if name != "_"})
